"""The list of all checks, and the function that runs them."""

import time
from collections.abc import Iterator

from lib.reachability import Attempt
from openhands_site.doctor import machine, security, services
from openhands_site.doctor.findings import FAILED, SKIPPED, Check, Finding, Probe, failed

WAIT_SECONDS = 5.0
"""How long PostgreSQL, Redis and the server may take to answer, in all."""
FIRST = (
    Probe("python", "Python", machine.python, in_server=False),
    Probe("settings", "Settings", security.valid_settings, in_server=False),
)
"""The checks without which no other check can run."""
CHECKS = (
    Probe("database", "Database", services.database),
    Probe("migrations", "Migrations", services.migrations, needs_database=True),
    Probe("clock", "Clock", services.clock, needs_database=True),
    Probe("redis", "Redis", services.redis),
    Probe("data-folder", "Data folder", machine.data_folder),
    Probe("space", "Space", machine.space),
    Probe("open-files", "Open files", machine.open_files),
    Probe("engine", "Engine", machine.engine),
    Probe("git", "git", machine.git),
    Probe("tmux", "tmux", machine.tmux),
    Probe("server", "Server", services.server, needs_database=True),
    Probe("keys", "Keys", security.keys),
    Probe("stored-secrets", "Stored secrets", security.stored_secrets, needs_database=True),
    Probe("debug", "Debug", security.debug),
    Probe("https", "HTTPS", security.https),
    Probe("private-hosts", "Private hosts", security.private_hosts, needs_database=True),
    Probe("model-servers", "Model servers", machine.model_servers, needs_database=True),
    Probe("sandbox", "Sandbox", machine.sandbox),
    Probe("administrator", "Administrator", security.administrator, needs_database=True),
)
WAITING = ("database", "redis", "server")
"""The checks that may have to wait for their time limits, so they run at the same time."""


def run_checks(*, in_server: bool = False) -> Iterator[Check]:
    """Run every check in order and yield its result. Never raises.

    If Python is not suitable or the settings are not valid, skip the checks that need them. If the database cannot be
    reached, skip the checks that need it: the same cause is reported once. All checks together end within 10 seconds,
    whatever PostgreSQL, Redis, the name servers or the server itself do.

    With ``in_server``, a running server runs the checks, so the environment and the settings are left as they are.
    """
    for probe in FIRST:
        if in_server and not probe.in_server:
            continue
        check = _run(probe)
        yield check
        if check.state == FAILED:
            return
    attempts = {probe.id: Attempt(probe.run) for probe in CHECKS if probe.id in WAITING}
    began, is_reachable, skipped = time.monotonic(), True, []
    for probe in CHECKS:
        if probe.needs_database and not is_reachable:
            skipped.append(probe.name)
            continue
        left = WAIT_SECONDS - (time.monotonic() - began)
        check = _run(probe, attempts.get(probe.id), left)
        if probe.id == "database":
            is_reachable = check.state != FAILED
        yield check
    if skipped:
        sentence = f"{', '.join(skipped)}, because they need the database."
        yield Check("not-checked", "Not checked", Finding(SKIPPED, sentence))


def _run(probe: Probe, attempt: Attempt[Finding] | None = None, seconds: float = 0.0) -> Check:
    try:
        finding = probe.run() if attempt is None else attempt.result(max(0.1, seconds))
    except TimeoutError:
        finding = failed(f"no answer within {WAIT_SECONDS:g} s.")
    except Exception as error:  # noqa: BLE001 - an unexpected error is the result of its check
        lines = str(error).strip().splitlines() or [type(error).__name__]
        finding = failed(lines[-1])
    return Check(probe.id, probe.name, finding)

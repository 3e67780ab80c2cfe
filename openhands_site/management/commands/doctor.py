"""The ``doctor`` command: check the installation and print one line per check, with the fix if it fails.

``manage.py`` runs this command without loading the settings first, so that it can also report invalid settings. Hence
each check imports the modules that need settings only when the check runs.
"""

import http.client
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psutil
from django.core.management.base import BaseCommand, CommandParser

from lib import env
from lib.reachability import Attempt, Unreachable, check_database, check_redis

OK, WARNING, FAILED, SKIPPED = "ok", "warning", "failed", "skipped"
WAIT_SECONDS = 5.0
"""How long PostgreSQL, Redis and the server may take to answer, in all."""
LOW_MEGABYTES, CRITICAL_MEGABYTES = 2_000, 300
"""Free space on the disk below which the check warns, and below which it fails."""
CLOCK_SECONDS = 5
"""The maximum difference between the clocks of this machine and of the database server."""
WITHOUT_ISOLATION = (
    "Until then agents cannot start. To run agents without isolation, set SANDBOX_PROVIDER=process and "
    "ALLOW_PROCESS_SANDBOX=true: every user who can start an agent can then read the server's keys and all data."
)
Result = tuple[str, str]
"""The state and the detail of a check."""
Probe = Callable[[], Result]


@dataclass(frozen=True)
class Check:
    """The result of one check: one line of the report."""

    name: str
    state: str
    detail: str


class Command(BaseCommand):
    help = (
        "Check settings, database, Redis, storage, the agent engine and security. The exit status is 1 if a check "
        "fails."
    )
    requires_system_checks = ()

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "--json", action="store_true", help="print the report as one JSON object"
        )

    def handle(self, *args: Any, **options: Any) -> None:
        checks = []
        for check in run_checks():
            checks.append(check)
            if not options["json"]:
                self.stdout.write(self._line(check))
        failed = sum(check.state == FAILED for check in checks)
        warned = sum(check.state == WARNING for check in checks)
        if options["json"]:
            report = {"ok": not failed, "checks": [asdict(check) for check in checks]}
            self.stdout.write(json.dumps(report, indent=2))
        else:
            self.stdout.write(
                f"\n{len(checks)} checks: {failed} failed, {warned} warning{'' if warned == 1 else 's'}."
            )
        if failed:
            sys.exit(1)

    def _line(self, check: Check) -> str:
        paint = {
            OK: self.style.SUCCESS,
            WARNING: self.style.WARNING,
            FAILED: self.style.ERROR,
            SKIPPED: self.style.WARNING,
        }
        return f"{paint[check.state](f'{check.state:<8}')} {check.name:<16} {check.detail}"


def run_checks() -> Iterator[Check]:
    """Run every check in order and yield its result. Never raises.

    If Python is not suitable or the settings are not valid, skip the checks that need them. If the database cannot be
    reached, skip the checks that need it: the same cause is reported once. All checks together end within 10 seconds,
    whatever PostgreSQL, Redis, the name servers or the server itself do.
    """
    for probe in (_python, _settings):
        check = _run(probe)
        yield check
        if check.state == FAILED:
            return
    # These checks may have to wait for their time limits, so they run at the same time.
    attempts = {probe: Attempt(probe) for probe in (_database, _redis, _server)}
    began, is_reachable, skipped = time.monotonic(), True, []
    for probe in CHECKS:
        if probe in NEED_DATABASE and not is_reachable:
            skipped.append(_name(probe))
            continue
        check = _run(probe, attempts.get(probe), WAIT_SECONDS - (time.monotonic() - began))
        if probe is _database:
            is_reachable = check.state != FAILED
        yield check
    if skipped:
        yield Check(
            "Not checked", SKIPPED, f"{', '.join(skipped)}, because they need the database."
        )


def _run(probe: Probe, attempt: Attempt[Result] | None = None, seconds: float = 0.0) -> Check:
    try:
        return Check(
            _name(probe), *(probe() if attempt is None else attempt.result(max(0.1, seconds)))
        )
    except TimeoutError:
        return Check(_name(probe), FAILED, f"no answer within {WAIT_SECONDS:g} s.")
    except Exception as error:  # noqa: BLE001 - an unexpected error is the result of its check
        lines = str(error).strip().splitlines() or [type(error).__name__]
        return Check(_name(probe), FAILED, lines[-1])


def _name(probe: Probe) -> str:
    name = probe.__name__.strip("_").replace("_", " ").capitalize()
    return {"Https": "HTTPS", "Git": "git", "Tmux": "tmux"}.get(name, name)


def _python() -> Result:
    version = sys.version.split()[0]
    if sys.version_info < (3, 11):  # noqa: UP036 - this line is for users of an older version
        return FAILED, f"Python {version} is too old. Install Python 3.11 or newer."
    return OK, version


def _settings() -> Result:
    import django
    from django.conf import settings
    from django.core.exceptions import ImproperlyConfigured

    os.environ.setdefault("LOG_FORMAT", "text")
    # Without a pool, a check fails at once instead of waiting for the pool, which logs every attempt.
    os.environ["DATABASE_POOL_SIZE"] = "0"
    try:
        django.setup()
    except ImproperlyConfigured as error:
        return FAILED, f"{error} {env.explain_missing()}"
    return OK, f"valid; the data folder is {settings.DATA_DIR}"


def _database() -> Result:
    try:
        version = check_database()
    except Unreachable as error:
        return FAILED, str(error)
    if int(version.split(".")[0]) < 14:
        return FAILED, f"PostgreSQL {version} is too old. Upgrade to PostgreSQL 14 or newer."
    return OK, f"PostgreSQL {version}"


def _migrations() -> Result:
    from django.db import connection
    from django.db.migrations.executor import MigrationExecutor

    from openhands_site.operating import tables

    try:
        tables.check_tables()
    except tables.OldTables as error:
        return FAILED, str(error)
    executor = MigrationExecutor(connection)
    missing = executor.migration_plan(executor.loader.graph.leaf_nodes())
    if missing:
        return FAILED, f"{len(missing)} migrations are not applied. Run `manage.py migrate`."
    return OK, "all applied"


def _clock() -> Result:
    from django.db import connection
    from django.utils import timezone

    with connection.cursor() as cursor:
        before = timezone.now()
        cursor.execute("SELECT clock_timestamp()")
        difference = abs((cursor.fetchone()[0] - before).total_seconds())
    if difference > CLOCK_SECONDS:
        return (
            WARNING,
            (
                f"differs from the database server's clock by {difference:.0f} s, so sessions and keys expire at the "
                "wrong time. Synchronize both clocks with NTP."
            ),
        )
    return OK, f"differs from the database server's clock by {difference * 1000:.0f} ms"


def _redis() -> Result:
    try:
        return OK, check_redis()
    except Unreachable as error:
        return FAILED, str(error)


def _data_folder() -> Result:
    from django.conf import settings

    folder: Path = settings.DATA_DIR
    if not folder.is_dir():
        return (
            FAILED,
            f"{folder} does not exist. Create it with `make run`, or set DATA_DIR to another folder.",
        )
    try:
        with tempfile.NamedTemporaryFile(dir=folder):
            pass
    except OSError as error:
        return (
            FAILED,
            f"{folder} is not writable ({error.strerror}). Correct its owner, or set DATA_DIR to another folder.",
        )
    return OK, str(folder)


def _open_files() -> Result:
    from lib import open_files

    number = open_files.raise_limit()
    if number < open_files.ENOUGH:
        return WARNING, open_files.describe_low(number)
    return OK, f"a process may have {number:,} files open"


def _space() -> Result:
    from django.conf import settings

    from lib.disk import DiskState, data_disk

    folder: Path = settings.DATA_DIR
    while not folder.exists():
        folder = folder.parent
    free = psutil.disk_usage(str(folder)).free // 1_000_000
    disk = data_disk()
    if disk is not None and disk.state is DiskState.FULL:
        return FAILED, disk.sentence()
    if free < CRITICAL_MEGABYTES:
        return FAILED, f"{free} MB free. PostgreSQL stops when the disk is full. Free some space."
    if disk is not None and disk.state is DiskState.LOW:
        return WARNING, disk.sentence()
    if free < LOW_MEGABYTES:
        return WARNING, f"{free} MB free. A single sandbox may need more. Free some space."
    return OK, f"{free} MB free"


def _engine() -> Result:
    from lib import engine_state

    status = engine_state.status()
    if status.is_ready:
        return OK, status.detail
    if status.state == "installing":
        return WARNING, status.detail
    return FAILED, (
        f"{status.detail} Agents cannot start without it. Run `manage.py install_engine`."
    )


def _git() -> Result:
    return _program(
        "git", "Without it, conversations cannot use repositories or show changed files"
    )


def _tmux() -> Result:
    return _program("tmux", "Without it, the terminals of agents lose their state more often")


def _program(name: str, loss: str) -> Result:
    if path := shutil.which(name):
        return OK, path
    return WARNING, f"not found. {loss}. Install it with the system's package manager."


def _server() -> Result:
    from django.conf import settings

    url = urlsplit(settings.PUBLIC_URL)
    is_https = url.scheme == "https"
    connect = http.client.HTTPSConnection if is_https else http.client.HTTPConnection
    connection = connect(url.hostname or "", url.port, timeout=3)
    try:
        connection.request("GET", f"{url.path}/ready")
        response = connection.getresponse()
        body = json.loads(response.read(65_536))
        checks = body["checks"]
    except OSError as error:
        return (
            WARNING,
            f"{settings.PUBLIC_URL} does not respond ({error}). Start the server, or correct PUBLIC_URL.",
        )
    except (http.client.HTTPException, ValueError, LookupError, TypeError):
        return (
            FAILED,
            f"another program responds at {settings.PUBLIC_URL}. Stop it, or correct PUBLIC_URL.",
        )
    finally:
        connection.close()
    if response.status != 200:
        failed = ", ".join(name for name, check in checks.items() if not check["ok"])
        reason = f"{failed} failed" if failed else f"its status is {body.get('status')}"
        return FAILED, f"{settings.PUBLIC_URL} is not ready: {reason}."
    return OK, f"{settings.PUBLIC_URL} is ready"


def _keys() -> Result:
    from django.conf import settings

    secret = settings.SECRET_KEY
    if len(secret) < 32 or len(set(secret)) < 8 or secret.startswith("django-insecure"):
        return (
            FAILED,
            "SECRET_KEY is weak. Set it to 50 random characters: `openssl rand -base64 48`.",
        )
    for name in ("ENCRYPTION_KEYS", "TOKEN_PEPPERS"):
        for key_id, key in getattr(settings, name).items():
            if len(set(key)) < 12:
                return (
                    FAILED,
                    (
                        f"the key {key_id} of {name} is not random. Replace it with the output of "
                        "`openssl rand -hex 32`."
                    ),
                )
    both = set(settings.ENCRYPTION_KEYS.values()) & set(settings.TOKEN_PEPPERS.values())
    if both:
        return WARNING, "ENCRYPTION_KEYS and TOKEN_PEPPERS share a key. Use different keys."
    return OK, "long and random"


def _stored_secrets() -> Result:
    from collections import Counter

    from lib import crypto, resealing

    lost: Counter[crypto.SealedKind] = Counter()
    total = 0
    for column in resealing.columns():
        keys, failed = resealing.audit(column)
        total += keys.total()
        for bound_to in failed:
            kind = crypto.describe_sealed(bound_to)
            lost[kind or crypto.SealedKind(f"a value of {column}", "Enter it again.")] += 1
    if not lost:
        return OK, f"{total} encrypted values can be decrypted"
    parts = [
        f"{kind.name} ({count}): {kind.remedy}" for kind, count in sorted(lost.items(), key=str)
    ]
    return FAILED, (
        f"{lost.total()} of {total} encrypted values cannot be decrypted. If ENCRYPTION_KEYS lost a key, add it again. "
        f"Otherwise replace the values: {' '.join(parts)} `manage.py audit_encrypted_fields` lists the rows."
    )


def _debug() -> Result:
    from django.conf import settings

    if settings.DEBUG:
        return (
            WARNING,
            (
                "DEBUG is on, so error pages show settings and source code. Turn it off if others can reach "
                "this server."
            ),
        )
    return OK, "off"


def _https() -> Result:
    from django.conf import settings

    host = urlsplit(settings.PUBLIC_URL).hostname
    if settings.IS_HTTPS or host in ("127.0.0.1", "localhost", "::1"):
        return OK, settings.PUBLIC_URL
    return (
        WARNING,
        f"browsers send passwords to {settings.PUBLIC_URL} without encryption. Put a proxy with TLS in front.",
    )


def _private_hosts() -> Result:
    from django.conf import settings

    from lib import url_guard

    if sentence := url_guard.explain_single_user():
        return WARNING, sentence
    if settings.UPSTREAM_ALLOW_PRIVATE == url_guard.SINGLE_USER:
        return OK, "allowed, because not more than one person has an account"
    return OK, "allowed for every user" if settings.UPSTREAM_ALLOW_PRIVATE else "not allowed"


def _sandbox() -> Result:
    from django.conf import settings

    from conversations.sandboxes.provider import get_provider

    name = settings.SANDBOX_PROVIDER
    isolation = get_provider(name).describe()
    if isolation.cause and name == "process":
        return FAILED, (
            "SANDBOX_PROVIDER is `process`, but ALLOW_PROCESS_SANDBOX is false, so agents cannot start. Set it to "
            "true only if you trust every user: agents then run with all rights of this system user."
        )
    if isolation.cause:
        return FAILED, f"{isolation.cause} {isolation.remedy} {WITHOUT_ISOLATION}"
    if name == "process":
        return (
            WARNING,
            (
                "agents are not isolated: they run with all rights of this system user. Give accounts only to "
                "people you trust."
            ),
        )
    walls = ", ".join(wall.name.lower() for wall in isolation.walls if wall.in_force)
    detail = f"{isolation.word.lower()} by {name}: {walls}"
    missing = [wall.name.lower() for wall in isolation.walls if not wall.in_force]
    detail += f" (not in force: {', '.join(missing)})" if missing else ""
    return (OK if isolation.is_isolated else WARNING), detail


def _administrator() -> Result:
    from accounts import services as accounts

    if accounts.has_administrator():
        return OK, "an administrator exists"
    return (
        WARNING,
        "no administrator exists. `make run` prints a link to create the first administrator.",
    )


CHECKS: tuple[Probe, ...] = (
    _database,
    _migrations,
    _clock,
    _redis,
    _data_folder,
    _space,
    _open_files,
    _engine,
    _git,
    _tmux,
    _server,
    _keys,
    _stored_secrets,
    _debug,
    _https,
    _private_hosts,
    _sandbox,
    _administrator,
)
NEED_DATABASE = {
    *(_migrations, _clock, _server, _stored_secrets, _private_hosts, _administrator),
}
"""The checks that are skipped if the database cannot be reached."""

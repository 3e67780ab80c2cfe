"""A pytest plugin that starts PostgreSQL and Redis and sets the environment before Django reads its settings.

It is loaded by ``-p tests.environment``. It uses ``DATABASE_URL`` and ``REDIS_URL`` if they are set; otherwise it runs
both services from their wheels. Tests marked ``engine``, ``browser``, ``keycloak``, ``nginx``, ``haproxy`` or
``pasta`` are skipped if that program is missing. With ``REQUIRE_ALL`` set, a skipped test fails.
"""

import os
import secrets
import shutil
import tempfile
from pathlib import Path

import psycopg
import pytest

from openhands_site.operating import embedded
from tests import prepare

SLOW_TO_START = ("engine", "browser", "keycloak")
"""Markers of programs that take seconds to start."""
_services: embedded.Embedded | None = None
_folders: list[Path] = []


def _prepare() -> None:
    global _services  # noqa: PLW0603 - pytest's hooks share nothing else
    if worker := os.environ.get("PYTEST_XDIST_WORKER"):
        # A worker inherits the controller's environment, but needs its own Redis database, because tests flush it.
        number = int(worker.removeprefix("gw")) % 15 + 1
        os.environ["REDIS_URL"] = os.environ["REDIS_URL"].replace("?db=0", f"?db={number}")
        return
    os.environ["DJANGO_SETTINGS_MODULE"] = "openhands_site.settings"
    os.environ["DATA_DIR"] = str(_folder("oh-test-"))
    os.environ["ENGINE_DIR"] = str(prepare.engine_dir())
    os.environ.setdefault("LOG_FORMAT", "text")
    os.environ["DATABASE_POOL_SIZE"] = "0"
    os.environ["DEBUG"] = "false"
    # Tests of services use a fake of the process provider. Flows start a server with the default provider.
    os.environ["SANDBOX_PROVIDER"] = "process"
    os.environ["ALLOW_PROCESS_SANDBOX"] = "true"
    os.environ["UPSTREAM_ALLOW_PRIVATE"] = "true"
    # A developer's own model server must not change a test.
    os.environ["MODEL_SERVER_PORTS"] = "none"
    os.environ.pop("OLLAMA_HOST", None)
    os.environ["PUBLIC_URL"] = "http://testserver"
    os.environ["ALLOWED_HOSTS"] = "testserver,localhost,127.0.0.1"
    # The tests send hundreds of requests from one address. The tests of rate limits set their own.
    os.environ["RATE_LIMITS"] = "off"
    os.environ["SECRET_KEY"] = secrets.token_hex(32)
    os.environ["ENCRYPTION_KEYS"] = f"k1:{secrets.token_hex(32)}"
    os.environ["TOKEN_PEPPERS"] = f"p1:{secrets.token_hex(32)}"
    if "DATABASE_URL" not in os.environ or "REDIS_URL" not in os.environ:
        _services = embedded.start(_folder("oh-test-services-"), durable=False)
        # Each test worker creates a database of its own, and some tests create roles.
        with psycopg.connect(_services.superuser_url, autocommit=True) as connection:
            connection.execute(f"ALTER ROLE {embedded.ROLE} CREATEDB CREATEROLE")
            # Tests of the audit log change rows behind the triggers that forbid it.
            connection.execute(
                f"GRANT SET ON PARAMETER session_replication_role TO {embedded.ROLE}"
            )
        os.environ.setdefault("DATABASE_URL", _services.database_url)
        os.environ.setdefault("REDIS_URL", _services.redis_url)


def _folder(prefix: str) -> Path:
    _folders.append(Path(tempfile.mkdtemp(prefix=prefix)))
    return _folders[-1]


_prepare()  # at import, because pytest-django reads the settings right after it


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip the tests whose programs are missing, with the reason, and sort slow files first."""
    from lib import engine_state

    missing = {}
    if not (status := engine_state.status()).is_ready:
        missing["engine"] = status.detail
    if prepare.chromium() is None:
        missing["browser"] = "Chromium is not installed"
    if reason := prepare.explain_missing_keycloak():
        missing["keycloak"] = reason
    for name in ("nginx", "haproxy"):
        if prepare.balancer(name) is None:
            missing[name] = (
                "it is not installed; `python -m tests.prepare` installs it with apt-get"
            )
    if shutil.which("pasta") is None:
        missing["pasta"] = "it is not installed; `python -m tests.prepare` installs it with apt-get"
    for item in items:
        for name, reason in missing.items():
            if item.get_closest_marker(name):
                item.add_marker(pytest.mark.skip(reason=f"needs the {name}: {reason}"))
    # Slow files run first. If a slow file ran last, the other workers would be idle.
    slow_files = {item.path for item in items if any(map(item.get_closest_marker, SLOW_TO_START))}
    items.sort(key=lambda item: item.path not in slow_files)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item):
    """Report a skipped test as failed if ``REQUIRE_ALL`` is set."""
    report = yield
    if report.skipped and os.environ.get("REQUIRE_ALL") and not hasattr(report, "wasxfail"):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
        report.outcome, report.longrepr = (
            "failed",
            f"REQUIRE_ALL is set, but the test was skipped: {reason}",
        )
    return report


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """Store the exit status of the run for ``tests.again``."""
    cache = getattr(session.config, "cache", None)  # missing with `-p no:cacheprovider`
    if "PYTEST_XDIST_WORKER" not in os.environ and cache:
        cache.set("tests/exitstatus", int(exitstatus))


def pytest_unconfigure() -> None:
    if _services is not None:
        _services.stop()
    for folder in _folders:
        shutil.rmtree(folder, ignore_errors=True)

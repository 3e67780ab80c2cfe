"""A pytest plugin that gives the tests their PostgreSQL, Redis and keys before Django reads its settings.

Loaded by ``-p tests.environment``. ``DATABASE_URL`` and ``REDIS_URL`` win where they are set; otherwise both
come from their wheels for as long as the run lasts. Tests marked ``engine``, ``browser``, ``keycloak``, ``nginx`` or ``haproxy`` are
skipped by name where what they need is missing; with ``REQUIRE_ALL`` set, whatever is skipped fails.
"""

import os
import secrets
import shutil
import tempfile
from pathlib import Path

import pytest

from openhands_site.operating import embedded
from tests import prepare

WAITING = ("engine", "browser", "keycloak")
_services: embedded.Embedded | None = None
_folders: list[Path] = []


def _prepare() -> None:
    global _services  # noqa: PLW0603 - pytest's hooks share nothing else
    if worker := os.environ.get("PYTEST_XDIST_WORKER"):
        # The controller's environment is ours, but a worker that clears Redis must not clear another's.
        number = int(worker.removeprefix("gw")) % 15 + 1
        os.environ["REDIS_URL"] = os.environ["REDIS_URL"].replace("?db=0", f"?db={number}")
        return
    os.environ["DJANGO_SETTINGS_MODULE"] = "openhands_site.settings"
    os.environ["DATA_DIR"] = str(_folder("oh-test-"))
    os.environ["ENGINE_DIR"] = str(prepare.engine_dir())
    os.environ.setdefault("LOG_FORMAT", "text")
    os.environ["DATABASE_POOL_SIZE"] = "0"
    os.environ["DEBUG"] = "false"
    os.environ["ALLOW_PROCESS_SANDBOX"] = "true"
    os.environ["UPSTREAM_ALLOW_PRIVATE"] = "true"
    os.environ["PUBLIC_URL"] = "http://testserver"
    os.environ["ALLOWED_HOSTS"] = "testserver,localhost,127.0.0.1"
    os.environ["RATE_LIMITS"] = (
        "off"  # hundreds of requests of one address; their own tests set them
    )
    os.environ["SECRET_KEY"] = secrets.token_hex(32)
    os.environ["ENCRYPTION_KEYS"] = f"k1:{secrets.token_hex(32)}"
    os.environ["TOKEN_PEPPERS"] = f"p1:{secrets.token_hex(32)}"
    if "DATABASE_URL" not in os.environ or "REDIS_URL" not in os.environ:
        _services = embedded.start(_folder("oh-test-services-"), durable=False)
        os.environ.setdefault("DATABASE_URL", _services.database_url)
        os.environ.setdefault("REDIS_URL", _services.redis_url)


def _folder(prefix: str) -> Path:
    _folders.append(Path(tempfile.mkdtemp(prefix=prefix)))
    return _folders[-1]


_prepare()  # while this plugin is imported: pytest-django reads the settings right after


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what cannot run here, with the reason."""
    from lib import engine_home

    lacking = {}
    if not (found := engine_home.status()).is_ready:
        lacking["engine"] = found.detail
    if prepare.chromium() is None:
        lacking["browser"] = "there is no Chromium here"
    if reason := prepare.keycloak_lacks():
        lacking["keycloak"] = reason
    for name in ("nginx", "haproxy"):
        if prepare.balancer(name) is None:
            lacking[name] = "it is not installed; `python -m tests.prepare` does it by apt-get"
    for item in items:
        for name, reason in lacking.items():
            if item.get_closest_marker(name):
                item.add_marker(pytest.mark.skip(reason=f"needs the {name}: {reason}"))
    # Files that wait for others go first: a long one that begins last would keep one worker busy alone.
    waiting = {item.path for item in items if any(map(item.get_closest_marker, WAITING))}
    items.sort(key=lambda item: item.path not in waiting)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item):
    """Turn a skipped test into a failed one where nothing may be skipped."""
    report = yield
    if report.skipped and os.environ.get("REQUIRE_ALL") and not hasattr(report, "wasxfail"):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
        report.outcome, report.longrepr = "failed", f"REQUIRE_ALL is set, and: {reason}"
    return report


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """Note how the run ended, for ``tests.again``."""
    if "PYTEST_XDIST_WORKER" not in os.environ and session.config.cache:
        session.config.cache.set("tests/exitstatus", int(exitstatus))


def pytest_unconfigure() -> None:
    if _services is not None:
        _services.stop()
    for folder in _folders:
        shutil.rmtree(folder, ignore_errors=True)

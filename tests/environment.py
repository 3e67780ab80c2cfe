"""A pytest plugin that gives the tests their PostgreSQL, Redis and keys before Django reads its settings.

Loaded by ``-p tests.environment``. ``DATABASE_URL`` and ``REDIS_URL`` win where they are set; otherwise both
come from their wheels, kept warm in ``tests/.cache`` for as long as the run lasts.
"""

import os
import secrets
import tempfile
from pathlib import Path
from typing import Any

_services: Any = None


def _prepare() -> None:
    global _services
    if "PYTEST_XDIST_WORKER" in os.environ:
        return  # the controller's environment is ours
    os.environ["DJANGO_SETTINGS_MODULE"] = "openhands_site.settings"
    os.environ["DATA_DIR"] = tempfile.mkdtemp(prefix="oh-test-")
    os.environ.setdefault("LOG_FORMAT", "text")
    os.environ["DATABASE_POOL_SIZE"] = "0"
    os.environ["DEBUG"] = "false"
    os.environ["ALLOW_PROCESS_SANDBOX"] = "true"
    os.environ["UPSTREAM_ALLOW_PRIVATE"] = "true"
    os.environ["PUBLIC_URL"] = "http://testserver"
    os.environ["ALLOWED_HOSTS"] = "testserver,localhost,127.0.0.1"
    os.environ["SECRET_KEY"] = secrets.token_hex(32)
    os.environ["ENCRYPTION_KEYS"] = f"k1:{secrets.token_hex(32)}"
    os.environ["TOKEN_PEPPERS"] = f"p1:{secrets.token_hex(32)}"
    if "DATABASE_URL" not in os.environ or "REDIS_URL" not in os.environ:
        from openhands_site import embedded

        _services = embedded.start(Path(tempfile.mkdtemp(prefix="oh-test-services-")))
        os.environ["DATABASE_URL"] = _services.database_url
        os.environ["REDIS_URL"] = _services.redis_url


_prepare()  # while this plugin is imported: pytest-django reads the settings right after


def pytest_unconfigure() -> None:
    if _services is not None and "PYTEST_XDIST_WORKER" not in os.environ:
        _services.stop()

"""Health checks of the services that this process depends on. Each check has a time limit."""

import time
from collections.abc import Callable
from typing import Any

import redis
from django.conf import settings
from django.db import connection


def check() -> dict[str, dict[str, Any]]:
    """Check PostgreSQL and Redis. Never raises.

    Return a dict from the name of a service to ``{"ok", "required", "milliseconds", "detail"?}``.
    """
    return {
        "postgresql": _timed(_postgresql, required=True),
        "redis": _timed(_redis, required=False),
    }


def _timed(probe: Callable[[], None], *, required: bool) -> dict[str, Any]:
    started = time.monotonic()
    try:
        probe()
        result: dict[str, Any] = {"ok": True}
    except Exception as error:  # noqa: BLE001 - any error means that the dependency is not ready
        result = {"ok": False, "detail": type(error).__name__}
    return result | {
        "required": required,
        "milliseconds": round((time.monotonic() - started) * 1000, 1),
    }


def _postgresql() -> None:
    with connection.cursor() as cursor:
        cursor.execute("SELECT 1")


def _redis() -> None:
    with redis.Redis.from_url(
        settings.REDIS_URL, socket_timeout=0.5, socket_connect_timeout=0.5
    ) as client:
        client.ping()

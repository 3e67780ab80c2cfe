"""Health checks of the services that this process depends on. Each check has a time limit."""

import time
from collections.abc import Callable
from typing import Any

import redis
from django.conf import settings
from django.db import connection

from lib.causes import READ_ONLY, find_cause
from lib.disk import DiskState, data_disk


def check() -> dict[str, dict[str, Any]]:
    """Check PostgreSQL, Redis, and the disk of the data folder. Never raises.

    Return a dict from the name of a service to ``{"ok", "required", "milliseconds", "detail"?}``. A service that works
    but needs attention soon, such as a disk with little space, has a ``warning``.
    """
    return {
        "postgresql": _timed(_postgresql, required=True),
        "redis": _timed(_redis, required=False),
        "disk": _timed(_disk, required=True),
    }


class NotReady(Exception):
    """A service responds, but it cannot do its work. The text is for operators."""


def _timed(probe: Callable[[], str], *, required: bool) -> dict[str, Any]:
    started = time.monotonic()
    try:
        warning = probe()
        result: dict[str, Any] = {"ok": True} | ({"warning": warning} if warning else {})
    except NotReady as error:
        result = {"ok": False, "detail": str(error)}
    except Exception as error:  # noqa: BLE001 - any error means that the dependency is not ready
        cause = find_cause(error)
        result = {"ok": False, "detail": cause.sentence if cause else type(error).__name__}
    return result | {
        "required": required,
        "milliseconds": round((time.monotonic() - started) * 1000, 1),
    }


def _postgresql() -> str:
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_is_in_recovery(), current_setting('transaction_read_only')")
        is_standby, is_read_only = cursor.fetchone()
    if is_standby or is_read_only == "on":
        raise NotReady(READ_ONLY.sentence)
    return ""


def _redis() -> str:
    with redis.Redis.from_url(
        settings.REDIS_URL, socket_timeout=0.5, socket_connect_timeout=0.5
    ) as client:
        # A write, because a full Redis and a replica respond to PING. The key expires after a second.
        client.set("oh:ready", 1, px=1_000)
    return ""


def _disk() -> str:
    disk = data_disk()
    if disk is None:
        return ""
    if disk.state is DiskState.FULL:
        raise NotReady(disk.sentence())
    return disk.sentence()

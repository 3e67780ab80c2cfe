"""Database connections of threads that live as long as their process: one each, kept between requests."""

import select
from collections.abc import Callable
from typing import Any

from django.conf import settings
from django.db import connection


class KeepsConnection:
    """WSGI: the thread that answers keeps a connection of its own, for ``DATABASE_KEEP_SECONDS`` at most.

    That costs nothing per request, where the pool costs a loan and a return. A connection that PostgreSQL
    ended meanwhile is noticed without a query, by its socket being readable, and made anew.
    """

    def __init__(self, application: Callable[..., Any]) -> None:
        self.application = application

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Any:
        if settings.DATABASE_KEEP_SECONDS:
            _keep()
        return self.application(environ, start_response)


def keep_own_connection(seconds: int | None = None) -> None:
    """Give the calling thread a connection outside of the pool, kept for so long (None: until it fails)."""
    connection.close()
    known = connection.settings_dict
    # The dictionary is shared by the wrappers of all threads; this one gets its own.
    options = {name: value for name, value in known["OPTIONS"].items() if name != "pool"}
    connection.settings_dict = known | {"CONN_MAX_AGE": seconds, "OPTIONS": options}


def _keep() -> None:
    if connection.settings_dict["CONN_MAX_AGE"] != settings.DATABASE_KEEP_SECONDS:
        keep_own_connection(settings.DATABASE_KEEP_SECONDS)
    elif connection.connection is not None and _was_ended(connection.connection):
        connection.close()


def _was_ended(found: Any) -> bool:
    if found.closed:
        return True
    readable = select.poll()
    readable.register(found.fileno(), select.POLLIN | select.POLLHUP)
    return bool(readable.poll(0))

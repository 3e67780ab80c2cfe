"""Database connections that a long-lived thread keeps between requests."""

import select
from collections.abc import Callable
from typing import Any

from django.conf import settings
from django.db import DEFAULT_DB_ALIAS, connection, connections


class PersistentConnection:
    """WSGI middleware that lets each thread keep its own database connection for ``DATABASE_KEEP_SECONDS``.

    So a request does not take a connection from the pool. If PostgreSQL has closed a connection, the connection's
    socket is readable. The middleware checks this before each request, without a query, and opens a new connection.
    """

    def __init__(self, application: Callable[..., Any]) -> None:
        self.application = application

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Any:
        if settings.DATABASE_KEEP_SECONDS:
            _prepare_connection()
        return self.application(environ, start_response)


def keep_own_connection(seconds: int | None = None) -> None:
    """Make the calling thread open and keep a database connection outside the pool.

    ``seconds`` is the maximum age of the connection. With None it is kept until it fails.
    """
    connection.close()
    shared = connection.settings_dict
    # The wrappers of all threads share this dictionary, so this thread's wrapper gets a copy.
    options = {name: value for name, value in shared["OPTIONS"].items() if name != "pool"}
    connection.settings_dict = shared | {"CONN_MAX_AGE": seconds, "OPTIONS": options}


def close_ended_connection() -> None:
    """Close the calling thread's connection if PostgreSQL has closed it, so that the next query opens a new one.

    Runs no query.
    """
    if connection.connection is not None and _was_closed(connection.connection):
        connection.close()


def release_connection() -> None:
    """Give the calling thread's database connection back to the pool, before the thread waits for something else.

    The next query takes a connection again. Do nothing inside a transaction, and with a connection that the thread
    keeps for itself.
    """
    if connection.settings_dict["CONN_MAX_AGE"] == 0 and not connection.in_atomic_block:
        connection.close()


def limit_idle_transactions(seconds: float) -> None:
    """Make PostgreSQL roll back each transaction of this process that sends no statement for ``seconds``.

    The limit applies to connections that are opened after this call, in all threads. It replaces
    ``DATABASE_IDLE_TRANSACTION_TIMEOUT_MS``, except if that setting is lower.
    """
    milliseconds = min(
        round(seconds * 1_000), settings.DATABASE_IDLE_TRANSACTION_TIMEOUT_MS or 2**31
    )
    # All threads share this dictionary. PostgreSQL uses the last value of a repeated option.
    connection.settings_dict["OPTIONS"]["options"] += (
        f" -c idle_in_transaction_session_timeout={milliseconds}"
    )


def _prepare_connection() -> None:
    # Each attribute of ``connection`` looks up this thread's connection again.
    own = connections[DEFAULT_DB_ALIAS]
    if own.settings_dict["CONN_MAX_AGE"] != settings.DATABASE_KEEP_SECONDS:
        keep_own_connection(settings.DATABASE_KEEP_SECONDS)
    elif own.connection is not None and _was_closed(own.connection):
        own.close()


def _was_closed(link: Any) -> bool:
    if link.closed:
        return True
    poll = select.poll()
    poll.register(link.fileno(), select.POLLIN | select.POLLHUP)
    return bool(poll.poll(0))

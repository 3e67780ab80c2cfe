"""A thread pool for the database work of coroutines."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from functools import partial
from typing import Any, TypeVar

from django.db import close_old_connections, connections

from lib.connections import close_ended_connection, keep_own_connection

T = TypeVar("T")


class DatabaseThreads:
    """A pool of ``size`` threads. Each call releases its database connection when it returns.

    With ``keep_connections``, each thread instead keeps its own connection outside Django's pool until the connection
    fails. This is faster for a process that calls frequently.
    """

    def __init__(self, name: str, size: int, *, keep_connections: bool = False) -> None:
        self._pool = ThreadPoolExecutor(
            size, name, initializer=keep_own_connection if keep_connections else None
        )
        # ``close_all`` returns a pooled connection to Django's pool. ``close_old_connections`` closes only connections
        # that failed.
        self._release = close_old_connections if keep_connections else connections.close_all
        # A kept connection may have ended while the thread waited, for example when PostgreSQL restarted.
        self._prepare = close_ended_connection if keep_connections else _do_nothing

    async def run(self, function: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        """Call ``function`` in one of the threads, with the caller's context variables, and return its result."""
        call = partial(copy_context().run, self._call, function, args, kwargs)
        return await asyncio.get_running_loop().run_in_executor(self._pool, call)

    def shutdown(self) -> None:
        """Drop waiting calls without interrupting running calls. Safe to repeat."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _call(self, function: Callable[..., T], args: tuple[Any, ...], kwargs: dict[str, Any]) -> T:
        self._prepare()
        try:
            return function(*args, **kwargs)
        finally:
            self._release()


def _do_nothing() -> None:
    pass

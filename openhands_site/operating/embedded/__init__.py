"""PostgreSQL and Redis (as Valkey) from Python wheels, with their data in a folder, for machines without these servers.

The launchers in the wheels are not used: they write log lines after the output streams are closed, and leave servers
running without a parent process. Here both servers are child processes of the process that starts them. On Linux they
stop whenever that process ends; elsewhere the next start ends the servers of the previous run.
"""

import contextlib
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from lib import processes
from openhands_site.operating.embedded.folders import (
    AlreadyRunning,
    CannotStart,
    explain_error,
    explain_errors,
    make_private,
)
from openhands_site.operating.embedded.ownership import ROLE
from openhands_site.operating.embedded.postgresql import PostgreSQL
from openhands_site.operating.embedded.redis_server import Redis
from openhands_site.operating.embedded.service import Service

__all__ = [
    "ROLE",
    "AlreadyRunning",
    "CannotStart",
    "Embedded",
    "Redis",
    "begin",
    "explain_error",
    "explain_errors",
    "make_private",
    "start",
]


@dataclass
class Embedded:
    """The services and their URLs, which are known before the services respond."""

    folder: Path
    database_url: str
    """The URL for the role ``ROLE``, which is no superuser."""
    superuser_url: str
    """The URL for the superuser, for tests and maintenance."""
    redis_url: str
    notes: list[str]
    """Sentences for the operator, for example about changed permissions."""
    _services: list[Service]
    _sockets: Path
    _lock: IO[str]

    def advance(self) -> None:
        """Begin the next step of the start if the previous one is done. Return at once.

        A new data folder needs two steps: ``initdb``, then the server. Raise ``CannotStart`` if a step failed.
        """
        with explain_errors(self.folder):
            for service in self._services:
                service.advance()

    def finish(self) -> None:
        """Wait until both services respond. Raise ``CannotStart`` if one of them does not."""
        with explain_errors(self.folder):
            for service in self._services:
                service.finish()

    def restart_stopped(self) -> list[str]:
        """Start the services that have stopped and return their names. Raise ``CannotStart`` if a start fails."""
        stopped = [service for service in self._services if not service.is_running()]
        for service in stopped:
            service.start()
        return [service.name for service in stopped]

    def stop(self) -> None:
        """Stop both services, even in the middle of their start. PostgreSQL writes a checkpoint. Safe to repeat."""
        for service in reversed(self._services):
            service.stop()
        with contextlib.suppress(OSError):
            self._sockets.rmdir()
        self._lock.close()


def start(folder: Path, *, durable: bool = True) -> Embedded:
    """Start PostgreSQL and Redis in ``folder``, and wait until they respond. See ``begin``."""
    services = begin(folder, durable=durable)
    try:
        services.finish()
    except BaseException:  # also Ctrl-C
        services.stop()
        raise
    return services


def begin(folder: Path, *, durable: bool = True) -> Embedded:
    """Begin to start PostgreSQL and Redis in ``folder``, which is created if it is missing. Call ``finish`` then.

    The caller can do other work meanwhile; it must call ``stop`` at the end, even if ``finish`` fails.

    With ``durable=False`` a power failure may lose the data; use it only in tests. Call this function in the main
    thread, because on Linux the services end with the thread that started them. Raise ``CannotStart``, or
    ``AlreadyRunning`` if another process uses the folder.
    """
    folder = folder.resolve()
    with explain_errors(folder):
        make_private(folder)
        lock = processes.acquire_lock(folder / "services.lock")
        if lock is None:
            raise AlreadyRunning(
                f"PostgreSQL and Redis are already running in {folder}. Stop the process that started them, or "
                "choose another data folder."
            )
        services: list[Service] = []
        try:
            postgres = PostgreSQL(folder, durable=durable)
            server = Redis(folder, postgres.sockets)
            services += [postgres, server]
            for service in services:
                service.begin()
        except BaseException:  # also Ctrl-C
            for service in services:
                service.stop()
            lock.close()
            raise
    return Embedded(
        folder,
        postgres.url,
        postgres.superuser_url,
        server.url,
        postgres.notes,
        services,
        postgres.sockets,
        lock,
    )

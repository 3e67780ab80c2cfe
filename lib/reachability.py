"""Checks whether PostgreSQL and Redis can be reached, with a time limit and a sentence for operators.

The checks use connections of their own, not the pool, so they report the reason of the first attempt. They run in a
daemon thread, because a name lookup that hangs cannot be cancelled.
"""

import logging
import threading
import time
from collections.abc import Callable
from typing import Any, Generic, TypeVar

import psycopg
import redis
from django.conf import settings
from django.db import Error as DjangoError
from django.db import ProgrammingError, connection
from redis.backoff import NoBackoff
from redis.connection import parse_url
from redis.retry import Retry

from lib.causes import find_cause
from lib.logs import may_log

log = logging.getLogger(__name__)
T = TypeVar("T")
CONNECT_SECONDS = 3
"""How long PostgreSQL and Redis may take to accept a connection and to answer a first question."""
REPEAT_SECONDS = 60
"""Seconds between two lines about a server that is still unreachable."""
RETRY_SECONDS = 2


class Unreachable(Exception):
    """PostgreSQL or Redis cannot be reached. The message is a sentence for operators that says what to do."""


class Attempt(Generic[T]):
    """A function that runs in a daemon thread from now on."""

    def __init__(self, function: Callable[[], T]) -> None:
        self._function = function
        self._result: T
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._run, name="attempt", daemon=True)
        self._thread.start()

    def result(self, seconds: float) -> T:
        """Return the result of the function, or raise its exception. Raise ``TimeoutError`` after ``seconds``."""
        self._thread.join(seconds)
        if self._thread.is_alive():
            raise TimeoutError
        if self._error is not None:
            raise self._error
        return self._result

    def _run(self) -> None:
        try:
            self._result = self._function()
        except Exception as error:  # noqa: BLE001 - the caller receives it
            self._error = error


def check_database(seconds: float = CONNECT_SECONDS) -> str:
    """Return the version of the PostgreSQL server, such as ``18.0``. Raise ``Unreachable`` if it does not answer."""
    place = database_place()
    try:
        parameters = _connection_parameters(seconds)
        return Attempt(lambda: _ask_database(parameters)).result(seconds + 0.5)
    except (TimeoutError, psycopg.errors.ConnectionTimeout) as error:
        raise Unreachable(
            f"PostgreSQL {place} does not answer within {seconds:g} s. Check that this is the right host and port in "
            "DATABASE_URL, that PostgreSQL runs there, and that no firewall or DNS server is in the way."
        ) from error
    except psycopg.Error as error:
        raise Unreachable(_explain_database(place, str(error).strip())) from error


def check_redis(seconds: float = CONNECT_SECONDS) -> str:
    """Return the name and version of the server, such as ``Redis 7.2.4`` or ``Valkey 9.1.2``.

    Raise ``Unreachable`` if it does not answer.
    """
    place = redis_place()
    try:
        return Attempt(lambda: _ask_redis(seconds)).result(seconds + 0.5)
    except (TimeoutError, redis.TimeoutError) as error:
        raise Unreachable(
            f"Redis {place} does not answer within {seconds:g} s. Check that this is the right host and port in "
            "REDIS_URL, that Redis runs there, and that no firewall or DNS server is in the way."
        ) from error
    except redis.exceptions.AuthenticationError as error:
        raise Unreachable(
            f"Redis {place} refuses the user or password ({str(error).rstrip('.')}). Correct REDIS_URL."
        ) from error
    except (redis.RedisError, OSError) as error:
        raise Unreachable(
            f"Redis {place} cannot be reached ({str(error).rstrip('.')}). Start it (`make run` starts its own), or "
            "correct REDIS_URL."
        ) from error


def database_place() -> str:
    """Return where PostgreSQL is expected: ``at host:port``, or ``at the socket in folder``. Never the password."""
    options = connection.settings_dict
    host, port = options.get("HOST") or "", options.get("PORT") or "5432"
    if host.startswith(("/", "@")):
        return f"at the socket in {host}"
    host = host or "localhost"
    return f"at [{host}]:{port}" if ":" in host else f"at {host}:{port}"


def redis_place() -> str:
    """Return where Redis is expected: ``at host:port``, or ``at the socket path``. Never the password."""
    options: dict[str, Any] = parse_url(settings.REDIS_URL)  # type: ignore[no-untyped-call]
    if path := options.get("path"):
        return f"at the socket {path}"
    host = options.get("host") or "localhost"
    port = options.get("port") or 6379
    return f"at [{host}]:{port}" if ":" in host else f"at {host}:{port}"


def _connection_parameters(seconds: float) -> dict[str, Any]:
    parameters: dict[str, Any] = {
        name: value
        for name, value in connection.get_connection_params().items()
        if name not in ("pool", "cursor_factory", "context")
    }
    # libpq allows each address of a host this number of seconds, and at least two.
    parameters["connect_timeout"] = max(2, int(seconds))
    return parameters


def _ask_database(parameters: dict[str, Any]) -> str:
    with psycopg.connect(**parameters) as own:
        row = own.execute("SHOW server_version").fetchone()
    assert row is not None
    return str(row[0]).split()[0]


def _ask_redis(seconds: float) -> str:
    with redis.Redis.from_url(
        settings.REDIS_URL,
        socket_connect_timeout=seconds,
        socket_timeout=seconds,
        retry=Retry(NoBackoff(), 0),
    ) as client:
        server = client.info("server")
    # Valkey also reports the version of Redis with which it is compatible.
    if valkey := server.get("valkey_version"):
        return f"Valkey {valkey}"
    return f"Redis {server['redis_version']}"


def _explain_database(place: str, text: str) -> str:
    """Return a sentence for an error of libpq, whose text may have several lines."""
    first = text.splitlines()[0] if text else "no reason given"
    reason = (
        first.rpartition(" failed: ")[2].removeprefix("connection is bad: ").strip().rstrip(".")
    )
    if "authentication failed" in text or "no password supplied" in text:
        return f"PostgreSQL {place} refuses the user or password ({reason}). Correct DATABASE_URL."
    if "does not exist" in text and "database" in text:
        return f"PostgreSQL {place} has no such database ({reason}). Create it, or correct DATABASE_URL."
    if "FATAL" in text:
        return (
            f"PostgreSQL {place} refuses the connection ({reason}). Correct that, or DATABASE_URL."
        )
    if "connection to server" not in text and "resolve host" not in text:
        return f"DATABASE_URL is not valid ({reason}). Correct it."
    return (
        f"PostgreSQL {place} cannot be reached ({reason}). Start it (`make run` starts its own), or correct "
        "DATABASE_URL."
    )


def explain_failure(error: BaseException) -> str | None:
    """Return why a command failed if PostgreSQL or Redis is the cause, else None."""
    if isinstance(error, redis.RedisError):
        check: Callable[[], str] = check_redis
    elif isinstance(error, DjangoError | psycopg.Error):
        check = check_database
    else:
        return None
    try:
        check()
    except Unreachable as unreachable:
        return str(unreachable)
    if isinstance(error, ProgrammingError) and "does not exist" in str(error):
        return "The tables of the database are missing or out of date. Run `manage.py migrate`."
    cause = find_cause(error)
    return cause.advice or cause.sentence if cause else None


def wait_for_database(role: str) -> None:
    """Wait until PostgreSQL can be reached, and log why it cannot: at once, then once a minute."""
    _wait(role, check_database)


def watch_services(role: str) -> None:
    """Log in the background why PostgreSQL or Redis cannot be reached, until the first success.

    For roles that start without them, so that the operator sees what they wait for.
    """
    for check in (check_database, check_redis):
        name = f"watch-{check.__name__}"
        threading.Thread(target=_wait, args=(role, check), name=name, daemon=True).start()


def _wait(role: str, check: Callable[[], str]) -> None:
    said_at: float | None = None
    while True:
        if check is check_database:
            # The line below says more than the pool's own warning, which would repeat it.
            may_log("psycopg.pool", "attempt")
        try:
            check()
        except Unreachable as error:
            if said_at is None or time.monotonic() - said_at > REPEAT_SECONDS:
                said_at = time.monotonic()
                log.warning("The role %s keeps trying: %s", role, error)
            time.sleep(RETRY_SECONDS)
        else:
            if said_at is not None:
                name = "PostgreSQL" if check is check_database else "Redis"
                log.warning("The role %s reaches %s now.", role, name)
            return

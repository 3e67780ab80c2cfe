"""The causes of errors of PostgreSQL, Redis and the operating system: a response for clients and a line in the log."""

import errno
import logging
import threading
import time
from dataclasses import dataclass

import psycopg
import redis
from django.conf import settings
from django.db import Error as DjangoError
from django.db import InterfaceError, OperationalError
from psycopg_pool import PoolTimeout, TooManyRequests

from lib.disk import DiskState, data_disk
from lib.logs import may_log, once_a_minute


@dataclass(frozen=True)
class Cause:
    """The cause of an error.

    ``sentence`` is for clients. ``advice`` is for operators and is only logged. ``retry_seconds`` is the value of
    ``Retry-After``.
    """

    code: str
    sentence: str
    advice: str = ""
    status: int = 503
    retry_seconds: int = 5

    @property
    def headers(self) -> dict[str, str]:
        return {"Retry-After": str(self.retry_seconds)}


UNREACHABLE = Cause(
    "unavailable",
    "The database is unavailable. Try again in a few seconds.",
    "Check that PostgreSQL runs and that DATABASE_URL is right.",
    retry_seconds=2,
)
DISK_FULL = Cause(
    "disk-full",
    "The server's disk is full, so it cannot store anything. Ask the operator to free some space, then try again.",
    "Free some space on the disk of PostgreSQL or of the data folder.",
    status=507,
    retry_seconds=60,
)
TOO_MANY_FILES = Cause(
    "too-many-open-files",
    "The server has too many open connections at the moment. Try again in a few seconds.",
    "Raise the limit of open files (`manage.py doctor` says how).",
)
READ_ONLY_DISK = Cause(
    "read-only-disk",
    "The server's disk is read-only, so it cannot store anything. Ask the operator to check the disk.",
    "The file system is read-only (EROFS): check the mount and the disk's health.",
    retry_seconds=60,
)
TOO_MANY_CONNECTIONS = Cause(
    "database-too-many-connections",
    "The database has too many connections. Try again in a few seconds.",
    "PostgreSQL's max_connections, or the limit of the role, is reached: raise it, or lower DATABASE_POOL_SIZE and "
    "WEB_THREADS.",
)
POOL_EXHAUSTED = Cause(
    "database-busy",
    "All database connections of this server process are in use. Try again in a few seconds.",
    "Raise DATABASE_POOL_SIZE, or start more processes.",
)
READ_ONLY = Cause(
    "database-read-only",
    "The database accepts no changes at the moment. Try again in a few seconds.",
    "PostgreSQL is a standby or read-only: point DATABASE_URL at the primary, or add target_session_attrs=read-write.",
)
WRONG_PASSWORD = Cause(
    "database-refuses-sign-in",
    "The server cannot sign in to its database. Ask the operator to check the server's log.",
    "PostgreSQL refuses the user, the password, the database or the address in DATABASE_URL (pg_hba.conf).",
    retry_seconds=30,
)
STOPPING = Cause(
    "database-restarting",
    "The database is starting, stopping or recovering. Try again in a few seconds.",
    "PostgreSQL restarts. If this does not end, read its log.",
)
STATEMENT_TIMEOUT = Cause(
    "database-timeout",
    "The database took too long for this request. Ask for less at once, or try again in a moment.",
    "A statement exceeded DATABASE_STATEMENT_TIMEOUT_MS.",
)
LOCK_TIMEOUT = Cause(
    "database-locked",
    "Another request is changing the same data. Try again in a moment.",
    "A statement waited for a lock longer than DATABASE_LOCK_TIMEOUT_MS, or two transactions waited for each other.",
    retry_seconds=1,
)
OUT_OF_MEMORY = Cause(
    "database-out-of-memory",
    "The database has no memory left. Try again in a few seconds.",
    "PostgreSQL ran out of memory or shared memory.",
)
REDIS_FULL = Cause(
    "redis-full",
    "Redis has no memory left, so this request cannot be counted. Try again later.",
    "Redis has reached maxmemory: raise it, or set maxmemory-policy allkeys-lru.",
    retry_seconds=30,
)
REDIS_READ_ONLY = Cause(
    "redis-read-only",
    "Redis accepts no changes at the moment. Try again in a few seconds.",
    "REDIS_URL points at a replica, or Redis cannot save to its disk or has too few replicas: point it at the primary, "
    "and read its log.",
)
REDIS_LOADING = Cause(
    "redis-loading",
    "Redis is starting. Try again in a few seconds.",
    "Redis loads its data after a start.",
)
REDIS_SIGN_IN = Cause(
    "redis-refuses-sign-in",
    "The server cannot sign in to Redis. Ask the operator to check the server's log.",
    "Redis refuses the user or password in REDIS_URL, or its rights (ACL).",
    retry_seconds=30,
)
REDIS_TOO_MANY = Cause(
    "redis-too-many-connections",
    "Redis has too many connections. Try again in a few seconds.",
    "Redis has reached maxclients: raise it.",
)
REDIS_UNREACHABLE = Cause(
    "redis-unavailable",
    "Redis is unreachable. Try again in a few seconds.",
    "Check that Redis runs and that REDIS_URL is right.",
)
# https://www.postgresql.org/docs/current/errcodes-appendix.html
BY_STATE = {
    "53100": DISK_FULL,
    "53200": OUT_OF_MEMORY,
    "53300": TOO_MANY_CONNECTIONS,
    "25006": READ_ONLY,
    "28000": WRONG_PASSWORD,
    "28P01": WRONG_PASSWORD,
    "3D000": WRONG_PASSWORD,
    "57P01": STOPPING,
    "57P02": STOPPING,
    "57P03": STOPPING,
    "57P05": STOPPING,
    "57014": STATEMENT_TIMEOUT,
    "55P03": LOCK_TIMEOUT,
    "40P01": LOCK_TIMEOUT,
    "40001": LOCK_TIMEOUT,
    "25P03": STATEMENT_TIMEOUT,
}
# While a connection is opened, libpq reports only a text. These texts are PostgreSQL's own, in English.
BY_TEXT = (
    ("too many clients already", TOO_MANY_CONNECTIONS),
    ("remaining connection slots are reserved", TOO_MANY_CONNECTIONS),
    ("too many connections", TOO_MANY_CONNECTIONS),
    ("password authentication failed", WRONG_PASSWORD),
    ("authentication failed", WRONG_PASSWORD),
    ("no password supplied", WRONG_PASSWORD),
    ("no pg_hba.conf entry", WRONG_PASSWORD),
    ('role "', WRONG_PASSWORD),
    ('database "', WRONG_PASSWORD),
    ("is not permitted to log in", WRONG_PASSWORD),
    ("the database system is", STOPPING),
    ("terminating connection due to", STOPPING),
    ("no space left on device", DISK_FULL),
    ("too many open files", TOO_MANY_FILES),
    ("session is read-only", READ_ONLY),
    ("server is in hot standby mode", READ_ONLY),
    ("out of memory", OUT_OF_MEMORY),
)
BY_ERRNO = {
    errno.ENOSPC: DISK_FULL,
    errno.EDQUOT: DISK_FULL,
    errno.EROFS: READ_ONLY_DISK,
    errno.EMFILE: TOO_MANY_FILES,
    errno.ENFILE: TOO_MANY_FILES,
}


def explain(error: BaseException) -> Cause | None:
    """Return the cause of an error of PostgreSQL, Redis or the operating system.

    Return None for all other errors, such as a violated constraint, which are faults of this server.
    """
    if isinstance(error, redis.RedisError):
        return _explain_redis(error)
    if isinstance(error, DjangoError | psycopg.Error):
        return _explain_database(error)
    if isinstance(error, OSError) and error.errno in BY_ERRNO:
        return BY_ERRNO[error.errno]
    return None


def log_cause(log: logging.Logger, cause: Cause, error: BaseException) -> None:
    """Log a cause at most once a minute, in one line without a traceback."""
    once_a_minute(log, logging.ERROR, cause.code, describe(cause, error))


class OneLinePerCause(logging.Filter):
    """A log filter that replaces the tracebacks of errors with a known cause by one line a minute for each logger.

    Without it, a full disk or a stopped database writes a traceback for every request.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        if record.name == "psycopg.pool" and record.levelno == logging.WARNING:
            # The pool reports every failed attempt to connect, several times a second.
            return may_log(record.name, "attempt") is not None
        is_unavailable = getattr(record, "status_code", 0) in (503, 507)
        if record.name == "django.request" and is_unavailable and not record.exc_info:
            # The access log has a line for the request, and the code that responded has logged the cause.
            return False
        error = record.exc_info[1] if record.exc_info else None
        cause = find_cause(error)
        if cause is None or error is None:
            return True
        left_out = may_log(record.name, cause.code)
        if left_out is None:
            return False
        record.msg = f"{record.getMessage()} ({describe(cause, error, left_out)})"
        record.args, record.exc_info, record.exc_text = (), None, None
        return True


def find_cause(error: BaseException | None) -> Cause | None:
    """Return the cause of an error or of an error that led to it (``raise … from``)."""
    for _ in range(5):
        if error is None:
            return None
        if cause := explain(error):
            return cause
        error = error.__cause__
    return None


def describe(cause: Cause, error: BaseException, left_out: int = 0) -> str:
    """Return a cause with its advice and the first line of the error, for the log."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    more = f"; {left_out} similar lines left out" if left_out else ""
    return (
        f"{cause.code}: {cause.advice} The error is {type(error).__name__}: {lines[0][:300]}{more}"
    )


def _explain_database(error: BaseException) -> Cause | None:
    inner = error.__cause__ if isinstance(error.__cause__, psycopg.Error) else error
    if isinstance(inner, PoolTimeout | TooManyRequests):
        return _explain_pool()
    state = getattr(inner, "sqlstate", None)
    if state in BY_STATE:
        return BY_STATE[state]
    if state and not state.startswith(("08", "57", "53", "58", "XX")):
        return None
    text = str(inner).lower()
    for part, cause in BY_TEXT:
        if part in text:
            return cause
    if not isinstance(error, OperationalError | InterfaceError) and not isinstance(
        inner, psycopg.OperationalError | psycopg.InterfaceError
    ):
        return None
    disk = data_disk()
    # PostgreSQL ends itself if it cannot write its log, and then refuses connections.
    if disk is not None and disk.state is DiskState.FULL and _is_local():
        return DISK_FULL
    return UNREACHABLE


def _is_local() -> bool:
    """Return whether PostgreSQL is reached by a Unix socket, as the one that ``quickstart`` starts."""
    return str(settings.DATABASES["default"].get("HOST", "")).startswith("/")


class _Probe:
    """The result of the last connection that was opened to find the cause of an exhausted pool."""

    lock = threading.Lock()
    at = -60.0
    cause: Cause = POOL_EXHAUSTED


def _explain_pool() -> Cause:
    """Return why the pool has no connection: the pool logs the reason, but its exception does not contain it."""
    with _Probe.lock:
        if time.monotonic() - _Probe.at > 5:
            _Probe.at, _Probe.cause = time.monotonic(), _probe()
        return _Probe.cause


def _probe() -> Cause:
    options = settings.DATABASES["default"]
    try:
        psycopg.connect(
            host=options.get("HOST") or None,
            port=options.get("PORT") or None,
            user=options.get("USER") or None,
            password=options.get("PASSWORD") or None,
            dbname=options["NAME"],
            connect_timeout=2,
        ).close()
    except psycopg.Error as error:
        return _explain_database(error) or UNREACHABLE
    return POOL_EXHAUSTED


def _explain_redis(error: redis.RedisError) -> Cause:
    text = str(error).upper()
    if isinstance(error, redis.exceptions.BusyLoadingError) or "LOADING" in text:
        return REDIS_LOADING
    if isinstance(error, redis.exceptions.OutOfMemoryError) or text.startswith("OOM"):
        return REDIS_FULL
    words = ("READONLY", "MISCONF", "NOREPLICAS", "MASTERDOWN")
    if isinstance(error, redis.exceptions.ReadOnlyError) or any(word in text for word in words):
        return REDIS_READ_ONLY
    if "MAX NUMBER OF CLIENTS" in text:
        return REDIS_TOO_MANY
    is_refused = isinstance(
        error,
        redis.exceptions.AuthenticationError
        | redis.exceptions.AuthorizationError
        | redis.exceptions.NoPermissionError,
    )
    if is_refused or any(word in text for word in ("NOAUTH", "WRONGPASS", "NOPERM")):
        return REDIS_SIGN_IN
    return REDIS_UNREACHABLE

"""Open files of this process: raise the limit, keep a reserve for requests, and log when the limit is reached.

A shell usually gives a process a soft limit of 1,024 open files (getrlimit(2), RLIMIT_NOFILE) and a higher hard limit
that the process may raise the soft limit to. Each connection needs one file, and each request a few more. Sockets and
streams, which stay open for hours, therefore leave the last files to short requests, such as health checks.
"""

import enum
import errno
import logging
import os
import resource
import threading

import psutil

from lib.logs import once_a_minute

log = logging.getLogger(__name__)
ENOUGH = 10_000
"""A process with a lower limit logs a warning."""
HIGHEST = 1_048_576
"""The limit that is set if the hard limit is higher or infinite. Some programs try to close every possible file."""
FILE = "file"
"""The key in an ASGI scope's ``state`` for the number of the connection's file."""
RESERVE = 128
"""The number of files that sockets and streams leave to requests. Never more than a quarter of the limit."""
REFUSAL = "The server has too many open connections for another socket or stream. Try again in a few seconds."
ADVICE = (
    "Raise the hard limit: `ulimit -Hn 65536` as root before the start, LimitNOFILE=65536 in a systemd unit, or "
    "`--ulimit nofile=65536:65536` for a container."
)
_FULL = (errno.EMFILE, errno.ENFILE)
_inherited: tuple[int, int] | None = None


class Room(enum.IntEnum):
    """How many open files are left."""

    NONE = 0
    """The process is about to run out of files, so a new connection is closed after a short response."""
    SCARCE = 1
    """Only the reserve is left: requests are served, sockets and streams are refused."""
    PLENTY = 2


def raise_limit() -> int:
    """Raise the soft limit to the hard limit, and return the soft limit. Safe to repeat."""
    global _inherited  # noqa: PLW0603 - a fact about this process
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if _inherited is None:
        _inherited = soft, hard
    most = HIGHEST if hard == resource.RLIM_INFINITY else min(hard, HIGHEST)
    # macOS reports an infinite hard limit but refuses values above the kernel's maximum (10,240 before macOS 14).
    for target in (most, 10_240):
        if _is_higher(target, soft):
            try:
                resource.setrlimit(resource.RLIMIT_NOFILE, (target, hard))
            except (ValueError, OSError):
                continue
            return target
    return limit()


def prepare(role: str) -> None:
    """Raise the limit at the start of a role, warn if it stays low, and log a line whenever it is reached."""
    number = raise_limit()
    if number < ENOUGH:
        log.warning("%s", describe_low(number, role))
    if not any(thread.name == "open-files" for thread in threading.enumerate()):
        threading.Thread(target=_watch, name="open-files", daemon=True).start()


def describe_low(number: int, role: str = "") -> str:
    """Return the sentences that warn of a low limit."""
    subject = f"This {role} process" if role else "A process"
    return (
        f"{subject} may have only {number:,} files open, about one per connection; {ENOUGH:,} are recommended. "
        f"{ADVICE}"
    )


def limit() -> int:
    """Return the soft limit of this process, at most ``HIGHEST``."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return HIGHEST if soft == resource.RLIM_INFINITY else min(soft, HIGHEST)


def used() -> int:
    """Return the number of files that this process has open."""
    return int(psutil.Process().num_fds())


def room(number: int = -1) -> Room:
    """Return how many open files are left. Takes a few microseconds, however many files are open.

    ``number`` is the file of a connection that is to stay open. If it lies in the reserve, the result is not PLENTY,
    even if a lower number is free at this moment. Otherwise sockets would fill the reserve while others close.
    """
    # A new file gets the lowest free number. If this number lies in the reserve, all numbers below are in use.
    try:
        lowest = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        if error.errno not in _FULL:
            raise
        report_full(error)
        return Room.NONE
    os.close(lowest)
    most = limit()
    reserve = min(RESERVE, most // 4)
    if max(lowest, number) < most - reserve:
        return Room.PLENTY
    return Room.SCARCE if lowest < most - reserve // 4 else Room.NONE


def report_refusal(what: str) -> None:
    """Log that a socket or stream was refused, at most once a minute."""
    once_a_minute(
        log,
        logging.WARNING,
        "refused",
        f"refused {what}: this process may have {limit():,} files open, and the last "
        f"{min(RESERVE, limit() // 4)} are kept for requests. {ADVICE}",
    )


def report_full(error: OSError) -> None:
    """Log that no file can be opened, so that connections fail, at most once a minute."""
    whole = error.errno == errno.ENFILE
    cause = (
        "this machine has reached its limit of open files (fs.file-max)"
        if whole
        else f"this process has reached its limit of {limit():,} open files"
    )
    advice = "Raise it with `sysctl fs.file-max`." if whole else ADVICE
    once_a_minute(
        log, logging.ERROR, "full", f"new connections are not accepted because {cause}. {advice}"
    )


def limit_child(pid: int) -> None:
    """Give a child process the limit that this process inherited, because the child may use ``select``.

    ``select`` (2) fails for files with a number above 1,023. Linux only: elsewhere the child keeps the raised limit.
    """
    if _inherited is None or not hasattr(resource, "prlimit"):
        return
    try:
        resource.prlimit(pid, resource.RLIMIT_NOFILE, _inherited)
    except (OSError, ValueError):  # the child has ended, or became another user's process
        log.debug("the limit of open files of process %d was not set", pid)


def is_full(error: BaseException | None) -> bool:
    """Return whether an exception says that the process or the machine has too many open files."""
    return isinstance(error, OSError) and error.errno in _FULL


def _is_higher(target: int, soft: int) -> bool:
    return soft != resource.RLIM_INFINITY and target > soft


def _watch() -> None:
    """Check once a second whether a file can be opened.

    uvloop and gRPC accept connections in C and log nothing if that fails, so this thread logs it.
    """
    pause = threading.Event()
    while not pause.wait(1):
        room()


class AcceptErrors(logging.Filter):
    """A filter that passes asyncio's error "socket.accept() out of system resource" on once a minute.

    asyncio logs this error with a traceback for every listening socket and every second.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        if "out of system resource" not in record.getMessage():
            return True
        error = record.exc_info[1] if record.exc_info else None
        report_full(error if isinstance(error, OSError) else OSError(errno.EMFILE, ""))
        return False

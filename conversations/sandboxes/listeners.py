"""Verification that a process listens on a port, so that no connection reaches another program on the same port."""

import contextlib
from collections.abc import Callable
from pathlib import Path

import psutil

REMEMBERED_MAX = 4_096
_ADDRESSES = ("127.0.0.1", "0.0.0.0", "::")  # noqa: S104  (compared, not bound)
"""The addresses of listeners that a connection to 127.0.0.1 reaches."""
_UNKNOWN = -1
_remembered: dict[tuple[str, int], tuple[Path, Path]] = {}
"""By the id of a run and a port: the link of the listening socket in /proc, and the link's target."""


def listens(process: psutil.Process, port: int) -> bool:
    """Return whether this process listens on the port of 127.0.0.1, or True if the process may not be examined.

    Takes about 10 milliseconds, because the list of all sockets of the machine is read.
    """
    return _find_descriptor(process, port) is not None


def still_listens(run: str, port: int, find: Callable[[], psutil.Process | None]) -> bool:
    """Return whether the process of a run listens on the port of 127.0.0.1. Takes microseconds if repeated (on Linux).

    ``run`` is an id that no other process gets. ``find`` returns the process of the run, or None if it ended.
    """
    link, target = _remembered.get((run, port), (None, None))
    # The target contains the number of the socket, which Linux gives to another socket only after 2**32 others. If the
    # link is unchanged, the same process still has the same socket open.
    with contextlib.suppress(OSError):
        if link and link.readlink() == target:
            return True
    _remembered.pop((run, port), None)
    process = find()
    descriptor = _find_descriptor(process, port) if process else None
    if process is None or descriptor is None:
        return False
    with contextlib.suppress(OSError):  # not Linux, or the process may not be examined
        link = Path("/proc", str(process.pid), "fd", str(descriptor))
        target = link.readlink()
        if len(_remembered) >= REMEMBERED_MAX:
            _remembered.clear()
        _remembered[run, port] = (link, target)
    return True


def _find_descriptor(process: psutil.Process, port: int) -> int | None:
    """Return the file descriptor of the listening socket, None without one, or -1 if it may not be examined."""
    try:
        for entry in process.net_connections("tcp"):
            is_listener = entry.status == psutil.CONN_LISTEN and entry.laddr.port == port
            if is_listener and entry.laddr.ip in _ADDRESSES:
                return int(entry.fd)
    except psutil.AccessDenied:
        return _UNKNOWN
    except psutil.Error:
        pass
    return None

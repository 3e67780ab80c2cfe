"""Child processes and file locks that end with the process that owns them."""

import contextlib
import ctypes
import fcntl
import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

import psutil

_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36
_libc = ctypes.CDLL(None) if sys.platform == "linux" else None


def acquire_lock(path: Path) -> IO[str] | None:
    """Lock a file and write this process's id into it. Return None if another process holds the lock.

    Close the returned file to release the lock. The end of this process releases it too.
    """
    # Not "w", which would erase the other process's id before the lock is acquired.
    file = path.open("a+")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        return None
    file.truncate(0)
    file.write(f"{os.getpid()}\n")
    file.flush()
    return file


def is_locked(path: Path) -> bool:
    """Return whether a process holds the lock of a file, or False if the file is missing or may not be read.

    Raise ``OSError`` if it cannot be known, for example because this process has too many open files.
    """
    try:
        with path.open() as file:
            # The lock is shared, so that two processes that check at the same time do not block each other.
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return False
    return False


def die_with_parent(stop_signal: int) -> Callable[[], None] | None:
    """Return a ``preexec_fn`` that makes the child receive ``stop_signal`` when its parent dies (Linux only).

    The parent is the thread that starts the child (prctl(2), PR_SET_PDEATHSIG), so start these children in the main
    thread. Return None on other systems.
    """
    if _libc is None:
        return None
    libc, parent = _libc, os.getpid()

    def request_signal() -> None:
        libc.prctl(_PR_SET_PDEATHSIG, stop_signal, 0, 0, 0)
        if os.getppid() != parent:  # the parent died before the call, so no signal will come
            os._exit(1)

    return request_signal


def adopt_orphans() -> None:
    """Let this process adopt descendants whose parent has ended, so that it can end them too (Linux only)."""
    if _libc is not None:
        _libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def reap_orphans(known: set[int]) -> None:
    """Collect the exit status of each adopted child. Skip the processes in ``known``, whose owners collect it."""
    for child in psutil.Process().children():
        with contextlib.suppress(psutil.NoSuchProcess, ChildProcessError):
            if child.pid not in known and child.status() == psutil.STATUS_ZOMBIE:
                os.waitpid(child.pid, os.WNOHANG)


def all_processes() -> Iterator[psutil.Process]:
    """Yield all processes of this machine.

    psutil keeps the object of each process that it has found before. If a process has ended since then and its id
    belongs to a new one, ``psutil.process_iter`` yields the former process, of which most functions raise
    ``NoSuchProcess``: the new process would be overlooked.
    """
    psutil.process_iter.cache_clear()
    yield from psutil.process_iter()


def end(process: psutil.Process, *steps: tuple[int, float]) -> None:
    """End a process: send the signals of ``steps`` (signal, seconds to wait) until it ends; finally send SIGKILL."""
    for number, seconds in (*steps, (signal.SIGKILL, 10)):
        try:
            process.send_signal(number)
            process.wait(seconds)
        except psutil.TimeoutExpired:
            continue
        except psutil.NoSuchProcess:
            pass
        return


def signal_name(number: int) -> str:
    """Return the name of a signal, such as ``SIGKILL``."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"

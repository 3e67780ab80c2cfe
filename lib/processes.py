"""Child processes that do not outlive their owner, and locks that do not either."""

import contextlib
import ctypes
import fcntl
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import IO

import psutil

_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36
_libc = ctypes.CDLL(None) if sys.platform == "linux" else None


def hold(path: Path) -> IO[str] | None:
    """Take a lock that ends with this process at the latest; None when another process has it.

    The file then holds our process id; closing it lets go.
    """
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


def is_held(path: Path) -> bool:
    """Whether a process holds the lock. Asks for a shared one: two who ask do not see each other."""
    try:
        with path.open() as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def die_with_parent(stop_signal: int) -> Callable[[], None] | None:
    """A ``preexec_fn`` after which the child gets ``stop_signal`` when its parent dies (Linux only).

    "Parent" is the thread that started it (prctl(2), PR_SET_PDEATHSIG), so start such children in the main
    thread.
    """
    if _libc is None:
        return None
    libc, parent = _libc, os.getpid()

    def ask() -> None:
        libc.prctl(_PR_SET_PDEATHSIG, stop_signal, 0, 0, 0)
        if os.getppid() != parent:  # it died before we asked
            os._exit(1)

    return ask


def adopt_orphans() -> None:
    """Become the parent of what our children leave behind (Linux only), so that it can be found and ended."""
    if _libc is not None:
        _libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def reap_orphans(known: set[int]) -> None:
    """Collect the exit of adopted children; those in ``known`` have somebody who waits for them."""
    for child in psutil.Process().children():
        with contextlib.suppress(psutil.NoSuchProcess, ChildProcessError):
            if child.pid not in known and child.status() == psutil.STATUS_ZOMBIE:
                os.waitpid(child.pid, os.WNOHANG)


def end(process: psutil.Process, *steps: tuple[int, float]) -> None:
    """Send each signal in turn until the process is gone, each with its seconds; at last SIGKILL."""
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

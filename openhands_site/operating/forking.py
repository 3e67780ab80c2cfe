"""Child processes that continue with the modules of this process, so that they need not import them again.

Used for the roles of ``quickstart`` (docs/adr/0022): importing Django and the apps takes each role about a second of a
core and 100 MB, which forks share. On Linux only: on macOS, system frameworks may crash in a child that does not call
exec.
"""

import gc
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, NoReturn

from setproctitle import setproctitle, setthreadtitle

from lib import processes

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""The signals whose handlers a child sets back to the defaults."""
END_SECONDS = 0.2
"""How long ``can_fork`` waits for the end of other threads."""


@dataclass
class Forked:
    """A child process, with the part of ``subprocess.Popen`` that the supervisor uses."""

    pid: int
    stdout: IO[bytes]
    returncode: int | None = field(default=None, init=False)

    def poll(self) -> int | None:
        """Return the exit status, or None while the process runs. A negative number is the signal that ended it."""
        if self.returncode is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.returncode = os.waitstatus_to_exitcode(status)
        return self.returncode

    def wait(self) -> int:
        """Wait for the end of the process and return its exit status."""
        if self.returncode is None:
            self.returncode = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        return self.returncode

    def terminate(self) -> None:
        """Send SIGTERM, unless the process has ended."""
        if self.poll() is None:
            os.kill(self.pid, signal.SIGTERM)

    def kill(self) -> None:
        """Send SIGKILL, unless the process has ended."""
        if self.poll() is None:
            os.kill(self.pid, signal.SIGKILL)


def can_fork() -> bool:
    """Return whether this process may fork: on Linux, with a single thread, whatever has started the others.

    A lock that another thread holds at the moment of the fork would stay locked in the child forever. A thread that
    is about to end has a moment to do so.
    """
    if sys.platform != "linux":
        return False
    deadline = time.monotonic() + END_SECONDS
    while threading.active_count() > 1 or len([*Path("/proc/self/task").iterdir()]) > 1:
        if time.monotonic() > deadline:
            return False
        time.sleep(0.005)
    return True


def fork(
    run: Callable[[], object],
    *,
    title: str,
    environment: Mapping[str, str],
    keep: Collection[int] = (),
) -> Forked:
    """Call ``run`` in a child process, whose output is the pipe ``stdout``, and return at once.

    The child has a session of its own, the given environment, default signal handlers, automatic garbage collection,
    and none of this process's open files except ``keep``. It ends with the exit status that ``run`` sets by
    ``SystemExit``, and is killed with this process. ``title`` is shown by ``ps``. Close database connections before the
    call.
    """
    reading, writing = os.pipe()
    request_kill = processes.die_with_parent(signal.SIGKILL)
    sys.stdout.flush()
    sys.stderr.flush()
    if gc.isenabled():
        gc.collect()  # what is frozen stays in memory, so leave no garbage
    gc.freeze()  # a collection in the child would copy all pages that it shares with this process
    # A signal that arrives before the child has its own handlers must not reach this process's handlers.
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)

    def prepare() -> None:
        os.setsid()
        if request_kill is not None:
            request_kill()
        for number in SIGNALS:
            signal.signal(number, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        signal.set_wakeup_fd(-1)
        _replace_files(writing, {*keep})
        # First the title: it overwrites the memory that shows the parent's environment in /proc/PID/environ.
        setproctitle(title)
        setthreadtitle(
            Path(sys.executable).name
        )  # the name in `top`, as if the command ran by itself
        os.environ.clear()
        os.environ.update(environment)
        gc.enable()  # quickstart disables it during its start
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)

    try:
        if (pid := os.fork()) == 0:
            _run_child(prepare, run)
    except OSError:
        os.close(reading)
        raise
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        os.close(writing)
    return Forked(pid, os.fdopen(reading, "rb", buffering=0))


def _run_child(*steps: Callable[[], object]) -> NoReturn:
    """Run the child to its end. The frames of the parent below this one are never returned to."""
    status = 1
    try:
        for step in steps:
            step()
        status = 0
    except SystemExit as end:
        status = _exit_status(end)
    except BaseException:  # noqa: BLE001 - printed, as the interpreter prints it at its end
        traceback.print_exc()
    finally:
        try:
            for stream in (sys.stdout, sys.stderr):
                stream.flush()
        finally:
            os._exit(status)


def _replace_files(output: int, keep: set[int]) -> None:
    """Use the pipe as output and the null device as input, and let go of all other files of the parent.

    A file of the parent is replaced by the null device instead of closed: Python objects of the parent refer to its
    number, and could close a new file with this number by mistake.
    """
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    for number in (1, 2):
        os.dup2(output, number)
    for path in [*Path("/proc/self/fd").iterdir()]:
        number = int(path.name)
        if number > 2 and number not in keep and number != null:
            os.dup2(null, number, inheritable=False)
    for stream in (sys.stdout, sys.stderr):
        # The supervisor reads lines, so none may wait in a buffer.
        stream.reconfigure(line_buffering=True, write_through=True)  # type: ignore[union-attr]


def _exit_status(end: SystemExit) -> int:
    if end.code is None or isinstance(end.code, int):
        return end.code or 0
    sys.stderr.write(f"{end.code}\n")
    return 1

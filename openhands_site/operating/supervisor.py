"""The supervisor of ``quickstart``: it runs the roles as child processes, prefixes their output and restarts them.

A role is a kind of process of the server, such as ``web``. The supervisor uses one thread and one loop. On Linux the
children end when this process is killed. On all systems the children are listed in ``running.json``, so that the next
start can end processes that are still running.
"""

import contextlib
import json
import os
import re
import selectors
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import IO, ClassVar, Protocol, TextIO

import psutil

from lib import processes
from openhands_site.operating import forking

GRACE_SECONDS = 15
"""How long roles may take to end after SIGTERM."""
BACKOFF_SECONDS = (1, 2, 5, 10, 30)
"""The seconds before the first, second and later restarts of a role that exits again and again."""
STEADY_SECONDS = 60
"""A role that has run for longer than this is restarted after the first delay again."""
REAP_SECONDS = 60
"""The longest pause between two collections of adopted children that have ended."""
LINE_BYTES = 64 * 1024
"""A longer line of output is printed in parts."""
_CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|[\x00-\x08\x0b-\x1f\x7f\x80-\x9f]")


class Child(Protocol):
    """A child process: ``subprocess.Popen`` or ``forking.Forked``."""

    @property
    def pid(self) -> int: ...
    @property
    def stdout(self) -> IO[bytes] | None: ...
    @property
    def returncode(self) -> int | None: ...
    def poll(self) -> int | None: ...
    def wait(self) -> int: ...
    def terminate(self) -> None: ...
    def kill(self) -> None: ...


@dataclass
class ProcessRole:
    """A role and its process.

    A role with ``once`` runs to its end and is not restarted, unless a signal ended it. After its last run, ``on_done``
    is called.
    """

    name: str
    command: Sequence[str]
    once: bool = False
    on_done: Callable[[], None] = lambda: None
    pass_fds: tuple[int, ...] = ()
    run: Callable[[], object] | None = None
    """The function that does the work of ``command`` in a fork of this process, which shares memory with it.

    See ``Supervisor`` for the restarts that use ``command`` instead.
    """
    waits: bool = False
    """Whether the role is started by ``Supervisor.release`` instead of the first ``turn``."""
    niceness: int = 0
    """By how much other processes come first; see nice(2)."""
    process: Child | None = field(default=None, init=False)
    started_at: float = field(default=0, init=False)
    is_started: bool = field(default=False, init=False)
    """Whether the role was started at least once."""
    start_again_at: float | None = field(default=0, init=False)
    """The time at which to start the role, by the monotonic clock. None while it runs and after its last run."""
    failures: int = field(default=0, init=False)
    """The number of restarts since the role last ran for ``STEADY_SECONDS``."""
    rest: bytes = field(default=b"", init=False)
    """The beginning of a line of output whose end has not been read yet."""

    @property
    def is_running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    @property
    def is_done(self) -> bool:
        return self.start_again_at is None and not self.is_running

    @property
    def age_seconds(self) -> float:
        return time.monotonic() - self.started_at if self.is_running else 0


class Supervisor:
    """A supervisor that keeps roles running. The caller calls ``turn`` until ``stop_requested``, then ``stop``.

    A role with ``run`` starts as a fork where this is possible. A restart is a new process by ``command`` if
    ``is_current`` says that a fork would not be up to date, or if the last two processes of the role ended soon: the
    cause may be the state that forks inherit.
    """

    def __init__(
        self,
        roles: Sequence[ProcessRole],
        *,
        environment: dict[str, str],
        say: Callable[[str, str], None],
        record: Path,
        is_current: Callable[[], bool] = lambda: True,
    ) -> None:
        """Prepare a supervisor.

        ``say`` receives the name of a role and a line of its output. ``record`` is the file that lists the running
        children. ``is_current`` returns whether a fork of this process does the same as a new process.
        """
        self.roles = roles
        self.environment = environment
        self.say = say
        self.record = record
        self.is_current = is_current
        self.interrupts = 0
        self._last_interrupt = self._reaped_at = 0.0
        self._child_ended = False
        self._selector = selectors.DefaultSelector()
        processes.adopt_orphans()

    @property
    def stop_requested(self) -> bool:
        return self.interrupts > 0

    def watch_signals(self) -> None:
        """Request a stop on Ctrl-C, SIGTERM and SIGHUP. After a second Ctrl-C, kill the roles without waiting.

        From now on, these signals and the end of a child also end the pause of ``turn``.
        """
        self._waking, waker = socket.socketpair()
        for end in (self._waking, waker):
            end.setblocking(False)
        self._waker = waker  # open as long as signals are written to it
        signal.set_wakeup_fd(waker.fileno(), warn_on_full_buffer=False)
        self._selector.register(self._waking, selectors.EVENT_READ)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, self._interrupt)
        signal.signal(signal.SIGCHLD, self._note_end)

    def _note_end(self, number: int, frame: FrameType | None) -> None:
        self._child_ended = True

    def _interrupt(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        # The terminal and `make` may both forward one Ctrl-C, so signals within half a second count once.
        if self.interrupts == 0 or (number == signal.SIGINT and now - self._last_interrupt > 0.5):
            self.interrupts += 1
            self._last_interrupt = now

    def turn(self, seconds: float = 0.2) -> None:
        """Start the roles that are due, forward output for up to ``seconds``, and handle the roles that have exited.

        Return earlier if there was output or a signal.
        """
        for role in self.roles:
            due = role.start_again_at is not None and time.monotonic() >= role.start_again_at
            if role.process is None and due and not role.waits and not self.stop_requested:
                self._start(role)
        starts = [
            r.start_again_at for r in self.roles if r.start_again_at is not None and not r.waits
        ]
        self._read(max(0.0, min([seconds, *(at - time.monotonic() for at in starts)])))
        for role in self.roles:
            if role.process is not None and role.process.poll() is not None:
                self._exited(role)
        if self._child_ended or time.monotonic() - self._reaped_at > REAP_SECONDS:
            self._child_ended, self._reaped_at = False, time.monotonic()
            processes.reap_orphans({r.process.pid for r in self.roles if r.process})

    def release(self) -> None:
        """Start the roles that wait, such as the installation of the engine, which would slow down the others."""
        for role in self.roles:
            if role.waits:
                role.waits = False
                self._start(role)

    def stop(self) -> None:
        """Send SIGTERM to every role, wait at most ``GRACE_SECONDS``, then kill the roles that still run."""
        for role in self.roles:
            if role.process is not None and role.is_running:
                role.process.terminate()
        deadline = time.monotonic() + GRACE_SECONDS
        while any(r.is_running for r in self.roles):
            if time.monotonic() > deadline or self.interrupts > 1:
                break
            self._read(0.1)
        for role in self.roles:
            if role.process is not None:
                if role.is_running:
                    self.say(role.name, "did not stop in time and was killed")
                role.process.kill()
                # Each role leads a process group, so this also kills child processes that the role left behind.
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(role.process.pid, signal.SIGKILL)
                role.process.wait()
                self._close(role)
        self._write_record()

    def end_descendants(self) -> int:
        """Kill all remaining descendants of this process and return their number. Call it last."""
        ended = 0
        for child in psutil.Process().children():
            with contextlib.suppress(psutil.NoSuchProcess):
                for process in (*child.children(recursive=True), child):
                    with contextlib.suppress(psutil.NoSuchProcess):
                        ended += process.status() != psutil.STATUS_ZOMBIE
                        process.kill()
                child.wait(5)
        return ended

    def _start(self, role: ProcessRole) -> None:
        environment = self.environment | {"OH_ROLE": role.name, "PYTHONUNBUFFERED": "1"}
        if role.run is not None and self._may_fork(role):
            role.process = forking.fork(
                role.run,
                title=" ".join(role.command),
                environment=environment,
                keep=role.pass_fds,
            )
        else:
            role.process = self._spawn(role, environment)
        role.is_started = True
        role.started_at, role.start_again_at, role.rest = time.monotonic(), None, b""
        assert role.process.stdout is not None
        os.set_blocking(role.process.stdout.fileno(), False)
        self._selector.register(role.process.stdout, selectors.EVENT_READ, role)
        self._write_record()

    def _may_fork(self, role: ProcessRole) -> bool:
        is_usable = not role.is_started or (role.failures < 2 and self.is_current())
        return is_usable and forking.can_fork()

    def _spawn(self, role: ProcessRole, environment: dict[str, str]) -> "subprocess.Popen[bytes]":
        # SIGKILL, not SIGTERM: if this process dies, the database stops too, so a role cannot finish its work.
        request_kill = processes.die_with_parent(signal.SIGKILL)

        def prepare() -> None:
            if request_kill is not None:
                request_kill()
            if role.niceness:
                os.nice(role.niceness)

        return subprocess.Popen(
            role.command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=environment,
            pass_fds=role.pass_fds,
            start_new_session=True,  # so that Ctrl-C does not reach the role and `stop` decides the order
            preexec_fn=prepare,  # noqa: PLW1509 - two system calls
        )

    def _exited(self, role: ProcessRole) -> None:
        assert role.process is not None
        code = role.process.wait()
        self._pump(role)
        self._close(role)
        lifetime = time.monotonic() - role.started_at
        role.process = None
        self._write_record()
        # For example, the system kills a process when it needs memory.
        if role.once and (code >= 0 or role.failures == len(BACKOFF_SECONDS)):
            role.on_done()
            return
        role.failures = 0 if lifetime > STEADY_SECONDS else role.failures
        wait = BACKOFF_SECONDS[min(role.failures, len(BACKOFF_SECONDS) - 1)]
        role.failures += 1
        role.start_again_at = time.monotonic() + wait
        reason = (
            f"was ended by {processes.signal_name(-code)}"
            if code < 0
            else f"exited with status {code}"
        )
        self.say(role.name, f"{reason}; restarting in {wait} s")

    def _close(self, role: ProcessRole) -> None:
        if role.process is not None and role.process.stdout is not None:
            with contextlib.suppress(KeyError, ValueError):
                self._selector.unregister(role.process.stdout)
            role.process.stdout.close()

    def _read(self, seconds: float) -> None:
        if not self._selector.get_map():
            time.sleep(seconds)
            return
        for key, _ in self._selector.select(seconds):
            if key.data is None:
                self._waking.recv(4_096)
            elif self._pump(key.data) == 0:  # the role closed its output; ``turn`` handles its exit
                self._selector.unregister(key.fileobj)

    def _pump(self, role: ProcessRole) -> int:
        """Forward the complete lines of a role's output. Return 0 at the end of the output."""
        assert role.process is not None
        assert role.process.stdout is not None
        try:
            data = os.read(role.process.stdout.fileno(), LINE_BYTES)
        except (BlockingIOError, ValueError):
            return 1
        *lines, role.rest = (role.rest + data).split(b"\n")
        if not data and role.rest:  # the process ended in the middle of a line
            lines, role.rest = [role.rest], b""
        if len(role.rest) > LINE_BYTES:
            lines, role.rest = [*lines, role.rest], b""
        for line in lines:
            # Logs may contain text of users and agents, which must not send control codes to the terminal.
            self.say(role.name, _CONTROL.sub("", line.decode(errors="replace")))
        return len(data)

    def _write_record(self) -> None:
        running = {
            r.name: _identity(r.process.pid) for r in self.roles if r.process and r.is_running
        }
        with contextlib.suppress(OSError):
            self.record.write_text(json.dumps(running))


def end_leftovers(record: Path) -> int:
    """Stop the processes that an earlier, killed run left behind; return how many there were."""
    try:
        entries = json.loads(record.read_text()).values()
    except (OSError, ValueError, AttributeError):
        return 0
    leftovers = [process for pid, began in entries if (process := _find(pid, began))]
    for step in (psutil.Process.terminate, psutil.Process.kill):
        for process in leftovers:
            with contextlib.suppress(psutil.NoSuchProcess):
                step(process)
        _, alive = psutil.wait_procs(leftovers, timeout=GRACE_SECONDS)
        if not alive:
            break
    return len(leftovers)


def _identity(pid: int) -> tuple[int, float] | None:
    """Return the id and the start time of a process. The id alone is not enough, because ids are reused."""
    with contextlib.suppress(psutil.NoSuchProcess):
        return pid, psutil.Process(pid).create_time()
    return None


def _find(pid: int, began: float) -> psutil.Process | None:
    with contextlib.suppress(psutil.NoSuchProcess):
        process = psutil.Process(pid)
        if abs(process.create_time() - began) < 1:
            return process
    return None


class Console:
    """The output of ``quickstart``: lines with a prefix, which is coloured on a terminal unless ``NO_COLOR`` is set."""

    COLOURS: ClassVar = {"web": 36, "worker": 33, "manager": 35, "engine": 34, "services": 31}

    def __init__(self, stream: TextIO | None = None) -> None:
        self.stream = stream or sys.stdout
        self.has_colour = self.stream.isatty() and not os.environ.get("NO_COLOR")

    def say(self, text: str) -> None:
        """Print a line. Continue without output if the reader of a pipe has closed it."""
        try:
            print(text, file=self.stream, flush=True)
        except OSError:
            self.stream = Path(os.devnull).open("w")  # noqa: SIM115 - open until the process ends

    def step(self, name: str, text: str) -> None:
        """Print a line about a step of the startup."""
        self.say(f"{name:<13} {text}")

    def role(self, name: str, line: str) -> None:
        """Print a line of a role's output."""
        prefix = f"{name:<8} |"
        if self.has_colour:
            prefix = f"\x1b[{self.COLOURS.get(name, 37)}m{prefix}\x1b[0m"
        self.say(f"{prefix} {line}")

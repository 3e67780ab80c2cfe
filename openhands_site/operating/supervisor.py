"""Runs the roles as child processes in one terminal: prefixed output, restarts, an orderly end.

One thread and one loop. On Linux the children end when this process is killed; everywhere a list of them in
``running.json`` lets the next start end what was left.
"""

import contextlib
import json
import os
import re
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import ClassVar, TextIO

import psutil

from lib import processes

GRACE_SECONDS = 15
BACKOFF_SECONDS = (1, 2, 5, 10, 30)
STEADY_SECONDS = 60
"""After running this long, a role that exits is restarted as if for the first time."""
LINE_BYTES = 64 * 1024
_CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|[\x00-\x08\x0b-\x1f\x7f\x80-\x9f]")


@dataclass
class ProcessRole:
    """One kind of process. ``once`` is for one that has done its work when it exits with 0."""

    name: str
    command: Sequence[str]
    once: bool = False
    pass_fds: tuple[int, ...] = ()
    process: "subprocess.Popen[bytes] | None" = field(default=None, init=False)
    started_at: float = field(default=0, init=False)
    start_again_at: float | None = field(default=0, init=False)
    failures: int = field(default=0, init=False)
    rest: bytes = field(default=b"", init=False)

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
    """Keeps roles running until ``stop_requested``, then stops them."""

    def __init__(
        self,
        roles: Sequence[ProcessRole],
        *,
        environment: dict[str, str],
        say: Callable[[str, str], None],
        record: Path,
    ) -> None:
        """``say`` takes a role's name and a line; ``record`` is where running children are noted."""
        self.roles = roles
        self.environment = environment
        self.say = say
        self.record = record
        self.interrupts = 0
        self._last_interrupt = self._reaped_at = 0.0
        self._selector = selectors.DefaultSelector()
        processes.adopt_orphans()

    @property
    def stop_requested(self) -> bool:
        return self.interrupts > 0

    def watch_signals(self) -> None:
        """Ctrl-C and SIGTERM ask for an orderly end; a second Ctrl-C ends the waiting."""
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, self._interrupt)

    def _interrupt(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        # A terminal and `make` may both pass one Ctrl-C on: the same instant counts once.
        if self.interrupts == 0 or (number == signal.SIGINT and now - self._last_interrupt > 0.5):
            self.interrupts += 1
            self._last_interrupt = now

    def turn(self, seconds: float = 0.2) -> None:
        """One round: start what is due, pass output on, notice who has exited."""
        for role in self.roles:
            due = role.start_again_at is not None and time.monotonic() >= role.start_again_at
            if role.process is None and due and not self.stop_requested:
                self._start(role)
        self._read(seconds)
        for role in self.roles:
            if role.process is not None and role.process.poll() is not None:
                self._exited(role)
        if time.monotonic() - self._reaped_at > 5:
            self._reaped_at = time.monotonic()
            processes.reap_orphans({r.process.pid for r in self.roles if r.process})

    def stop(self) -> None:
        """Ask every role to finish, wait ``GRACE_SECONDS`` at most, then end them."""
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
                    self.say(role.name, "does not stop by itself; ended")
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(role.process.pid, signal.SIGKILL)
                role.process.wait()
                self._close(role)
        self._write_record()

    def end_descendants(self) -> int:
        """Kill what is left below us, for when everything else has been stopped; give the number."""
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
        role.process = subprocess.Popen(
            role.command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=self.environment | {"OH_ROLE": role.name, "PYTHONUNBUFFERED": "1"},
            pass_fds=role.pass_fds,
            start_new_session=True,  # Ctrl-C reaches us alone; we stop the roles in order
            # Not asked to finish: the database they would finish their work in goes at the same moment.
            preexec_fn=processes.die_with_parent(signal.SIGKILL),  # noqa: PLW1509 - one system call
        )
        role.started_at, role.start_again_at, role.rest = time.monotonic(), None, b""
        assert role.process.stdout is not None
        os.set_blocking(role.process.stdout.fileno(), False)
        self._selector.register(role.process.stdout, selectors.EVENT_READ, role)
        self._write_record()

    def _exited(self, role: ProcessRole) -> None:
        assert role.process is not None
        code = role.process.returncode
        self._pump(role)
        self._close(role)
        lived = time.monotonic() - role.started_at
        role.process = None
        self._write_record()
        if role.once:
            role.failures = code
            return
        role.failures = 0 if lived > STEADY_SECONDS else role.failures
        wait = BACKOFF_SECONDS[min(role.failures, len(BACKOFF_SECONDS) - 1)]
        role.failures += 1
        role.start_again_at = time.monotonic() + wait
        how = f"was ended by {processes.signal_name(-code)}" if code < 0 else f"exited with {code}"
        self.say(role.name, f"{how}; starting it again in {wait} s")

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
            if self._pump(key.data) == 0:  # closed its output; how it exited is seen elsewhere
                self._selector.unregister(key.fileobj)

    def _pump(self, role: ProcessRole) -> int:
        """Pass a role's complete lines on; 0 at the end of its output."""
        assert role.process is not None
        assert role.process.stdout is not None
        try:
            data = os.read(role.process.stdout.fileno(), LINE_BYTES)
        except (BlockingIOError, ValueError):
            return 1
        *lines, role.rest = (role.rest + data).split(b"\n")
        if not data and role.rest:  # it died in the middle of a line
            lines, role.rest = [role.rest], b""
        if len(role.rest) > LINE_BYTES:
            lines, role.rest = [*lines, role.rest], b""
        for line in lines:
            # What agents and people write ends up in logs: it must not steer the terminal.
            self.say(role.name, _CONTROL.sub("", line.decode(errors="replace")))
        return len(data)

    def _write_record(self) -> None:
        running = {
            r.name: _identity(r.process.pid) for r in self.roles if r.process and r.is_running
        }
        with contextlib.suppress(OSError):
            self.record.write_text(json.dumps(running))


def end_leftovers(record: Path) -> int:
    """End the roles of an earlier run that was killed, and give their number."""
    try:
        noted = json.loads(record.read_text()).values()
    except (OSError, ValueError, AttributeError):
        return 0
    left = [process for pid, began in noted if (process := _find(pid, began))]
    for step in (psutil.Process.terminate, psutil.Process.kill):
        for process in left:
            with contextlib.suppress(psutil.NoSuchProcess):
                step(process)
        _, left_now = psutil.wait_procs(left, timeout=GRACE_SECONDS)
        if not left_now:
            break
    return len(left)


def _identity(pid: int) -> tuple[int, float] | None:
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
    """Prefixed lines, coloured on a terminal unless ``NO_COLOR`` is set."""

    COLOURS: ClassVar = {"web": 36, "worker": 33, "manager": 35, "engine": 34, "services": 31}

    def __init__(self, stream: TextIO | None = None) -> None:
        self.stream = stream or sys.stdout
        self.has_colour = self.stream.isatty() and not os.environ.get("NO_COLOR")

    def say(self, text: str) -> None:
        """Print a line; a reader that has gone away does not stop the server."""
        try:
            print(text, file=self.stream, flush=True)
        except OSError:
            self.stream = Path(os.devnull).open("w")  # noqa: SIM115 - lives as long as we do

    def step(self, name: str, text: str) -> None:
        """One line of the preparations."""
        self.say(f"{name:<12} {text}")

    def role(self, name: str, line: str) -> None:
        """One line of a role."""
        prefix = f"{name:<8} |"
        if self.has_colour:
            prefix = f"\x1b[{self.COLOURS.get(name, 37)}m{prefix}\x1b[0m"
        self.say(f"{prefix} {line}")

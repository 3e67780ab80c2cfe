"""The base class of an embedded service: one child process with its log file."""

import contextlib
import importlib.util
import signal
import subprocess
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lib import processes
from openhands_site.operating.embedded.folders import CannotStart

LOG_BYTES = 8 * 1024 * 1024
"""A log file above this size is renamed at the next start."""


@dataclass
class Service(ABC):
    """A service: one child process with its log file."""

    name = ""
    folder: Path
    process: "subprocess.Popen[bytes] | None" = field(default=None, init=False)

    def start(self) -> None:
        """Start the process and wait until it responds. Raise ``CannotStart`` if it does not."""
        self.begin()
        self.finish()

    @abstractmethod
    def begin(self) -> None:
        """Start the process and return at once."""

    def advance(self) -> None:  # noqa: B027 - most services start in one step
        """Begin the next step of the start if the previous one is done. Return at once."""

    @abstractmethod
    def finish(self) -> None:
        """Wait until the started process responds. Raise ``CannotStart`` if it does not."""

    def is_running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    @abstractmethod
    def stop(self) -> None:
        """Stop the process. Safe to repeat."""

    @property
    def log(self) -> Path:
        return self.folder / f"{self.name.lower()}.log"

    def _spawn(self, command: list[str], stop_signal: int, **options: Any) -> int:
        """Start the child process and return the size of its log before the start, in bytes.

        The child gets a session of its own, so that Ctrl-C in the terminal does not reach it.
        """
        if self.log.exists() and self.log.stat().st_size > LOG_BYTES:
            self.log.replace(self.log.with_suffix(".log.1"))
        self.log.touch(mode=0o600)
        with self.log.open("ab") as log:
            begin = log.tell()
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                preexec_fn=processes.die_with_parent(stop_signal),  # noqa: PLW1509 - one system call
                **options,
            )
        return begin

    def _read_log(self, begin: int) -> str:
        with self.log.open("rb") as log:
            log.seek(begin)
            return log.read().decode(errors="replace")

    def _end(self, *steps: tuple[int, float]) -> None:
        """Send the signals of ``steps`` (signal, seconds to wait) until the child has ended; finally send SIGKILL."""
        if self.process is None:
            return
        for number, seconds in (*steps, (signal.SIGKILL, 10)):
            if self.process.poll() is not None:
                break
            self.process.send_signal(number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(seconds)
        self.process = None


def package(name: str) -> Path:
    """Return the folder of an installed package without importing it."""
    spec = importlib.util.find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        raise CannotStart(
            f"The package {name} is not installed. Run `make setup`, or, where it has no wheel as on Alpine Linux, set "
            "DATABASE_URL and REDIS_URL to existing servers."
        )
    return Path(spec.submodule_search_locations[0])

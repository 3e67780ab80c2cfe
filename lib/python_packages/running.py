"""Programs that install packages, run with lines of progress on the terminal."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

EVERY_SECONDS = 2.0
"""Seconds between two lines of progress."""


class Failed(Exception):
    """A program failed. The message is the most telling line of its output."""


def say(line: str) -> None:
    """Print a line at once."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def run(
    command: list[str],
    *,
    environment: dict[str, str],
    log: Path,
    describe: Callable[[int, str], str],
) -> None:
    """Run a program with its output in ``log``, and print ``describe(seconds, output)`` every two seconds.

    Raise ``Failed`` if the program cannot be started or fails. On Ctrl-C the program is stopped.
    """
    began = shown = time.monotonic()
    with log.open("w", encoding="utf-8") as output:
        try:
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=environment
            )
        except OSError as error:
            raise Failed(f"{command[0]}: {error.strerror}") from error
        try:
            while process.poll() is None:
                try:
                    process.wait(0.2)
                except subprocess.TimeoutExpired:
                    now = time.monotonic()
                    if now - shown >= EVERY_SECONDS:
                        shown = now
                        text = log.read_text(encoding="utf-8", errors="replace")
                        say(f"  {describe(int(now - began), text)}")
        finally:
            if process.poll() is None:
                process.terminate()
                process.wait()
    if process.returncode:
        raise Failed(find_error(log.read_text(encoding="utf-8", errors="replace")))


def find_error(output: str) -> str:
    """Return the line of a program's output that tells most about its failure."""
    lines = [line.strip(" ×╰─▶├│") for line in output.splitlines() if line.strip(" ×╰─▶├│")]
    errors = [line for line in lines if re.search(r"error|denied|No space", line, re.IGNORECASE)]
    causes = [line for line in lines if re.match(r"(Caused by|cause):", line)]
    first = re.sub("^error: ", "", (errors or lines or ["no output"])[0], flags=re.IGNORECASE)
    return f"{first} ({causes[-1].partition(': ')[2]})" if causes else first


@dataclass
class Download:
    """The lines of progress of one download. ``report`` is called with the bytes read so far and in all."""

    name: str
    began: float = field(default=0.0, init=False)
    shown: float = field(default=0.0, init=False)

    def report(self, done: int, total: int) -> None:
        """Print a line if the last one is two seconds old."""
        now = time.monotonic()
        self.began = self.began or now
        if now - (self.shown or self.began) < EVERY_SECONDS:
            return
        self.shown = now
        seconds = now - self.began
        of = f" of {total / 1e6:.0f}" if total else ""
        left = f", about {time_left(seconds * (total - done) / done)} left" if total else ""
        say(f"  {int(seconds)} s: {done / 1e6:.0f}{of} MB of {self.name}{left}")


def time_left(seconds: float) -> str:
    """Return a rounded duration for people, such as ``8 s`` or ``3 min``."""
    return f"{max(1, round(seconds))} s" if seconds < 90 else f"{round(seconds / 60)} min"

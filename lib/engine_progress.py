"""The progress of an installation of the agent engine: measured from files, and shared through one file.

The process that installs measures how far it is and writes ``<ENGINE_DIR>.progress.json``. Every process of the server
reads that file. It stands beside the engine's folder, because the folder is removed before an installation.
"""

import contextlib
import os
import re
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

from lib.json_files import read_json, write_json

PHASES = ("waiting", "python", "fetching", "installing", "compiling")
"""In order. ``waiting``: the installation begins in a moment. ``python``: a Python is searched for or downloaded."""
PRIORS = {
    "uv": {"fetching": 12.0, "compiling": 20.0},
    "pip": {"fetching": 60.0, "installing": 60.0},
}
"""The usual seconds of each phase. They count until the phase shows its own speed."""
FETCHED_MEGABYTES = 155
UNPACKED_MEGABYTES = 510
INSTALLED_MEGABYTES = 665
"""Sizes of engine 1.58.2 in a download, without and with compiled files. They only weigh the estimate."""
KNOWN_FRACTION = 0.05
"""The part of the download that must be done before an estimate is given, because it depends on the connection."""
MEASURE_SECONDS = 1.0
"""The shortest time between two measurements."""


@dataclass(frozen=True)
class Progress:
    """How far an installation is. ``phase`` is one of ``PHASES``."""

    phase: str
    done: int = 0
    """Packages; in the phase ``compiling`` files."""
    total: int = 0
    """0 if there is nothing to count in this phase."""
    megabytes: int = 0
    seconds: int = 0
    """Seconds since the installation began."""
    seconds_left: int | None = None
    """An estimate, which never grows. None while nothing is known, and if the installation takes longer than that."""

    @property
    def percent(self) -> int | None:
        """The share of the time that has passed, from 0 to 99, or None without an estimate."""
        if self.seconds_left is None:
            return None
        return min(99, 100 * self.seconds // max(1, self.seconds + self.seconds_left))

    def __str__(self) -> str:
        """Describe the progress in words such as ``120 of 194 packages, about 15 s left``; empty if none is known."""
        words = {
            "python": f"downloading Python, {self.megabytes} MB"
            if self.megabytes
            else "preparing Python",
            "fetching": f"{self.done} of {self.total} packages downloaded",
            "installing": f"{self.done} of {self.total} packages",
            "compiling": f"{self.done:,} of {self.total:,} files compiled",
        }.get(self.phase, "")
        left = "" if self.seconds_left is None else f"about {_duration(self.seconds_left)} left"
        return ", ".join(filter(None, [words, left]))


def _duration(seconds: int) -> str:
    return f"{seconds} s" if seconds < 90 else f"{round(seconds / 60)} min"


# --- The shared file ------------------------------------------------------------


def _path(folder: Path) -> Path:
    return folder.parent / f"{folder.name}.progress.json"


def read_progress(folder: Path) -> Progress | None:
    """Return the progress that the installing process wrote last, or None."""
    content = _read(folder)
    try:
        progress = Progress(**content["progress"])
    except (KeyError, TypeError):
        return None
    numbers = (progress.done, progress.total, progress.megabytes, progress.seconds)
    left = progress.seconds_left
    is_sound = progress.phase in PHASES and all(isinstance(n, int) for n in numbers)
    return progress if is_sound and (left is None or isinstance(left, int)) else None


def write_progress(folder: Path, progress: Progress) -> None:
    """Replace what ``read_progress`` and ``read_failure`` return."""
    _write(folder, {"progress": asdict(progress)})


def read_failure(folder: Path, constraints: str) -> str:
    """Return why the last installation of these constraints (their hash) failed, or an empty text."""
    content = _read(folder)
    failure = content.get("failure")
    return str(failure) if failure and content.get("constraints") == constraints else ""


def write_failure(folder: Path, constraints: str, sentence: str) -> None:
    """Record why an installation failed, until the next one begins."""
    _write(folder, {"failure": sentence, "constraints": constraints})


def forget(folder: Path) -> None:
    """Remove the file after an installation that succeeded."""
    with contextlib.suppress(OSError):
        _path(folder).unlink(missing_ok=True)


def _read(folder: Path) -> dict[str, Any]:
    try:
        return read_json(_path(folder))
    except OSError:
        return {}


def _write(folder: Path, content: dict[str, Any]) -> None:
    # On a full disk the installation itself reports the fault. Nobody depends on this file.
    with contextlib.suppress(OSError):
        write_json(_path(folder), content)


# --- Measuring ------------------------------------------------------------------


class Watch:
    """The watch of one installation: it measures, estimates the time left, and tells every process and ``progress``.

    Call ``report`` often; it measures at most once in ``MEASURE_SECONDS``.
    """

    def __init__(
        self,
        folder: Path,
        log: Path,
        total: int,
        progress: Callable[[Progress], None],
        lock: IO[str],
    ) -> None:
        """Begin to watch ``folder``, into which ``total`` packages are installed.

        The installers write into ``log`` and inherit ``lock``, the lock of the installation.
        """
        self.lock = lock
        self.folder, self.log, self.total, self.progress = folder, log, max(1, total), progress
        self.began = time.monotonic()
        self.measured_at = 0.0
        self.phase, self.phase_began = "", self.began
        self.shown: int | None = None
        self.shown_at = self.began
        self.uv_cache = _uv_cache()
        self.earlier_archives = set(_names(self.uv_cache / "archive-v0"))

    @property
    def seconds(self) -> int:
        return int(time.monotonic() - self.began)

    def enter(self, phase: str, megabytes: int = 0) -> None:
        """Report a phase in which no packages are counted, such as ``python``, with what was downloaded in it."""
        self._tell(Progress(phase, megabytes=megabytes, seconds=self.seconds))

    def report(self) -> None:
        """Measure, write the file and call ``progress``, unless this was done a moment ago."""
        if time.monotonic() - self.measured_at < MEASURE_SECONDS:
            return
        phase, installer, done, total, megabytes, fraction = self._measure()
        left = self._estimate(phase, installer, fraction)
        self._tell(Progress(phase, min(done, total), total, megabytes, self.seconds, left))
        self.measured_at = time.monotonic()

    def _tell(self, progress: Progress) -> None:
        write_progress(self.folder, progress)
        self.progress(progress)

    def _measure(self) -> tuple[str, str, int, int, int, float]:
        """Return the phase, the installer, packages or files done and in total, megabytes, and the fraction done."""
        try:
            output = self.log.read_text(errors="replace")
        except OSError:
            output = ""
        # After a failure of uv, pip continues in the same log.
        uses_uv = output.rfind("Resolved ") > output.rfind("Collecting ")
        installed = len(list(self.folder.glob("lib/python3*/site-packages/*.dist-info")))
        # The first package is pip itself.
        if installed <= 1 and "Installing collected" not in output:
            return self._measure_download(output, uses_uv=uses_uv)
        size, sources, compiled = _count(self.folder)
        megabytes = size // 1_000_000
        # pip compiles each package when it installs it; uv compiles all of them at the end.
        if uses_uv and (self.phase == "compiling" or installed > self.total / 2):
            return "compiling", "uv", compiled, sources, megabytes, compiled / max(1, sources)
        fraction = (installed / self.total + megabytes / INSTALLED_MEGABYTES) / 2
        installer = "uv" if uses_uv else "pip"
        return "installing", installer, installed, self.total, megabytes, fraction

    def _measure_download(
        self, output: str, *, uses_uv: bool
    ) -> tuple[str, str, int, int, int, float]:
        if uses_uv:
            archives = set(_names(self.uv_cache / "archive-v0")) - self.earlier_archives
            folders = [self.uv_cache / "archive-v0" / name for name in archives]
            folders += [
                self.uv_cache / name for name in _names(self.uv_cache) if name.startswith(".tmp")
            ]
            megabytes = sum(_count(folder)[0] for folder in folders) // 1_000_000
            done = max(len(archives), len(re.findall("^ Downloaded ", output, re.MULTILINE)))
            fraction = (done / self.total + megabytes / UNPACKED_MEGABYTES) / 2
            return "fetching", "uv", done, self.total, megabytes, fraction
        sizes = re.findall(r"^ +Downloading .*\(([\d.]+) (kB|MB)\)", output, re.MULTILINE)
        megabytes = int(sum(float(n) * (1 if unit == "MB" else 0.001) for n, unit in sizes))
        done = len(re.findall("^Collecting ", output, re.MULTILINE))
        fraction = done / self.total
        if sizes:  # otherwise pip takes the packages from its cache
            fraction = (fraction + megabytes / FETCHED_MEGABYTES) / 2
        return "fetching", "pip" if done else "", done, self.total, megabytes, fraction

    def _estimate(self, phase: str, installer: str, fraction: float) -> int | None:
        """Return the seconds left. The estimate never grows: None if the installation takes much longer than that."""
        now = time.monotonic()
        if phase != self.phase:
            # The phase began at some time after the last measurement.
            self.phase, self.phase_began = phase, self.measured_at or now
        priors = PRIORS.get(installer)
        if priors is None:
            return None
        elapsed, fraction = now - self.phase_began, min(max(fraction, 0.0), 0.99)
        if self.shown is None and fraction < KNOWN_FRACTION:
            return None
        busy = _load()
        usual = max(priors.get(phase, 0.0) * busy, elapsed)
        weight = min(1.0, 8 * fraction)  # after an eighth of the phase, only its own speed counts
        whole = (1 - weight) * usual + weight * (elapsed / fraction if fraction else 0.0)
        later = sum(priors[name] * busy for name in priors if _comes_after(name, phase))
        left = max(1, round(whole * (1 - fraction) + later))
        if self.shown is None or left < self.shown:
            self.shown, self.shown_at = left, now
        # Neither a wrong estimate nor one that stands still is worth showing.
        most = 2 * self.shown + 10
        return self.shown if left <= most and now - self.shown_at <= most else None


def _comes_after(phase: str, other: str) -> bool:
    return PHASES.index(phase) > PHASES.index(other)


def _load() -> float:
    """Return how many times longer work takes because of other programs, from 1 to 8."""
    try:
        waiting = os.getloadavg()[0]
    except OSError:
        return 1.0
    return min(8.0, max(1.0, waiting / (os.cpu_count() or 1)))


def _uv_cache() -> Path:
    if folder := os.environ.get("UV_CACHE_DIR"):
        return Path(folder)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "uv"


def _names(folder: Path) -> list[str]:
    try:
        return os.listdir(folder)  # noqa: PTH208 - only names are needed
    except OSError:
        return []


def _count(folder: Path) -> tuple[int, int, int]:
    """Return the bytes of all files in a folder, and the numbers of its Python files and of its compiled files."""
    size = sources = compiled = 0
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                more = _count(Path(entry.path))
                size, sources, compiled = size + more[0], sources + more[1], compiled + more[2]
                continue
            with contextlib.suppress(OSError):  # a file may be renamed in this moment
                size += entry.stat(follow_symlinks=False).st_size
            sources += entry.name.endswith(".py")
            compiled += entry.name.endswith(".pyc")
    return size, sources, compiled

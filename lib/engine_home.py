"""The virtual environment of the agent engine: its state and its installation.

The engine needs a newer Python than this server and about two hundred packages, so it has a virtual environment of
its own in ``ENGINE_DIR``. The installation writes ``bin/agent-server`` near its end and ``installed.json`` last, so
an interrupted installation is recognized.
"""

import contextlib
import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from django.conf import settings

from lib import processes
from lib.engine_python import fetch_python, find_python
from lib.python_packages import index, pip_settings, uv_program

PACKAGE = "openhands-agent-server"
CONSTRAINTS: Path = settings.BASE_DIR / "engine" / "agent-server-constraints.txt"
NEEDED_MEGABYTES = 1_200
FETCHING_PYTHON = "fetching Python"
STAMP, MARKER = "installed.json", "installing.json"
"""The stamp describes a complete installation.

The marker exists during an installation, and after an interrupted one.
"""


class InstallFailed(Exception):
    """The installation of the engine failed. The message is a sentence for operators."""


@dataclass(frozen=True)
class Status:
    """The state of ``ENGINE_DIR``: ``ready``, ``installing``, ``unfinished``, ``outdated`` or ``missing``."""

    state: str
    version: str
    """The version of the installed engine, or the required version if none is installed."""
    folder: str
    detail: str

    @property
    def is_ready(self) -> bool:
        return self.state == "ready"


@dataclass(frozen=True)
class Progress:
    """The progress of an installation. ``phase`` is ``FETCHING_PYTHON``, ``fetching`` or ``installing``."""

    phase: str
    done: int
    total: int
    megabytes: int
    seconds: int

    def __str__(self) -> str:
        if self.phase == FETCHING_PYTHON:
            return f"{self.phase}, {self.megabytes} MB, {self.seconds} s"
        packages = f"{self.done} of {self.total} packages"
        return f"{self.phase} {packages}, {self.megabytes} MB, {self.seconds} s"


def required_versions() -> dict[str, str]:
    """Return a dict from package to required version, read from the constraints file."""
    pins = re.findall(
        r"^([A-Za-z0-9._-]+)(?:\[[^]]*\])?==([^\s;]+)", CONSTRAINTS.read_text(), re.MULTILINE
    )
    return {name.lower(): version for name, version in pins}


def status() -> Status:
    """Return the state of ``ENGINE_DIR``. The call is fast enough for every start of a sandbox."""
    folder = settings.ENGINE_DIR
    if processes.is_locked(_lock_path(folder)):
        detail = f"The agent engine is being installed in {folder}."
        return Status("installing", required_versions()[PACKAGE], str(folder), detail)
    return _inspect(folder)


def _inspect(folder: Path) -> Status:
    required = required_versions()[PACKAGE]

    def result(state: str, detail: str, version: str = required) -> Status:
        return Status(state, version, str(folder), detail)

    if not folder.exists() or not any(folder.iterdir()):
        return result("missing", f"The agent engine is not installed in {folder}.")
    installed = _installed_version(folder)
    if (
        (folder / MARKER).exists()
        or not installed
        or not os.access(folder / "bin" / "agent-server", os.X_OK)
    ):
        return result(
            "unfinished", f"The installation of the agent engine in {folder} was not completed."
        )
    stamp = _read_json(folder / STAMP)
    # An engine without a stamp was not installed by this server, for example by an image. Only its version counts.
    if installed != required or (stamp and stamp["constraints"] != _fingerprint()):
        return result(
            "outdated",
            f"{folder} contains engine {installed}, but this server needs version {required} with the packages of "
            "its constraints file.",
            installed,
        )
    # Scripts of a virtual environment contain its absolute path.
    if stamp and stamp["folder"] != str(folder):
        return result(
            "outdated",
            f"{folder} was moved after the engine was installed, so it must be installed again.",
            installed,
        )
    return result("ready", f"Agent engine {required} in {folder}.")


def install(*, progress: Callable[[Progress], None] = lambda _: None) -> Status:
    """Install the engine with the packages of the constraints file, unless it is ready.

    Safe to repeat and to interrupt. Wait while another process installs into the same folder. Raise
    ``engine_python.NoPython`` or ``InstallFailed``.
    """
    folder = settings.ENGINE_DIR
    folder.parent.mkdir(parents=True, exist_ok=True)
    with _exclusive(folder):
        if (current := _inspect(folder)).is_ready:
            return current
        try:
            with _available_uv() as uv:
                python = find_python(uv) or _fetch_python(uv, progress)
                _clear(folder)
                _check_space(folder)
                _build(folder, python, uv, progress)
        except OSError as error:
            raise InstallFailed(
                f"The agent engine could not be installed: {error.strerror}: {error.filename}. Correct the "
                "permissions, or set ENGINE_DIR to another folder."
            ) from error
        return _inspect(folder)


# --- Installing -----------------------------------------------------------------


def _check_space(folder: Path) -> None:
    free = shutil.disk_usage(folder.parent).free // 1_000_000
    if free < NEEDED_MEGABYTES:
        raise InstallFailed(
            f"The agent engine needs about {NEEDED_MEGABYTES} MB, but the disk of {folder} has only {free} MB "
            "free. Free some space, or set ENGINE_DIR to a folder on another disk."
        )


@contextlib.contextmanager
def _available_uv() -> Iterator[Path | None]:
    """Yield the pinned uv, else the one of ``PATH``, else None: then pip does the work."""
    with contextlib.ExitStack() as stack:
        uv = uv_program.find_uv(Path(sys.prefix, "bin"))
        if uv is None:
            try:
                uv = stack.enter_context(uv_program.unpacked_uv())
            except uv_program.NoUv:
                uv = uv_program.find_other_uv()
            except index.WrongHash:
                uv = None
        yield uv


def _fetch_python(uv: Path | None, progress: Callable[[Progress], None]) -> Path:
    total = len(required_versions())

    def report(megabytes: int, seconds: int) -> None:
        progress(Progress(FETCHING_PYTHON, 0, total, megabytes, seconds))

    return fetch_python(uv, report=report)


def _build(
    folder: Path, python: Path, uv: Path | None, progress: Callable[[Progress], None]
) -> None:
    folder.mkdir(mode=0o755, exist_ok=True)
    (folder / MARKER).write_text("{}")
    log = folder.parent / f"{folder.name}.log"
    pins = CONSTRAINTS.read_text().splitlines()
    rest = folder / "packages.txt"
    rest.write_text("\n".join(line for line in pins if not line.lower().startswith(PACKAGE + "==")))
    watch = _Watch(folder, log, progress)
    own = str(folder / "bin" / "python")
    for_pip = pip_settings.environment_for_pip() | {"PYTHONUNBUFFERED": "1"}
    for_uv = pip_settings.environment_for_uv()
    # The engine itself comes last, so that its bin/agent-server appears only after all other packages.
    parts = (["-r", str(rest)], ["-r", str(CONSTRAINTS)])
    with log.open("w") as output:

        def run(*command: str, environment: dict[str, str]) -> None:
            _run(list(command), environment, output, log, watch)

        is_done = False
        if uv is not None:
            options = ("--python", own, "--compile-bytecode", *pip_settings.arguments_for_uv())
            # If uv fails, pip may know a credential or a format that uv does not.
            with contextlib.suppress(InstallFailed):
                run(*uv_program.venv_command(uv, python, folder), environment=for_uv)
                for part in parts:
                    run(str(uv), "pip", "install", *options, *part, environment=for_uv)
                is_done = True
        if not is_done:
            run(str(python), "-I", "-m", "venv", str(folder), environment=for_pip)
            options = ("-I", "-m", "pip", "install", "--progress-bar=off")
            for part in parts:
                run(own, *options, *part, environment=for_pip)
    version = required_versions()[PACKAGE]
    stamp = {"constraints": _fingerprint(), "folder": str(folder), "version": version}
    (folder / STAMP).write_text(json.dumps(stamp | {"python": str(python)}))
    (folder / MARKER).unlink()


def _run(
    command: list[str], environment: dict[str, str], output: IO[str], log: Path, watch: "_Watch"
) -> None:
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=subprocess.STDOUT,
        env=environment,
        preexec_fn=processes.die_with_parent(signal.SIGTERM),  # noqa: PLW1509 - one system call
    )
    try:
        while process.poll() is None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(1)
            watch.report()
    finally:
        # An exception, such as Ctrl-C, must not leave pip running.
        if process.poll() is None:
            process.terminate()
            process.wait()
    if process.returncode:
        tail = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
        errors = [line for line in tail if "error" in line.lower()] or tail or ["no output"]
        raise InstallFailed(
            f"The agent engine could not be installed: {errors[-1].strip()} See the log in {log}."
        )


class _Watch:
    """A reporter of an installation's progress. It reads pip's log and the installed packages every two seconds."""

    def __init__(self, folder: Path, log: Path, progress: Callable[[Progress], None]) -> None:
        self.folder, self.log, self.progress = folder, log, progress
        self.total = len(required_versions())
        self.began = self.reported_at = time.monotonic()

    def report(self) -> None:
        now = time.monotonic()
        if now - self.reported_at < 2:
            return
        output = self.log.read_text(errors="replace")
        done = len(list(self.folder.glob("lib/python3*/site-packages/*.dist-info")))
        if done > 1 or "Installing collected" in output:  # the first package is pip itself
            phase, size = "installing", _size(self.folder) // 1_000_000
        else:
            sizes = re.findall(r"^ +Downloading .*\(([\d.]+) (kB|MB)\)", output, re.MULTILINE)
            size = int(sum(float(n) * (1 if unit == "MB" else 0.001) for n, unit in sizes))
            phase, done = "fetching", len(re.findall("^Collecting ", output, re.MULTILINE))
        self.reported_at = time.monotonic()
        seconds = int(now - self.began)
        self.progress(Progress(phase, min(done, self.total), self.total, size, seconds))


def _size(folder: Path) -> int:
    total = 0
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                total += _size(Path(entry.path))
            else:
                total += entry.stat(follow_symlinks=False).st_size
    return total


def _clear(folder: Path) -> None:
    """Remove an unfinished or outdated virtual environment. Raise ``InstallFailed`` for any other folder."""
    if not folder.exists():
        return
    is_environment = (folder / "pyvenv.cfg").exists() or (folder / MARKER).exists()
    if any(folder.iterdir()) and not is_environment:
        raise InstallFailed(
            f"ENGINE_DIR is {folder}, which contains other files. Set it to an empty folder."
        )
    shutil.rmtree(folder)


@contextlib.contextmanager
def _exclusive(folder: Path) -> Iterator[None]:
    while (lock := processes.acquire_lock(_lock_path(folder))) is None:
        time.sleep(0.5)
    try:
        yield
    finally:
        lock.close()


def _lock_path(folder: Path) -> Path:
    return folder.parent / f"{folder.name}.lock"


def _installed_version(folder: Path) -> str:
    stem = PACKAGE.replace("-", "_")
    folders = list(folder.glob(f"lib/python3*/site-packages/{stem}-*.dist-info"))
    return folders[0].name.removesuffix(".dist-info").rpartition("-")[2] if folders else ""


def _fingerprint() -> str:
    return hashlib.sha256(CONSTRAINTS.read_bytes()).hexdigest()


def _read_json(path: Path) -> dict[str, str]:
    try:
        content: dict[str, str] = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return content

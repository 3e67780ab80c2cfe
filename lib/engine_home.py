"""The virtual environment of the agent engine: its installation and the search for a Python interpreter.

The engine needs a newer Python than this server and about two hundred packages, so it has a virtual environment of
its own in ``ENGINE_DIR``. ``lib.engine_state`` reports its state.
"""

import contextlib
import errno
import glob
import json
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

from django.conf import settings

from lib import engine_progress, processes
from lib.engine_progress import Progress, Watch
from lib.engine_state import (
    CONSTRAINTS,
    MARKER,
    PACKAGE,
    STAMP,
    Status,
    fingerprint,
    inspect,
    lock_path,
    log_path,
    required_versions,
    status,
)

OLDEST_PYTHON = (3, 12)
NEEDED_MEGABYTES = 1_200
FULL_MEGABYTES = 20
"""With less free space a disk counts as full."""
_NO_SPACE = "No space left on device|Disk quota exceeded"
_NAMES = ("python3.13", "python3.12", "python3.14", "python3")
NO_PYTHON = (
    "The agent engine needs Python 3.12 or newer, which was not found. Install it (`apt install python3.12 "
    "python3.12-venv`, `brew install python@3.13`, `uv python install 3.13` or `pyenv install 3.13`), or set "
    "OH_ENGINE_PYTHON=/path/to/python. Until then the server works, but agents cannot start."
)
FULL = (
    f"The agent engine could not be installed, because a disk is full. It needs about {NEEDED_MEGABYTES} MB in "
    "ENGINE_DIR, and as much in the cache of the installer in the home folder. Free some space, or set ENGINE_DIR to a "
    "folder on another disk."
)


class NoPython(Exception):
    """This machine has no Python interpreter for the engine. The message says how to install one."""


class InstallFailed(Exception):
    """The installation of the engine failed. The message is a sentence for operators."""


def install(*, progress: Callable[[Progress], None] = lambda _: None) -> Status:
    """Install the engine with the packages of the constraints file, unless it is ready.

    Safe to repeat and to interrupt. Wait while another process installs into the same folder, and report its progress.
    Raise ``NoPython`` or ``InstallFailed``; ``status`` then reports the reason until the next installation.
    """
    folder = settings.ENGINE_DIR
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with _exclusive(folder, progress) as lock:
            if (current := inspect(folder)).is_ready:
                return current
            try:
                _install(folder, lock, progress)
            except (NoPython, InstallFailed) as failure:
                if _is_full(folder.parent) and (folder / MARKER).exists():
                    # The database may need the space of the unfinished installation.
                    shutil.rmtree(folder, ignore_errors=True)
                engine_progress.write_failure(folder, fingerprint(), str(failure))
                raise
            engine_progress.forget(folder)
            return status()
    except OSError as error:
        raise InstallFailed(_describe(error)) from error


def _install(folder: Path, lock: IO[str], progress: Callable[[Progress], None]) -> None:
    watch = Watch(folder, log_path(folder), len(required_versions()), progress, lock)
    watch.enter("python")
    python = find_python()
    try:
        _clear(folder)
        free = shutil.disk_usage(folder.parent).free // 1_000_000
        if free < NEEDED_MEGABYTES:
            raise InstallFailed(
                f"The agent engine needs about {NEEDED_MEGABYTES} MB, but the disk of {folder} has only {free} MB "
                "free. Free some space, or set ENGINE_DIR to a folder on another disk."
            )
        _build(folder, python, watch)
    except OSError as error:
        raise InstallFailed(_describe(error)) from error


def _is_full(folder: Path) -> bool:
    return shutil.disk_usage(folder).free < FULL_MEGABYTES * 1_000_000


def _describe(error: OSError) -> str:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return FULL
    return (
        f"The agent engine could not be installed: {error.strerror}: {error.filename}. Correct the permissions, or "
        "set ENGINE_DIR to another folder."
    )


def find_python() -> Path:
    """Return the first suitable Python interpreter: new enough, and able to create virtual environments.

    Each candidate is run, because pyenv has shims on ``PATH`` for versions that are not active. Raise ``NoPython`` if
    there is none.
    """
    if name := settings.ENGINE_PYTHON:
        if python := _try(shutil.which(name) or name):
            return python
        raise NoPython(
            f"OH_ENGINE_PYTHON (or AGENT_PYTHON) is {name}, which is not Python 3.12 or newer with the venv module. "
            "Correct it, or unset it to search for a suitable Python."
        )
    for candidate in _candidates():
        if python := _try(candidate):
            return python
    raise NoPython(NO_PYTHON)


def _candidates() -> Iterator[str]:
    for name in _NAMES:
        if path := shutil.which(name):
            yield path
    root = os.environ.get("PYENV_ROOT", str(Path.home() / ".pyenv"))
    # Unlike Path.glob, this function skips folders that are not readable. 3.13 comes first, because compiled packages
    # support a newer Python only some time after its release.
    versions = glob.glob(f"{glob.escape(root)}/versions/3.1[2-9]*/bin/python")  # noqa: PTH207
    yield from sorted(sorted(versions, reverse=True), key=lambda path: "/3.13" not in path)
    if uv := shutil.which("uv"):
        quiet = {"UV_PYTHON_DOWNLOADS": "never", "UV_NO_PROGRESS": "1"}
        yield from _output([uv, "python", "find", ">=3.12"], quiet).splitlines()


def _try(python: str) -> Path | None:
    """Run an interpreter and return its real path if it is suitable, else None."""
    code = "import sys, venv, ensurepip; print(*sys.version_info[:2]); print(sys.executable)"
    version, _, path = _output([python, "-I", "-c", code]).strip().partition("\n")
    if not path or tuple(map(int, version.split())) < OLDEST_PYTHON:
        return None
    return Path(path)


def _output(command: list[str], environment: dict[str, str] | None = None) -> str:
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            timeout=20,
            check=True,
            env=os.environ | (environment or {}),
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout


# --- Installing -----------------------------------------------------------------


def _build(folder: Path, python: Path, watch: Watch) -> None:
    folder.mkdir(mode=0o755, exist_ok=True)
    (folder / MARKER).write_text("{}")
    log = watch.log
    pins = CONSTRAINTS.read_text().splitlines()
    rest = folder / "packages.txt"
    rest.write_text("\n".join(line for line in pins if not line.lower().startswith(PACKAGE + "==")))
    environment = os.environ | {"PIP_DISABLE_PIP_VERSION_CHECK": "1", "PYTHONUNBUFFERED": "1"}
    environment.pop("PYTHONPATH", None)
    own = str(folder / "bin" / "python")
    uv = shutil.which("uv")
    with log.open("w") as output:
        create = [str(python), "-I", "-m", "venv", str(folder)]
        _run(create, environment, output, log, watch)
        # The engine itself comes last, so that its bin/agent-server appears only after all other packages.
        for arguments in (["-r", str(rest)], ["-r", str(CONSTRAINTS)]):
            pip = [
                own,
                "-I",
                "-m",
                "pip",
                "install",
                "--no-input",
                "--progress-bar=off",
                *arguments,
            ]
            fast = [uv or "", "pip", "install", "--python", own, "--compile-bytecode", *arguments]
            if uv:
                try:
                    _run(fast, _for_uv(environment), output, log, watch)
                    continue
                except InstallFailed:
                    pass  # uv ignores pip's configuration files, so pip may reach an index that uv does not
            _run(pip, environment, output, log, watch)
    version = required_versions()[PACKAGE]
    stamp = {"constraints": fingerprint(), "folder": str(folder), "version": version}
    (folder / STAMP).write_text(json.dumps(stamp | {"python": str(python)}))
    (folder / MARKER).unlink()


def _run(
    command: list[str], environment: dict[str, str], output: IO[str], log: Path, watch: Watch
) -> None:
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=subprocess.STDOUT,
        env=environment,
        # The child keeps the lock: if this process is killed, nobody else installs while the child still writes.
        pass_fds=[watch.lock.fileno()],
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
        # On a full disk the log may be empty.
        if _is_full(log.parent) or re.search(_NO_SPACE, log.read_text(errors="replace")):
            raise InstallFailed(FULL)
        tail = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
        errors = [line for line in tail if "error" in line.lower()] or tail or ["no output"]
        raise InstallFailed(
            f"The agent engine could not be installed: {errors[-1].strip()} See the log in {log}."
        )


def _for_uv(environment: dict[str, str]) -> dict[str, str]:
    """Return the environment with uv's variables set from pip's settings for package indexes."""
    names = {
        "PIP_INDEX_URL": "UV_DEFAULT_INDEX",
        "PIP_EXTRA_INDEX_URL": "UV_INDEX",
        "PIP_FIND_LINKS": "UV_FIND_LINKS",
        "PIP_CERT": "SSL_CERT_FILE",
        "PIP_NO_INDEX": "UV_NO_INDEX",
    }
    settings_for_uv = {uv: environment[pip] for pip, uv in names.items() if pip in environment}
    return settings_for_uv | environment | {"UV_NO_PROGRESS": "1"}


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
def _exclusive(folder: Path, progress: Callable[[Progress], None]) -> Iterator[IO[str]]:
    """Hold the lock of the installation. While another process holds it, report the progress of that process."""
    while (lock := processes.acquire_lock(lock_path(folder))) is None:
        if current := engine_progress.read_progress(folder):
            progress(current)
        time.sleep(0.5)
    try:
        yield lock
    finally:
        lock.close()

"""The installation of the agent engine into its virtual environment.

The engine needs a newer Python than this server and about two hundred packages, so it has a virtual environment of
its own in ``ENGINE_DIR``. ``lib.engine_state`` reports its state.
"""

import contextlib
import errno
import json
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

from django.conf import settings

from lib import engine_progress, processes
from lib.engine_progress import Progress, Watch
from lib.engine_python import NoPython, fetch_python, find_python
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
from lib.python_packages import index, pip_settings, uv_program

NEEDED_MEGABYTES = 1_200
FULL_MEGABYTES = 20
"""With less free space a disk counts as full."""
_NO_SPACE = "No space left on device|Disk quota exceeded"
FULL = (
    f"The agent engine could not be installed, because a disk is full. It needs about {NEEDED_MEGABYTES} MB in "
    "ENGINE_DIR, and as much in the cache of the installer in the home folder. Free some space, or set ENGINE_DIR to a "
    "folder on another disk."
)


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
    try:
        with _available_uv() as uv:
            python = find_python(uv) or fetch_python(
                uv, report=lambda megabytes, _: watch.enter("python", megabytes)
            )
            _clear(folder)
            _check_space(folder)
            _build(folder, python, uv, watch)
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


def _build(folder: Path, python: Path, uv: Path | None, watch: Watch) -> None:
    folder.mkdir(mode=0o755, exist_ok=True)
    (folder / MARKER).write_text("{}")
    log = watch.log
    pins = CONSTRAINTS.read_text().splitlines()
    rest = folder / "packages.txt"
    rest.write_text("\n".join(line for line in pins if not line.lower().startswith(PACKAGE + "==")))
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

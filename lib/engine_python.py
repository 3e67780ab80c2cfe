"""The Python interpreter of the agent engine: found on this machine, else fetched by uv.

The engine needs a newer Python than this server. Debian 12 and Ubuntu 22.04, for example, have none in their packages.
"""

import glob
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from django.conf import settings

from lib import processes
from lib.python_packages import pip_settings, systems
from lib.python_packages.environments import python_command
from lib.python_packages.running import find_error

OLDEST_PYTHON = (3, 12)
FETCHED_PYTHON = "3.13"
"""The version that uv fetches. Compiled packages support a newer Python only some time after its release."""
_NAMES = ("python3.13", "python3.12", "python3.14", "python3")


class NoPython(Exception):
    """This machine has no Python interpreter for the engine. The message says how to install one."""


def find_python(uv: Path | None = None) -> Path | None:
    """Return the first Python interpreter of this machine that is new enough, or None.

    Without uv, the interpreter must also be able to create virtual environments with pip. Each candidate is run,
    because pyenv has shims on ``PATH`` for versions that are not active. Raise ``NoPython`` if OH_ENGINE_PYTHON names
    an unsuitable one.
    """
    modules = "" if uv else ", venv, ensurepip"
    if name := settings.ENGINE_PYTHON:
        if python := _try(shutil.which(name) or name, modules):
            return python
        with_venv = " with the venv module" if modules else ""
        raise NoPython(
            f"OH_ENGINE_PYTHON (or AGENT_PYTHON) is {name}, which is not Python 3.12 or newer{with_venv}. "
            "Correct it, or unset it to search for a suitable Python."
        )
    found = (_try(candidate, modules) for candidate in _candidates(uv))
    return next((python for python in found if python), None)


def fetch_python(uv: Path | None, *, report: Callable[[int, int], None]) -> Path:
    """Let uv fetch a Python into a folder beside ``ENGINE_DIR``, and return the path of its program.

    ``report`` gets the megabytes on the disk and the seconds so far, about every two seconds. uv's own variables choose
    another folder or a mirror (https://docs.astral.sh/uv/reference/environment/). Raise ``NoPython`` if the download is
    not allowed or fails.
    """
    if uv is None:
        raise NoPython(explain_missing("uv, which could fetch it, cannot be used"))
    environment = _environment()
    if environment.get("UV_PYTHON_DOWNLOADS") in {"never", "manual"} or environment.get(
        "UV_OFFLINE"
    ):
        raise NoPython(
            explain_missing("downloads are forbidden by UV_PYTHON_DOWNLOADS or UV_OFFLINE")
        )
    log = settings.ENGINE_DIR.parent / f"{settings.ENGINE_DIR.name}-python.log"
    began = reported = time.monotonic()
    with log.open("w") as output:
        process = subprocess.Popen(
            python_command(uv, FETCHED_PYTHON),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=environment,
            preexec_fn=processes.die_with_parent(signal.SIGTERM),  # noqa: PLW1509 - one system call
        )
        try:
            while process.poll() is None:
                time.sleep(0.2)
                if (now := time.monotonic()) - reported >= 2:
                    reported = now
                    report(_megabytes(Path(environment["UV_PYTHON_INSTALL_DIR"])), int(now - began))
        finally:
            if process.poll() is None:
                process.terminate()
                process.wait()
    if process.returncode:
        raise NoPython(explain_missing(find_error(log.read_text(errors="replace"))))
    if python := find_python(uv):
        return python
    raise NoPython(explain_missing("the fetched Python does not run on this machine"))


def explain_missing(reason: str) -> str:
    """Return the sentence for a machine without a Python for the engine. ``reason`` says why none was fetched."""
    needed = (
        "The agent engine needs Python 3.12 or newer, which is not on this machine and was not fetched "
        f"({reason.rstrip('.')}): "
    )
    until = "and restart the server; until then it works, but agents cannot start."
    fields = systems.release()
    if command := systems.command_for_python(OLDEST_PYTHON, fields):
        return f"{needed}run `{command}` {until}"
    system = fields.get("PRETTY_NAME", "this system")
    return (
        f"{needed}{system} has no package of it, so allow the download, or install Python 3.13 from another source "
        f"(`pyenv install 3.13`, conda) and set OH_ENGINE_PYTHON to its path, {until}"
    )


def _environment() -> dict[str, str]:
    folder = settings.ENGINE_DIR.parent / f"{settings.ENGINE_DIR.name}-python"
    return {"UV_PYTHON_INSTALL_DIR": str(folder)} | pip_settings.environment_for_uv()


def _candidates(uv: Path | None) -> Iterator[str]:
    for name in _NAMES:
        if path := shutil.which(name):
            yield path
    root = os.environ.get("PYENV_ROOT", str(Path.home() / ".pyenv"))
    # Unlike Path.glob, this function skips folders that are not readable. 3.13 comes first, because compiled packages
    # support a newer Python only some time after its release.
    versions = glob.glob(f"{glob.escape(root)}/versions/3.1[2-9]*/bin/python")  # noqa: PTH207
    yield from sorted(sorted(versions, reverse=True), key=lambda path: "/3.13" not in path)
    if uv:
        oldest = ".".join(map(str, OLDEST_PYTHON))
        command = [str(uv), "python", "find", "--no-project", f">={oldest}"]
        # The versions that uv fetched, here and by itself.
        own = {"UV_PYTHON_DOWNLOADS": "never"}
        yield from _output(command, _environment() | own).splitlines()
        yield from _output(command, pip_settings.environment_for_uv() | own).splitlines()


def _try(python: str, modules: str) -> Path | None:
    """Run an interpreter and return its real path if it is suitable, else None."""
    code = f"import sys{modules}; print(*sys.version_info[:2]); print(sys.executable)"
    version, _, path = _output([python, "-I", "-c", code]).strip().partition("\n")
    if not path or tuple(map(int, version.split())) < OLDEST_PYTHON:
        return None
    return Path(path)


def _output(command: list[str], environment: dict[str, str] | None = None) -> str:
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=20, check=True, env=environment
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout


def _megabytes(folder: Path) -> int:
    command = ["du", "-sk", str(folder)]
    found = re.match(r"\d+", _output(command))
    return int(found[0]) // 1000 if found else 0

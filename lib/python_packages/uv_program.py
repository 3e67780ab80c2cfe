"""The ``uv`` program: the pinned one of the virtual environment, of ``PATH``, or from its wheel.

The pinned version is preferred, so that every machine installs with the program that was tested. A ``uv`` of ``PATH``
saves the download if it is that version, and replaces it if the download fails.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import tempfile
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

from lib.python_packages import index

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

LOCK = Path(__file__).parent.parent.parent / "requirements-uv.lock"
OLDEST = (0, 6, 0)
"""The oldest ``uv`` of ``PATH`` that is used. Older ones do not know all variables of ``pip_settings``."""


class NoUv(Exception):
    """No ``uv`` can be used on this machine. The message says why."""


def pinned() -> index.Pin:
    """Return the pin of uv in ``requirements-uv.lock``."""
    return index.read_pin(LOCK, "uv")


def find_uv(*folders: Path) -> Path | None:
    """Return the pinned version of uv in one of the folders or on ``PATH``, or None."""
    on_path = shutil.which("uv")
    candidates = [folder / "uv" for folder in folders] + ([Path(on_path)] if on_path else [])
    exact = tuple(map(int, pinned().version.split(".")))
    return next((program for program in candidates if version(program) == exact), None)


def find_other_uv() -> Path | None:
    """Return the ``uv`` of ``PATH`` if it is new enough, or None."""
    on_path = shutil.which("uv")
    return Path(on_path) if on_path and version(Path(on_path)) >= OLDEST else None


def version(program: Path) -> tuple[int, ...]:
    """Return the version of a uv, or an empty tuple if it does not run."""
    try:
        done = subprocess.run(
            [str(program), "--version"], capture_output=True, text=True, timeout=20, check=True
        )
    except (OSError, ValueError, subprocess.SubprocessError):
        return ()
    found = re.match(r"uv (\d+)\.(\d+)\.(\d+)", done.stdout)
    return tuple(map(int, found.groups())) if found else ()


@contextlib.contextmanager
def unpacked_uv(
    *,
    say: Callable[[str], None] | None = None,
    report: Callable[[int, int], None] | None = None,
) -> Iterator[Path]:
    """Fetch the pinned wheel of uv and yield the program in a temporary folder, beside its wheel.

    Raise ``NoUv`` if it cannot be fetched or does not run, and ``index.WrongHash`` if the wheel is not the pinned one.
    """
    pin = pinned()
    with tempfile.TemporaryDirectory(prefix="uv-") as name:
        folder = Path(name)
        if say is not None:
            say(f"Fetching uv {pin.version}, which installs the packages …")
        try:
            wheel = index.fetch_wheel(pin, folder, report=report)
            program = _unpack(wheel, folder)
        except index.NotFetched as error:
            raise NoUv(f"uv {pin.version} could not be fetched ({error})") from error
        except (OSError, zipfile.BadZipFile, StopIteration) as error:
            raise NoUv(f"uv {pin.version} could not be unpacked ({error})") from error
        if not version(program):
            raise NoUv(f"uv {pin.version} does not run on this machine")
        yield program


def _unpack(wheel: Path, folder: Path) -> Path:
    with zipfile.ZipFile(wheel) as archive:
        member = next(name for name in archive.namelist() if name.endswith(".data/scripts/uv"))
        program = folder / "uv"
        with archive.open(member) as source, program.open("wb") as target:
            shutil.copyfileobj(source, target, 1 << 20)
    program.chmod(0o755)
    return program


def install_program(program: Path, python: Path, environment: dict[str, str] | None = None) -> None:
    """Install the wheel beside an unpacked program into the virtual environment of ``python``."""
    command = [
        str(program), "pip", "install", "--quiet", "--python", str(python), "--no-deps", "--no-index",
        "--find-links", str(program.parent), "--require-hashes", "-r", str(LOCK),
    ]  # fmt: skip
    own = {**(environment or os.environ), "UV_NO_CACHE": "1", "UV_LINK_MODE": "copy"}
    own.pop("UV_FIND_LINKS", None)
    subprocess.run(command, env=own, check=True, capture_output=True, text=True, timeout=120)


def venv_command(program: Path, python: Path, folder: Path) -> list[str]:
    """Return the command that creates a virtual environment in a folder, which may contain files."""
    options = ["--quiet", "--no-project", "--allow-existing", "--python", str(python)]
    return [str(program), "venv", *options, str(folder)]

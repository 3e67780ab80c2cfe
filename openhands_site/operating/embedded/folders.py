"""Private folders, and the sentences about errors of the file system and of programs."""

import contextlib
import os
import pwd
from collections.abc import Iterator
from pathlib import Path


class CannotStart(Exception):
    """An error that prevents the start. Its message is a sentence for operators that says what to do."""


class AlreadyRunning(CannotStart):
    """Another process is using this data folder."""


def make_private(folder: Path) -> None:
    """Create a folder that only this user can open. Raise ``CannotStart`` if the folder belongs to another user."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    owner = folder.stat().st_uid
    if owner != os.geteuid():
        raise CannotStart(
            f"{folder} belongs to {_user_name(owner)}, not to {_user_name(os.geteuid())}. Run this command as "
            f"{_user_name(owner)}, or choose another folder: make run DATA_DIR=/path/to/folder."
        )
    if not os.access(folder, os.W_OK | os.X_OK):
        raise PermissionError(13, "Permission denied", str(folder))


def _user_name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"user {uid}"


@contextlib.contextmanager
def explain_errors(folder: Path) -> Iterator[None]:
    """Convert an ``OSError`` of the ``with`` block to ``CannotStart`` with a sentence about ``folder``."""
    try:
        yield
    except OSError as error:
        raise CannotStart(explain_error(f"{error.strerror}: {error.filename}", folder)) from error


def explain_error(output: str, folder: Path) -> str:
    """Convert an error message of a program or of the operating system to a sentence that says what to do."""
    if "No space left" in output or "Disk quota exceeded" in output:
        return (
            f"The disk of {folder} is full. Free about 300 MB, or choose a folder on another disk: "
            "make run DATA_DIR=/path/to/folder."
        )
    if "Permission denied" in output or "Read-only file system" in output:
        return (
            f"{folder} is not writable ({_last_line(output)}). Give {_user_name(os.geteuid())} write "
            "permission, or choose another folder: make run DATA_DIR=/path/to/folder."
        )
    is_missing = "No such file or directory" in output and not folder.exists()
    if is_missing or "File exists" in output or "Not a directory" in output:
        return (
            f"{folder} cannot be created or is not a folder ({_last_line(output)}). Choose another folder: "
            "make run DATA_DIR=/path/to/folder."
        )
    return f"{_last_line(output)} (in {folder})"


def _last_line(output: str) -> str:
    """Return the last line that reports an error, or the last line of the output if no line does."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    errors = [line for line in lines if "FATAL" in line or "error:" in line or "PANIC" in line]
    return (errors or lines or ["no error message"])[-1]

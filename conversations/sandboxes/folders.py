"""The folder of a sandbox: its lock, its small JSON files, its removal, and errors of the disk as sentences."""

import contextlib
import errno
import fcntl
import os
import re
import secrets
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

from conversations.sandboxes.provider import Handle, SandboxImpossible, SandboxUnavailable
from lib.json_files import open_private, read_json

NEEDED_MEGABYTES = 100
"""The free space in megabytes that a start needs."""


def get_folder(handle: Handle) -> Path | None:
    """Return the sandbox's folder, or None if the handle contains no valid folder.

    The path must end in the sandbox's id. This check protects other folders, because callers may delete the result.
    """
    name, path = handle.get("sandbox"), handle.get("dir")
    if (
        not isinstance(name, str)
        or not re.fullmatch(r"[0-9a-f]{32}", name)
        or not isinstance(path, str)
    ):
        return None
    folder = Path(path)
    return folder if folder.is_absolute() and folder.name == name else None


@contextlib.contextmanager
def lock(folder: Path) -> Iterator[Path]:
    """Lock a sandbox against other processes. The operating system releases the lock if this process dies."""
    path = folder.parent / ".locks" / folder.name
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    while True:
        with open(path, "a", opener=open_private) as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            # The previous holder of the lock may have deleted the lock file with the sandbox. A lock on a deleted file
            # protects nothing, so try again.
            with contextlib.suppress(FileNotFoundError):
                if os.fstat(file.fileno()).st_ino == path.stat().st_ino:
                    yield path
                    return


def was_started_again(folder: Path, handle: Handle) -> bool:
    """Return whether the newest run in a sandbox's folder is another one than that of the handle."""
    newest = read_json(folder / "run.json").get("run")
    return newest is not None and newest != handle.get("run")


def remove(path: Path) -> None:
    """Remove a folder, even if folders in it are not writable.

    Retry several times, because processes may still create files in the folder.
    """
    for _ in range(5):
        # Before Python 3.13, folders that are nested a thousand deep cause a RecursionError.
        with contextlib.suppress(RecursionError):
            shutil.rmtree(path, ignore_errors=True)
        if not os.path.lexists(path):
            return
        with contextlib.suppress(OSError):
            _empty(path)
        time.sleep(0.05)
    raise SandboxUnavailable(f"{path} could not be removed. Check its permissions.")


def _empty(path: Path) -> None:
    """Delete all entries of a folder, however deeply its folders are nested and whatever their permissions are.

    Folders in folders are moved to the top first, because a path of the kernel has 4,095 bytes at most.
    """
    top = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        os.fchmod(top, 0o700)
        queue = _delete_files(top)
        while queue:
            name = queue.pop()
            folder = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=top)
            try:
                for inner in _delete_files(folder):
                    moved = secrets.token_hex(8)
                    os.rename(inner, moved, src_dir_fd=folder, dst_dir_fd=top)
                    queue.append(moved)
            finally:
                os.close(folder)
            os.rmdir(name, dir_fd=top)
    finally:
        os.close(top)


def _delete_files(folder: int) -> list[str]:
    """Delete the files in an opened folder. Open its folders to their owner, and return their names."""
    names = []
    with os.scandir(folder) as entries:
        found = list(entries)
    for entry in found:
        if entry.is_dir(follow_symlinks=False):
            os.chmod(entry.name, 0o700, dir_fd=folder)
            names.append(entry.name)
        else:
            os.unlink(entry.name, dir_fd=folder)
    return names


def get_existing_folder(handle: Handle) -> Path:
    """Return the folder of a sandbox that can be started again. Raise ``SandboxImpossible`` if its files are gone."""
    folder = get_folder(handle)
    if not folder or not (folder / "project").is_dir():
        raise SandboxImpossible(
            "This sandbox's files were deleted, so it cannot be started again. Start a new conversation."
        )
    return folder


def delete_folder(folder: Path) -> None:
    """Delete a sandbox's folder. The caller holds its lock. Safe to repeat after an interruption."""
    trash = folder.with_name(f"{folder.name}.removed")
    with contextlib.suppress(FileNotFoundError):
        # Rename first, so that no other process sees a half-deleted sandbox.
        folder.rename(trash)
    remove(trash)
    remove(folder)


def explain_error(error: OSError, folder: Path) -> SandboxUnavailable:
    """Return the exception that says what to do about an error of the operating system during a start."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return SandboxUnavailable(
            f"The disk of {folder.parent} is full. Free some space, or set SANDBOX_DIR to another disk."
        )
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return SandboxUnavailable(
            f"The server may not write to {error.filename or folder}. "
            "Correct its permissions, or set SANDBOX_DIR to another folder."
        )
    if error.errno in (errno.EAGAIN, errno.ENOMEM):
        return SandboxUnavailable(
            "This machine has no memory or processes left for another sandbox. "
            "Stop other conversations and try again."
        )
    return SandboxUnavailable(f"A sandbox cannot be started: {error}.")


def check_space(folder: Path) -> None:
    """Raise ``OSError`` with ``ENOSPC`` if the folder's disk has too little free space for a start."""
    free = shutil.disk_usage(folder).free // 1_000_000
    if free < NEEDED_MEGABYTES:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder))

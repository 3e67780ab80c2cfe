"""Files that the engine sends and receives: checks before a transfer, and the end of an upload.

The engine's routes take a path as text and map most failures to 500, so they get only paths that were checked here.
"""

import contextlib
import os
import stat
import tempfile
import time
from typing import Any

from conversations.engine.inside import paths

IN_USE_SECONDS = 10
"""A file that was written within this time counts as in use."""
COPIED_SIZES = range(16_384, 268_435_456)
"""The sizes of files in use that are copied before a download. Shorter ones are read at once."""


def open_file(root: bytes, path: str) -> dict[str, Any]:
    """Check that a file can be read; return the path under which the engine can send it.

    ``temporary`` is a folder to remove afterwards, or None: a name that is not UTF-8 gets a link there, and a file that
    was just written a copy. The engine (openhands-agent-server 1.58.2) announces the size and then reads to the end, so
    the download of a file that grows or shrinks meanwhile breaks off.
    """
    file = paths.find(root, path)
    status = os.stat(file)
    _refuse_special(status)
    # Opening fails for a file without permission, which the engine would notice only after it sent a status of 200.
    os.close(os.open(file, os.O_RDONLY | os.O_NONBLOCK))
    is_in_use = abs(time.time() - status.st_mtime) < IN_USE_SECONDS
    is_copied = is_in_use and status.st_size in COPIED_SIZES
    if is_copied and (copy := _copy(root, file, status.st_size)):
        return copy
    path_text, temporary = _as_text(file)
    return {"path": path_text, "size": status.st_size, "temporary": temporary}


def _copy(root: bytes, file: bytes, size: int) -> dict[str, Any] | None:
    """Copy the first ``size`` bytes of a file; return the result of ``open_file``, or None if there is no room."""
    temporary = make_temporary(root)
    path = os.path.join(temporary, "copy")
    try:
        with open(file, "rb") as source, open(path, "wb") as target:
            while size > 0 and (data := source.read(min(size, 1_048_576))):
                size -= len(data)
                target.write(data)
    except OSError:
        remove_temporary(temporary)
        return None
    return {"path": path, "size": os.stat(path).st_size, "temporary": temporary}


def begin_upload(root: bytes, path: str) -> dict[str, Any]:
    """Create the missing folders and an empty file beside the target; return both paths.

    The engine writes to that file, so a failed upload does not change an existing file.
    """
    target = paths.find(root, path, must_exist=False)
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        _refuse_special(os.stat(target))
    folder = os.path.dirname(target)
    try:
        os.makedirs(folder, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise paths.Refused("parent-is-a-file") from error
    _check_name(target)
    staged: bytes = b""
    try:
        descriptor, staged = tempfile.mkstemp(prefix=b".upload-", dir=folder)
        os.close(descriptor)
    except PermissionError:
        # The folder is read-only, but a file in it may be writable.
        if not os.access(target, os.W_OK):
            raise
    path_text, temporary = _as_text(staged or target)
    return {
        "upload_to": path_text,
        "staged": paths.to_ascii(staged),
        "target": paths.to_ascii(target),
        "temporary": temporary,
    }


def end_upload(root: bytes, staged: str, target: str, keep: list[str]) -> dict[str, Any]:
    """Put an uploaded file in its place; return its path and size.

    If the target is one of the files ``keep``, which the request wrote before, the name gets a number. Files are
    compared by identity, because on some disks names are equal that differ in case or in their Unicode form.
    """
    source, place = paths.from_ascii(staged), paths.from_ascii(target)
    if source:
        if any(_is_same(place, paths.from_ascii(kept)) for kept in keep):
            place = _move_to_free_name(source, place)
        else:
            os.chmod(source, _mode_for(place))
            os.replace(source, place)
    return {
        "path": paths.to_text(paths.relative(place, root)),
        "place": paths.to_ascii(place),
        "size": os.stat(place).st_size,
    }


def discard(root: bytes, staged: str, temporary: str | None) -> dict[str, Any]:
    """Remove the rest of a failed upload or of a finished download."""
    del root
    with contextlib.suppress(FileNotFoundError):
        if staged:
            os.unlink(paths.from_ascii(staged))
    if temporary:
        remove_temporary(temporary)
    return {}


def remove_temporary(folder: str) -> None:
    """Remove a folder that ``make_temporary`` made."""
    with contextlib.suppress(FileNotFoundError):
        for name in os.listdir(folder):
            os.unlink(os.path.join(folder, name))
        os.rmdir(folder)


def make_temporary(root: bytes) -> str:
    """Make a folder for temporary files beside the workspace, or where the system has room for them."""
    parent = os.path.dirname(os.path.realpath(root)).decode("utf-8", "surrogateescape")
    place = parent if os.access(parent, os.W_OK) and parent.isprintable() else None
    return tempfile.mkdtemp(prefix=".openhands-transfer-", dir=place)


def _refuse_special(status: os.stat_result) -> None:
    if stat.S_ISDIR(status.st_mode):
        raise paths.Refused("folder")
    if not stat.S_ISREG(status.st_mode):
        raise paths.Refused("special")


def _as_text(path: bytes) -> tuple[str, str | None]:
    """Return a path that is UTF-8, and the folder of a link that it needs or None."""
    try:
        return path.decode(), None
    except UnicodeDecodeError:
        folder = tempfile.mkdtemp(prefix="openhands-transfer-")
        link = os.path.join(folder, "file")
        os.symlink(path, os.fsencode(link))
        return link, folder


def _check_name(target: bytes) -> None:
    """Raise the system's error for a name that is too long; the temporary name would hide it."""
    with contextlib.suppress(FileNotFoundError):
        os.lstat(target)


def _is_same(place: bytes, kept: bytes) -> bool:
    try:
        return os.path.samefile(place, kept)
    except OSError:
        return False


def _mode_for(place: bytes) -> int:
    """Return the permissions of the file that is replaced, or those of a new file."""
    try:
        return stat.S_IMODE(os.stat(place).st_mode)
    except OSError:
        mask = os.umask(0)
        os.umask(mask)
        return 0o666 & ~mask


def _move_to_free_name(source: bytes, place: bytes) -> bytes:
    folder, name = os.path.split(place)
    stem, extension = os.path.splitext(name)
    os.chmod(source, _mode_for(b""))
    number = 2
    while True:
        end = b"-%d%s" % (number, extension)
        free = os.path.join(folder, _shorten(stem, _find_name_max(folder) - len(end)) + end)
        try:
            # Reserve the name first: unlike `os.replace`, this never takes the name of another file.
            os.close(os.open(free, os.O_WRONLY | os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            number += 1
            continue
        os.replace(source, free)
        return free


def _find_name_max(folder: bytes) -> int:
    try:
        return os.pathconf(folder, "PC_NAME_MAX")
    except (OSError, ValueError):
        return 255


def _shorten(stem: bytes, size: int) -> bytes:
    """Return a name that has at most ``size`` bytes, without a part of a UTF-8 character at its end."""
    if len(stem) <= size:
        return stem
    while size > 1 and stem[size] & 0xC0 == 0x80:
        size -= 1
    return stem[: max(size, 1)]

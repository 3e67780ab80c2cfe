"""All files of a workspace in one file of frames, from which the server writes an archive.

The file is a gzip stream of records: four bytes with the length of a JSON object, the object (the ``name`` as base64,
``kind``, ``mode``, ``mtime``, and the ``target`` of a link), and for a file its bytes in chunks, each after four bytes
with its length. A chunk of length 0 ends the file; the length 2**32 - 1 ends a file that could not be read to its end.
"""

import gzip
import json
import os
import stat
from collections.abc import Iterator
from typing import IO, Any

from conversations.engine.inside import paths, transfers

CHUNK = 1_048_576
BROKEN = 2**32 - 1
DEPENDENCIES = {
    *(b"node_modules", b".venv", b"venv", b"__pycache__", b".mypy_cache", b".pytest_cache"),
    *(b".ruff_cache", b".tox", b".next", b"target"),
}
"""Folders that a tool can create again."""
_MAX_LISTED = 10_000


class _LeftOut:
    """The entries that are not in the archive, with reasons. ``count`` goes on after the list is full."""

    def __init__(self) -> None:
        self.count = 0
        self.entries: list[tuple[str, str]] = []

    def add(self, path: bytes, reason: str) -> None:
        self.count += 1
        if len(self.entries) < _MAX_LISTED:
            self.entries.append((paths.to_text(path), reason))


def write_frames(root: bytes, *, max_bytes: int, dependencies: bool) -> dict[str, Any]:
    """Write the workspace's files into a temporary file; return its path and the entries that were left out.

    ``dependencies=False`` leaves out installed dependencies and caches. Refuse a workspace whose files have more than
    ``max_bytes`` (``too-large``), with its size and its largest folder.
    """
    top = os.path.realpath(root)
    _check_size(top, max_bytes, dependencies=dependencies)
    left_out = _LeftOut()
    temporary = transfers.make_temporary(root)
    try:
        file = os.path.join(temporary, "frames")
        with gzip.open(file, "wb", compresslevel=1) as target:
            for path, status in _walk(top, left_out, dependencies=dependencies):
                _write_entry(top, path, status, target, left_out)
    except BaseException:
        transfers.remove_temporary(temporary)
        raise
    return {
        "path": file,
        "temporary": temporary,
        "left_out": left_out.entries,
        "left_out_count": left_out.count,
    }


def _check_size(top: bytes, max_bytes: int, *, dependencies: bool) -> None:
    total = 0
    by_folder: dict[bytes, int] = {}
    for path, status in _walk(top, _LeftOut(), dependencies=dependencies):
        if stat.S_ISREG(status.st_mode):
            total += status.st_size
            name = path.partition(b"/")[0]
            by_folder[name] = by_folder.get(name, 0) + status.st_size
    if total > max_bytes:
        largest = max(by_folder, key=lambda name: by_folder[name])
        raise paths.Refused(
            "too-large", size=total, largest=paths.to_text(largest), largest_size=by_folder[largest]
        )


def _walk(
    top: bytes, left_out: _LeftOut, *, dependencies: bool
) -> Iterator[tuple[bytes, os.stat_result]]:
    """Yield the entries of the workspace with their paths relative to it, each folder before its contents."""
    folders = [b""]
    while folders:
        folder = folders.pop()
        try:
            names = sorted(os.listdir(os.path.join(top, folder)), reverse=True)
        except OSError as error:
            left_out.add(folder, f"The folder cannot be read: {error.strerror}.")
            continue
        inner = []
        for name in reversed(names):
            path = os.path.join(folder, name)
            try:
                status = os.lstat(os.path.join(top, path))
            except OSError as error:
                left_out.add(path, f"The entry cannot be read: {error.strerror}.")
                continue
            is_folder = stat.S_ISDIR(status.st_mode)
            if is_folder and name in DEPENDENCIES and not dependencies:
                left_out.add(path, "Dependencies and caches were not requested.")
                continue
            if name == b".git":
                left_out.add(
                    path, "Git's own data may contain credentials, and programs that Git runs."
                )
                continue
            yield path, status
            if is_folder:
                inner.append(path)
        folders += reversed(inner)


def _write_entry(
    top: bytes, path: bytes, status: os.stat_result, target: gzip.GzipFile, left_out: _LeftOut
) -> None:
    mode = status.st_mode
    full = os.path.join(top, path)
    facts: dict[str, Any] = {
        "name": paths.to_ascii(path),
        "mode": stat.S_IMODE(mode),
        "mtime": status.st_mtime,
    }
    try:
        if stat.S_ISDIR(mode):
            _write_record(target, facts | {"kind": "folder"})
        elif stat.S_ISLNK(mode):
            link = paths.to_ascii(os.readlink(full))
            _write_record(target, facts | {"kind": "link", "target": link})
        elif stat.S_ISREG(mode):
            source = os.open(full, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
            with open(source, "rb", buffering=0) as file:
                _write_record(target, facts | {"kind": "file"})
                _write_content(file, os.fstat(source).st_size, target)
        else:
            left_out.add(path, "This is a socket, a pipe or a device.")
    except OSError as error:
        if error.errno in (28, 122):  # ENOSPC, EDQUOT: the disk for the archive is full
            raise
        left_out.add(path, f"The file cannot be read: {error.strerror}.")


def _write_record(target: gzip.GzipFile, facts: dict[str, Any]) -> None:
    text = json.dumps(facts).encode()
    target.write(len(text).to_bytes(4, "big") + text)


def _write_content(file: IO[bytes], size: int, target: gzip.GzipFile) -> None:
    """Write the bytes that the file had when it was opened. A file that grows meanwhile would have no end."""
    end = b"\0\0\0\0"
    while size > 0:
        try:
            chunk = file.read(min(CHUNK, size))
        except OSError:
            end = BROKEN.to_bytes(4, "big")
            break
        if not chunk:
            break
        size -= len(chunk)
        target.write(len(chunk).to_bytes(4, "big") + chunk)
    target.write(end)

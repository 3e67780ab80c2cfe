"""The entries of a folder, sorted and in pages."""

import os
import stat
from typing import Any

from conversations.engine.inside import paths

Key = tuple[bool, str, bytes]


def list_folder(
    root: bytes, path: str, *, limit: int, after: list[Any] | None = None
) -> dict[str, Any]:
    """Return a page of a folder: subfolders first, then by name without regard to case.

    ``after`` is the ``next`` of the previous page. ``total`` counts all entries of the folder.
    """
    folder = paths.find(root, path)
    if not stat.S_ISDIR(os.stat(folder).st_mode):
        raise paths.Refused("not-a-folder")
    with os.scandir(folder) as entries:
        names = sorted(_key(entry) for entry in entries)
    start = 0
    if after is not None:
        last = (bool(after[0]), str(after[1]), paths.from_ascii(after[2]))
        start = sum(key <= last for key in names)
    page = names[start : start + limit]
    is_last = start + limit >= len(names)
    shown = paths.relative(folder, root)
    found = [_describe(folder, shown, key) for key in page]
    return {
        "entries": [entry for entry in found if entry],
        "total": len(names),
        "next": None if is_last else [page[-1][0], page[-1][1], paths.to_ascii(page[-1][2])],
    }


def _key(entry: os.DirEntry[bytes]) -> Key:
    try:
        is_folder = entry.is_dir(follow_symlinks=False)
    except OSError:
        is_folder = False
    return not is_folder, paths.to_text(entry.name).casefold(), entry.name


def _describe(folder: bytes, shown: bytes, key: Key) -> dict[str, Any] | None:
    is_no_folder, _, name = key
    try:
        status = os.lstat(os.path.join(folder, name))
    except OSError:  # the entry was deleted in the meantime
        return None
    kind = "directory" if not is_no_folder else "link" if stat.S_ISLNK(status.st_mode) else "file"
    return {
        "name": paths.to_text(name),
        "path": paths.to_text(name if shown == b"." else os.path.join(shown, name)),
        "type": kind,
        "size": status.st_size,
        "modified_at": status.st_mtime,
    }

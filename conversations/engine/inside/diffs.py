"""A file before and after its changes, and the difference as Git writes it.

openhands-agent-server 1.58.0 reads files as UTF-8, shows all others as empty, splits lines at every line separator of
Unicode, and refuses files above 1 MiB without an own status.
"""

import os
import stat
import tempfile
from typing import Any

from conversations.engine.inside import encodings, paths, repositories

_RAW_FILTERS = tuple(f"filter.lfs.{key}" for key in ("smudge=", "process=", "required=false"))


def read_diff(root: bytes, path: str, *, limit: int) -> dict[str, Any]:
    """Return both texts of a file, their encodings and sizes, and the difference in Git's format.

    A version that does not exist has no size and no text. A binary version has no text. Refuse a version above
    ``limit`` bytes (``too-large``), and a file that exists in neither version (``missing``).
    """
    file = paths.find(root, path, must_exist=False, follow=False)
    real_root = os.path.realpath(root)
    folder = os.path.dirname(file) if file != real_root else file
    while not os.path.isdir(folder):
        folder = os.path.dirname(folder)
    top = repositories.find_top(folder)
    original = _read_base(top, os.path.relpath(file, os.path.realpath(top)), limit) if top else None
    modified = _read_file(file, limit)
    if original is None and modified is None:
        raise paths.Refused("folder" if os.path.isdir(file) else "missing")
    if top is None:
        return _describe(path, None, None)
    return _describe(path, original, modified)


def _read_base(top: bytes, path: bytes, limit: int) -> bytes | None:
    """Return the bytes of a file as Git would check it out, or None."""
    base = repositories.find_base(top)
    entry = repositories.git("ls-tree", "-z", "--full-tree", base, "--", path, cwd=top)
    facts = entry.partition(b"\t")[0].decode().split(" ")
    if len(facts) != 3 or facts[1] == "tree":
        return None
    _, kind, name = facts
    if kind == "commit":
        return b"Subproject commit %s\n" % name.encode()
    size = int(repositories.git("cat-file", "-s", name, cwd=top))
    if size > limit:
        raise paths.Refused("too-large", size=size)
    options = [part for setting in _RAW_FILTERS for part in ("-c", setting)]
    if facts[0] == "120000":
        return repositories.git("cat-file", "blob", name, cwd=top)
    # Line ends and encodings as in the work tree, so that only real changes differ.
    return repositories.git(*options, "cat-file", "--filters", b"--path=" + path, name, cwd=top)


def _read_file(file: bytes, limit: int) -> bytes | None:
    try:
        status = os.lstat(file)
    except (FileNotFoundError, NotADirectoryError):
        return None
    if stat.S_ISLNK(status.st_mode):
        return os.readlink(file)
    if stat.S_ISDIR(status.st_mode):
        return _read_submodule(file)
    if not stat.S_ISREG(status.st_mode):
        raise paths.Refused("special")
    if status.st_size > limit:
        raise paths.Refused("too-large", size=status.st_size)
    with open(os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), "rb") as source:
        data = source.read(limit + 1)
    if len(data) > limit:
        raise paths.Refused("too-large", size=len(data))
    return data


def _read_submodule(folder: bytes) -> bytes | None:
    if not repositories.is_repository(folder):
        return None
    parent = repositories.find_top(os.path.dirname(folder))
    if parent is None:
        return None
    name = os.path.relpath(folder, os.path.realpath(parent))
    entry = repositories.git("ls-files", "--stage", "-z", "--", name, cwd=parent)
    if not entry.startswith(b"160000"):
        return None
    commit = repositories.git("rev-parse", "HEAD", cwd=folder).strip()
    return b"Subproject commit %s\n" % commit


def _describe(path: str, original: bytes | None, modified: bytes | None) -> dict[str, Any]:
    before, before_encoding = encodings.decode(original or b"")
    after, after_encoding = encodings.decode(modified or b"")
    is_binary = (original is not None and before is None) or (
        modified is not None and after is None
    )
    return {
        "original": None if original is None or is_binary else before,
        "modified": None if modified is None or is_binary else after,
        "original_encoding": None if original is None else before_encoding,
        "modified_encoding": None if modified is None else after_encoding,
        "original_size": None if original is None else len(original),
        "modified_size": None if modified is None else len(modified),
        "diff": _compare(path, original, modified, before, after, is_binary=is_binary),
    }


def _compare(
    path: str,
    original: bytes | None,
    modified: bytes | None,
    before: str | None,
    after: str | None,
    *,
    is_binary: bool,
) -> str:
    if original == modified:
        return ""
    name = "".join(char if char.isprintable() else f"\\{ord(char):03o}" for char in path)
    old = "/dev/null" if original is None else f"a/{name}"
    new = "/dev/null" if modified is None else f"b/{name}"
    if is_binary:
        return f"Binary files {old} and {new} differ\n"
    hunks = _run_git(before or "", after or "")
    # Two encodings can have the same text.
    return f"--- {old}\n+++ {new}\n{hunks}" if hunks else ""


def _run_git(before: str, after: str) -> str:
    """Return Git's hunks for two texts. Both are written as UTF-8, because Git takes UTF-16 for binary."""
    with tempfile.TemporaryDirectory(prefix="openhands-diff-") as name:
        folder = os.fsencode(name)
        for file, text in ((b"old", before), (b"new", after)):
            with open(os.path.join(folder, file), "wb") as target:
                target.write(text.encode())
        result = repositories.git(
            *("diff", "--no-index", "--no-color", "--no-ext-diff", "--no-textconv", "--text"),
            *("--unified=3", "--", "old", "new"),
            cwd=folder,
            ok=(0, 1),
        )
    at = result.find(b"\n@@ ")
    return result[at + 1 :].decode() if at >= 0 else ""

"""A file before and after its changes, and the difference as Git writes it.

openhands-agent-server 1.58.2 reads files as UTF-8, shows all others as empty, splits lines at every line separator of
Unicode, and refuses files above 1 MiB without an own status.
"""

import os
import stat
import tempfile
from typing import Any, NamedTuple

from conversations.engine.inside import encodings, paths, repositories

_RAW_FILTERS = tuple(f"filter.lfs.{key}" for key in ("smudge=", "process=", "required=false"))


class _Version(NamedTuple):
    """The content of a file, and its mode as Git writes it, such as ``100644``."""

    content: bytes
    mode: str


def read_diff(root: bytes, path: str, *, limit: int) -> dict[str, Any]:
    """Return both texts of a file, their encodings and sizes, and the difference in Git's format.

    A version that does not exist has no size and no text. A binary version has no text. Refuse a version above
    ``limit`` bytes (``too-large``), and a file that exists in neither version (``missing``).
    """
    if hidden := _read_behind_link(root, path, limit):
        return _describe(path, hidden, None)
    file = paths.find(root, path, must_exist=False, follow=False)
    real_root = os.path.realpath(root)
    folder = os.path.dirname(file) if file != real_root else file
    while not os.path.isdir(folder):
        folder = os.path.dirname(folder)
    top = repositories.find_top(folder)
    if top is None:
        repositories.check_without_top(real_root)
    original = _read_base(top, os.path.relpath(file, os.path.realpath(top)), limit) if top else None
    modified = _read_file(file, limit)
    if original is None and modified is None:
        raise paths.Refused("folder" if os.path.isdir(file) else "missing")
    if top is None:
        return _describe(path, None, None)
    return _describe(path, original, modified)


def _read_behind_link(root: bytes, path: str, limit: int) -> _Version | None:
    """Return the committed version of a file in a folder that was replaced by a symbolic link; None otherwise.

    For Git, there is nothing behind a link. So the file is deleted, wherever the link leads.
    """
    folder = os.path.realpath(root)
    parts = [part for part in path.split("/") if part not in ("", ".")]
    for place, part in enumerate(parts[:-1], 1):
        link = os.path.join(folder, paths.find_name(folder, part))
        if os.path.islink(link):
            top = repositories.find_top(folder)
            if top is None:
                return None
            file = os.path.join(link, *(os.fsencode(name) for name in parts[place:]))
            return _read_base(top, os.path.relpath(file, os.path.realpath(top)), limit)
        if not os.path.isdir(link):
            return None
        folder = link
    return None


def _read_base(top: bytes, path: bytes, limit: int) -> _Version | None:
    """Return a file as Git would check it out, or None."""
    base = repositories.find_base(top)
    entry = repositories.git("ls-tree", "-z", "--full-tree", base, "--", path, cwd=top)
    facts = entry.partition(b"\t")[0].decode().split(" ")
    if len(facts) != 3 or facts[1] == "tree":
        return None
    mode, kind, name = facts
    if kind == "commit":
        return _Version(b"Subproject commit %s\n" % name.encode(), mode)
    size = int(repositories.git("cat-file", "-s", name, cwd=top))
    if size > limit:
        raise paths.Refused("too-large", size=size)
    if mode == "120000":
        return _Version(repositories.git("cat-file", "blob", name, cwd=top), mode)
    # Line ends and encodings as in the work tree, so that only real changes differ.
    command = ("cat-file", "--filters", b"--path=" + path, name)
    options = [part for setting in _RAW_FILTERS for part in ("-c", setting)]
    try:
        return _Version(repositories.git(*options, *command, cwd=top), mode)
    except repositories.GitFailed:
        return _Version(
            repositories.git(*repositories.find_filters_off(top), *command, cwd=top), mode
        )


def _read_file(file: bytes, limit: int) -> _Version | None:
    try:
        status = os.lstat(file)
    except (FileNotFoundError, NotADirectoryError):
        return None
    if stat.S_ISLNK(status.st_mode):
        return _Version(os.readlink(file), "120000")
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
    return _Version(data, "100755" if status.st_mode & 0o100 else "100644")


def _read_submodule(folder: bytes) -> _Version | None:
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
    return _Version(b"Subproject commit %s\n" % commit, "160000")


def _describe(path: str, old: _Version | None, new: _Version | None) -> dict[str, Any]:
    original, modified = old and old.content, new and new.content
    before, before_encoding = encodings.decode(original or b"")
    after, after_encoding = encodings.decode(modified or b"")
    is_binary = (original is not None and before is None) or (
        modified is not None and after is None
    )
    modes = ""
    if old and new and old.mode != new.mode:
        modes = f"old mode {old.mode}\nnew mode {new.mode}\n"
    return {
        "original": None if original is None or is_binary else before,
        "modified": None if modified is None or is_binary else after,
        "original_encoding": None if original is None else before_encoding,
        "modified_encoding": None if modified is None else after_encoding,
        "original_size": None if original is None else len(original),
        "modified_size": None if modified is None else len(modified),
        "diff": modes + _compare(path, original, modified, before, after, is_binary=is_binary),
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
    name = "".join(char if char.isprintable() else _escape(char) for char in path)
    old = "/dev/null" if original is None else f"a/{name}"
    new = "/dev/null" if modified is None else f"b/{name}"
    if is_binary:
        return f"Binary files {old} and {new} differ\n"
    hunks = _run_git(before or "", after or "")
    # Two encodings can have the same text.
    return f"--- {old}\n+++ {new}\n{hunks}" if hunks else ""


def _escape(char: str) -> str:
    """Return a character as Git quotes it: each byte as an octal number."""
    return "".join(f"\\{byte:03o}" for byte in char.encode("utf-8", "surrogateescape"))


def _run_git(before: str, after: str) -> str:
    """Return Git's hunks for two texts. Both are written as UTF-8, because Git takes UTF-16 for binary.

    The user's own settings do not count: they can convert line ends, and the texts are converted already.
    """
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
            variables={"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1"},
        )
    at = result.find(b"\n@@ ")
    return result[at + 1 :].decode() if at >= 0 else ""

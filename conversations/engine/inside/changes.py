"""The changed files of a workspace, in its repository and in the repositories below it.

openhands-agent-server 1.58.2 splits ``git diff --name-status`` at white space, so its own list fails for names with
spaces and quotes other names. Here, Git ends each name with a NUL.
"""

import os
from typing import Any

from conversations.engine.inside import paths, repositories

WORDS = {b"A": "ADDED", b"D": "DELETED"}
"""The words of the engine. All other letters (M, T for a changed type, U for a conflict) mean ``UPDATED``."""
GITLINK = b"160000"
MAX_REPOSITORIES, MAX_DEPTH = 100, 4
_SKIPPED = {b"node_modules", b"venv", b"site-packages", b"vendor"}


def list_changes(root: bytes, *, limit: int) -> dict[str, Any]:
    """Return the first ``limit`` changes by path, and their total. A renamed file is deleted and added.

    Without a repository, the list is empty.
    """
    real_root = os.path.realpath(root)
    found: dict[bytes, str] = {}
    queue = [(real_root, b"", 0)]
    seen = {real_root}
    if repositories.find_top(real_root) is None:
        repositories.check_without_top(real_root)
        queue = [(folder, os.path.relpath(folder, real_root), 1) for folder in _walk(real_root)]
        seen = {folder for folder, _, _ in queue}
    while queue:
        folder, prefix, depth = queue.pop(0)
        own, nested = _read(folder)
        names = [name for name in nested if os.path.join(folder, name) not in seen]
        for name in names if depth < MAX_DEPTH else []:
            if len(seen) < MAX_REPOSITORIES:
                seen.add(os.path.join(folder, name))
                queue.append((os.path.join(folder, name), os.path.join(prefix, name), depth + 1))
        inner = tuple(name + b"/" for name in nested)
        for path, word in own.items():
            if not path.startswith(inner):
                found[os.path.join(prefix, path)] = word
    ordered = sorted(found)
    return {
        "items": [{"status": found[path], "path": paths.to_text(path)} for path in ordered[:limit]],
        "total": len(ordered),
    }


def _read(folder: bytes) -> tuple[dict[bytes, str], list[bytes]]:
    """Return the changes of one repository by path, and the folders of repositories in it."""
    git = repositories.git
    try:
        base = repositories.find_base(folder)
    except repositories.GitFailed:
        if repositories.find_top(folder) is None:  # a folder `.git` that is no repository
            return {}, []
        raise
    command = (
        *("diff", "--raw", "-z", "--no-abbrev", "--no-renames", "--no-ext-diff", "--no-textconv"),
        *("-O/dev/null", "--ignore-submodules=dirty", "--relative", base, "--"),
    )
    try:
        raw = git(*command, cwd=folder)
    except repositories.GitFailed as error:
        if "filter" not in error.detail:
            raise
        raw = git(*repositories.find_filters_off(folder), *command, cwd=folder)
    tokens = iter(raw.split(b"\0"))
    changes: dict[bytes, str] = {}
    for facts in tokens:
        if facts:
            # A conflict appears twice, as U and as M.
            changes[next(tokens)] = WORDS.get(facts.split(b" ")[4][:1], "UPDATED")
    others = git("ls-files", "--others", "--exclude-standard", "-z", cwd=folder).split(b"\0")
    untracked = [name for name in others if name]
    for name in untracked:
        if not name.endswith(b"/"):
            # A file that was removed from the index only is deleted and untracked.
            changes[name] = "UPDATED" if name in changes else "ADDED"
    staged = git("ls-files", "--stage", "-z", cwd=folder).split(b"\0")
    nested = {line.partition(b"\t")[2] for line in staged if line.startswith(GITLINK)}
    # Git lists an untracked repository as one name with a slash at the end.
    nested |= {name.rstrip(b"/") for name in untracked if name.endswith(b"/")}
    nested |= {name for name in _list_folders(folder) if not name.startswith(b".")}
    is_nested = (n for n in nested if repositories.is_repository(os.path.join(folder, n)))
    return changes, sorted(is_nested)


def _list_folders(folder: bytes) -> list[bytes]:
    try:
        with os.scandir(folder) as entries:
            return [entry.name for entry in entries if entry.is_dir(follow_symlinks=False)]
    except OSError:
        return []


def _walk(root: bytes) -> list[bytes]:
    """Return the repositories up to three levels below a folder that is in no repository."""
    found: list[bytes] = []
    queue = [(root, 0)]
    while queue and len(found) < MAX_REPOSITORIES:
        folder, depth = queue.pop(0)
        for name in sorted(_list_folders(folder)):
            path = os.path.join(folder, name)
            if name.startswith(b".") or name in _SKIPPED:
                continue
            if repositories.is_repository(path):
                found.append(path)
            elif depth < 2:
                queue.append((path, depth + 1))
    return found

"""Git repositories of a workspace: how Git is called, and the commit with which the work is compared."""

import os
import subprocess
import time

from conversations.engine.inside import paths

SECONDS = 25.0
"""How long all Git commands of an action may take together. The server waits 30 seconds for the action."""
_OPTIONS = (
    *("--no-pager", "--literal-pathspecs", "--no-optional-locks"),
    *("-c", "core.quotePath=false", "-c", "core.fsmonitor=false", "-c", "safe.directory=*"),
)
_VARIABLES = {"GIT_TERMINAL_PROMPT": "0", "GIT_NO_LAZY_FETCH": "1", "LC_ALL": "C.UTF-8"}
_deadline = time.monotonic() + SECONDS


class GitFailed(Exception):
    """A Git command ended with an error. ``detail`` is the last line of Git's message."""

    def __init__(self, detail: str) -> None:
        self.detail = detail
        super().__init__(detail)


def git(
    *arguments: str | bytes,
    cwd: bytes,
    ok: tuple[int, ...] = (0,),
    variables: dict[str, str] | None = None,
) -> bytes:
    """Return the output of a Git command. Raise ``GitFailed`` for an exit code that is not in ``ok``."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("GIT_")}
    try:
        done = subprocess.run(  # noqa: PLW1510 - the exit code is checked below
            ["git", *_OPTIONS, *arguments],
            cwd=cwd,
            env=environment | _VARIABLES | (variables or {}),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=max(0.1, _deadline - time.monotonic()),
        )
    except FileNotFoundError as error:
        raise paths.Refused("no-git") from error
    except subprocess.TimeoutExpired as error:
        raise paths.Refused("slow") from error
    if done.returncode not in ok:
        lines = done.stderr.decode("utf-8", "replace").strip().splitlines() or ["no message"]
        raise GitFailed(lines[-1][:300])
    return done.stdout


def find_filters_off(repository: bytes) -> list[str]:
    """Return the options that turn off all filters of a repository, for one whose program is missing or fails."""
    raw = git(
        "config", "-z", "--name-only", "--get-regexp", r"^filter\.", cwd=repository, ok=(0, 1)
    )
    drivers = {
        name.rpartition(".")[0] for name in raw.decode("utf-8", "replace").split("\0") if name
    }
    settings = ("clean=", "smudge=", "process=", "required=false")
    return [
        part for name in sorted(drivers) for end in settings for part in ("-c", f"{name}.{end}")
    ]


def is_repository(folder: bytes) -> bool:
    """Return whether a folder is the top of a repository, a work tree or a checked-out submodule."""
    return os.path.lexists(os.path.join(folder, b".git"))


def find_top(folder: bytes) -> bytes | None:
    """Return the top of the work tree that contains a folder, or None."""
    try:
        top = git("rev-parse", "--show-toplevel", cwd=folder)
    except GitFailed as error:
        if "not a git repository" in error.detail or "must be run in a work tree" in error.detail:
            return None
        raise
    return top.removesuffix(b"\n") or None


def check_without_top(folder: bytes) -> None:
    """Raise ``GitFailed`` if a folder in no work tree has data of Git, which are broken or bare.

    Without this, a broken repository looks like one without changes.
    """
    data = os.path.join(folder, b".git")
    if os.path.lexists(data) and not (os.path.isdir(data) and not os.listdir(data)):
        raise GitFailed("The data in .git are broken, or belong to no work tree")


def find_base(repository: bytes) -> str:
    """Return the commit, or the empty tree, with which the work tree is compared.

    The order is that of openhands-agent-server 1.58.2 (``sdk/git/utils.py``, ``_get_display_base_ref``), without its
    question to the remote over the network: the branch on ``origin``, unless it holds all work already; the point
    where the work left the default branch; the last commit.
    """
    head = _resolve("HEAD", repository)
    if head is None:
        return git("hash-object", "-t", "tree", "--stdin", cwd=repository).decode().strip()
    branch = _optional("symbolic-ref", "--quiet", "--short", "HEAD", cwd=repository)
    upstream = branch and _resolve(f"refs/remotes/origin/{branch}", repository)
    if upstream and (upstream != head or _has_changes(repository)):
        return upstream
    default = _find_default_branch(repository)
    if default:
        return _optional("merge-base", "HEAD", default, cwd=repository) or default
    for name in ("main", "master"):
        local = _resolve(f"refs/heads/{name}", repository)
        if local:
            base = _optional("merge-base", "HEAD", local, cwd=repository)
            return local if name != branch and base == local else head
    return head


def _find_default_branch(repository: bytes) -> str | None:
    names = ("refs/remotes/origin/HEAD", "refs/remotes/origin/main", "refs/remotes/origin/master")
    return next((found for name in names if (found := _resolve(name, repository))), None)


def _has_changes(repository: bytes) -> bool:
    return bool(git("status", "--porcelain", "--untracked-files=no", cwd=repository).strip())


def _resolve(name: str, repository: bytes) -> str | None:
    return _optional("rev-parse", "--verify", "--quiet", f"{name}^{{commit}}", cwd=repository)


def _optional(*arguments: str, cwd: bytes) -> str | None:
    try:
        return git(*arguments, cwd=cwd).decode("utf-8", "surrogateescape").strip() or None
    except GitFailed:
        return None

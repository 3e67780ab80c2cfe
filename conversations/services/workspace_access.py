"""Access to the workspace of a running sandbox, and its failures as errors with a status and a sentence by cause."""

import errno
import logging
import posixpath
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from uuid import UUID

from conversations.engine.errors import EngineRefused, EngineTimedOut, EngineUnreachable
from conversations.engine.workspace import ActionRefused, Workspace
from conversations.models import Conversation
from conversations.services.engine_requests import wait_for_sandbox
from conversations.services.engines import open_engine
from conversations.services.sandboxes import SandboxNotRunning
from conversations.services.state import is_up
from lib.problems import Problem, TooLarge

logger = logging.getLogger(__name__)
_DISK_FULL = re.compile(rf"\[Errno (?:{errno.ENOSPC}|{errno.EDQUOT})\]")


class PathOutside(Problem):
    """A path leads outside of the workspace or is malformed."""

    code = "path-outside"
    sentence = "The path must be relative and must stay inside the workspace."


class NameTooLong(Problem):
    """A name in a path is longer than the sandbox's disk permits, usually 255 bytes."""

    code = "name-too-long"
    sentence = "A name in the path is too long. Most disks permit 255 bytes for a name."


class NoSuchFile(Problem):
    """The requested file or folder does not exist."""

    status = 404
    code = "no-such-file"
    sentence = "There is no such file or folder in the workspace."


class NotAFile(Problem):
    """The path names something else than a file, such as a folder."""

    status = 409
    code = "not-a-file"
    sentence = "This path is a folder. Enter the path of a file."


class NotAFolder(Problem):
    """The path, or a part of it that must be a folder, is a file."""

    status = 409
    code = "not-a-folder"
    sentence = "This path is a file. Enter the path of a folder."


class NotPermitted(Problem):
    """The permissions of the file or folder do not allow the operation to the sandbox's user."""

    status = 409
    code = "file-not-permitted"
    sentence = (
        "The permissions of this file or folder do not allow this. Ask the agent to change them."
    )


class NameAmbiguous(Problem):
    """The path may mean several files."""

    status = 409
    code = "name-ambiguous"
    sentence = (
        "The names of several files look like this one, because they are not UTF-8. Rename them in "
        "the sandbox first."
    )


class RepositoryBroken(Problem):
    """Git cannot read the repository of the workspace."""

    status = 409
    code = "git-failed"
    sentence = "Git cannot read the repository in the workspace."


class SandboxDiskFull(Problem):
    """The sandbox's disk or its quota is full."""

    status = 507
    code = "disk-full"
    sentence = "The sandbox's disk is full. Delete files in the sandbox and try again."


class SandboxSilent(Problem):
    """The sandbox is running but does not answer in time."""

    status = 504
    code = "sandbox-silent"
    sentence = (
        "The sandbox is running but does not answer. It may be busy: wait a moment and try again."
    )


class SandboxTrouble(Problem):
    """The sandbox failed to carry out a file operation. The server's log has its error message."""

    status = 502
    code = "sandbox-trouble"
    sentence = (
        "The sandbox returned an error. Try again. If the error remains, pause and resume the "
        "conversation."
    )


@contextmanager
def open_workspace(conversation_id: UUID) -> Iterator[Workspace]:
    """Yield the workspace of a running sandbox. Its failures become the errors of this module, or ``SandboxBusy``.

    Raise ``SandboxNotRunning`` if the sandbox is not running or refuses connections.
    """
    conversation = Conversation.objects.select_related("sandbox").get(pk=conversation_id)
    sandbox = conversation.sandbox
    if sandbox is None or not is_up(conversation):
        raise SandboxNotRunning
    try:
        with wait_for_sandbox(sandbox):
            yield Workspace(open_engine(sandbox), sandbox.workspace)
    except ActionRefused as refused:
        if refused.code in ("trouble", "git", "no-git"):
            logger.warning(
                "A file operation failed in the sandbox of %s: %s", conversation_id, refused
            )
        raise _describe(refused) from refused
    except EngineTimedOut as error:
        raise SandboxSilent from error
    except EngineUnreachable as error:
        if not error.maybe_done:
            raise SandboxNotRunning from error
        raise SandboxTrouble(
            "The connection to the sandbox was lost. Check the result and try again."
        ) from error
    except EngineRefused as error:
        # The engine's message may contain paths of this server, so it goes to the log only.
        logger.warning("The engine of %s refused a file operation: %s", conversation_id, error)
        raise (SandboxDiskFull if _DISK_FULL.search(error.detail) else SandboxTrouble) from error


_PROBLEMS: dict[str, tuple[type[Problem], str]] = {
    "missing": (NoSuchFile, ""),
    "no-workspace": (NoSuchFile, "The folder of the workspace does not exist in the sandbox."),
    "outside": (PathOutside, ""),
    "name-too-long": (NameTooLong, ""),
    "ambiguous": (NameAmbiguous, ""),
    "folder": (NotAFile, ""),
    "special": (NotAFile, "This path is a socket, a pipe or a device, which has no content."),
    "link-loop": (NotAFile, "The symbolic links in this path lead to each other."),
    "not-a-folder": (NotAFolder, ""),
    "parent-is-a-file": (
        NotAFolder,
        "A part of this path is a file, so it cannot contain other files.",
    ),
    "not-permitted": (NotPermitted, ""),
    "disk-full": (SandboxDiskFull, ""),
    "file-too-large": (TooLarge, "The sandbox does not allow a file of this size."),
    "no-git": (SandboxTrouble, "Git is not installed in the sandbox."),
}
"""The error and its sentence, if it differs from the error's own, for each code of ``ActionRefused``."""


def _describe(refused: ActionRefused) -> Problem:
    if refused.code == "git":
        return RepositoryBroken(_explain_git(refused.fields.get("detail")))
    if refused.code == "slow":
        seconds = refused.fields.get("seconds")
        within = f" within {seconds} seconds" if isinstance(seconds, int) else " in time"
        return SandboxSilent(
            f"The sandbox is running but did not finish{within}. Wait a moment and try again."
        )
    kind, sentence = _PROBLEMS.get(refused.code, (SandboxTrouble, ""))
    return kind(sentence)


def _explain_git(detail: Any) -> str:
    """Return a sentence with Git's message, unless the message contains a path of the machine."""
    text = str(detail or "").strip().rstrip(".")
    return f"{RepositoryBroken.sentence[:-1]}: {text}." if text and "/" not in text else ""


def check_path(path: str) -> str:
    """Return a path relative to the workspace without ``.`` and ``..``. Raise ``PathOutside`` if it leads outside.

    Symbolic links are resolved and checked in the sandbox.
    """
    if "\0" in path or path.startswith("/") or len(path) > 4_096:
        raise PathOutside
    normal = posixpath.normpath(path)
    if normal == ".." or normal.startswith("../"):
        raise PathOutside
    return "" if normal == "." else normal

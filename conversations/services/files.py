"""Files and folders of a workspace. Paths are relative to the workspace; paths outside of it are rejected."""

import base64
import json
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import IO, Any
from uuid import UUID

import msgspec
from django.db import transaction

from accounts.models import User
from conversations.engine.workspace import TransferredFile, Workspace
from conversations.models import Conversation
from conversations.services.state import require_driver
from conversations.services.workspace_access import (
    NotAFile,
    SandboxTrouble,
    check_path,
    open_workspace,
)
from lib.problems import Problem

MAX_ENTRIES = 2_000
"""The most entries of one page of a folder."""
WHOLE_FOLDER = 100_000
"""The most entries of a folder that is returned as a whole."""


class MalformedCursor(Problem):
    """The position in a folder is not one that this server returned."""

    code = "malformed-cursor"
    sentence = "cursor: Send the `next` of an earlier page of this folder."


@dataclass(frozen=True, slots=True)
class DirectoryEntry:
    """An entry of a folder.

    ``path`` is relative to the workspace. ``type`` is ``file``, ``directory`` or ``link``. ``size`` is in bytes. In
    ``name`` and ``path``, bytes that are not UTF-8 are U+FFFD; the path opens the file anyway.
    """

    name: str
    path: str
    type: str
    size: int
    modified_at: datetime

    def to_wire(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Folder:
    """A page of a folder. ``total`` counts all entries. ``next`` names the next page, or is None on the last page."""

    entries: list[DirectoryEntry]
    total: int
    next: str | None


@dataclass(frozen=True, slots=True)
class WrittenFile:
    """A file that was written. The ``path`` differs from the requested one if the name got a number."""

    path: str
    size: int


class _Entry(msgspec.Struct):
    name: str
    path: str
    type: str
    size: int
    modified_at: float


class _Page(msgspec.Struct):
    entries: list[_Entry]
    total: int
    next: tuple[bool, str, str] | None


def list_folder(
    *, conversation_id: UUID, path: str = "", cursor: str | None = None, limit: int = MAX_ENTRIES
) -> Folder:
    """Return a page of a folder: subfolders first, then by name without regard to case.

    ``cursor`` is the ``next`` of the previous page. Raise ``MalformedCursor``, or an error of ``workspace_access``.
    """
    after = _parse_cursor(cursor) if cursor else None
    clean = check_path(path)
    with open_workspace(conversation_id) as workspace:
        result = workspace.run("folders", "list_folder", path=clean, limit=limit, after=after)
    page = convert(result, _Page)
    entries = [
        DirectoryEntry(one.name, one.path, one.type, one.size, _to_time(one.modified_at))
        for one in page.entries
    ]
    return Folder(entries, page.total, _build_cursor(page.next) if page.next else None)


def list_files(*, conversation_id: UUID, path: str = "") -> list[DirectoryEntry]:
    """Return the entries of a folder, at most 100,000, in the order of ``list_folder``."""
    folder = list_folder(conversation_id=conversation_id, path=path, limit=WHOLE_FOLDER)
    return folder.entries


def convert(result: dict[str, Any], kind: Any) -> Any:
    """Return a program's result as the msgspec type ``kind``. Raise ``SandboxTrouble`` if it has another shape."""
    try:
        return msgspec.convert(result, kind)
    except msgspec.ValidationError as error:
        raise SandboxTrouble from error


def _to_time(seconds: float) -> datetime:
    """Return a time of modification. Some disks store times that ``datetime`` cannot; they become its limits."""
    # 0001-01-02 and 9999-12-30 in UTC, a day inside the limits so that no time zone exceeds them.
    return datetime.fromtimestamp(min(max(seconds, -62_135_510_400), 253_402_128_000), UTC)


def _build_cursor(key: tuple[bool, str, str]) -> str:
    return base64.urlsafe_b64encode(json.dumps(key).encode()).decode().rstrip("=")


def _parse_cursor(cursor: str) -> tuple[bool, str, str]:
    try:
        text = base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4))
        key = msgspec.json.decode(text, type=tuple[bool, str, str])
        base64.b64decode(key[2], validate=True)
    except (ValueError, msgspec.MsgspecError) as error:
        raise MalformedCursor from error
    return key


def read_file(*, conversation_id: UUID, path: str) -> TransferredFile:
    """Return a file; iterate over its chunks once, or close it. ``size`` is in bytes.

    The call itself, not the iteration, raises the errors of ``workspace_access``. Until the file is closed, it counts
    as a request that waits for the sandbox.
    """
    clean = check_path(path)
    with ExitStack() as stack:
        workspace = stack.enter_context(open_workspace(conversation_id))
        file = workspace.open(clean)
        file.when_closed(stack.pop_all().close)
    return file


def write_file(
    *, conversation_id: UUID, path: str, content: bytes | IO[bytes], by: User | None = None
) -> int:
    """Write a file, creating missing folders, and return its size in bytes. Safe to repeat.

    An existing file is replaced when all bytes have arrived. ``by`` is the user who writes it; None stands for the
    creator. Raise an error of ``workspace_access``, or ``MissingPermission`` if the creator does not let the user
    steer.
    """
    _check_driver(conversation_id, by)
    with open_workspace(conversation_id) as workspace:
        return _write(workspace, path, content, [])[0].size


def write_files(
    *, conversation_id: UUID, files: list[tuple[str, IO[bytes]]], by: User | None = None
) -> Iterator[WrittenFile | Problem]:
    """Write files, pairs of a path and the content, and yield for each the result or the error.

    Existing files are replaced, except those of this call: of two files with an equal name, the second gets a number
    (``image-2.png``). Names are equal if the sandbox's disk takes them for equal, as some do without regard to case.
    ``by`` is the user who writes the files; None stands for the creator.
    """
    keep: list[str] = []
    for path, content in files:
        try:
            _check_driver(conversation_id, by)
            with open_workspace(conversation_id) as workspace:
                written, place = _write(workspace, path, content, keep)
        except Problem as problem:
            yield problem
        else:
            keep.append(place)
            yield written


def _check_driver(conversation_id: UUID, user: User | None) -> None:
    with transaction.atomic():
        require_driver(Conversation.objects.select_for_update().get(pk=conversation_id), user)


def _write(
    workspace: Workspace, path: str, content: bytes | IO[bytes], keep: list[str]
) -> tuple[WrittenFile, str]:
    clean = check_path(path)
    if not clean:
        raise NotAFile(
            "The path is the workspace itself. Enter the path of a file inside the workspace."
        )
    if path.endswith(("/", "/.")):
        raise NotAFile(
            "The path ends with a slash, so it names a folder. Enter the path of a file."
        )
    result = convert(workspace.write(clean, content, keep=keep), _Written)
    return WrittenFile(result.path, result.size), result.place


class _Written(msgspec.Struct):
    path: str
    place: str
    size: int

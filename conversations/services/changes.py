"""The changes of a workspace's Git repository. Git itself makes the lists and the diffs, in the sandbox."""

from dataclasses import asdict, dataclass
from typing import Any
from uuid import UUID

import msgspec

from conversations.engine.workspace import ActionRefused
from conversations.services.files import convert
from conversations.services.workspace_access import check_path, open_workspace
from lib.problems import TooLarge

MAX_CHANGES = 20_000
DIFF_MAX_BYTES = 5_242_880
"""The largest version of a file that is compared, in bytes."""


class Change(msgspec.Struct):
    """A changed file. ``status`` is ``ADDED``, ``UPDATED`` or ``DELETED``; a renamed file is deleted and added."""

    status: str
    path: str


class Changes(msgspec.Struct):
    """The first 20,000 changed files in the order of their paths; ``total`` counts all."""

    items: list[Change]
    total: int


class _Versions(msgspec.Struct):
    original: str | None
    modified: str | None
    original_encoding: str | None
    modified_encoding: str | None
    original_size: int | None
    modified_size: int | None
    diff: str


@dataclass(frozen=True, slots=True)
class FileDiff:
    """A file before and after its changes.

    A version that does not exist has no text, encoding and size. Encodings are Python's names, such as ``utf-8`` or
    ``iso-8859-1``, or ``binary``: a file with a binary version has no texts. Sizes are in bytes. ``diff`` is the
    difference in Git's format, of the texts in UTF-8.
    """

    path: str
    original: str | None
    modified: str | None
    encoding: str | None
    original_encoding: str | None
    original_size: int | None
    modified_size: int | None
    diff: str

    @property
    def is_binary(self) -> bool:
        return "binary" in (self.encoding, self.original_encoding)

    def to_wire(self) -> dict[str, Any]:
        return asdict(self)

    def to_texts(self) -> dict[str, Any]:
        """Return ``original``, ``modified`` and ``encoding`` for clients that know only texts.

        A sentence takes the place of a binary version, because such clients show a missing text as a deleted file.
        """
        texts: dict[str, Any] = {"modified": self.modified, "original": self.original}
        if self.is_binary:
            sizes = {"modified": self.modified_size, "original": self.original_size}
            for name, size in sizes.items():
                texts[name] = None if size is None else f"Binary file, {size:,} bytes\n"
        return texts | {"encoding": self.encoding}


def list_changes(*, conversation_id: UUID) -> Changes:
    """Return the changed files of the workspace's repository and of the repositories in it.

    Raise an error of ``workspace_access``.
    """
    with open_workspace(conversation_id) as workspace:
        result = workspace.run("changes", "list_changes", limit=MAX_CHANGES)
    changes: Changes = convert(result, Changes)
    return changes


def git_changes(*, conversation_id: UUID) -> list[dict[str, str]]:
    """Return the changed files as ``[{"status", "path"}]``, in the order of ``list_changes``."""
    changes = list_changes(conversation_id=conversation_id)
    return [{"status": one.status, "path": one.path} for one in changes.items]


def git_diff(*, conversation_id: UUID, path: str) -> FileDiff:
    """Return both versions of a file and their difference.

    Raise ``TooLarge`` if a version has more than 5 MiB, or an error of ``workspace_access``.
    """
    clean = check_path(path)
    with open_workspace(conversation_id) as workspace:
        try:
            result = workspace.run("diffs", "read_diff", path=clean, limit=DIFF_MAX_BYTES)
        except ActionRefused as refused:
            if refused.code != "too-large":
                raise
            size = refused.fields.get("size")
            has = f"{size:,} bytes" if isinstance(size, int) else "too many bytes"
            raise TooLarge(
                f"A version of this file has {has}. Diffs are shown for files of up to "
                f"{DIFF_MAX_BYTES:,} bytes. Download the file instead."
            ) from refused
    versions: _Versions = convert(result, _Versions)
    return FileDiff(
        path=path,
        original=versions.original,
        modified=versions.modified,
        encoding=versions.modified_encoding or versions.original_encoding,
        original_encoding=versions.original_encoding,
        original_size=versions.original_size,
        modified_size=versions.modified_size,
        diff=versions.diff,
    )

"""Access to the files of a workspace through the sandbox's engine. Paths outside the workspace are rejected."""

import base64
import io
import posixpath
import shlex
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import IO, Any
from uuid import UUID

from django.conf import settings

from conversations.engine.client import EngineClient, EngineRefused, EngineUnreachable
from conversations.models import Conversation
from conversations.services.engine_requests import wait_for_sandbox
from conversations.services.engines import open_engine
from conversations.services.sandboxes import SandboxNotRunning
from conversations.services.state import is_up
from lib.problems import Problem, TooLarge

MAX_ENTRIES = 2_000
# Shell commands that exit with `_OUTSIDE` (3) or `_MISSING` (4). `realpath` resolves symbolic links in the sandbox.
# File names may contain every byte except NUL and "/", so a NUL ends each record: type, size, time of modification in
# seconds, name. The output is sent as base64, because the engine returns it as JSON text.
_LIST = (
    'set -e; p=$(realpath -e -- {path}); case "$p/" in {root}/*) ;; *) exit 3;; esac; '
    '[ -d "$p" ] || exit 4; cd -- "$p"; '
    "find . -mindepth 1 -maxdepth 1 -printf '%y\\t%s\\t%T@\\t%f\\0' | head -z -n {limit} | base64 -w0"
)
_INSIDE = (
    'p=$(realpath {flag} -- {path}) || exit 4; case "$p/" in {root}/*) ;; *) exit 3;; esac; '
    'printf %s "$p" | base64 -w0'
)
_OUTSIDE, _MISSING = 3, 4


class PathOutside(Problem):
    """A path leads outside of the workspace or is malformed."""

    code = "path-outside"
    sentence = "The path must be relative and must stay inside the workspace."


class NoSuchFile(Problem):
    """The requested file or folder does not exist."""

    status = 404
    code = "no-such-file"
    sentence = "There is no such file or folder in the workspace."


class SandboxTrouble(Problem):
    """The sandbox failed to carry out a file operation. The detail contains the sandbox's error message."""

    status = 502
    code = "sandbox-trouble"
    sentence = "The sandbox returned an error. Try again."


@dataclass(frozen=True, slots=True)
class DirectoryEntry:
    """An entry of a folder.

    ``path`` is relative to the workspace. ``type`` is ``file``, ``directory`` or ``link``. ``size`` is in bytes.
    """

    name: str
    path: str
    type: str
    size: int
    modified_at: datetime

    def to_wire(self) -> dict[str, Any]:
        return asdict(self)


@contextmanager
def _workspace(conversation_id: UUID) -> Iterator[tuple[EngineClient, str]]:
    """Yield a client for the engine of a running sandbox, and the path of the sandbox's workspace.

    Translate the engine's errors into ``SandboxNotRunning``, ``NoSuchFile`` or ``SandboxTrouble``. Raise
    ``SandboxBusy`` if too many requests wait for sandboxes.
    """
    conversation = Conversation.objects.select_related("sandbox").get(pk=conversation_id)
    sandbox = conversation.sandbox
    if sandbox is None or not is_up(conversation):
        raise SandboxNotRunning
    try:
        with wait_for_sandbox(sandbox):
            yield open_engine(sandbox), sandbox.workspace
    except EngineUnreachable as error:
        raise SandboxNotRunning from error
    except EngineRefused as error:
        if error.status == 404:
            raise NoSuchFile from error
        raise SandboxTrouble(f"The sandbox returned an error: {error.detail[:300]}") from error


def resolve_path(root: str, path: str) -> str:
    """Return the absolute path of a path relative to ``root``. Raise ``PathOutside`` if it leaves ``root``."""
    if "\0" in path or path.startswith(("/", "~")) or len(path) > 4_096:
        raise PathOutside
    full = posixpath.normpath(posixpath.join(root, path))
    if full != root and not full.startswith(root.rstrip("/") + "/"):
        raise PathOutside
    return full


def _resolve(client: EngineClient, root: str, path: str, *, must_exist: bool) -> str:
    """Return the absolute path with symbolic links resolved. Raise ``PathOutside`` if it leaves the workspace."""
    # Checking the text of the path is not enough: only the sandbox can resolve its symbolic links.
    full = resolve_path(root, path)
    command = _INSIDE.format(
        path=shlex.quote(full), root=shlex.quote(root), flag="-e" if must_exist else "-m"
    )
    result = client.execute(command, cwd=root, timeout=30)
    _raise_for(result.exit_code, result.stderr)
    try:
        return base64.b64decode(result.stdout).decode()
    except (
        UnicodeDecodeError
    ) as error:  # the URL of a request to the engine cannot contain such a name
        raise NoSuchFile(
            "The file's name is not valid UTF-8, so the file cannot be opened here."
        ) from error


def _raise_for(code: int, detail: str) -> None:
    if code == _OUTSIDE:
        raise PathOutside
    if code in (_MISSING, 1):  # `realpath` exits with 1 for a missing path
        raise NoSuchFile
    if code:
        raise SandboxTrouble(
            f"The sandbox could not read the path: {detail[:200] or f'exit code {code}'}"
        )


def list_files(*, conversation_id: UUID, path: str = "") -> list[DirectoryEntry]:
    """Return the entries of a folder, at most 2,000, subfolders first.

    Raise ``NoSuchFile``, ``PathOutside``, ``SandboxNotRunning`` or ``SandboxTrouble``.
    """
    with _workspace(conversation_id) as (client, root):
        full = resolve_path(root, path)
        command = _LIST.format(path=shlex.quote(full), root=shlex.quote(root), limit=MAX_ENTRIES)
        result = client.execute(command, cwd=root, timeout=30)
        _raise_for(result.exit_code, result.stderr)
        listing = base64.b64decode(result.stdout)
    entries = [_entry(line, full, root) for line in listing.split(b"\0") if line]
    return sorted(entries, key=lambda e: (e.type != "directory", e.name.lower()))


def _entry(line: bytes, folder: str, root: str) -> DirectoryEntry:
    kind, size, changed, name = line.split(b"\t", 3)
    text = name.decode(errors="replace")
    full = posixpath.join(folder, text)
    return DirectoryEntry(
        name=text,
        path=posixpath.relpath(full, root),
        type={b"d": "directory", b"l": "link"}.get(kind, "file"),
        size=int(size),
        modified_at=datetime.fromtimestamp(float(changed), UTC),
    )


def read_file(*, conversation_id: UUID, path: str) -> Iterator[bytes]:
    """Return an iterator over the chunks of a file.

    The call itself, not the iteration, raises ``NoSuchFile``, ``PathOutside``, ``SandboxNotRunning`` or
    ``SandboxTrouble``.
    """
    with _workspace(conversation_id) as (client, root):
        chunks = client.download(_resolve(client, root, path, must_exist=True))
    return iter(chunks)


def write_file(*, conversation_id: UUID, path: str, content: bytes | IO[bytes]) -> int:
    """Write a file, creating missing folders, and return its size in bytes. Safe to repeat.

    Raise ``PathOutside``, ``SandboxNotRunning`` or ``SandboxTrouble``.
    """
    with _workspace(conversation_id) as (client, root):
        full = _resolve(client, root, path, must_exist=False)
        if full == root:
            raise PathOutside(
                "The path is the workspace itself. Enter the path of a file inside the workspace."
            )
        return client.upload(full, content)


def download_archive(*, conversation_id: UUID, format: str) -> Iterator[bytes]:  # noqa: A002
    """Return the chunks of an archive of the whole workspace. ``format`` is ``tar.gz`` or ``zip``.

    Raise ``SandboxNotRunning`` or ``SandboxTrouble``. For a zip, the iteration may raise ``TooLarge``.
    """
    with _workspace(conversation_id) as (client, root):
        chunks = iter(client.archive(root))
    return _as_zip(chunks) if format == "zip" else chunks


def _as_zip(chunks: Iterator[bytes]) -> Iterator[bytes]:
    """Yield the chunks of a zip file with the contents of a tar.gz. Temporary files are used instead of memory."""
    with tempfile.TemporaryFile() as packed, tempfile.TemporaryFile() as result:
        size = 0
        for chunk in chunks:
            size += len(chunk)
            if size > settings.ARCHIVE_MAX_BYTES:
                raise TooLarge(
                    "The workspace is too large to download as a zip file. Download single files instead."
                )
            packed.write(chunk)
        packed.seek(0)
        with (
            tarfile.open(fileobj=packed, mode="r:gz") as source,
            zipfile.ZipFile(result, "w", zipfile.ZIP_DEFLATED) as target,
        ):
            for member in source:
                _copy(source, member, target)
        result.seek(0)
        while data := result.read(256 * 1024):
            yield data


def _copy(source: tarfile.TarFile, member: tarfile.TarInfo, target: zipfile.ZipFile) -> None:
    name = posixpath.normpath(member.name).lstrip("/")
    # Leave out links and special files: they could lead outside the folder into which the zip file is unpacked.
    if name.startswith("..") or not member.isfile():
        return
    # 315,532,800 is the start of 1980, the earliest time that a zip file can store.
    stamp = datetime.fromtimestamp(max(member.mtime, 315_532_800), UTC).timetuple()[:6]
    info = zipfile.ZipInfo(name.encode("utf-8", "replace").decode(), stamp)
    info.external_attr = (member.mode & 0o777) << 16
    info.compress_type = zipfile.ZIP_DEFLATED
    reader = source.extractfile(member) or io.BytesIO()
    with target.open(info, "w") as writer:
        while data := reader.read(256 * 1024):
            writer.write(data)


def git_changes(*, conversation_id: UUID) -> list[dict[str, str]]:
    """Return the changed files of the workspace's repository as ``[{"status", "path"}]``.

    Raise ``SandboxNotRunning`` or ``SandboxTrouble``.
    """
    with _workspace(conversation_id) as (client, root):
        return [{"status": c.status, "path": c.path} for c in client.list_git_changes(root)]


def git_diff(*, conversation_id: UUID, path: str) -> dict[str, Any]:
    """Return a file's text before and after its changes as ``{"path", "original", "modified"}``.

    A text is None if the file did not exist then. Raise ``PathOutside``, ``SandboxNotRunning`` or ``SandboxTrouble``.
    """
    with _workspace(conversation_id) as (client, root):
        diff = client.get_git_diff(_resolve(client, root, path, must_exist=False))
    return {"path": path, "original": diff.original, "modified": diff.modified}

"""The workspace's files, by way of the sandbox's engine; nothing outside the workspace is reached."""

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
from conversations.services.sandboxes import SandboxNotRunning
from conversations.services.state import is_up
from lib.problems import Problem, TooLarge

MAX_ENTRIES = 2_000
# Names may hold anything but NUL and "/", so fields end in NUL; base64, because the answer is JSON text.
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
    """A path that is no path inside the workspace."""

    code = "path-outside"
    sentence = "The path must lie inside the workspace: relative, without leaving it."


class NoSuchFile(Problem):
    """There is no such file or folder."""

    status = 404
    code = "no-such-file"
    sentence = "There is no such file or folder in the workspace."


class SandboxTrouble(Problem):
    """The sandbox did not do it; the sentence says what it said."""

    status = 502
    code = "sandbox-trouble"
    sentence = "The sandbox did not answer as it should. Try again."


@dataclass(frozen=True, slots=True)
class DirectoryEntry:
    """One name in a folder; ``size`` in bytes."""

    name: str
    path: str
    type: str
    size: int
    modified_at: datetime

    def to_wire(self) -> dict[str, Any]:
        return asdict(self)


@contextmanager
def _workspace(conversation_id: UUID) -> Iterator[tuple[EngineClient, str]]:
    """The client and the root of a running sandbox. Raises ``SandboxNotRunning``, ``SandboxTrouble``."""
    conversation = Conversation.objects.select_related("sandbox").get(pk=conversation_id)
    sandbox = conversation.sandbox
    if sandbox is None or not is_up(conversation):
        raise SandboxNotRunning
    try:
        yield EngineClient(sandbox.base_url, sandbox.session_key()), sandbox.workspace
    except EngineUnreachable as error:
        raise SandboxNotRunning from error
    except EngineRefused as error:
        if error.status == 404:
            raise NoSuchFile from error
        raise SandboxTrouble(f"The sandbox refused: {error.detail[:300]}") from error


def inside(root: str, path: str) -> str:
    """The absolute path of a workspace-relative one. Raises ``PathOutside``."""
    if "\0" in path or path.startswith(("/", "~")) or len(path) > 4_096:
        raise PathOutside
    full = posixpath.normpath(posixpath.join(root, path))
    if full != root and not full.startswith(root.rstrip("/") + "/"):
        raise PathOutside
    return full


def _resolve(client: EngineClient, root: str, path: str, *, must_exist: bool) -> str:
    """Return the absolute path with symbolic links resolved in the sandbox, so that none leads out of the workspace."""
    full = inside(root, path)
    command = _INSIDE.format(
        path=shlex.quote(full), root=shlex.quote(root), flag="-e" if must_exist else "-m"
    )
    result = client.execute(command, cwd=root, timeout=30)
    _raise_for(result.exit_code, result.stderr)
    try:
        return base64.b64decode(result.stdout).decode()
    except UnicodeDecodeError as error:  # no address of the engine can hold it
        raise NoSuchFile("This leads to a file whose name is not UTF-8.") from error


def _raise_for(code: int, detail: str) -> None:
    if code == _OUTSIDE:
        raise PathOutside
    if code in (_MISSING, 1):
        raise NoSuchFile
    if code:
        raise SandboxTrouble(f"The sandbox could not look: {detail[:200] or f'exit {code}'}")


def list_files(*, conversation_id: UUID, path: str = "") -> list[DirectoryEntry]:
    """A folder's entries, folders first, at most 2,000. Raises ``NoSuchFile``, ``PathOutside``."""
    with _workspace(conversation_id) as (client, root):
        full = inside(root, path)
        command = _LIST.format(path=shlex.quote(full), root=shlex.quote(root), limit=MAX_ENTRIES)
        result = client.execute(command, cwd=root, timeout=30)
        _raise_for(result.exit_code, result.stderr)
        listing = base64.b64decode(result.stdout)
    entries = [_entry(line, full, root) for line in listing.split(b"\0") if line]
    return sorted(entries, key=lambda e: (e.type != "directory", e.name.lower()))


def _entry(line: bytes, folder: str, root: str) -> DirectoryEntry:
    kind, size, changed, name = line.split(b"\t", 3)
    shown = name.decode(errors="replace")
    full = posixpath.join(folder, shown)
    return DirectoryEntry(
        name=shown,
        path=posixpath.relpath(full, root),
        type={b"d": "directory", b"l": "link"}.get(kind, "file"),
        size=int(size),
        modified_at=datetime.fromtimestamp(float(changed), UTC),
    )


def read_file(*, conversation_id: UUID, path: str) -> Iterator[bytes]:
    """A file's bytes, in chunks. Raises before the first chunk."""
    with _workspace(conversation_id) as (client, root):
        chunks = client.download(_resolve(client, root, path, must_exist=True))
    return iter(chunks)


def write_file(*, conversation_id: UUID, path: str, content: bytes | IO[bytes]) -> int:
    """Write a file, its folders included; its size in bytes. Safe to repeat."""
    with _workspace(conversation_id) as (client, root):
        full = _resolve(client, root, path, must_exist=False)
        if full == root:
            raise PathOutside("Name a file, not the workspace itself.")
        return client.upload(full, content)


def download_archive(*, conversation_id: UUID, format: str) -> Iterator[bytes]:  # noqa: A002
    """The whole workspace as ``tar.gz`` or ``zip``, in chunks."""
    with _workspace(conversation_id) as (client, root):
        chunks = iter(client.archive(root))
    return _as_zip(chunks) if format == "zip" else chunks


def _as_zip(chunks: Iterator[bytes]) -> Iterator[bytes]:
    """Turn a tar.gz into a zip by way of temporary files: neither is held in memory."""
    with tempfile.TemporaryFile() as packed, tempfile.TemporaryFile() as result:
        size = 0
        for chunk in chunks:
            size += len(chunk)
            if size > settings.ARCHIVE_MAX_BYTES:
                raise TooLarge("The workspace is too large to download as one file.")
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
    if name.startswith("..") or not member.isfile():
        return
    stamp = datetime.fromtimestamp(max(member.mtime, 315_532_800), UTC).timetuple()[:6]
    info = zipfile.ZipInfo(name.encode("utf-8", "replace").decode(), stamp)
    info.external_attr = (member.mode & 0o777) << 16
    info.compress_type = zipfile.ZIP_DEFLATED
    reader = source.extractfile(member) or io.BytesIO()
    with target.open(info, "w") as writer:
        while data := reader.read(256 * 1024):
            writer.write(data)


def git_changes(*, conversation_id: UUID) -> list[dict[str, str]]:
    """What changed in the workspace's repository: ``[{"status", "path"}]``."""
    with _workspace(conversation_id) as (client, root):
        return [{"status": c.status, "path": c.path} for c in client.list_git_changes(root)]


def git_diff(*, conversation_id: UUID, path: str) -> dict[str, Any]:
    """A file before and after: ``{"path", "original", "modified"}``, None where it did not exist."""
    with _workspace(conversation_id) as (client, root):
        diff = client.get_git_diff(_resolve(client, root, path, must_exist=False))
    return {"path": path, "original": diff.original, "modified": diff.modified}

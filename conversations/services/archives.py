"""Archives of a workspace. An archive is complete, or it lists the entries that it does not contain.

The sandbox sends its files in frames (``conversations.engine.inside.archives``), and the archive is written here,
before the first byte of a response. An agent controls its sandbox, and could otherwise send an archive that grows
without end, or that writes outside of the folder into which it is unpacked.
"""

import gzip
import io
import posixpath
import stat
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime
from typing import IO, Any, Protocol
from uuid import UUID

import msgspec
from django.conf import settings

from conversations.engine.inside.archives import BROKEN
from conversations.engine.workspace import ARCHIVE_SECONDS, ActionRefused
from conversations.services.files import convert
from conversations.services.workspace_access import SandboxTrouble, open_workspace
from lib.problems import TooLarge

CHUNK = 262_144
LIST_NAME = "LEFT-OUT.txt"
_HEADER_MAX_BYTES = 65_536
_SPOOL_BYTES = 8 * 1024 * 1024
# A zip file stores times from 1980 to 2107, in steps of two seconds.
_ZIP_FIRST, _ZIP_LAST = 315_532_800, 4_354_819_198
_ADVICE = (
    "Download single files, or leave out dependencies and caches with `dependencies=false`, or ask "
    "the agent to delete what is not needed."
)


class Archive:
    """An archive in a temporary file. Iterate over its chunks once, or close it.

    ``size`` is in bytes. ``left_out`` is the number of entries that are not in the archive; it then contains a list of
    them, ``LEFT-OUT.txt``.
    """

    def __init__(self, file: IO[bytes], left_out: int) -> None:
        self._file = file
        self.left_out = left_out
        self.size = file.seek(0, io.SEEK_END)
        file.seek(0)

    def __iter__(self) -> Iterator[bytes]:
        with closing(self._file):
            while data := self._file.read(CHUNK):
                yield data

    def close(self) -> None:
        """Delete the temporary file; safe to repeat."""
        self._file.close()


class _Header(msgspec.Struct):
    name: bytes
    kind: str
    mode: int
    mtime: float
    target: bytes = b""


class _Frames(msgspec.Struct):
    path: str
    temporary: str
    left_out: list[tuple[str, str]]
    left_out_count: int


class _Writer(Protocol):
    def add(self, name: bytes, header: _Header, content: IO[bytes], size: int) -> bool:
        """Add an entry; return False if the archive has an entry with this name already."""

    def close(self) -> None: ...


def download_archive(
    *,
    conversation_id: UUID,
    format: str,  # noqa: A002  (the API's parameter name)
    dependencies: bool = True,
) -> Archive:
    """Return an archive of the whole workspace. ``format`` is ``tar.gz`` or ``zip``.

    Git's own data is left out, sockets, pipes and devices too, and symbolic links that may lead outside of the
    workspace. ``dependencies=False`` leaves out installed dependencies and caches. Raise ``TooLarge`` if the files have
    more than ``ARCHIVE_MAX_BYTES``, uncompressed, or an error of ``workspace_access``.
    """
    limit = settings.ARCHIVE_MAX_BYTES
    with open_workspace(conversation_id) as workspace:
        try:
            result = workspace.run(
                "archives",
                "write_frames",
                seconds=ARCHIVE_SECONDS,
                max_bytes=limit,
                dependencies=dependencies,
            )
        except ActionRefused as refused:
            if refused.code != "too-large":
                raise
            raise _explain_size(limit, refused.fields) from refused
        frames: _Frames = convert(result, _Frames)
        with tempfile.TemporaryFile() as packed:
            for chunk in workspace.download(frames.path, frames.temporary):
                packed.write(chunk)
                if packed.tell() > limit + limit // 8 + CHUNK:  # gzip can make files longer
                    raise _explain_size(limit, {})
            packed.seek(0)
            return _build(packed, frames, format, limit)


def _explain_size(limit: int, fields: dict[str, Any]) -> TooLarge:
    size, largest, largest_size = (fields.get(k) for k in ("size", "largest", "largest_size"))
    has = f"{size:,} bytes" if isinstance(size, int) else "too many bytes"
    where = ""
    if isinstance(largest, str) and isinstance(largest_size, int):
        where = f" The largest entry is {largest[:200]} with {largest_size:,} bytes."
    return TooLarge(
        f"The files of the workspace have {has}, and an archive may contain {limit:,} bytes.{where} {_ADVICE}"
    )


def _build(packed: IO[bytes], frames: _Frames, format: str, limit: int) -> Archive:  # noqa: A002
    """Write the archive from the frames into a temporary file."""
    left_out = list(frames.left_out)
    count = max(frames.left_out_count, len(left_out))
    result = tempfile.TemporaryFile()  # noqa: SIM115 - `Archive` closes it
    try:
        writer: _Writer = _ZipWriter(result) if format == "zip" else _TarWriter(result)
        with closing(writer):
            for path, reason in _copy(packed, writer, limit):
                left_out.append((path.decode("utf-8", "backslashreplace"), reason))
                count += 1
            if count:
                _add_list(writer, left_out, count)
    except (EOFError, zlib.error, gzip.BadGzipFile, msgspec.MsgspecError) as error:
        result.close()
        raise SandboxTrouble("The sandbox did not send all files. Try again.") from error
    except BaseException:
        result.close()
        raise
    return Archive(result, count)


def _copy(packed: IO[bytes], writer: _Writer, limit: int) -> Iterator[tuple[bytes, str]]:
    """Write each entry; yield the path and the reason of each one that is not written."""
    links: set[str] = set()
    total = 0
    with gzip.open(packed) as source:
        while length := _read_exactly(source, 4, at_start=True):
            size = int.from_bytes(length, "big")
            if size > _HEADER_MAX_BYTES:
                raise EOFError
            header = msgspec.json.decode(_read_exactly(source, size), type=_Header)
            with tempfile.SpooledTemporaryFile(_SPOOL_BYTES) as content:
                is_whole = header.kind != "file" or _read_content(source, content, limit - total)
                bytes_read = content.tell()
                total += bytes_read
                content.seek(0)
                reason = "" if is_whole else "The file could not be read to its end."
                reason = reason or _find_reason_to_skip(header, links)
                if not reason and not writer.add(
                    b"project/" + header.name, header, content, bytes_read
                ):
                    reason = "The archive has another entry with this name."
            if reason:
                yield header.name, reason
            elif header.kind == "link":
                links.add(_fold(header.name))


def _read_exactly(source: gzip.GzipFile, size: int, *, at_start: bool = False) -> bytes:
    data = source.read(size)
    if len(data) < size and not (at_start and not data):
        raise EOFError
    return data


def _read_content(source: gzip.GzipFile, target: IO[bytes], remaining: int) -> bool:
    """Copy a file's chunks; return False if the sandbox could not read the file to its end."""
    while size := int.from_bytes(_read_exactly(source, 4), "big"):
        if size == BROKEN:
            return False
        remaining -= size
        if remaining < 0:
            raise _explain_size(settings.ARCHIVE_MAX_BYTES, {})
        target.write(_read_exactly(source, size))
    return True


def _find_reason_to_skip(header: _Header, links: set[str]) -> str:
    parts = header.name.split(b"/")
    if b"\0" in header.name or not header.name or any(p in (b"", b".", b"..") for p in parts):
        return "The name is not valid."
    folders = _fold(header.name).split("/")
    if any("/".join(folders[:end]) in links for end in range(1, len(folders))):
        return "A folder in the path is a symbolic link."
    if header.kind == "link" and not _stays_inside(parts, header.target):
        return "The symbolic link may lead outside of the workspace."
    if header.kind not in ("file", "folder", "link"):
        return "This is neither a file nor a folder."
    return ""


def _fold(name: bytes) -> str:
    """Return a form in which names are equal that some disks take for equal."""
    return name.decode("utf-8", "backslashreplace").casefold()


def _stays_inside(parts: list[bytes], target: bytes) -> bool:
    """Return whether a link stays in the workspace, wherever the archive is unpacked.

    The target may go up only at its beginning, through real folders. After that, every part is a folder, a file or a
    link that was checked in the same way.
    """
    if not target or target.startswith(b"/") or b"\0" in target:
        return False
    steps = [step for step in target.split(b"/") if step not in (b"", b".")]
    up = 0
    while up < len(steps) and steps[up] == b"..":
        up += 1
    return up < len(parts) and b".." not in steps[up:]


def _add_list(writer: _Writer, left_out: list[tuple[str, str]], count: int) -> None:
    lines = [f"{count:,} entries of the workspace are not in this archive.", ""]
    lines += [
        f"{path!r}: {reason}" if not path.isprintable() else f"{path}: {reason}"
        for path, reason in left_out
    ]
    if count > len(left_out):
        lines.append(f"… and {count - len(left_out):,} more.")
    text = "\n".join([*lines, ""]).encode("utf-8", "replace")
    now = datetime.now(UTC).timestamp()
    header = _Header(name=b"", kind="file", mode=0o644, mtime=now)
    writer.add(LIST_NAME.encode(), header, io.BytesIO(text), len(text))


class _ZipWriter:
    def __init__(self, file: IO[bytes]) -> None:
        self._zip = zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED)
        self._names: set[str] = set()

    def add(self, name: bytes, header: _Header, content: IO[bytes], size: int) -> bool:
        # Names in a zip file are text. Bytes that are not UTF-8 are written as ``\xNN``.
        text = name.decode("utf-8", "backslashreplace")
        if text in self._names:
            return False
        self._names.add(text)
        at = min(max(header.mtime, _ZIP_FIRST), _ZIP_LAST)
        is_folder = header.kind == "folder"
        info = zipfile.ZipInfo(
            text + "/" * is_folder, datetime.fromtimestamp(at, UTC).timetuple()[:6]
        )
        kind = {"folder": stat.S_IFDIR, "link": stat.S_IFLNK}.get(header.kind, stat.S_IFREG)
        info.create_system = 3  # Unix, so that the mode is understood
        info.external_attr = (kind | header.mode & 0o777) << 16 | is_folder * 0x10
        info.compress_type = zipfile.ZIP_DEFLATED
        if header.kind == "link":
            info.external_attr = (stat.S_IFLNK | 0o777) << 16
            content, size = io.BytesIO(header.target), len(header.target)
        with self._zip.open(info, "w", force_zip64=size > 0x7000_0000) as target:
            while data := content.read(CHUNK):
                target.write(data)
        return True

    def close(self) -> None:
        self._zip.close()


class _TarWriter:
    def __init__(self, file: IO[bytes]) -> None:
        # The format PAX has names of any bytes and length, and times before 1970 and with fractions.
        self._tar = tarfile.open(  # noqa: SIM115 - `close` closes it
            fileobj=file,
            mode="w:gz",
            format=tarfile.PAX_FORMAT,
            encoding="utf-8",
            errors="surrogateescape",
            compresslevel=6,
        )
        self._names: set[bytes] = set()

    def add(self, name: bytes, header: _Header, content: IO[bytes], size: int) -> bool:
        if name in self._names:
            return False
        self._names.add(name)
        info = tarfile.TarInfo(posixpath.normpath(name).decode("utf-8", "surrogateescape"))
        info.type = {"folder": tarfile.DIRTYPE, "link": tarfile.SYMTYPE}.get(
            header.kind, tarfile.REGTYPE
        )
        info.mode = header.mode & 0o777
        info.mtime = min(max(header.mtime, -(2.0**40)), 2.0**40)
        if header.kind == "link":
            info.linkname = header.target.decode("utf-8", "surrogateescape")
        is_file = header.kind == "file"
        info.size = size if is_file else 0
        self._tar.addfile(info, content if is_file else None)
        return True

    def close(self) -> None:
        self._tar.close()

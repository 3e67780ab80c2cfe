"""The reader of a sandbox's decision log, for the server's processes."""

import json
from pathlib import Path
from typing import Any

LINES_MAX, CHUNK_BYTES = 1_000, 1_000_000


def read_decisions(path: Path, position: str) -> tuple[list[dict[str, Any]], str]:
    """Return the decisions after a position, at most 1,000, and the new position.

    A position is ``INODE:OFFSET``, or empty for the beginning. The rest of a log that was renamed to ``<name>.1`` since
    then is returned first. Lines that are not JSON objects are skipped. If the log does not exist, the position stays.
    """
    inode, offset = _parse_position(position)
    for file in (path.with_name(f"{path.name}.1"), path):
        try:
            status = file.stat()
        except OSError:
            continue
        if file != path and status.st_ino != inode:
            continue
        start = offset if status.st_ino == inode and offset <= status.st_size else 0
        if start < status.st_size:
            decisions, end = _read_lines(file, start)
            if end > start:
                return decisions, f"{status.st_ino}:{end}"
    return [], position


def _read_lines(file: Path, start: int) -> tuple[list[dict[str, Any]], int]:
    """Return the decisions from an offset on, and the offset after the last complete line that was read."""
    decisions: list[dict[str, Any]] = []
    with file.open("rb") as log:
        log.seek(start)
        lines = log.read(CHUNK_BYTES).split(b"\n")
    for line in lines[:-1][:LINES_MAX]:
        start += len(line) + 1
        try:
            value = json.loads(line)
        except ValueError:
            continue
        if isinstance(value, dict):
            decisions.append(value)
    return decisions, start


def _parse_position(position: str) -> tuple[int, int]:
    inode, _, offset = position.partition(":")
    if inode.isdecimal() and offset.isdecimal():
        return int(inode), int(offset)
    return 0, 0

"""The log file of an engine: cut it down to its tail, and find the line that explains a failure."""

import contextlib
import json
import os
import re
from pathlib import Path

LOG_MAX_BYTES, LOG_TAIL_BYTES = 20 * 1024 * 1024, 256 * 1024
_TROUBLE = re.compile(
    r"error|exception|refused|killed|in use|no space|denied|no such", re.IGNORECASE
)
_CONTROL_CHARACTERS = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|[\x00-\x1f\x7f]")


def find_last_line(log: Path) -> str:
    """Return the last line of the log that looks like a problem, or else the last line."""
    lines = [line for raw in _read_tail(log).splitlines() if (line := _parse_line(raw))]
    problems = [line for line in lines[-40:] if _TROUBLE.search(line)]
    return (problems or lines or [""])[-1][:300]


def _parse_line(raw: bytes) -> str:
    text = raw.decode("utf-8", "replace").strip()
    with contextlib.suppress(ValueError, RecursionError):
        fields = json.loads(text)
        if isinstance(fields, dict):
            text = str(fields.get("message") or fields.get("msg") or "")
    return _CONTROL_CHARACTERS.sub(" ", text).strip()


def _read_tail(log: Path) -> bytes:
    try:
        with log.open("rb") as file:
            file.seek(-min(LOG_TAIL_BYTES, file.seek(0, os.SEEK_END)), os.SEEK_END)
            return file.read()
    except OSError:
        return b""


def trim_log(log: Path, *, at_start: bool = False) -> None:
    """Cut a large log down to its tail. With ``at_start``, cut any log that is longer than the tail.

    The engine writes in append mode (O_APPEND), so it continues at the new end of the file.
    """
    with contextlib.suppress(OSError):
        size = log.stat().st_size
        if size > (LOG_TAIL_BYTES if at_start else LOG_MAX_BYTES):
            tail = _read_tail(log)
            with log.open("r+b") as file:
                file.truncate(0)
                file.write(tail)

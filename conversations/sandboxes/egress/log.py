"""The decision log of a sandbox's egress proxy: one JSON line for each decision."""

import asyncio
import contextlib
import json
import os
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from conversations.sandboxes.egress.policy import Decision

MAX_BYTES = 20 * 1024 * 1024
PENDING_MAX = 1000
UNWRITTEN_MAX = 1024 * 1024
_Key = tuple[str, int, bool, str]


@dataclass
class _Entry:
    address: str
    protocol: str
    at: datetime = field(default_factory=lambda: datetime.now(UTC))
    started: float = field(default_factory=time.monotonic)
    count: int = 1


class DecisionLog:
    """Append decisions to a file. Use it on one event loop; call ``close`` at the end.

    Equal decisions (same host, port, answer and reason) within ``merge_seconds`` of the first are one line, which is
    written when that time is over and has the key ``count`` if it stands for more than one. A file that reaches
    ``max_bytes`` is renamed to ``<name>.1``, in place of the previous one, and a new file begins: a reader with an
    offset notices by the inode, or because the file is shorter than the offset.
    """

    def __init__(
        self, path: Path, *, max_bytes: int = MAX_BYTES, merge_seconds: float = 1.0
    ) -> None:
        self._path, self._max_bytes, self._merge_seconds = path, max_bytes, merge_seconds
        self._pending: dict[_Key, _Entry] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._unwritten = b""
        self._file: int | None = None

    def record(
        self, decision: Decision, *, host: str, port: int, address: str, protocol: str
    ) -> None:
        """Record a decision. ``address`` is the address that was dialled, or empty. Never raises for a full disk."""
        key = (host, port, decision.allowed, decision.reason.value)
        now = time.monotonic()
        entry = self._pending.get(key)
        if entry is not None and now - entry.started < self._merge_seconds:
            entry.count += 1
            return
        if entry is not None or len(self._pending) >= PENDING_MAX:
            self.flush()
        self._pending[key] = _Entry(address, protocol)
        if self._timer is None:
            self._schedule(self._merge_seconds)

    def flush(self) -> None:
        """Write all decisions now."""
        self._write_older_than(float("inf"))

    def close(self) -> None:
        """Write all decisions and close the file. Safe to repeat."""
        self.flush()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def _schedule(self, seconds: float) -> None:
        self._timer = asyncio.get_running_loop().call_later(seconds, self._write_due)

    def _write_due(self) -> None:
        self._timer = None
        now = time.monotonic()
        self._write_older_than(now - self._merge_seconds + 0.001)
        if self._pending:
            # The entries are in the order of their first decision.
            oldest = next(iter(self._pending.values()))
            self._schedule(max(0.01, oldest.started + self._merge_seconds - now))

    def _write_older_than(self, limit: float) -> None:
        due = [key for key, entry in self._pending.items() if entry.started <= limit]
        lines = b"".join(_line(key, self._pending.pop(key)) for key in due)
        if len(self._unwritten) < UNWRITTEN_MAX:
            self._unwritten += lines
        # A full disk must not stop the sandbox: up to 1 MB waits for the next attempt, and the rest is lost.
        with contextlib.suppress(OSError):
            self._write()

    def _write(self) -> None:
        while self._unwritten:
            if self._file is None:
                flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
                self._file = os.open(self._path, flags, 0o600)
            size = os.fstat(self._file).st_size
            if size and size + len(self._unwritten) > self._max_bytes:
                self._path.replace(self._path.with_name(f"{self._path.name}.1"))
                os.close(self._file)
                self._file = None
                continue
            written = os.write(self._file, self._unwritten)
            self._unwritten = self._unwritten[written:]


def _line(key: _Key, entry: _Entry) -> bytes:
    host, port, allowed, reason = key
    at = entry.at.isoformat(timespec="milliseconds").replace("+00:00", "Z")
    content: dict[str, object] = {
        "at": at,
        "host": host,
        "port": port,
        "address": entry.address,
        "allowed": allowed,
        "reason": reason,
        "protocol": entry.protocol,
    }
    if entry.count > 1:
        content["count"] = entry.count
    return json.dumps(content).encode() + b"\n"

"""The free space of the data folder's disk."""

import enum
import time
from dataclasses import dataclass

import psutil
from django.conf import settings

WARNING_PERCENT = 5.0
FULL_BYTES = 8 * 1024 * 1024
"""With less free space, PostgreSQL cannot write a new segment of its log (16 MB) or even a temporary file."""
CACHE_SECONDS = 1.0


class DiskState(enum.StrEnum):
    """The state of a disk."""

    OK = "ok"
    LOW = "low"
    FULL = "full"


@dataclass(frozen=True)
class Disk:
    """The free space of a disk: bytes that this user may write, and their share of the whole disk in percent."""

    free_bytes: int
    free_percent: float

    @property
    def state(self) -> DiskState:
        if self.free_bytes < FULL_BYTES:
            return DiskState.FULL
        return DiskState.LOW if self.free_percent < WARNING_PERCENT else DiskState.OK

    def sentence(self) -> str:
        """Return a sentence for operators, or "" if there is enough space."""
        if self.state is DiskState.OK:
            return ""
        size = f"{self.free_bytes // 1_000_000} MB ({self.free_percent:.1f} %)"
        if self.state is DiskState.LOW:
            return (
                f"The disk of the data folder has only {size} free. Free some space: when it is full, the server "
                "stores nothing any more."
            )
        return f"The disk of the data folder is full ({size} free), so the server stores nothing. Free some space."


class _Cached:
    at = -CACHE_SECONDS
    disk: Disk | None = None


def data_disk() -> Disk | None:
    """Return the free space of the data folder's disk, at most a second old, or None if it cannot be read."""
    now = time.monotonic()
    if now - _Cached.at >= CACHE_SECONDS:
        _Cached.at, _Cached.disk = now, _measure()
    return _Cached.disk


def _measure() -> Disk | None:
    folder = settings.DATA_DIR
    try:
        while not folder.exists() and folder != folder.parent:
            folder = folder.parent
        usage = psutil.disk_usage(str(folder))
    except OSError:
        return None
    # ``total`` contains blocks that only root may use. ``used + free`` is what this user can fill.
    size = usage.used + usage.free
    return Disk(usage.free, 100 * usage.free / size if size else 0.0)

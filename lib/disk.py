"""The free space of the data folder's disk."""

import enum
import os
import time
from dataclasses import dataclass

import psutil
from django.conf import settings

WARNING_PERCENT = 5.0
FULL_BYTES = 8 * 1024 * 1024
"""With less free space, PostgreSQL cannot write a new segment of its log (16 MB) or even a temporary file."""
FULL_FILES = 100
"""With fewer free inodes, programs soon cannot create files, although bytes are free."""
CACHE_SECONDS = 1.0


class DiskState(enum.StrEnum):
    """The state of a disk. ``FULL`` means that nothing can be stored, also because the disk is read-only."""

    OK = "ok"
    LOW = "low"
    FULL = "full"


@dataclass(frozen=True)
class Disk:
    """The free space of a disk: bytes that this user may write, and their share of the whole disk in percent.

    ``free_files`` is the number of files that can still be created (inodes), and ``free_files_percent`` their share.
    Some file systems have no such limit: then the number is None.
    """

    free_bytes: int
    free_percent: float
    free_files: int | None = None
    free_files_percent: float = 100.0
    is_read_only: bool = False

    @property
    def has_few_files(self) -> bool:
        return self.free_files is not None and self.free_files_percent < WARNING_PERCENT

    @property
    def has_no_files(self) -> bool:
        return self.free_files is not None and self.free_files < FULL_FILES

    @property
    def state(self) -> DiskState:
        if self.free_bytes < FULL_BYTES or self.has_no_files or self.is_read_only:
            return DiskState.FULL
        is_low = self.free_percent < WARNING_PERCENT or self.has_few_files
        return DiskState.LOW if is_low else DiskState.OK

    def sentence(self) -> str:
        """Return a sentence for operators, or "" if there is enough space."""
        if self.state is DiskState.OK:
            return ""
        if self.is_read_only:
            return (
                "The disk of the data folder is read-only, so the server stores nothing. Check the mount and the "
                "disk's health."
            )
        size = f"{self.free_bytes // 1_000_000} MB ({self.free_percent:.1f} %)"
        remedy = "Free some space"
        is_about_files = self.has_no_files if self.state is DiskState.FULL else self.has_few_files
        if is_about_files and self.free_files is not None:
            size = f"{self.free_files} inodes ({self.free_files_percent:.1f} %)"
            remedy = "Delete some files"
        if self.state is DiskState.LOW:
            return (
                f"The disk of the data folder has only {size} free. {remedy}: when it is full, the server "
                "stores nothing any more."
            )
        return f"The disk of the data folder is full ({size} free), so the server stores nothing. {remedy}."


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
        files = os.statvfs(folder)
    except OSError:
        return None
    # ``total`` contains blocks that only root may use. ``used + free`` is what this user can fill.
    size = usage.used + usage.free
    # File systems without a fixed number of inodes, such as btrfs, report 0 of 0.
    has_limit = files.f_files > 0
    return Disk(
        usage.free,
        100 * usage.free / size if size else 0.0,
        files.f_favail if has_limit else None,
        100 * files.f_favail / files.f_files if has_limit else 100.0,
        bool(files.f_flag & os.ST_RDONLY),
    )

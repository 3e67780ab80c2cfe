"""The watcher of a sandbox's memory, processes and disk, for machines without a delegated cgroup.

The keeper runs on the host and sees the sandbox's processes with their ids of the host. All of them descend from the
sandbox's process 1, because the kernel gives it every process that loses its parent.
"""

import contextlib
import os
import stat
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
DISK_SCAN_SHARE = 0.05
"""The share of the time that the keeper spends on counting the bytes of files."""
DISK_SCAN_SECONDS = 5.0
"""The shortest time between two counts of the bytes of files."""
LEAST_FILE_BYTES = 4_096
"""The bytes that each file counts at least, because the number of files on a disk is limited too."""
LONG_PATH = 2_000
"""The length of a path above which deeper paths are named by a descriptor. A name has at most 255 bytes."""
LOW_MEMORY_SHARE, LOW_DISK_BYTES = 0.04, 500_000_000
"""A machine with less available memory (as a share of all memory) or less free disk space is short of it."""
BACKGROUND_PRIORITY = 10
"""The priority (nice value) of the sandbox's sessions, lower than that of the server."""


@dataclass(frozen=True, slots=True)
class Limits:
    """The limits of a sandbox. Zero means no limit."""

    memory_bytes: int
    processes: int
    """The largest number of processes and threads."""
    disk_bytes: int
    file_bytes: int
    """The largest size of one file."""


@dataclass(frozen=True, slots=True)
class Usage:
    """The resources that a sandbox uses at a time."""

    memory_bytes: int
    processes: int
    disk_bytes: int


class OverLimit(Exception):
    """The sandbox exceeded a limit. ``reason`` is a code, and the message is a sentence for the sandbox's owner."""

    def __init__(self, reason: str, sentence: str) -> None:
        super().__init__(sentence)
        self.reason = reason


def over_memory(limit: int) -> OverLimit:
    """Return the exception for a sandbox that exceeded its limit of memory, in bytes."""
    return OverLimit(
        "memory",
        f"The sandbox used more than its {limit // 1_000_000:,} MB of memory, so it was stopped. Its files are "
        "kept. Let the agent use less memory at a time, or ask an administrator for a higher limit.",
    )


class Watcher:
    """The watcher of the sandbox with this process 1 and these folders."""

    def __init__(self, init_pid: int, folders: list[Path], limits: Limits) -> None:
        self.init_pid, self.folders, self.limits = init_pid, folders, limits
        self.disk_bytes = 0
        self._scanned_at = self._scan_seconds = 0.0
        self._free_at_scan = 0
        self._lowered: set[int] = set()

    def check(self) -> Usage:
        """Measure the sandbox. Raise ``OverLimit`` if it uses more memory or disk than it may."""
        pids = list_descendants(self.init_pid)
        memory = self._measure_memory(pids)
        self._lower_priority(pids)
        self._measure_disk(pids)
        usage = Usage(memory, len(pids), self.disk_bytes)
        self._check_memory(usage, pids)
        self._check_disk()
        return usage

    def _measure_memory(self, pids: list[int]) -> int:
        estimate = sum(read_resident_bytes(pid) for pid in pids)
        # Pages that processes share after a fork are counted for each of them. The exact count is slow, so it is used
        # only near the limit.
        if self.limits.memory_bytes and estimate > self.limits.memory_bytes * 0.8:
            return sum(read_proportional_bytes(pid) for pid in pids)
        return estimate

    def _check_memory(self, usage: Usage, pids: list[int]) -> None:
        limit = self.limits.memory_bytes
        if limit and usage.memory_bytes > limit:
            raise over_memory(limit)
        # Memory that belongs to no process, such as that of pipes, is in no count. If the machine runs short of
        # memory, the largest of its sandboxes must end before the server does.
        if is_low_on_memory() and usage.memory_bytes > max(limit, 1) * 0.5:
            raise OverLimit(
                "machine-memory",
                "The machine is almost out of memory and this sandbox used much of it, so it was stopped. Its files "
                "are kept. Try again later.",
            )

    def _lower_priority(self, pids: list[int]) -> None:
        """Lower the priority of the sandbox's sessions.

        The kernel shares the processors between sessions (autogroup), so the priority of a process counts only inside
        its session.
        """
        for pid in pids:
            with contextlib.suppress(OSError):
                session = os.getsid(pid)
                if session not in self._lowered:
                    self._lowered.add(session)
                    Path(f"/proc/{pid}/autogroup").write_text(str(BACKGROUND_PRIORITY))

    def _measure_disk(self, pids: list[int]) -> None:
        now = time.monotonic()
        # Counting takes long in a large workspace, so the time between counts grows with it, unless the disk fills.
        pause = max(DISK_SCAN_SECONDS, self._scan_seconds / DISK_SCAN_SHARE)
        written = self._free_at_scan - free_bytes(self.folders[0])
        is_growing = written > max(0, self.limits.disk_bytes - self.disk_bytes) / 2
        if now - self._scanned_at < pause and not (is_growing and self.limits.disk_bytes):
            return
        self._free_at_scan = free_bytes(self.folders[0])
        seen: set[tuple[int, int]] = set()
        total = sum(count_bytes(folder, seen) for folder in self.folders)
        self.disk_bytes = total + count_deleted_bytes(pids, seen)
        self._scanned_at = time.monotonic()
        self._scan_seconds = self._scanned_at - now

    def _check_disk(self) -> None:
        limit = self.limits.disk_bytes
        if limit and self.disk_bytes > limit:
            raise OverLimit(
                "disk",
                f"The sandbox's files used more than their {limit // 1_000_000:,} MB, so it was stopped. Its files are "
                "kept. Start a new conversation, or ask an administrator for a higher limit.",
            )
        if free_bytes(self.folders[0]) < LOW_DISK_BYTES and self.disk_bytes > LOW_DISK_BYTES:
            raise OverLimit(
                "machine-disk",
                "The server's disk is almost full and this sandbox used much of it, so it was stopped. Its files are "
                "kept. Ask an administrator to free some space.",
            )


def list_descendants(pid: int) -> list[int]:
    """Return a process and all its descendants. Ended processes are skipped."""
    found, queue = [], [pid]
    while queue:
        parent = queue.pop()
        found.append(parent)
        with contextlib.suppress(OSError):
            for thread in Path(f"/proc/{parent}/task").iterdir():
                with contextlib.suppress(OSError):
                    children = (thread / "children").read_text()
                    queue.extend(int(child) for child in children.split())
    return found


def read_process_state(pid: int) -> tuple[int, str]:
    """Return when a process started, in clock ticks since the machine's start, and its state, such as ``Z``.

    Return ``(0, "")`` if there is no such process.
    """
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return 0, ""
    # The second field is the program's name in parentheses, which may contain spaces and parentheses.
    fields = text.rpartition(")")[2].split()
    return int(fields[19]), fields[0]


def read_resident_bytes(pid: int) -> int:
    """Return the bytes of memory of a process that belong to no file on a disk, with its page tables and swap."""
    total = 0
    with contextlib.suppress(OSError, ValueError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith(("RssAnon:", "RssShmem:", "VmPTE:", "VmSwap:")):
                total += int(line.split()[1]) * 1024
    return total


def read_proportional_bytes(pid: int) -> int:
    """Return the bytes of memory of a process, in which a page that n processes share counts as one n-th of a page."""
    total = 0
    try:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith(("Pss_Anon:", "Pss_Shmem:", "SwapPss:")):
                total += int(line.split()[1]) * 1024
        return total + read_page_table_bytes(pid)
    except PermissionError:
        return read_resident_bytes(pid)
    except (OSError, ValueError):
        return 0


def read_page_table_bytes(pid: int) -> int:
    """Return the bytes of a process's page tables. Reading untouched pages makes tables but no pages."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmPTE:"):
            return int(line.split()[1]) * 1024
    return 0


def count_bytes(folder: Path, seen: set[tuple[int, int]]) -> int:
    """Return the bytes on the disk of all files below a folder. Files in ``seen`` (device, inode) count as 0.

    Each file and folder counts at least ``LEAST_FILE_BYTES``. Paths may be longer than the system allows, and folders
    may be closed to their owner.
    """
    total = 0
    stack: list[str | Callable[[], None]] = [str(folder)]
    while stack:
        path = stack.pop()
        if callable(path):
            path()
            continue
        with contextlib.suppress(OSError):
            if len(path) > LONG_PATH:
                # The system refuses paths of 4,096 bytes, so deeper ones begin with a descriptor.
                descriptor = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW)
                stack.append(partial(os.close, descriptor))
                path = f"/proc/self/fd/{descriptor}"
            try:
                entries = _list_entries(path)
            except PermissionError:
                stack.append(_open_folder(path))
                entries = _list_entries(path)
            for entry in entries:
                try:
                    status = entry.stat(follow_symlinks=False)
                except FileNotFoundError:
                    continue
                if entry.is_dir(follow_symlinks=False):
                    stack.append(entry.path)
                elif status.st_nlink > 1:
                    if (status.st_dev, status.st_ino) in seen:
                        continue
                    seen.add((status.st_dev, status.st_ino))
                total += max(status.st_blocks * 512, LEAST_FILE_BYTES)
    return total


def _list_entries(path: str) -> list[os.DirEntry[str]]:
    with os.scandir(path) as entries:
        found = list(entries)
    # A folder that may be listed but not entered gives names only.
    for entry in found:
        with contextlib.suppress(FileNotFoundError):
            entry.stat(follow_symlinks=False)
    return found


def _open_folder(path: str) -> Callable[[], None]:
    """Let the owner of a closed folder list and enter it. Return a function that restores its mode.

    A server that is not root owns the files of its sandboxes and needs this to count them.
    """
    is_anchor = path.startswith("/proc/self/fd/")  # a symbolic link of the kernel
    descriptor = os.open(path, os.O_PATH | os.O_DIRECTORY | (0 if is_anchor else os.O_NOFOLLOW))
    place = Path(f"/proc/self/fd/{descriptor}")
    mode = stat.S_IMODE(os.fstat(descriptor).st_mode)

    def restore() -> None:
        try:
            place.chmod(mode)
        finally:
            os.close(descriptor)

    try:
        place.chmod(mode | 0o500)
    except OSError:
        os.close(descriptor)
        raise
    return restore


def count_deleted_bytes(pids: list[int], seen: set[tuple[int, int]]) -> int:
    """Return the bytes on the disk of deleted files that processes still keep open."""
    total = 0
    for pid in pids:
        with contextlib.suppress(OSError):
            for descriptor in Path(f"/proc/{pid}/fd").iterdir():
                with contextlib.suppress(OSError):
                    if not str(descriptor.readlink()).endswith(" (deleted)"):
                        continue
                    status = descriptor.stat()
                    if (status.st_dev, status.st_ino) not in seen:
                        seen.add((status.st_dev, status.st_ino))
                        total += status.st_blocks * 512
    return total


def free_bytes(folder: Path) -> int:
    """Return the bytes of free space for ordinary users on the folder's disk."""
    status = os.statvfs(folder)
    return status.f_bavail * status.f_frsize


def is_low_on_memory() -> bool:
    """Return whether the machine has less available memory than ``LOW_MEMORY_SHARE``."""
    sizes: dict[str, int] = {}
    for line in Path("/proc/meminfo").read_text().splitlines():
        name, _, rest = line.partition(":")
        if name in ("MemTotal", "MemAvailable"):
            sizes[name] = int(rest.split()[0])
    return sizes.get("MemAvailable", 1) < sizes.get("MemTotal", 0) * LOW_MEMORY_SHARE

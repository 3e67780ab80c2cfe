"""The watcher of a sandbox's memory, processes and disk, for machines without a delegated cgroup.

The keeper runs on the host and sees the sandbox's processes with their ids of the host. All of them descend from the
sandbox's process 1, because the kernel gives it every process that loses its parent.
"""

import contextlib
import errno
import os
import stat
import time
from dataclasses import dataclass
from pathlib import Path

PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
DISK_SCAN_SHARE = 0.05
"""The share of the time that the keeper spends on counting the bytes of files."""
DISK_SCAN_SECONDS = 5.0
"""The shortest time between two counts of the bytes of files."""
LEAST_FILE_BYTES = 4_096
"""The bytes that each file counts at least, because the number of files on a disk is limited too."""
LOW_MEMORY_SHARE, LOW_DISK_BYTES = 0.04, 500_000_000
"""A machine with less available memory (as a share of all memory) or less free disk space is short of it."""
FOLDER_LEVELS = 250
"""The deepest level of nested folders that is counted. Each level occupies a file descriptor of the keeper."""
SOCKET_BYTES, PIPE_BYTES = 425_984, 65_536
"""The bytes that a socket (twice ``net.core.wmem_max``) and a pipe may hold."""
USUAL_BUFFER_BYTES = 400_000_000
"""The bytes that pipes and sockets may hold before they count as memory. Few programs have a thousand sockets."""
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
    """The watcher of the sandbox with this process 1 and these files and folders.

    ``check`` and ``check_disk`` may run in two threads at the same time. A count of many files takes long, and the
    memory must be measured meanwhile.
    """

    def __init__(self, init_pid: int, folders: list[Path], limits: Limits) -> None:
        self.init_pid, self.folders, self.limits = init_pid, folders, limits
        self.disk_bytes = self.buffer_bytes = 0
        self._scanned_at = self._scan_seconds = 0.0
        self._free_at_scan = 0
        self._engine_pid = 0
        self._lowered: set[int] = set()

    def check(self) -> Usage:
        """Measure memory and processes. Raise ``OverLimit`` if the sandbox uses more memory than it may."""
        pids = list_descendants(self.init_pid)
        memory = self._measure_memory(pids)
        self._lower_priority(pids)
        usage = Usage(memory, len(pids), self.disk_bytes)
        self._check_memory(usage)
        return usage

    def check_disk(self) -> None:
        """Count the bytes of the files if it is time. Raise ``OverLimit`` if they are more than they may be."""
        self._measure_disk()
        self._check_disk()

    def _measure_memory(self, pids: list[int]) -> int:
        self.buffer_bytes = estimate_buffer_bytes(pids)
        buffers = max(0, self.buffer_bytes - USUAL_BUFFER_BYTES)
        estimate = sum(read_resident_bytes(pid) for pid in pids) + buffers
        # Pages that processes share after a fork are counted for each of them. The exact count is slow, so it is used
        # only near the limit.
        if self.limits.memory_bytes and estimate > self.limits.memory_bytes * 0.8:
            return sum(read_proportional_bytes(pid) for pid in pids) + buffers
        return estimate

    def _check_memory(self, usage: Usage) -> None:
        limit = self.limits.memory_bytes
        if limit and usage.memory_bytes > limit:
            raise over_memory(limit)
        if not is_low_on_memory():
            return
        # If the machine runs short of memory, a sandbox that may hold much of it must end before the server does.
        if usage.memory_bytes + self.buffer_bytes > max(limit, 1) * 0.5:
            raise OverLimit(
                "machine-memory",
                "The machine is almost out of memory and this sandbox used much of it, so it was stopped. Its files "
                "are kept. Try again later.",
            )

    def _lower_priority(self, pids: list[int]) -> None:
        """Lower the priority of all sessions but that of the engine, which must answer the server.

        The kernel shares the processors between sessions (autogroup), so the priority of a process counts only inside
        its session. Where the kernel does not, the priority of each process is lowered.
        """
        if not self._engine_pid:
            with contextlib.suppress(OSError, IndexError):
                # The engine is the first child of process 1.
                path = Path(f"/proc/{self.init_pid}/task/{self.init_pid}/children")
                self._engine_pid = int(path.read_text().split()[0])
        # The engine's session is named after the engine, which enters it some time after its fork. On a busy machine
        # this look may come before, when the engine is still in the session of process 1.
        spared = {self._engine_pid, self.init_pid}
        for pid in pids:
            # The kernel accepts few changes per second from a server that is not root. The next look tries again.
            with contextlib.suppress(OSError):
                session = os.getsid(pid)
                if session in spared or session in self._lowered:
                    continue
                group = Path(f"/proc/{pid}/autogroup")
                if group.exists():
                    group.write_text(str(BACKGROUND_PRIORITY))
                    if os.getsid(pid) == session:
                        self._lowered.add(session)
                elif os.getpriority(os.PRIO_PROCESS, pid) < BACKGROUND_PRIORITY:
                    os.setpriority(os.PRIO_PROCESS, pid, BACKGROUND_PRIORITY)

    def _measure_disk(self) -> None:
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
        pids = list_descendants(self.init_pid)
        self.disk_bytes = total + count_deleted_bytes(pids, seen, self.folders[0].stat().st_dev)
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
        if free_bytes(self.folders[0]) >= LOW_DISK_BYTES:
            return
        # A deleted file whose descriptor waits in a socket is in no count, but its bytes were written.
        written = sum(read_written_bytes(pid) for pid in list_descendants(self.init_pid))
        if max(self.disk_bytes, written) > LOW_DISK_BYTES:
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


def estimate_buffer_bytes(pids: list[int]) -> int:
    """Return how many bytes of the kernel's memory the pipes and sockets of processes may hold at most."""
    buffers: set[str] = set()
    for pid in pids:
        with contextlib.suppress(OSError):
            for descriptor in Path(f"/proc/{pid}/fd").iterdir():
                with contextlib.suppress(OSError):
                    target = str(descriptor.readlink())
                    if target.startswith(("socket:", "pipe:")):
                        buffers.add(target)
    sockets = sum(target.startswith("socket:") for target in buffers)
    return sockets * SOCKET_BYTES + (len(buffers) - sockets) * PIPE_BYTES


def read_written_bytes(pid: int) -> int:
    """Return the bytes that a process and its ended children wrote to disks."""
    with contextlib.suppress(OSError, ValueError):
        for line in Path(f"/proc/{pid}/io").read_text().splitlines():
            if line.startswith("write_bytes:"):
                return int(line.split()[1])
    return 0


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


def count_bytes(path: Path, seen: set[tuple[int, int]]) -> int:
    """Return the bytes on the disk of a file, or of all files below a folder. Files in ``seen`` (device, inode) are 0.

    Every folder is opened in its opened parent, because an agent may exchange a folder for a symbolic link meanwhile,
    and because the path of a folder may be longer than the kernel accepts. Raise ``OverLimit`` if folders are nested
    more than ``FOLDER_LEVELS`` deep.
    """
    try:
        if not path.is_dir():
            return path.lstat().st_blocks * 512
        levels = [_Level(os.open(path, _FOLDER))]
    except FileNotFoundError:
        return 0
    total = 0
    try:
        levels[0].list_entries(seen)
        while levels:
            if not levels[-1].names:
                level = levels.pop()
                total += level.bytes
                level.close()
                continue
            name = levels[-1].names.pop()
            level_or_none = _open_level(name, levels[-1].descriptor)
            if level_or_none is None:
                continue
            levels.append(level_or_none)
            if len(levels) > FOLDER_LEVELS:
                raise OverLimit(
                    "disk",
                    f"The sandbox has folders that are nested more than {FOLDER_LEVELS} deep. Their files cannot be "
                    "counted, so it was stopped. Its files are kept. Start a new conversation.",
                )
            level_or_none.list_entries(seen)
    finally:
        for level in levels:
            level.close()
    return total


_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class _Level:
    """An open folder during a count, and the names of its folders that are not counted yet.

    ``mode`` are the permissions that the folder gets back in the end, if it had to be opened to its owner.
    """

    def __init__(self, descriptor: int, mode: int | None = None) -> None:
        self.descriptor, self.mode = descriptor, mode
        self.names: list[str] = []
        self.bytes = 0

    def list_entries(self, seen: set[tuple[int, int]]) -> None:
        with os.scandir(self.descriptor) as entries:
            for entry in entries:
                with contextlib.suppress(FileNotFoundError):
                    status = entry.stat(follow_symlinks=False)
                    if stat.S_ISDIR(status.st_mode):
                        self.names.append(entry.name)
                    elif status.st_nlink > 1:
                        if (status.st_dev, status.st_ino) in seen:
                            continue
                        seen.add((status.st_dev, status.st_ino))
                    self.bytes += max(status.st_blocks * 512, LEAST_FILE_BYTES)

    def close(self) -> None:
        if self.mode is not None:
            with contextlib.suppress(OSError):
                os.fchmod(self.descriptor, self.mode)
        os.close(self.descriptor)


def _open_level(name: str, parent: int) -> _Level | None:
    """Return an opened folder, or None if it no longer exists or is no folder any more."""
    try:
        return _Level(os.open(name, _FOLDER, dir_fd=parent))
    except PermissionError:
        return _open_closed_level(name, parent)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
            return None
        raise


def _open_closed_level(name: str, parent: int) -> _Level | None:
    """Open a folder that an agent closed even to its own user, such as with mode 0, and make it readable for now.

    The agent's processes can still write to files in it that they opened before. Return None for a folder of another
    user, which no agent can make.
    """
    try:
        place = os.open(
            name, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent
        )
    except OSError:
        return None
    try:
        mode = stat.S_IMODE(os.fstat(place).st_mode)
        # A descriptor with O_PATH cannot be changed itself, but its link in /proc can.
        Path(f"/proc/self/fd/{place}").chmod(mode | 0o700)
        return _Level(os.open(f"/proc/self/fd/{place}", os.O_RDONLY | os.O_DIRECTORY), mode)
    except PermissionError:
        return None
    finally:
        os.close(place)


def count_deleted_bytes(pids: list[int], seen: set[tuple[int, int]], device: int) -> int:
    """Return the bytes on the disk of deleted files that processes still have open or mapped.

    The blocks of a mapped file that is not open are unknown, so the bytes that are mapped count. ``device`` is the disk
    of such files.
    """
    total = 0
    mapped: dict[int, int] = {}
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
        for inode, length in read_deleted_mappings(pid, device).items():
            mapped[inode] = max(mapped.get(inode, 0), length)
    return total + sum(length for inode, length in mapped.items() if (device, inode) not in seen)


def read_deleted_mappings(pid: int, device: int) -> dict[int, int]:
    """Return the deleted files of a disk that a process has mapped: a dict from inode to mapped bytes."""
    found: dict[int, int] = {}
    name = f"{os.major(device):02x}:{os.minor(device):02x}"
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/maps").read_text(errors="replace").splitlines():
            if not line.endswith(" (deleted)"):
                continue
            addresses, _, _, place, inode, *_ = line.split(maxsplit=5)
            if place == name:
                start, _, end = addresses.partition("-")
                found[int(inode)] = found.get(int(inode), 0) + int(end, 16) - int(start, 16)
    return found


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

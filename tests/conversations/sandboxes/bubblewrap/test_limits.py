"""The count of a sandbox's bytes, with files that an agent hides."""

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from conversations.sandboxes.bubblewrap import limits
from conversations.sandboxes.bubblewrap.limits import (
    FOLDER_LEVELS,
    Limits,
    OverLimit,
    Watcher,
    count_bytes,
    count_deleted_bytes,
)
from tests.waiting import wait_until

MEGABYTE = 1_000_000


def write(path, size=MEGABYTE):
    path.write_bytes(b"z" * size)
    os.sync()
    return path


def run_as_ordinary_user(function):
    """Return the JSON value of a function, called in a child process without the rights of root."""
    reader, writer = os.pipe()
    if (child := os.fork()) == 0:
        status = 1
        try:
            if os.geteuid() == 0:
                os.setgroups([])
                os.setresgid(65534, 65534, 65534)
                os.setresuid(65534, 65534, 65534)
            os.write(writer, json.dumps(function()).encode())
            status = 0
        finally:
            os._exit(status)
    os.close(writer)
    with os.fdopen(reader) as pipe:
        value = pipe.read()
    assert os.waitpid(child, 0)[1] == 0
    return json.loads(value)


def test_files_of_all_levels_and_a_single_file_are_counted(tmp_path):
    (tmp_path / "a/b").mkdir(parents=True)
    write(tmp_path / "a/b/one")
    (tmp_path / "a/two").hardlink_to(tmp_path / "a/b/one")
    (tmp_path / "link").symlink_to("/usr")

    assert MEGABYTE <= count_bytes(tmp_path, set()) < 1.1 * MEGABYTE
    assert MEGABYTE <= count_bytes(tmp_path / "a/two", set()) < 1.1 * MEGABYTE
    assert count_bytes(tmp_path / "missing", set()) == 0


def test_path_that_is_too_long_for_the_kernel_is_counted(tmp_path):
    previous = os.open(".", os.O_RDONLY)
    os.chdir(tmp_path)
    try:
        for _ in range(30):
            Path("d" * 200).mkdir()
            os.chdir("d" * 200)
        write(Path("hidden"))
    finally:
        os.fchdir(previous)
        os.close(previous)

    assert count_bytes(tmp_path, set()) >= MEGABYTE


def test_folders_nested_too_deep_are_an_excess(tmp_path):
    path = tmp_path
    for _ in range(FOLDER_LEVELS):
        path = path / "d"
        path.mkdir()

    watcher = Watcher(os.getpid(), [tmp_path], Limits(10**12, 0, 10**12, 0))

    # The memory is measured without a count of the files, which may take long.
    assert watcher.check().memory_bytes > 0
    with pytest.raises(OverLimit, match=r"nested more than 250 deep\. Their files cannot"):
        watcher.check_disk()


def test_folder_closed_to_its_owner_is_counted_and_stays_closed(reachable):
    def count():
        # Like an agent, this user closes folders that contain data.
        inner = reachable / "own/closed/inner"
        inner.mkdir(parents=True)
        write(inner / "hidden")
        inner.chmod(0)
        inner.parent.chmod(0o200)
        count = count_bytes(reachable / "own", set())
        modes = [inner.parent.stat().st_mode & 0o777]
        inner.parent.chmod(0o700)
        modes.append(inner.stat().st_mode & 0o777)
        inner.chmod(0o700)
        return [count, modes]

    reachable.chmod(0o777)
    found, modes = run_as_ordinary_user(count)

    assert found >= MEGABYTE
    assert modes == [0o200, 0]


MAP_DELETED_FILE = """
import ctypes, os, sys
libc = ctypes.CDLL(None)
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
file = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT)
os.ftruncate(file, 1_048_576)
address = libc.mmap(0, 1_048_576, 3, 1, file, 0)
os.unlink(sys.argv[1])
os.close(file)
ctypes.memset(address, 122, 1_048_576)
print("mapped", flush=True)
sys.stdin.read()
"""


def test_deleted_file_that_is_only_mapped_is_counted(tmp_path):
    command = [sys.executable, "-c", MAP_DELETED_FILE, tmp_path / "file"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        process.stdout.readline()
        device = tmp_path.stat().st_dev
        found = count_deleted_bytes([process.pid, process.pid], set(), device)
        process.stdin.close()

    assert found == 1_048_576


def test_pipes_and_sockets_of_processes_are_counted_once():
    before = limits.estimate_buffer_bytes([os.getpid()])
    ends = socket.socketpair()
    reader, writer = os.pipe()
    try:
        expected = before + 2 * limits.SOCKET_BYTES + limits.PIPE_BYTES
        assert limits.estimate_buffer_bytes([os.getpid(), os.getpid()]) == expected
    finally:
        for descriptor in (reader, writer, *(end.detach() for end in ends)):
            os.close(descriptor)


@pytest.mark.parametrize(("sockets", "is_low", "words"), [(400, True, "almost out of memory"), (2_400, False, "300 MB of memory")])  # fmt: skip
def test_sandbox_with_many_sockets_is_over_its_memory(monkeypatch, sockets, is_low, words):
    program = (
        "import resource, socket, time; resource.setrlimit(resource.RLIMIT_NOFILE, (4096, 4096));"
        f"kept = [socket.socketpair() for _ in range({sockets // 2})]; print(flush=True); time.sleep(60)"
    )
    monkeypatch.setattr(limits, "is_low_on_memory", lambda: is_low)
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) as child:
        try:
            child.stdout.readline()
            watcher = limits.Watcher(child.pid, [Path("/tmp")], limits.Limits(300_000_000, 0, 0, 0))
            with pytest.raises(limits.OverLimit, match=words):
                watcher.check()
        finally:
            child.kill()


def test_bytes_written_by_a_process_are_read(tmp_path):
    # Without the flush to the disk, the bytes may still be in memory only.
    program = f"import os, time; f = open({str(tmp_path / 'file')!r}, 'wb'); f.write(bytes(3_000_000)); f.flush(); os.fsync(f); print(flush=True); time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) as child:
        try:
            child.stdout.readline()
            assert limits.read_written_bytes(child.pid) >= 3_000_000
        finally:
            child.kill()


# Like a sandbox's process 1: it starts the engine, which enters a session of its own only when it comes to run. Then
# the engine starts a program in a third session. Each step waits for a line.
TREE = """
import os, sys, time

def fork(steps):
    if os.fork() == 0:
        steps()
        time.sleep(60)
        os._exit(0)

def engine():
    sys.stdin.readline()
    os.setsid()
    fork(os.setsid)
    print(flush=True)

os.setsid()
print(flush=True)
sys.stdin.readline()
fork(engine)
print(flush=True)
time.sleep(60)
"""
MOMENTS = ("before the engine starts", "before the engine's session", "after both")


def read_priority(pid):
    """Return the priority of a process among others: that of its session where the kernel groups by sessions."""
    group = Path(f"/proc/{pid}/autogroup")
    if not group.exists():
        return os.getpriority(os.PRIO_PROCESS, pid) - os.getpriority(os.PRIO_PROCESS, 0)
    return int(group.read_text().split()[-1])


@pytest.mark.parametrize("first", range(3), ids=MOMENTS)
def test_engine_keeps_its_priority_whenever_the_watcher_looks_first(first):
    """An engine with a low priority needs minutes for its start on a busy machine."""
    pipe = subprocess.PIPE
    command = [sys.executable, "-c", TREE]
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, bufsize=0) as child:
        watcher = Watcher(child.pid, [Path("/tmp")], Limits(0, 0, 0, 0))
        try:
            for moment in range(3):
                child.stdout.readline()
                if moment >= first:
                    watcher.check()
                child.stdin.write(b"\n")

            def find_leaders():
                pids = limits.list_descendants(child.pid)
                return pids if [os.getsid(pid) for pid in pids] == pids and len(pids) == 3 else None

            tree = wait_until(find_leaders, "process 1, the engine and the program")
            watcher.check()
            assert [read_priority(pid) for pid in tree] == [0, 0, limits.BACKGROUND_PRIORITY]
        finally:
            for pid in limits.list_descendants(child.pid):
                os.kill(pid, signal.SIGKILL)

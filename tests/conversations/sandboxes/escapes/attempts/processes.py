# ruff: noqa: PTH123
"""Attempts on processes outside of the sandbox: see, read, trace and end them."""

import ctypes
import os
import resource
import signal
import time
from pathlib import Path

from attempts.catalog import (
    Hints,
    Refused,
    attempt,
    call,
    check_errno,
    find_secret,
    libc,
    list_pids,
)

SERVER = "Reach the server's processes"
OTHERS = "Reach another sandbox"


@attempt(SERVER, "see their command lines", proof="command_line")
def see_processes(hints: Hints) -> str:
    for pid in [hints["victim"], *list_pids()]:
        try:
            return find_secret(Path(f"/proc/{pid}/cmdline").read_bytes(), "the command line")
        except (OSError, Refused):
            continue
    raise Refused(f"only {len(list_pids())} other processes are visible, and none is the server's")


@attempt(SERVER, "read `/proc/<pid>/environ`", proof="environ")
def read_environ(hints: Hints) -> str:
    return _search_environ([hints["victim"], *list_pids()])


def _search_environ(pids: list[int]) -> str:
    for pid in pids:
        try:
            return find_secret(Path(f"/proc/{pid}/environ").read_bytes(), "the environment")
        except (OSError, Refused):
            continue
    raise Refused("no environment of another process can be read and contains the secret")


@attempt(SERVER, "read their memory by `/proc/<pid>/mem`", proof="memory")
def read_memory(hints: Hints) -> str:
    return _search_memory([hints["victim"]])


def _search_memory(pids: list[int]) -> str:
    error: Exception = Refused("no memory can be read")
    for pid in pids:
        try:
            with open(f"/proc/{pid}/maps") as maps, open(f"/proc/{pid}/mem", "rb", 0) as memory:
                for line in maps:
                    first, last = (int(part, 16) for part in line.split()[0].split("-"))
                    if "rw" not in line or last - first > 50_000_000:
                        continue
                    memory.seek(first)
                    try:
                        return find_secret(memory.read(last - first), "the memory")
                    except (OSError, Refused):
                        continue
        except OSError as raised:
            error = raised
    raise error


class _Vector(ctypes.Structure):
    _fields_ = [("base", ctypes.c_void_p), ("length", ctypes.c_size_t)]


def _read_vector(pid: int, address: int) -> str:
    buffer = ctypes.create_string_buffer(100)
    local = _Vector(ctypes.addressof(buffer), 100)
    remote = _Vector(address, 100)
    call("process_vm_readv", pid, ctypes.byref(local), 1, ctypes.byref(remote), 1, 0)
    return find_secret(buffer.raw, "the memory")


@attempt(SERVER, "read their memory by `process_vm_readv`", proof="memory")
def read_memory_vector(hints: Hints) -> str:
    return _read_vector(hints["victim"], hints["victim_address"])


@attempt(SERVER, "trace one by `ptrace`", check="")
def trace(hints: Hints) -> str:
    return _trace(hints["victim"])


def _trace(pid: int) -> str:
    if libc.ptrace(16, pid, None, None):  # PTRACE_ATTACH
        check_errno("ptrace")
    os.waitpid(pid, 0x40000000)  # __WALL
    libc.ptrace(17, pid, None, None)  # PTRACE_DETACH
    return f"attached to {pid} and detached"


@attempt(SERVER, "take an open file by `pidfd_getfd`", proof="open_file")
def take_descriptor(hints: Hints) -> str:
    process = call("pidfd_open", hints["victim"], 0)
    return os.pread(call("pidfd_getfd", process, hints["victim_fd"], 0), 200, 0).decode()


@attempt(SERVER, "end one by SIGKILL", check="victim_killed")
def kill_server(hints: Hints) -> str:
    os.kill(hints["victim"], signal.SIGKILL)
    return "sent"


@attempt(SERVER, "stop one by SIGSTOP", check="victim_stopped")
def stop_server(hints: Hints) -> str:
    os.kill(hints["victim"], signal.SIGSTOP)
    time.sleep(0.2)
    return "sent"


@attempt(SERVER, "change its limits by `prlimit`", check="victim_limited")
def limit_server(hints: Hints) -> str:
    resource.prlimit(hints["victim"], resource.RLIMIT_NOFILE, (77, 77))
    return "set"


@attempt(SERVER, "lower its priority", check="victim_niced")
def nice_server(hints: Hints) -> str:
    os.setpriority(os.PRIO_PROCESS, hints["victim"], 19)
    return "set"


@attempt(
    SERVER,
    "end the keeper of this sandbox (control: a process of the server)",
    check="starter_killed",
)
def kill_starter(hints: Hints) -> str:
    os.kill(hints["starter"], signal.SIGKILL)
    return "sent"


@attempt(OTHERS, "its keys and secrets in environments", proof="other_environ")
def read_other_environ(hints: Hints) -> str:
    return _search_environ([*hints["other_pids"], *list_pids()])


@attempt(OTHERS, "its keys and secrets on command lines", proof="other_command_line")
def read_other_command_line(hints: Hints) -> str:
    for pid in [*hints["other_pids"], *list_pids()]:
        try:
            return find_secret(Path(f"/proc/{pid}/cmdline").read_bytes(), "the command line")
        except (OSError, Refused):
            continue
    raise Refused("no such process is visible")


@attempt(OTHERS, "its memory by `/proc/<pid>/mem`", proof="other_memory")
def read_other_memory(hints: Hints) -> str:
    return _search_memory([hints["other_victim"]])


@attempt(OTHERS, "its memory by `process_vm_readv`", proof="other_memory")
def read_other_memory_vector(hints: Hints) -> str:
    return _read_vector(hints["other_victim"], hints["other_victim_address"])


@attempt(OTHERS, "end its process by SIGKILL", check="other_killed")
def kill_other(hints: Hints) -> str:
    os.kill(hints["other_victim"], signal.SIGKILL)
    return "sent"

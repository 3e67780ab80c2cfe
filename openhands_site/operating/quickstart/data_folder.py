"""The data folder of a quickstart: its lock, and the space on its disk."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import psutil

from lib import processes
from openhands_site.operating import embedded, supervisor
from openhands_site.operating.embedded import CannotStart

REQUIRED_MEGABYTES = 300


@contextlib.contextmanager
def hold(folder: Path, console: supervisor.Console) -> Iterator[None]:
    """Create the folder and hold its lock. Raise ``CannotStart`` if it is in use, or its disk is full.

    Processes that a killed run has left behind are ended first.
    """
    with embedded.explain_errors(folder):
        embedded.make_private(folder)
        lock = processes.acquire_lock(folder / "quickstart.lock")
    if lock is None:
        raise embedded.AlreadyRunning(_already_running_message(folder))
    with lock:
        free = psutil.disk_usage(str(folder)).free // 1_000_000
        if free < REQUIRED_MEGABYTES:
            raise CannotStart(
                f"The disk of {folder} has only {free} MB free, but the server needs {REQUIRED_MEGABYTES} MB "
                "to start. Free some space, or choose a folder on another disk: make run "
                "DATA_DIR=/path/to/folder."
            )
        console.step("Data folder", str(folder))
        if ended := supervisor.end_leftovers(folder / "running.json"):
            console.step("Cleanup", f"ended {ended} processes of an earlier run")
        yield


def _already_running_message(folder: Path) -> str:
    with contextlib.suppress(OSError):
        pid = (folder / "quickstart.lock").read_text().strip()
        return (
            f"A server is already running with the data folder {folder} (process {pid}). Stop it with "
            f"Ctrl-C in its terminal or with `kill {pid}`, or start a second server with another folder and "
            "port: make run DATA_DIR=/other PORT=8001."
        )
    return f"A server is already running with the data folder {folder}."

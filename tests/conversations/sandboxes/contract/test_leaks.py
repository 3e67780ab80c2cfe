"""Many starts and stops leave nothing behind on the machine. ``SANDBOX_CYCLES=50`` makes the run longer."""

import contextlib
import json
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil

from conversations.sandboxes.provider import State
from tests.conversations.sandboxes.box import Box, list_alive, read_namespaces
from tests.waiting import wait_until

CYCLES = int(os.environ.get("SANDBOX_CYCLES", "5"))


def measure(sandboxes: Path) -> dict[str, object]:
    """Return what a leak would change, of this process and of the machine."""
    inodes = {str(path.stat().st_ino) for path in sandboxes.rglob("*") if path.exists()}
    locks = Path("/proc/locks").read_text().splitlines()
    return {
        "mounts": Path("/proc/mounts").read_text(),
        "files": sorted(str(path) for path in sandboxes.rglob("*") if path.name != "uid"),
        "descriptors": len(list(Path("/proc/self/fd").iterdir())),
        "threads": threading.active_count(),
        "children": len(psutil.Process().children(recursive=True)),
        "locks": [line for line in locks if line.split()[5].rpartition(":")[2] in inodes],
        "listeners": [line for line in list_unix_sockets() if str(sandboxes) in line],
    }


def list_unix_sockets() -> list[str]:
    return Path("/proc/net/unix").read_text().splitlines()


@contextlib.contextmanager
def hold_namespaces(processes: list[psutil.Process], own: set[str]) -> Iterator[set[str]]:
    """Keep the namespaces of processes open, except those in ``own``, and yield their names.

    The kernel gives the number of a namespace that has ended to a new one, for example of another test's sandbox.
    """
    with contextlib.ExitStack() as stack:
        names = set()
        for process in processes:
            # An ordinary user may not look into a process that is not dumpable, as the engine is.
            with contextlib.suppress(PermissionError):
                for link in Path(f"/proc/{process.pid}/ns").iterdir():
                    with contextlib.suppress(OSError):
                        descriptor = os.open(link, os.O_RDONLY)
                        stack.callback(os.close, descriptor)
                        names.add(str(Path(f"/proc/self/fd/{descriptor}").readlink()))
        yield names - own


def remove_marks(box: Box) -> None:
    """Remove the files that the daemons of the fake engine wrote."""
    for name in ("daemon1", "daemon2"):
        (box.project / name).unlink()


def test_cycles_of_start_and_stop_leave_nothing_behind(box: Box, settings):
    box.instruct("daemon")
    own, count = read_namespaces([psutil.Process()]), 0
    ended = 0
    starts: list[float] = []
    stops: list[float] = []
    box.start()
    box.wait_for_daemons()
    box.stop()
    remove_marks(box)
    before = measure(settings.SANDBOX_DIR)
    for number in range(CYCLES):
        began = time.monotonic()
        box.resume()
        starts.append(time.monotonic() - began)
        members = [*box.processes(), *box.wait_for_daemons()]
        ended += len(set(members))
        with hold_namespaces(members, own) as namespaces:
            count += len(namespaces)
            if number % 3 == 2:
                box.engine().kill()
                box.wait_for(State.FAILED)
            began = time.monotonic()
            box.stop(5)
            stops.append(time.monotonic() - began)
            remove_marks(box)
            assert list_alive(members) == []
            assert namespaces & read_namespaces(list(psutil.process_iter())) == set()

    # A thread waits for each ended process.
    wait_until(lambda: threading.active_count() <= before["threads"], "threads to end", seconds=5)
    after = measure(settings.SANDBOX_DIR)
    assert sorted({*after.pop("files")} ^ {*before.pop("files")}) == []
    assert after == before
    assert box.name == "process" or count >= 5 * CYCLES
    box.provider.destroy(box.handle)
    after = measure(settings.SANDBOX_DIR)
    assert (after["locks"], after["listeners"]) == ([], [])
    assert after["files"] == [str(settings.SANDBOX_DIR / ".locks")]
    figures = {
        "provider": box.name,
        "cycles": CYCLES,
        "processes": ended,
        "namespaces": count,
        "seconds_to_ready": [round(min(starts), 2), round(max(starts), 2)],
        "seconds_to_stop": [round(min(stops), 2), round(max(stops), 2)],
    }
    print("\n" + json.dumps({"test": "cycles"} | figures), flush=True)

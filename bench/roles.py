"""The benchmark of an idle server: CPU and memory of each role of ``make run`` while nobody is connected.

A whole server starts in a temporary folder, without the installation of the engine. It is measured when it has been
quiet for a while, and its memory again when each role has been restarted once. The memory is the proportional set size
(a page that n processes share counts as one n-th), so the figures of processes that were forked from each other can be
added. CPU is in cores: 1 is one busy core.
"""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil

from bench import report
from bench.first_minute import server_environment

ROOT = Path(__file__).resolve().parent.parent
QUIET_SECONDS = 20
"""The pause between the line ``Ready`` and the first measurement."""
MEASURED_SECONDS = 60
RESTART_SECONDS = 60
"""How long a role may take to end after SIGTERM and to be started again."""
SERVICES = {"postgres": "PostgreSQL", "valkey-server": "Redis"}


def run() -> list[dict[str, Any]]:
    """Return cores and megabytes of each role and service, and of all together, also after restarts."""
    with tempfile.TemporaryDirectory(prefix="oh-bench-") as folder, _server(folder) as pids:
        time.sleep(QUIET_SECONDS)
        groups = _group(pids)
        before = {name: _cpu_seconds(group) for name, group in groups.items()}
        began = time.monotonic()
        time.sleep(MEASURED_SECONDS)
        seconds = time.monotonic() - began
        # PostgreSQL's processes of connections come and go.
        groups = _group(pids)
        cores = {
            name: (_cpu_seconds(group) - before.get(name, 0.0)) / seconds
            for name, group in groups.items()
        }
        megabytes = {name: _megabytes(group) for name, group in groups.items()}
        groups = _group(_restart(pids, Path(folder)))
        after = {name: _megabytes(group) for name, group in groups.items()}
    ours = [name for name in groups if name not in SERVICES.values()]
    cores["our roles together"] = sum(cores[name] for name in ours)
    for values in (megabytes, after):
        values["all together"] = sum(values.values())
    reach = {"our roles together": "<= 0.03 cores", "all together": "< 300 MB"}
    return [
        report.figure("roles", f"{name}, {what}", value, unit=unit, reach=reach.get(name, ""))
        for what, unit, values in (
            ("idle CPU", "cores", cores),
            ("memory", "MB", megabytes),
            ("memory after each role was restarted once", "MB", after),
        )
        for name, value in values.items()
    ]


@contextlib.contextmanager
def _server(folder: str) -> Iterator[dict[str, int]]:
    """Run a server in a folder. Yield the process ids of its roles and of its supervisor, by name."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    command = [sys.executable, str(ROOT / "manage.py"), "quickstart", "--no-engine", "--json"]
    command += ["--data-dir", folder, "--port", str(port)]
    with subprocess.Popen(
        command,
        env=server_environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as process:
        try:
            assert process.stdout is not None
            if not (line := process.stdout.readline()):
                raise RuntimeError(f"quickstart exited with {process.wait()} before it was ready")
            yield json.loads(line)["pids"] | {"supervisor": process.pid}
        finally:
            process.send_signal(signal.SIGINT)
            process.communicate(timeout=60)


def _restart(pids: dict[str, int], folder: Path) -> dict[str, int]:
    """End each role once with SIGTERM. Return the new process ids by name when the server has been quiet again."""
    new = {"supervisor": pids["supervisor"]}
    for name in pids.keys() - new.keys():
        os.kill(pids[name], signal.SIGTERM)
        deadline = time.monotonic() + RESTART_SECONDS
        while (pid := _running(folder).get(name, pids[name])) == pids[name]:
            if time.monotonic() > deadline:
                raise RuntimeError(f"{name} was not restarted within {RESTART_SECONDS} s")
            time.sleep(0.1)
        new[name] = pid
    time.sleep(QUIET_SECONDS)
    if new != _running(folder) | {"supervisor": pids["supervisor"]}:
        raise RuntimeError("a role was restarted more than once")
    return new


def _running(folder: Path) -> dict[str, int]:
    """Return the process ids that the supervisor has recorded, by role."""
    try:
        record = json.loads((folder / "running.json").read_text())
    except ValueError:  # it is being written
        return {}
    return {name: entry[0] for name, entry in record.items()}


def _group(pids: dict[str, int]) -> dict[str, list[psutil.Process]]:
    """Return the processes of each role and service, and other processes that the supervisor has started, by name."""
    known = {pid: name for name, pid in pids.items()}
    supervisor = psutil.Process(pids["supervisor"])
    groups: dict[str, list[psutil.Process]] = {name: [] for name in pids}
    for process in (supervisor, *supervisor.children(recursive=True)):
        with contextlib.suppress(psutil.Error):
            name = known.get(process.pid) or SERVICES.get(process.name(), process.name())
            groups.setdefault(name, []).append(process)
    return groups


def _cpu_seconds(group: list[psutil.Process]) -> float:
    """Return the CPU seconds of processes, and of their children that have ended."""
    total = 0.0
    for process in group:
        with contextlib.suppress(psutil.Error):
            times = process.cpu_times()
            total += times.user + times.system + times.children_user + times.children_system
    return total


def _megabytes(group: list[psutil.Process]) -> float:
    total = 0.0
    for process in group:
        with contextlib.suppress(psutil.Error):
            total += process.memory_full_info().pss / 1_000_000
    return total

"""The benchmark of opening a thousand sockets, and of the CPU time that they use while nothing happens.

The server is a process of the web role with the settings of a server in production, started as ``make run`` starts it,
with its log in a file. 32 sockets are being opened at a time. A socket is open when it has received the last frame that
a new client receives. The reference is the native socket on as many conversations.
"""

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
from django.conf import settings
from django.db import connection
from redis import Redis

from bench import logs, report
from bench.protocols import ALL, NATIVE, Protocol, append
from bench.visitors import Visitors
from bench.webs import ROOT, Web, web

SOCKETS = 1_000
IDLE_SECONDS = float(os.environ.get("BENCH_IDLE_SECONDS", "60"))
SETTLE_SECONDS = 5.0
EVENTS = 4
"""The number of events in each log."""
OF_BENCHES = ("LOG_LEVEL", "HUB_POLL_SECONDS", "SOCKET_BUFFER_BYTES", "RATE_LIMITS")
"""The settings in which benchmarks otherwise differ from a server in production."""


def run() -> list[dict[str, Any]]:
    """Return the seconds of opening, the transactions meanwhile, and the cores that idle sockets use."""
    for name in OF_BENCHES:
        os.environ.pop(name, None)
    user, header = logs.user_with_key()
    pks = [logs.conversation(user).pk for _ in range(SOCKETS)]
    for pk in pks:
        append(pk, 0, EVENTS)
    nobody = _idle_without_sockets()
    figures, references = [], {}
    for protocol in (NATIVE, *(each for each in ALL if each is not NATIVE)):
        for conversations in (1, SOCKETS):
            paths = [protocol.path_of(pk, header) for pk in pks[:conversations]]
            paths *= SOCKETS // conversations
            opened = _measure(protocol, paths, header)
            reference = references.setdefault(conversations, opened)
            name = f"{protocol.name}, {SOCKETS:,} sockets of {conversations:,}"
            figures += _figures(name, opened, reference, nobody)
    return figures


def _figures(
    name: str, opened: dict[str, Any], reference: dict[str, Any], nobody: dict[str, float]
) -> list[dict[str, Any]]:
    figures = [
        report.figure(
            "opening",
            name,
            opened["seconds"],
            reference["seconds"],
            unit="s",
            reach="<= 4 s",
            transactions=opened["transactions"],
            web_cpu_seconds=opened["cpu"],
            clients_cpu_seconds=opened["clients_cpu"],
        )
    ]
    if idle := opened["idle"]:
        figures.append(
            report.figure(
                "opening",
                f"{name}, idle",
                idle["web"],
                reference["idle"]["web"],
                unit="cores",
                reach="<= 0.06 cores of all roles",
                postgres=idle["postgres"],
                redis=idle["redis"],
                nobody=nobody,
            )
        )
    return figures


def _measure(protocol: Protocol, paths: list[str], header: str) -> dict[str, Any]:
    """Open the sockets on a new server, and measure the opening and the idle time after it."""
    headers = header if protocol is NATIVE else ""
    with _production() as process:
        port = int(process.url.rpartition(":")[2])
        visitors = Visitors(port, paths, protocol.joined, headers=headers, hello=protocol.hello)
        try:
            time.sleep(1.0)
            transactions, pids = _transactions(), (process.pid, visitors.pid)
            before = [_cpu_of(pid) for pid in pids]
            seconds = visitors.open()
            cpu, of_clients = (
                round(_cpu_of(pid) - used, 2) for pid, used in zip(pids, before, strict=True)
            )
            opened: dict[str, Any] = {"seconds": seconds, "cpu": cpu, "clients_cpu": of_clients}
            opened["transactions"] = _transactions() - transactions
            # One conversation is the easier case of two, and a minute is long.
            is_hard = len(set(paths)) > 1
            opened["idle"] = _idle(process.pid) if is_hard else None
            return opened
        finally:
            visitors.close()


@contextmanager
def _production() -> Iterator[Web]:
    """Run a web process with the settings of production, and its log in a file."""
    log = Path(settings.DATA_DIR) / "web.log"
    words = f"exec '{sys.executable}' '{ROOT / 'manage.py'}' run_web --fd {{fd}} >>'{log}' 2>&1"
    with web("sh", "-c", words) as process:
        yield process


# --- Measuring --------------------------------------------------------------------


def _idle_without_sockets() -> dict[str, float]:
    with _production() as process:
        return _idle(process.pid)


def _idle(pid: int) -> dict[str, float]:
    """Return the cores that the web process, PostgreSQL and Redis use while nothing happens."""
    connection.close()
    time.sleep(SETTLE_SECONDS)
    groups = {"web": [pid], "postgres": _postgres(), "redis": [_redis()]}
    before = {pid: _cpu_of(pid) for pids in groups.values() for pid in pids}
    started = time.perf_counter()
    time.sleep(IDLE_SECONDS)
    elapsed = time.perf_counter() - started
    # A process that ended meanwhile, such as PostgreSQL's of a closed connection, counts as idle.
    used = {pid: max(0.0, _cpu_of(pid) - earlier) for pid, earlier in before.items()}
    return {
        name: round(sum(used[pid] for pid in pids) / elapsed, 4) for name, pids in groups.items()
    }


def _postgres() -> list[int]:
    """Return the process ids of the PostgreSQL server of this run."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_backend_pid()")
        parent = psutil.Process(cursor.fetchone()[0]).parent()
    connection.close()
    assert parent is not None
    return [parent.pid, *(child.pid for child in parent.children())]


def _redis() -> int:
    with Redis.from_url(settings.REDIS_URL) as client:
        return int(client.info("server")["process_id"])


def _cpu_of(pid: int) -> float:
    """Return the CPU seconds of a process, or 0 if it has ended."""
    try:
        times = psutil.Process(pid).cpu_times()
    except psutil.NoSuchProcess:
        return 0.0
    return times.user + times.system


def _transactions() -> int:
    """Return the number of PostgreSQL's transactions so far. A statement outside a transaction counts as one."""
    time.sleep(1.5)  # connections report their numbers at most once a second
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT xact_commit + xact_rollback FROM pg_stat_database WHERE datname = current_database()"
        )
        count: int = cursor.fetchone()[0]
    return count

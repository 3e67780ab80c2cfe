"""The benchmark of this server's own parts, each compared with a package that could replace it (ADR 17)."""

import sys
import time
from typing import Any

import psutil
from django.core.cache import cache
from django.test import RequestFactory

from bench import load, logs, report
from bench.fanout import EVENT, _ours, _rates
from bench.idle import _grown
from bench.server import Server
from bench.sockets import Crowd, text_of_kilobyte
from bench.webs import Web, web
from lib import limits

SOCKETS, EVENTS = 100, 300
COUNTS = 600
SECONDS = 1.5
DAPHNE = (
    sys.executable,
    "-m",
    "daphne",
    "-v",
    "0",
    "--fd",
    "{fd}",
    "openhands_site.asgi:application",
)


def run() -> list[dict[str, Any]]:
    """Compare sockets with Channels consumers, uvicorn with Daphne, and counting in blocks with django-ratelimit."""
    return [*_consumers(), *_servers(), _counters()]


def _consumers() -> list[dict[str, Any]]:
    """Compare the deliveries per CPU second to 100 sockets, and the memory of 1,000 idle sockets."""
    server = Server()
    try:
        crowd = Crowd(server.port, ["/consumer"] * SOCKETS, EVENT)
        theirs = _rates(server, crowd, SOCKETS, EVENTS, _group)
        ours = _ours(server, 1, SOCKETS, EVENTS)
    finally:
        server.close()
    user, header = logs.user_with_key()
    paths = [f"/ws/v1/conversations/{logs.conversation(user).pk}" for _ in range(100)]
    grown = []
    for addresses, headers in ((paths, header), (["/consumer"], "")):
        server = Server()
        try:
            grown.append(_grown(server, addresses, headers))
        finally:
            server.close()
    return [
        report.figure(
            "packages", "sockets beside Channels consumers, 100 sockets",
            ours[1], theirs[1], unit="deliveries/CPU s",
        ),
        report.figure(
            "packages", "sockets beside Channels consumers, 1,000 idle", grown[0], grown[1], unit="MiB"
        ),
    ]  # fmt: skip


def _group(server: Server, events: int) -> None:
    server.ask("group", text_of_kilobyte(), events)


def _servers() -> list[dict[str, Any]]:
    """Compare ``run_web`` with Daphne and the same application: CPU time per request, and resident memory."""
    user, header = logs.user_with_key()
    record = f"/api/v1/conversations/{logs.conversation(user).pk}"
    headers = dict([header.split(": ", 1)])
    with web() as ours, web(*DAPHNE) as theirs:
        cpu_by_name = {
            name: [_cpu(one, path, headers) for one in (ours, theirs)]
            for name, path in (("/alive", "/alive"), ("record by key", record))
        }
        memory = [psutil.Process(one.pid).memory_info().rss / 1e6 for one in (ours, theirs)]
    rows = [
        report.figure("packages", f"uvicorn beside Daphne, {name}", *pair, unit="CPU ms a request")
        for name, pair in cpu_by_name.items()
    ]
    return [*rows, report.figure("packages", "uvicorn beside Daphne, resident", *memory, unit="MB")]


def _cpu(server: Web, path: str, headers: dict[str, str]) -> float:
    load.run(server.pid, server.url + path, seconds=0.5, headers=headers)
    return load.run(server.pid, server.url + path, seconds=SECONDS, headers=headers).cpu_ms


def _counters() -> dict[str, Any]:
    """Return the microseconds that counting a request takes: in reserved blocks, and one by one."""
    request = RequestFactory().get("/")
    cache.clear()
    microseconds = {}
    for name, count in (("blocks", limits.count_in_blocks), ("one by one", limits.count)):
        started = time.perf_counter()
        for _ in range(COUNTS):
            count(request, group="bench", value=name, rate="120000/m")
        microseconds[name] = (time.perf_counter() - started) / COUNTS * 1e6
    return report.figure(
        "packages",
        "counting in blocks beside django-ratelimit",
        microseconds["blocks"],
        microseconds["one by one"],
        unit="us",
    )

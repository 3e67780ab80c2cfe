"""The benchmark of fan-out: the hub, compared with a minimal ASGI broadcaster and python-socketio on one uvicorn.

Fan-out is the delivery of one event to many sockets. The events of 1 KB are in the log before the measurement starts.
Then one nudge (a wake-up of the hub) per conversation is sent through Redis. The measurement ends when the last client
has received its last frame, so it includes reading, serializing and sending, but not appending.
"""

import time
from collections.abc import Callable
from typing import Any

from bench import logs, report
from bench.server import Server
from bench.sockets import Crowd, text_of_kilobyte
from conversations import announcing
from lib.bus import publisher

ROUNDS = 3
EVENT = '{"type":"event"'
HELLO_PATH = "/socket.io/?EIO=4&transport=websocket"
SHAPES = ((1, 100, 500), (1, 500, 120), (100, 1, 300))
"""Numbers of conversations, of sockets per conversation and of events per conversation."""


def run() -> list[dict[str, Any]]:
    """Return deliveries per second and per CPU second, and the delay from commit to the last client at half load."""
    figures: list[dict[str, Any]] = []
    server = Server()
    try:
        for conversations, each, events in SHAPES:
            figures += _shape(server, conversations, each, events)
        capacity = figures[0]["ours"] / SHAPES[0][1]
        figures.append(_latency(server, events_per_second=min(capacity / 2, 300)))
    finally:
        server.close()
    return figures


def _shape(server: Server, conversations: int, each: int, events: int) -> list[dict[str, Any]]:
    name = f"{conversations} x {each}"
    bare = _rates(
        server,
        Crowd(server.port, ["/bare"] * (conversations * each), EVENT),
        conversations * each,
        events,
        _bare,
    )
    ours = _ours(server, conversations, each, events)
    reach = ">= 0.6 of bare ASGI"
    figures = [
        report.figure("fanout", name, ours[0], bare[0], unit="deliveries/s", reach=reach),
        report.figure(
            "fanout", f"{name}, by CPU", ours[1], bare[1], unit="deliveries/CPU s", reach=reach
        ),
    ]
    if conversations == 1:
        crowd = Crowd(server.port, [HELLO_PATH] * each, "42[", hello="40")
        peer = _rates(server, crowd, each, max(20, events // 5), _emit)
        reach = ">= 1 of python-socketio"
        figures.append(
            report.figure(
                "fanout", f"{name}, peer", ours[0], peer[0], unit="deliveries/s", reach=reach
            )
        )
    return figures


def _bare(server: Server, events: int) -> None:
    server.ask("bare", text_of_kilobyte(), events)


def _emit(server: Server, events: int) -> None:
    server.ask("emit", {"text": "x" * 950}, events)


def _rates(
    server: Server, crowd: Crowd, sockets: int, events: int, send: Callable[[Server, int], None]
) -> tuple[float, float]:
    """Return the server's deliveries per second and per CPU second: the medians of several measurements."""
    wall, cpu = [], []
    try:
        crowd.ready()
        for _ in range(ROUNDS):
            crowd.expect(events)
            time.sleep(0.2)
            before, started = server.ask("cpu"), time.time()
            send(server, events)
            ended, _ = crowd.counted()
            wall.append(events * sockets / (ended - started))
            cpu.append(events * sockets / (server.ask("cpu") - before))
            _settle(crowd)
    finally:
        crowd.close()
    return report.typical(wall), report.typical(cpu)


def _settle(crowd: Crowd) -> None:
    time.sleep(0.5)


def _ours(server: Server, conversations: int, each: int, events: int) -> tuple[float, float]:
    user, header = logs.user_with_key()
    pks = [logs.conversation(user).pk for _ in range(conversations)]
    paths = [f"/ws/v1/conversations/{pk}" for pk in pks for _ in range(each)]
    nudge = publisher.nudge
    done = 0

    def send() -> None:
        for pk in pks:
            announcing.announce(pk)

    crowd = Crowd(server.port, paths, EVENT, headers=header)
    wall, cpu = [], []
    try:
        crowd.ready()
        time.sleep(1.0)
        for _ in range(ROUNDS):
            publisher.nudge = lambda *_: None
            for pk in pks:
                for first in range(done, done + events, 100):
                    logs.append(pk, first, min(100, done + events - first))
            publisher.nudge = nudge
            done += events
            crowd.expect(events)
            time.sleep(0.2)
            before, started = server.ask("cpu"), time.time()
            send()
            ended, _ = crowd.counted()
            wall.append(events * conversations * each / (ended - started))
            cpu.append(events * conversations * each / (server.ask("cpu") - before))
            _settle(crowd)
    finally:
        publisher.nudge = nudge
        crowd.close()
    return report.typical(wall), report.typical(cpu)


def _latency(server: Server, *, events_per_second: float) -> dict[str, Any]:
    """Append single events at half the capacity of 100 sockets. Return the delay from commit to the last client."""
    user, header = logs.user_with_key()
    pk = logs.conversation(user).pk
    events = int(events_per_second * 5)
    crowd = Crowd(server.port, [f"/ws/v1/conversations/{pk}"] * 100, EVENT, headers=header)
    try:
        crowd.ready()
        crowd.expect(events)
        committed = []
        begin = time.time()
        for number in range(events):
            time.sleep(max(0.0, begin + number / events_per_second - time.time()))
            logs.append(pk, number, 1)
            committed.append(time.time())
        _, arrivals = crowd.counted()
    finally:
        crowd.close()
    waits = sorted(a - c for a, c in zip(arrivals, committed, strict=True))
    p99 = waits[int(len(waits) * 0.99)] * 1000
    return report.figure(
        "fanout",
        f"commit to last of 100 clients, p99 at {events_per_second:.0f} events/s",
        p99,
        unit="ms",
        reach="<= 150",
        p50=round(waits[len(waits) // 2] * 1000, 1),
    )

"""The benchmark of growth: the cost of operations for logs of 10^3 to 10^6 events and for 1 to 2,000 sockets."""

import time
from collections.abc import Callable
from typing import Any
from uuid import UUID

from django.db import connection

from bench import logs, report
from bench.server import Server
from bench.sockets import Crowd
from conversations.models import Conversation
from conversations.realtime import feed, reading
from lib.bus import publisher

LENGTHS = (1_000, 10_000, 100_000, 1_000_000)
AUDIENCES = (1, 10, 100, 1_000, 2_000)
DELIVERIES = 40_000
FLAT = "within 1.3 of 1,000 events"
FILL = """
INSERT INTO conversations_event (organization_id, conversation_id, seq, event_id, kind, source, payload,
    engine_seq, received_at)
SELECT %s, %s, n, 'g' || n, 'ObservationEvent', 'environment', '{"text": "' || repeat('x', 200) || '"}',
    n - 1, now()
FROM generate_series(1, %s) AS n"""


def run() -> list[dict[str, Any]]:
    """Return milliseconds by log size, compared with the smallest size, and deliveries per second by socket count."""
    return [*_by_length(), *_by_audience()]


def _by_length() -> list[dict[str, Any]]:
    user, _ = logs.user_with_key()
    pks = {length: _create_log(user, length) for length in LENGTHS}
    with connection.cursor() as cursor:
        cursor.execute("VACUUM ANALYZE conversations_event")
    figures = []
    measures: dict[str, Callable[[UUID, int, int], Any]] = {
        "append of 1": lambda pk, length, n: logs.append(pk, length + n, 1),
        "page of 100 in the middle": lambda pk, length, _n: reading.read_events(
            pk, length // 2, 100
        ),
        "one nudge's reading": lambda pk, length, _n: reading.read({pk: length - 2}, feed.PAGE),
    }
    nudge, publisher.nudge = publisher.nudge, lambda *_: None
    try:
        for what, act in measures.items():
            times = _times(act, pks)
            figures += [
                report.figure(
                    "growth",
                    f"{what}, log of {length:,}",
                    times[length],
                    times[LENGTHS[0]],
                    unit="ms",
                    reach=FLAT,
                )
                for length in LENGTHS
            ]
    finally:
        publisher.nudge = nudge
    return figures


def _times(act: Callable[[UUID, int, int], Any], pks: dict[int, UUID]) -> dict[int, float]:
    """Return the median time by log size. The logs are measured in turn, so that other load affects all of them."""
    milliseconds: dict[int, list[float]] = {length: [] for length in pks}
    for n in range(120):
        for length, pk in pks.items():
            started = time.perf_counter()
            act(pk, length, n)
            milliseconds[length].append((time.perf_counter() - started) * 1000)
    return {length: report.typical(values[20:]) for length, values in milliseconds.items()}


def _create_log(user: Any, length: int) -> UUID:
    conversation = logs.conversation(user)
    with connection.cursor() as cursor:
        cursor.execute(FILL, (conversation.organization_id, conversation.pk, length))
    rows = Conversation.objects.filter(pk=conversation.pk)
    rows.update(last_seq=length, engine_seq=length - 1)
    return conversation.pk


def _by_audience() -> list[dict[str, Any]]:
    server = Server()
    try:
        return [_audience(server, sockets) for sockets in AUDIENCES]
    finally:
        server.close()


def _audience(server: Server, sockets: int) -> dict[str, Any]:
    user, header = logs.user_with_key()
    pk = logs.conversation(user).pk
    events = max(20, min(1_000, DELIVERIES // sockets))
    crowd = Crowd(
        server.port, [f"/ws/v1/conversations/{pk}"] * sockets, '{"type":"event"', headers=header
    )
    try:
        crowd.ready()
        crowd.expect(events)
        before, started = server.ask("cpu"), time.time()
        for first in range(0, events, 20):
            logs.append(pk, first, min(20, events - first))
        ended, _ = crowd.counted()
        cpu_seconds = server.ask("cpu") - before
    finally:
        crowd.close()
    return report.figure(
        "growth",
        f"live, {sockets:,} sockets",
        events * sockets / (ended - started),
        unit="deliveries/s",
        reach="grows up to its limit",
        microseconds_of_cpu_each=round(cpu_seconds / events / sockets * 1e6, 1),
    )

"""The benchmark of the table of events at growing sizes.

Many logs grow in parallel, so the events of one log are far apart in the table, which is the worst case.

``--full`` measures up to 10,000,000 rows, which take 7 GB and a quarter of an hour.
"""

import random
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any
from uuid import UUID, uuid4

from django.db import connection

from bench import logs, report
from conversations import services
from conversations.models import Conversation
from conversations.realtime import feed, reading
from lib.bus import publisher

SIZES = (200_000, 2_000_000, 10_000_000) if "--full" in sys.argv else (100_000, 500_000)
LOGS = 20_000
PAGE = SIZES[0] // LOGS
"""The number of events in a page. It is the length of a log in the smallest table."""
CHUNK = 250_000
SAMPLES = 400
INDEXES = ("event_seq_unique", "event_id_unique", "conversations_event_pkey")
FILL = """
INSERT INTO conversations_event (organization_id, conversation_id, seq, event_id, kind, source, payload,
    engine_seq, received_at)
SELECT %(organization)s, logs.id, n / %(logs)s + 1, gen_random_uuid()::text, 'ObservationEvent', 'environment',
    '{"text": "' || repeat('x', 200) || '"}', n / %(logs)s, now()
FROM generate_series(%(first)s::bigint, %(last)s::bigint) AS n
JOIN unnest(%(ids)s::uuid[]) WITH ORDINALITY AS logs (id, place) ON logs.place = n %% %(logs)s + 1
ORDER BY n"""


def run() -> list[dict[str, Any]]:
    """Return by table size the milliseconds of each operation, compared with the smallest table, and the disk space."""
    user, _ = logs.user_with_key()
    pks = _conversations(user)
    figures: list[dict[str, Any]] = []
    smallest: dict[str, float] = {}
    nudge, publisher.nudge = publisher.nudge, lambda *_: None
    try:
        stored = 0
        for size in SIZES:
            started = time.perf_counter()
            _fill(user, pks, stored, size)
            rate = (size - stored) / (time.perf_counter() - started)
            stored = size
            for what, act in _acts(size // LOGS).items():
                middle, late = _times(act, pks)
                figures.append(
                    report.figure(
                        "table",
                        f"{what}, {size:,} rows",
                        middle,
                        smallest.setdefault(what, middle),
                        unit="ms",
                        reach=f"within 1.3 of {SIZES[0]:,} rows",
                        p95=round(late, 2),
                    )
                )
            figures.append(_sizes(size, rate))
    finally:
        publisher.nudge = nudge
    return figures


def _conversations(user: Any) -> list[UUID]:
    """Create conversations of external runs, to which events can be published, and return their ids."""
    fields = {"organization": user.personal_organization, "created_by": user, "is_external": True}
    rows = Conversation.objects.bulk_create(
        [Conversation(**fields, title="One of many", model="elsewhere") for _ in range(LOGS)],
        batch_size=2_000,
    )
    return [conversation.pk for conversation in rows]


def _fill(user: Any, pks: Sequence[UUID], first: int, last: int) -> None:
    organization = user.personal_organization.pk
    with connection.cursor() as cursor:
        # Remove the events that were appended while the previous size was measured.
        cursor.execute("DELETE FROM conversations_event WHERE seq > %s", [first // LOGS])
        # Skip the checks of foreign keys, which take most of the time.
        cursor.execute("SET session_replication_role = replica")
        for start in range(first, last, CHUNK):
            stop = min(start + CHUNK, last) - 1
            names = {"organization": organization, "ids": list(pks), "logs": LOGS}
            cursor.execute(FILL, names | {"first": start, "last": stop})
        cursor.execute("SET session_replication_role = DEFAULT")
        cursor.execute(
            "UPDATE conversations_conversation SET last_seq = %s, engine_seq = %s WHERE id = ANY(%s)",
            [last // LOGS, last // LOGS - 1, list(pks)],
        )
        cursor.execute("VACUUM ANALYZE conversations_event")
        cursor.execute("VACUUM ANALYZE conversations_conversation")


def _acts(length: int) -> dict[str, Callable[[UUID], Any]]:
    return {
        "append of 1": _append,
        f"page of {PAGE}": lambda pk: reading.read_events(pk, length - PAGE, PAGE),
        "one nudge's reading": lambda pk: reading.read({pk: length - 1}, feed.PAGE),
    }


def _append(pk: UUID) -> None:
    event = logs.PAYLOAD.replace("{", f'{{"id":"{uuid4()}",', 1).encode()
    services.publish_events(conversation_id=pk, batches=[[event]])


def _times(act: Callable[[UUID], Any], pks: Sequence[UUID]) -> tuple[float, float]:
    """Return the median and the 95th percentile in milliseconds. Each call uses another log, to avoid cached pages."""
    milliseconds = []
    for pk in random.sample(pks, SAMPLES):
        started = time.perf_counter()
        act(pk)
        milliseconds.append((time.perf_counter() - started) * 1000)
    milliseconds.sort()
    return report.typical(milliseconds), milliseconds[int(len(milliseconds) * 0.95)]


def _sizes(size: int, rate: float) -> dict[str, Any]:
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_table_size('conversations_event')")
        heap = cursor.fetchone()[0]
        indexes = {}
        for name in INDEXES:
            cursor.execute("SELECT pg_relation_size(%s::regclass)", [name])
            indexes[name] = round(cursor.fetchone()[0] / 2**20 / (size / 1e6))
    return report.figure(
        "table",
        f"size of a million, of {size:,}",
        heap / 2**20 / (size / 1e6),
        unit="MiB",
        indexes_mib_per_million=indexes,
        rows_loaded_per_second=round(rate),
    )

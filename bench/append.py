"""The benchmark of durable appends: ``services.ingest_events``, compared with the same SQL in psycopg alone.

One request is one call with one commit, and includes the parsing of the engine's frames. The reference parses nothing
and uses prepared statements on a separate connection.
"""

import threading
import time
from collections.abc import Callable
from typing import Any
from uuid import UUID, uuid4

import psycopg
from django.db import connection, connections
from django.utils import timezone

from bench import logs, report
from conversations import services
from conversations.models import Conversation, NewEvent
from conversations.models.append import FENCED, PUBLISHED, build_columns
from lib.bus import publisher

SECONDS = 0.8
ROUNDS = 5
SIZES = (
    (1, ">= 0.6 of bare psycopg"),
    (20, ">= 0.7 of bare psycopg"),
    (100, ">= 0.8 of bare psycopg"),
)
"""The numbers of events per request, each with its goal."""
SENDERS = 8


def run() -> list[dict[str, Any]]:
    """Return the events per second for each batch size, and for several senders that write to one conversation."""
    user, _ = logs.user_with_key()
    nudge, publisher.nudge = publisher.nudge, lambda *_: None
    try:
        return [
            *(_size(user, size, reach) for size, reach in SIZES),
            _measure_one_conversation(user),
        ]
    finally:
        publisher.nudge = nudge


def _size(user: Any, size: int, reach: str) -> dict[str, Any]:
    """Measure the service and the reference alternately, so that other load on the machine affects both."""
    ours, bare = [], []
    for _ in range(ROUNDS):
        pk, other = logs.conversation(user).pk, logs.conversation(user).pk
        ours.append(_rate(size, lambda n, pk=pk: logs.append(pk, n * size, size)))
        with bare_connection() as link:
            bare.append(_rate(size, _bare(link, other, size)))
    return report.figure(
        "append",
        f"{size} a request",
        report.typical(ours),
        report.typical(bare),
        unit="events/s",
        reach=reach,
    )


def _rate(size: int, batch: Callable[[int], None]) -> float:
    for n in range(5):
        batch(n)
    done, started = 0, time.perf_counter()
    while time.perf_counter() - started < SECONDS:
        batch(5 + done)
        done += 1
    return done * size / (time.perf_counter() - started)


def bare_connection() -> psycopg.Connection:
    """Return a psycopg connection with the parameters of Django's connections."""
    all_params = connection.get_connection_params()
    names = ("dbname", "user", "host", "port", "password", "options")
    params = {name: all_params[name] for name in names if all_params.get(name) is not None}
    return psycopg.connect(**params, autocommit=True, prepare_threshold=2)


def _bare(link: psycopg.Connection, pk: UUID, size: int) -> Callable[[int], None]:
    def batch(number: int) -> None:
        first, now = number * size, timezone.now()
        ids = [f"e{seq}" for seq in range(first, first + size)]
        columns = build_columns(
            [
                NewEvent(i, "ObservationEvent", "environment", logs.PAYLOAD, n)
                for n, i in enumerate(ids)
            ]
        )
        with link.cursor() as cursor:
            held = (size, first + size - 1, now, pk, 1, first - 1)
            cursor.execute(FENCED, (*held, now, *columns))
            assert cursor.fetchall()

    return batch


# --- Several senders to one conversation ----------------------------------------------


def _measure_one_conversation(user: Any) -> dict[str, Any]:
    ours, bare = [], []
    for _ in range(ROUNDS):
        ours.append(_run_senders(_our_sender(external(user))))
        bare.append(_run_senders(_bare_sender(external(user))))
    return report.figure(
        "append",
        f"one conversation, {SENDERS} senders",
        report.typical(ours),
        report.typical(bare),
        unit="events/s",
        reach=">= 0.8 of bare SQL",
    )


def _run_senders(sender: Callable[[threading.Event], int]) -> float:
    stop, counts = threading.Event(), []
    threads = [threading.Thread(target=lambda: counts.append(sender(stop))) for _ in range(SENDERS)]
    started = time.perf_counter()
    for thread in threads:
        thread.start()
    time.sleep(SECONDS)
    stop.set()
    for thread in threads:
        thread.join()
    return sum(counts) / (time.perf_counter() - started)


def _our_sender(pk: UUID) -> Callable[[threading.Event], int]:
    """Return a sender that publishes events to an external run, and waits until each event is stored."""

    def send(stop: threading.Event) -> int:
        count = 0
        while not stop.is_set():
            text = logs.PAYLOAD.replace("{", f'{{"id":"{uuid4()}",', 1).encode()
            services.publish_events(conversation_id=pk, batches=[[text]])
            count += 1
        connections.close_all()
        return count

    return send


def _bare_sender(pk: UUID) -> Callable[[threading.Event], int]:
    def send(stop: threading.Event) -> int:
        count = 0
        with bare_connection() as link:
            while not stop.is_set():
                now, columns = timezone.now(), build_columns([_new()])
                link.execute(PUBLISHED, (pk, 1, now, 0, now, *columns)).fetchall()
                count += 1
        return count

    return send


def _new() -> NewEvent:
    return NewEvent(str(uuid4()), "ObservationEvent", "environment", logs.PAYLOAD)


def external(user: Any) -> UUID:
    """Create a conversation of an external run, to which programs publish events, and return its id."""
    conversation = logs.conversation(user)
    Conversation.objects.filter(pk=conversation.pk).update(is_external=True)
    return conversation.pk

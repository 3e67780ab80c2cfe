"""The benchmark of publishing over gRPC to a process of the ``grpc`` role, compared with the same SQL in psycopg.

The client uses one stream with batches of 20 events, and waits while 16 batches are unacknowledged. The client, the
server and the database share the processors of this machine.
"""

import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import grpc
from django.conf import settings
from django.utils import timezone

from bench import append, logs, report
from conversations.grpc.v1 import events_pb2 as wire
from conversations.grpc.v1.events_pb2_grpc import EventServiceStub
from conversations.models import NewEvent
from conversations.models.append import PUBLISHED, build_columns

SECONDS = 2.0
ROUNDS = 3
SIZE, WINDOW = 20, 16


def run() -> list[dict[str, Any]]:
    """Return the number of stored and acknowledged events per second."""
    user, header = logs.user_with_key()
    token = header.strip().rpartition(" ")[2]
    log = Path(settings.DATA_DIR) / "grpc.log"
    with log.open("wb") as output:
        server = subprocess.Popen(
            [sys.executable, "manage.py", "run_grpc", "--port", "0"],
            cwd=settings.BASE_DIR,
            env=os.environ,
            stdout=output,
            stderr=output,
            stdin=subprocess.DEVNULL,
        )
    try:
        with grpc.insecure_channel(f"127.0.0.1:{_port(server, log)}") as channel:
            ours, bare = [], []
            for _ in range(ROUNDS):
                ours.append(_ours(EventServiceStub(channel), token))
                bare.append(_bare(user))
    finally:
        server.terminate()
        server.wait(30)
    return [
        report.figure(
            "grpc",
            f"append, {SIZE} a batch, {WINDOW} under way",
            report.typical(ours),
            report.typical(bare),
            unit="events/s",
        )
    ]


def _port(server: "subprocess.Popen[bytes]", log: Path) -> int:
    deadline = time.monotonic() + 60
    while not (match := re.search(r"port (\d+)", log.read_text())):
        if server.poll() is not None or time.monotonic() > deadline:
            raise SystemExit(f"The gRPC role did not start: {log.read_text()}")
        time.sleep(0.05)
    return int(match[1])


def _ours(stub: EventServiceStub, token: str) -> float:
    free_slots, stop = threading.Semaphore(WINDOW), threading.Event()

    def messages() -> Iterator[wire.AppendRequest]:
        yield wire.AppendRequest(open=wire.OpenRun(conversation_id=str(uuid4())))
        number = 0
        while not stop.is_set():
            free_slots.acquire()
            events = [wire.PublishedEvent(json=_text()) for _ in range(SIZE)]
            yield wire.AppendRequest(batch=wire.Batch(number=number, events=events))
            number += 1

    metadata = [("authorization", f"Bearer {token}")]
    answers = stub.Append(messages(), metadata=metadata, timeout=120)
    next(answers)
    stored, started = 0, time.perf_counter()
    for answer in answers:
        stored += answer.appended.stored
        free_slots.release()
        if time.perf_counter() - started > SECONDS:
            stop.set()
    return stored / (time.perf_counter() - started)


def _text() -> bytes:
    return logs.PAYLOAD.replace("{", f'{{"id":"{uuid4()}",', 1).encode()


def _bare(user: Any) -> float:
    pk, stored = append.external(user), 0
    with append.bare_connection() as link:
        started = time.perf_counter()
        while time.perf_counter() - started < SECONDS:
            events = [
                NewEvent(str(uuid4()), "ObservationEvent", "environment", logs.PAYLOAD)
                for _ in range(SIZE)
            ]
            now = timezone.now()
            link.execute(PUBLISHED, (pk, SIZE, now, 0, now, *build_columns(events))).fetchall()
            stored += SIZE
    return stored / (time.perf_counter() - started)

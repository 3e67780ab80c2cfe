"""The benchmark of a conversation manager that stores one event per second of each conversation: CPU and memory.

The manager and the engines run in separate processes, and only the manager's CPU is counted. The reference is a minimal
program that reads the same sockets and stores each event with psycopg. A manager is the process that reads events from
engines and stores them.
"""

import asyncio
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from uuid import UUID, uuid4

import psutil
import psycopg
from django.db import connection
from django.utils import timezone
from websockets.asyncio.client import connect

from accounts.services import create_user
from bench.report import figure
from conversations.models import Conversation, Event, Lease, Sandbox
from conversations.sandboxes.process import MODULE
from conversations.sandboxes.provider import Handle
from lib.env import BASE_DIR

COUNT = 1_000
WINDOW_SECONDS = 20.0
SETTLE_SECONDS = 5.0
BARE_CONNECTIONS = 8


def run() -> list[dict[str, Any]]:
    """Return the cores and the memory that a manager of ``COUNT`` conversations uses, compared with the reference."""
    port = _free_port()
    keys = _conversations(COUNT)
    with _engines(port) as (began, handle):
        Sandbox.objects.update(handle=handle)
        ours = _measure(_manager_command(), keys, began)
    Event.objects.all()._raw_delete("default")  # noqa: SLF001 - no other rows refer to these events
    Conversation.objects.filter(pk__in=keys).update(engine_seq=-1, last_seq=0)
    with _engines(port):
        bare = _measure([sys.executable, "-c", _RUN_REFERENCE, str(port)], keys, None)
    reference = bare["cores"] / bare["events_per_second"] * ours["events_per_second"]
    measured = {
        "events_per_second": ours["events_per_second"],
        "reference_events_per_second": bare["events_per_second"],
        "milliseconds_until_stored_p50": ours["p50"],
        "milliseconds_until_stored_p99": ours["p99"],
        "seconds_until_all_are_followed": ours["seconds"],
    }
    what = f"{COUNT:,} conversations, 1 event/s each"
    return [
        figure(
            "followed",
            what,
            ours["cores"],
            reference,  # scaled to the same number of events per second
            unit="cores",
            reach="≤ 1 core",
            **measured,
        ),
        figure("followed", f"memory, {what}", ours["megabytes"], bare["megabytes"], unit="MB"),
    ]


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


@contextmanager
def _engines(port: int) -> Iterator[tuple[float, Handle]]:
    """Run the engines during the block.

    Yield the Unix time at which they begin to send events, and the handle by which the process provider dials them.
    """
    options = {"interval": 1.0, "port": port, "began": time.time() + 1}
    # The provider recognizes its processes by the module name and the environment variable.
    command = [sys.executable, "-m", "tests.fakes.engine_sockets", json.dumps(options), MODULE]
    run = uuid4().hex
    process = subprocess.Popen(
        command,
        cwd=BASE_DIR,
        env=os.environ | {"OH_SANDBOX_RUN": run},
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout
        process.stdout.readline()
        yield options["began"], {"run": run, "pid": process.pid, "port": port}
    finally:
        process.kill()
        process.wait(10)


def _conversations(count: int) -> list[UUID]:
    user = create_user(email="followed@example.com")
    organization = user.personal_organization
    sandboxes = [
        Sandbox(
            organization=organization,
            provider="process",
            observed="running",
            conversation_started=True,
            run=1,
        )
        for _ in range(count)
    ]
    for sandbox in sandboxes:
        sandbox.set_keys(session="session", secret="secret")
    Sandbox.objects.bulk_create(sandboxes)
    conversations = Conversation.objects.bulk_create(
        Conversation(organization=organization, created_by=user, sandbox=sandbox, model="demo")
        for sandbox in sandboxes
    )
    Lease.objects.bulk_create(
        Lease(conversation=conversation, organization=organization, is_wanted=True)
        for conversation in conversations
    )
    return [conversation.pk for conversation in conversations]


def _manager_command() -> list[str]:
    return [sys.executable, str(BASE_DIR / "manage.py"), "run_conversation_manager"]


def _measure(command: list[str], keys: list[UUID], began: float | None) -> dict[str, Any]:
    """Run a process that follows the conversations, and return its figures.

    The measurement starts when the process has stored all events since ``began``. If ``began`` is None, it starts when
    100 conversations have stored events.
    """
    environment = os.environ | {"MANAGER_MAX_CONVERSATIONS": str(2 * COUNT)}
    started = time.monotonic()
    process = psutil.Popen(command, cwd=BASE_DIR, env=environment)

    def wait(is_done: Callable[[], bool]) -> float:
        while not is_done():
            if time.monotonic() - started > 300 or process.poll() is not None:
                raise RuntimeError("the process ended or did not keep up within 300 s")
            time.sleep(0.2)
        return round(time.monotonic() - started, 1)

    try:
        seconds = wait(lambda: _stored(keys)[1] >= (len(keys) if began else 100))
        if began is not None:
            wait(lambda: _stored(keys)[0] > (time.time() - began - 2) * len(keys))
        time.sleep(SETTLE_SECONDS)
        used, before = _cpu(process), _stored(keys)[0]
        clock, since = time.monotonic(), timezone.now()
        time.sleep(WINDOW_SECONDS)
        elapsed = time.monotonic() - clock
        return {
            "cores": round((_cpu(process) - used) / elapsed, 2),
            "events_per_second": round((_stored(keys)[0] - before) / elapsed),
            "seconds": seconds,
            "megabytes": round(process.memory_info().rss / 1e6),
        } | _lateness(since)
    finally:
        process.terminate()
        process.wait(30)


def _cpu(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


def _stored(keys: list[UUID]) -> tuple[int, int]:
    """Return the number of stored engine events, and the number of conversations with such events."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT coalesce(sum(engine_seq + 1), 0), count(*) FILTER (WHERE engine_seq >= 0)"
            " FROM conversations_conversation WHERE id = ANY(%s)",
            [keys],
        )
        total, logs = cursor.fetchone()
        return int(total), int(logs)


def _lateness(since: Any) -> dict[str, int]:
    """Return the p50 and p99 of the delays from the time in an event's payload until its storage, in milliseconds."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT percentile_cont(ARRAY[0.5, 0.99]) WITHIN GROUP (ORDER BY"
            " extract(epoch FROM received_at) - substring(payload FROM 'happened_at\": ?([0-9.]+)')::float)"
            " FROM conversations_event WHERE received_at > %s AND engine_seq IS NOT NULL",
            [since],
        )
        p50, p99 = cursor.fetchone()[0] or (0, 0)
    return {"p50": round(p50 * 1000), "p99": round(p99 * 1000)}


# --- The reference --------------------------------------------------------------

_RUN_REFERENCE = (
    "import sys, django; django.setup(); from bench import followed;"
    " followed.run_reference(int(sys.argv[1]))"
)
_MOVE = (
    "UPDATE conversations_conversation SET last_seq = last_seq + 1, engine_seq = %s WHERE id = %s"
)
_INSERT = (
    "INSERT INTO conversations_event (organization_id, conversation_id, seq, event_id, kind, source,"
    " payload, engine_seq, received_at)"
    " VALUES (%s, %s, %s, %s, 'ObservationEvent', 'environment', %s, %s, now())"
)


def run_reference(port: int) -> None:
    """Run the reference: read the sockets and store each event unparsed in a transaction of its own."""
    rows = Conversation.objects.filter(sandbox__observed="running")
    pairs = list(rows.values_list("pk", "organization_id"))
    names = ("dbname", "user", "host", "port", "password")
    params = {k: v for k, v in connection.get_connection_params().items() if k in names}
    connection.close()
    asyncio.run(_read_and_store(port, pairs, params))


async def _read_and_store(
    port: int, pairs: list[tuple[UUID, UUID]], params: dict[str, Any]
) -> None:
    free: asyncio.Queue[psycopg.AsyncConnection[Any]] = asyncio.Queue()
    for _ in range(BARE_CONNECTIONS):
        free.put_nowait(await psycopg.AsyncConnection.connect(**params, autocommit=True))

    async def store(key: UUID, organization: UUID, seq: int, text: str | bytes) -> None:
        database = await free.get()
        async with database.transaction():
            await database.execute(_MOVE, (seq, key))
            await database.execute(_INSERT, (organization, key, seq + 1, str(seq), text, seq))
        free.put_nowait(database)

    async def follow(key: UUID, organization: UUID) -> None:
        address = f"ws://127.0.0.1:{port}/sockets/session/{key}?after_seq=-1"
        async with connect(
            address, ping_interval=None, proxy=None, compression=None, open_timeout=60
        ) as socket:
            await socket.send("{}")
            await socket.recv()
            seq = 0
            async for text in socket:
                await store(key, organization, seq, text)
                seq += 1

    await asyncio.gather(*(follow(key, organization) for key, organization in pairs))

"""One conversation's events to many sockets: the hub beside a bare loop that hands ready frames to queues."""

import asyncio
import time

from asgiref.sync import sync_to_async
from django.db import connections

from accounts.services import create_user
from bench.append import PAYLOAD
from conversations import services, streams
from conversations.agent.payloads import Durable, parse_event
from conversations.models import Lease

EVENTS = 400
BATCH = 20


def run() -> list[dict]:
    """One figure an audience: deliveries per second from commit to each socket's hand, and the ratio."""
    return [asyncio.run(_measure(sockets)) for sockets in (2, 100, 500)]


async def _measure(sockets: int) -> dict:
    reads, seconds = await _hub(sockets)
    bare = await _bare(sockets)
    figure = {
        "bench": "fanout",
        "sockets": sockets,
        "deliveries_per_second": round(EVENTS * sockets / seconds),
        "bare_queues_per_second": round(EVENTS * sockets / bare),
        "readings_of_the_log": reads,
        "ratio": round(bare / seconds, 2),
    }
    await sync_to_async(connections.close_all)()
    return figure


async def _hub(sockets: int) -> tuple[int, float]:
    conversation = await sync_to_async(_conversation)()
    hub = streams.hub()

    async def watch() -> None:
        async with hub.subscribe(conversation.pk, after=0) as subscription:
            async for frame in subscription.frames():
                if frame.seq == EVENTS:
                    return

    watchers = [asyncio.create_task(watch()) for _ in range(sockets)]
    while sum(len(feed.subscriptions) for feed in hub.feeds.values()) < sockets:
        await asyncio.sleep(0.01)
    feed = hub.feeds[conversation.pk]
    started = time.perf_counter()
    for first in range(0, EVENTS, BATCH):
        await sync_to_async(_append)(conversation.pk, first)
    await asyncio.gather(*watchers)
    return feed.reads, time.perf_counter() - started


async def _bare(sockets: int) -> float:
    queues: list[asyncio.Queue[str]] = [asyncio.Queue() for _ in range(sockets)]

    async def watch(queue: asyncio.Queue[str]) -> None:
        for _ in range(EVENTS):
            await queue.get()

    watchers = [asyncio.create_task(watch(queue)) for queue in queues]
    started = time.perf_counter()
    for n in range(EVENTS):
        for queue in queues:
            queue.put_nowait(PAYLOAD)
        if n % BATCH == BATCH - 1:
            await asyncio.sleep(0)
    await asyncio.gather(*watchers)
    return time.perf_counter() - started


def _conversation() -> object:
    user = create_user(email=f"fanout-{time.time_ns()}@example.com")
    conversation = services.create_conversation(user=user)
    Lease.objects.filter(conversation=conversation).update(generation=1)
    return conversation


def _append(pk: object, first: int) -> None:
    frames = []
    for seq in range(first, first + BATCH):
        raw = PAYLOAD.replace("{", f'{{"id":"e{seq}",', 1).encode()
        frames.append(Durable(seq, parse_event(raw, seq=seq)))
    services.ingest_events(conversation_id=pk, generation=1, frames=frames)

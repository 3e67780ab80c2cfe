"""The benchmark of wake-ups through the two channel layers of channels_redis: wake-ups per second, and delay."""

import asyncio
import os
import time
from typing import Any

from channels_redis.core import RedisChannelLayer
from channels_redis.pubsub import RedisPubSubChannelLayer
from redis.asyncio import Redis

from bench import report

GROUPS = 200
ROUNDS = 10


def run() -> list[dict[str, Any]]:
    """Return wake-ups per second to one channel, compared with Redis PUBLISH, and the delay of a wake-up."""
    return asyncio.run(_all())


async def _all() -> list[dict[str, Any]]:
    bare = await _bare()
    figures = []
    for name, kind in (("pubsub", RedisPubSubChannelLayer), ("core", RedisChannelLayer)):
        rate, wait = await _measure(kind)
        figures.append(report.figure("layer", f"{name}, wake-ups", rate, bare, unit="1/s"))
        figures.append(report.figure("layer", f"{name}, wait for one, p99", wait, unit="ms"))
    return figures


async def _measure(kind: Any) -> tuple[float, float]:
    hosts = {"hosts": [os.environ["REDIS_URL"]], "prefix": f"bench-{time.time_ns()}"}
    sender, receiver = kind(**hosts), kind(**hosts)
    channel = await receiver.new_channel("hub")
    for group in range(GROUPS):
        await receiver.group_add(f"g{group}", channel)
    message = {"type": "log.advanced", "conversation": "0" * 32}
    waits = []
    for group in range(GROUPS):
        started = time.perf_counter()
        await sender.group_send(f"g{group}", message)
        await receiver.receive(channel)
        waits.append((time.perf_counter() - started) * 1000)
    started = time.perf_counter()
    for _ in range(ROUNDS):
        for group in range(0, GROUPS, 50):  # fewer than the core layer's capacity of 100 at a time
            for number in range(group, group + 50):
                await sender.group_send(f"g{number}", message)
            for _number in range(50):
                await receiver.receive(channel)
    rate = ROUNDS * GROUPS / (time.perf_counter() - started)
    for layer in (sender, receiver):
        await layer.close_pools() if hasattr(layer, "close_pools") else await layer.flush()
    return rate, sorted(waits)[int(len(waits) * 0.99)]


async def _bare() -> float:
    link = Redis.from_url(os.environ["REDIS_URL"])
    listener = link.pubsub()
    await listener.subscribe("bench")
    await listener.get_message(timeout=1)
    started, count = time.perf_counter(), ROUNDS * GROUPS
    for first in range(0, count, 50):
        for _ in range(50):
            await link.publish("bench", b"0" * 64)
        received = 0
        while received < 50:
            message = await listener.get_message(ignore_subscribe_messages=True, timeout=1)
            received += message is not None
        assert first < count
    rate = count / (time.perf_counter() - started)
    await listener.aclose()
    await link.aclose()
    return rate

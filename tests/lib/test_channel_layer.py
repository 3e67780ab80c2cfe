"""The channel layer, which waits for messages of Redis instead of polling."""

import asyncio
import contextlib

import pytest
from channels.layers import get_channel_layer
from redis.asyncio.client import PubSub

from lib.channel_layer import ChannelLayer

SECONDS = 5


@pytest.fixture
async def layer(settings):
    made = ChannelLayer(**settings.CHANNEL_LAYERS["default"]["CONFIG"] | {"prefix": "test-layer"})
    yield made
    await made.flush()


async def receive(layer, channel):
    async with asyncio.timeout(SECONDS):
        return await layer.receive(channel)


async def join(layer, *groups):
    channel = await layer.new_channel("test")
    for group in groups:
        await layer.group_add(group, channel)
    return channel


def test_server_uses_this_layer():
    assert isinstance(get_channel_layer(), ChannelLayer)


async def test_group_that_is_joined_while_the_layer_waits_receives_messages(layer):
    channel = await join(layer, "a")
    await asyncio.sleep(0.3)  # the receiver waits now
    await layer.group_add("b", channel)

    await layer.group_send("b", {"type": "x"})

    assert await receive(layer, channel) == {"type": "x"}


async def test_waiting_process_asks_redis_once(layer, monkeypatch):
    asked = []
    real = PubSub.get_message

    async def count(self, *args, **options):
        asked.append(1)
        return await real(self, *args, **options)

    monkeypatch.setattr(PubSub, "get_message", count)
    channel = await join(layer, "a")
    await layer.group_send("a", {"type": "x"})
    await receive(layer, channel)
    await asyncio.sleep(0.2)
    before = len(asked)

    await asyncio.sleep(1)

    assert before
    assert len(asked) == before


async def test_messages_arrive_again_after_the_last_group_was_left(layer):
    channel = await join(layer, "a")
    waiting = asyncio.create_task(layer.receive(channel))
    await asyncio.sleep(0.1)
    await layer.group_discard("a", channel)
    waiting.cancel()  # a cancelled reader leaves its own channel too
    with contextlib.suppress(asyncio.CancelledError):
        await waiting
    await asyncio.sleep(0.1)
    again = await join(layer, "a")

    await layer.group_send("a", {"type": "x"})

    assert await receive(layer, again) == {"type": "x"}


async def test_messages_arrive_again_after_redis_closed_the_connection(layer):
    channel = await join(layer, "a")
    await asyncio.sleep(0.1)
    [shard] = layer._shards
    await shard._redis.client_kill_filter(_type="pubsub", skipme=True)

    async def send_until_received():
        reading = asyncio.create_task(layer.receive(channel))
        while not reading.done():
            await layer.group_send("a", {"type": "x"})
            await asyncio.sleep(0.1)
        return reading.result()

    async with asyncio.timeout(SECONDS):
        assert await send_until_received() == {"type": "x"}


async def test_groups_that_are_joined_together_share_a_command(layer, monkeypatch):
    commands, real = [], PubSub.subscribe

    async def count(self, *channels, **options):
        commands.append(len(channels))
        return await real(self, *channels, **options)

    monkeypatch.setattr(PubSub, "subscribe", count)
    channel = await layer.new_channel("test")
    await asyncio.gather(*(layer.group_add(f"g{number}", channel) for number in range(50)))
    assert sum(commands) == 51
    assert len(commands) <= 4

    for number in (0, 49):
        await layer.group_send(f"g{number}", {"type": "x", "number": number})
        assert (await receive(layer, channel))["number"] == number


async def test_group_that_is_left_before_redis_was_asked_is_not_joined(layer):
    channel = await layer.new_channel("test")
    shard = layer._get_layer()._shards[0]
    joining = [asyncio.create_task(layer.group_add(f"g{number}", channel)) for number in range(3)]
    await asyncio.sleep(0)
    await layer.group_discard("g2", channel)
    await asyncio.gather(*joining)

    assert sorted(name[-2:] for name in shard._subscribed_to if "__group__" in name) == ["g0", "g1"]

"""The hub: one reading for all sockets of a process, and no gap between reading and listening."""

import asyncio
import contextlib
import json

import pytest
from asgiref.sync import sync_to_async
from django.db import connection, connections
from django.test.utils import CaptureQueriesContext

from conversations import announcing, services
from conversations.models import Conversation, Lease
from conversations.realtime import feed as feeds
from conversations.realtime import reading, threads
from conversations.realtime import subscription as subscriptions
from conversations.realtime.hub import get_hub
from lib.bus import publisher
from tests.conversations.conftest import make_frame

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture(autouse=True)
async def _close(settings):
    settings.HUB_POLL_SECONDS = 1
    yield
    await sync_to_async(connections.close_all)()
    threads.POOL._pool.submit(connections.close_all).result()


@pytest.fixture
async def conversation(alice):
    conversation = await sync_to_async(services.create_conversation)(user=alice)
    await sync_to_async(Lease.objects.update)(generation=1)
    return conversation


async def append(conversation, *seqs, **fields):
    await sync_to_async(services.ingest_events)(
        conversation_id=conversation.pk,
        generation=1,
        frames=[make_frame(n, **fields) for n in seqs],
    )


async def collect(subscription, upto, *, seconds=10):
    """Seqs as a socket gets them, until one has come."""
    seqs = []

    async def take():
        async for one in subscription.frames():
            if one.seq is not None:
                seqs.append(one.seq)
                if one.seq >= upto:
                    return

    await asyncio.wait_for(take(), seconds)
    return seqs


async def test_history_then_news_each_once(conversation):
    await append(conversation, 0, 1)
    async with get_hub().subscribe(conversation.pk, after=1) as subscription:
        task = asyncio.create_task(collect(subscription, 4))
        await append(conversation, 2)
        await append(conversation, 3)

        assert await task == [2, 3, 4]


@pytest.mark.parametrize("pause_at", range(8))
async def test_no_gap_wherever_the_log_moves_during_the_join(conversation, monkeypatch, pause_at):
    """An event is committed, without a nudge, right at each await of joining in turn."""
    await append(conversation, 0)
    awaited = 0
    original = threads.run_in_thread

    async def interrupted(function, *args):
        nonlocal awaited
        result = await original(function, *args)
        awaited += 1
        if awaited == pause_at:
            await append(conversation, 1)
        return result

    monkeypatch.setattr(threads, "run_in_thread", interrupted)
    if pause_at == 0:
        await append(conversation, 1)
    async with get_hub().subscribe(conversation.pk, after=0) as subscription:
        if pause_at > 2:
            await append(conversation, 1)
        assert await collect(subscription, 2) == [1, 2]


async def test_lost_nudge_is_repaired_by_the_poll(conversation, monkeypatch):
    monkeypatch.setattr(publisher, "nudge", lambda *a: None)
    async with get_hub().subscribe(conversation.pk, after=0) as subscription:
        task = asyncio.create_task(collect(subscription, 1))
        await append(conversation, 0)

        assert await task == [1]


class Hanging:
    """A Redis that takes requests and does not answer, until it is told to."""

    def __init__(self, layer):
        self._layer = layer
        self.answers = asyncio.Event()

    def __getattr__(self, name):
        return getattr(self._layer, name)

    async def group_add(self, group, channel):
        await self.answers.wait()
        await self._layer.group_add(group, channel)


async def test_a_redis_that_hangs_does_not_hold_up_the_poll(alice, conversation):
    """Sockets opened meanwhile are not heard, and asking for each costs two seconds."""
    create = sync_to_async(services.create_conversation)
    others = [await create(user=alice) for _ in range(8)]
    hub = get_hub()
    hub._layer = hanging = Hanging(hub._layer)
    async with contextlib.AsyncExitStack() as opened:

        async def join(one):
            return await opened.enter_async_context(hub.subscribe(one.pk, after=0))

        *_, subscription = await asyncio.gather(*(join(one) for one in [*others, conversation]))
        for seq in (1, 2):
            await append(conversation, seq - 1)
            assert await collect(subscription, seq, seconds=6) == [seq]

        hanging.answers.set()
        await until(lambda: all(feed.is_subscribed for feed in hub.feeds.values()), seconds=6)


async def test_what_moves_before_a_feed_is_heard_again_is_read(conversation, settings, monkeypatch):
    hub = get_hub()
    hub._layer = hanging = Hanging(hub._layer)
    original = threads.run_in_thread

    async def then_it_answers(function, *args):
        found = await original(function, *args)
        if function is reading.find_changed and not hanging.answers.is_set():
            await append(conversation, 0)
            await asyncio.sleep(0.3)  # its nudge is over
            settings.HUB_POLL_SECONDS = 300
            hanging.answers.set()
        return found

    async with hub.subscribe(conversation.pk, after=0) as subscription:
        monkeypatch.setattr(threads, "run_in_thread", then_it_answers)
        assert await collect(subscription, 1, seconds=6) == [1]


async def reads_for(conversation, sockets, seq, monkeypatch):
    """Queries that one nudge costs with so many sockets following."""
    hub = get_hub()
    queries = []

    def counted(function, *args):
        with CaptureQueriesContext(connection) as captured:
            result = function(*args)
        queries.extend(captured.captured_queries)
        return result

    original = threads.run_in_thread
    async with contextlib.AsyncExitStack() as stack:
        tasks = []
        for _ in range(sockets):
            subscription = await stack.enter_async_context(
                hub.subscribe(conversation.pk, after=seq - 1)
            )
            tasks.append(asyncio.create_task(collect(subscription, seq)))
        await asyncio.sleep(0.05)
        monkeypatch.setattr(
            threads, "run_in_thread", lambda function, *args: original(counted, function, *args)
        )
        try:
            await append(conversation, seq - 1)
            results = await asyncio.gather(*tasks)
        finally:
            monkeypatch.undo()
    assert results == [[seq]] * sockets
    return len(queries)


async def test_two_sockets_and_two_hundred_cost_the_same_reads(conversation, settings, monkeypatch):
    settings.HUB_POLL_SECONDS = 300
    two = await reads_for(conversation, 2, 1, monkeypatch)
    two_hundred = await reads_for(conversation, 200, 2, monkeypatch)

    print(json.dumps({"reads_per_nudge": {"2": two, "200": two_hundred}}))
    assert two == two_hundred == 1


async def test_socket_that_does_not_read_is_given_up(conversation, settings):
    settings.SOCKET_BUFFER_BYTES = 4_096
    async with get_hub().subscribe(conversation.pk, after=0) as subscription:
        frames = subscription.frames()
        await anext(frames)  # the status: it is live now
        for n in range(30):
            await append(conversation, n)
        await asyncio.sleep(0.5)

        rest = [one async for one in frames]

    assert subscription.has_overflowed
    assert [one.seq for one in rest if one.seq] == []
    assert subscription.cursor == 0


async def test_cursor_ahead_of_the_log_is_reset(conversation):
    await append(conversation, 0)
    async with get_hub().subscribe(conversation.pk, after=99) as subscription:
        frames = subscription.frames()

        assert json.loads((await anext(frames)).text) == {
            "type": "reset",
            "last_seq": 1,
            "epoch": 1,
        }
        await append(conversation, 1)
        seqs = []
        async for one in frames:
            if one.seq:
                seqs.append(one.seq)
                break
        assert seqs == [2]


async def test_raised_epoch_resets_everybody(conversation):
    await append(conversation, 0, 1)
    async with get_hub().subscribe(conversation.pk, after=2, epoch=1) as subscription:
        frames = subscription.frames()
        await anext(frames)

        def restore():
            Conversation.objects.update(epoch=2, last_seq=1)
            announcing.announce(conversation.pk)

        await sync_to_async(restore)()

        async for one in frames:
            if one.reset_to is not None:
                break
        assert json.loads(one.text) == {"type": "reset", "last_seq": 1, "epoch": 2}


async def test_deleted_conversation_ends_its_streams(conversation):
    async with get_hub().subscribe(conversation.pk, after=0) as subscription:
        frames = subscription.frames()
        await anext(frames)
        await sync_to_async(services.delete_conversation)(conversation_id=conversation.pk)

        async def rest():
            return [one async for one in frames]

        assert [one for one in await asyncio.wait_for(rest(), 5) if not one.text] == []
    assert subscription.feed.is_gone


async def test_long_history_is_read_in_pages(conversation, monkeypatch):
    monkeypatch.setattr(feeds, "PAGE", 7)
    await append(conversation, *range(40))
    async with get_hub().subscribe(conversation.pk, after=0) as subscription:
        assert await collect(subscription, 40) == list(range(1, 41))


async def test_feed_ends_with_its_last_socket(conversation):
    hub = get_hub()
    async with hub.subscribe(conversation.pk, after=0), hub.subscribe(conversation.pk, after=0):
        assert list(hub.feeds) == [conversation.pk]

    assert hub.feeds == {}


class Client:
    """A socket's end of the hub: takes frames, or waits with a full buffer until told."""

    def __init__(self):
        self.batches = []
        self.frames, self.is_full, self.is_gone = [], False, False
        self.room = asyncio.Event()

    async def push(self, frames):
        if self.is_gone:
            raise ConnectionError
        if self.is_full:
            await self.room.wait()
        self.batches.append([one.seq for one in frames])
        self.frames.extend(frames)

    @property
    def seqs(self):
        return [one.seq for one in self.frames if one.seq is not None]


async def until(condition, seconds=20):
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.01)


@contextlib.asynccontextmanager
async def fed(conversation, client, after=0):
    async with get_hub().subscribe(conversation.pk, after=after) as subscription:
        task = asyncio.create_task(subscription.send_until_over(client.push))
        await until(lambda: subscription.is_live)
        try:
            yield subscription, task
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


async def test_full_socket_gets_the_rest_in_order_and_holds_up_nobody(conversation):
    slow, quick = Client(), Client()
    async with fed(conversation, slow), fed(conversation, quick):
        slow.is_full = True
        for n in range(6):
            await append(conversation, n)
        await until(lambda: quick.seqs == [1, 2, 3, 4, 5, 6])
        assert slow.seqs == []

        slow.is_full = False
        slow.room.set()

        await until(lambda: slow.seqs == [1, 2, 3, 4, 5, 6])
        assert slow.frames[1] is quick.frames[1]


async def test_full_socket_is_given_up_beyond_its_buffer(conversation, settings):
    settings.SOCKET_BUFFER_BYTES = 4_096
    client = Client()
    async with fed(conversation, client) as (subscription, task):
        client.is_full = True
        for n in range(
            40
        ):  # however few readings they come by, a batch is under way, and too much is left
            await append(conversation, n, text="x" * 8_000)

        await asyncio.wait_for(task, 20)

    assert subscription.has_overflowed
    assert client.seqs == []


@pytest.mark.parametrize("is_live", [True, False])
async def test_frames_come_in_batches_of_a_bounded_size(conversation, monkeypatch, is_live):
    monkeypatch.setattr(subscriptions, "BATCH_BYTES", 1_000)
    client = Client()
    if not is_live:
        await append(conversation, *range(7), text="x" * 300)
    async with fed(conversation, client):
        if is_live:
            await append(conversation, *range(7), text="x" * 300)
        await until(lambda: client.seqs == [1, 2, 3, 4, 5, 6, 7])

    assert [batch for batch in client.batches if batch != [None]][:2] == [[1, 2], [3, 4]]


async def test_client_that_is_full_within_a_page_gets_the_rest_once(conversation, monkeypatch):
    monkeypatch.setattr(subscriptions, "BATCH_BYTES", 1_000)
    client = Client()
    async with fed(conversation, client) as (subscription, _):
        client.is_full = True
        await append(conversation, *range(7), text="x" * 300)
        await until(lambda: subscription.cursor == 2)
        await append(conversation, 7, 8, text="x" * 300)
        await until(lambda: subscription.feed.seq == 9)
        assert (client.seqs, subscription.cursor) == ([], 2)

        client.is_full = False
        client.room.set()

        await until(lambda: len(client.seqs) >= 9)
        assert client.seqs == list(range(1, 10))


async def test_socket_that_went_away_ends_alone(conversation):
    gone, other = Client(), Client()
    async with fed(conversation, gone) as (subscription, task), fed(conversation, other):
        gone.is_gone = True
        await append(conversation, 0)

        await asyncio.wait_for(task, 20)
        await until(lambda: other.seqs == [1])
        assert subscription.has_failed


async def test_logs_that_move_together_are_read_together(alice, conversation, monkeypatch):
    """While all readers are busy, what waits is read by one statement."""
    others = [await sync_to_async(services.create_conversation)(user=alice) for _ in range(6)]
    await sync_to_async(Lease.objects.update)(generation=1)
    clients = [Client() for _ in others]
    monkeypatch.setattr(publisher, "nudge", lambda *a: None)
    read_with = []
    original = threads.run_in_thread

    async def noted(function, *args):
        if function is reading.read:
            read_with.append(len(args[0]))
        return await original(function, *args)

    async with contextlib.AsyncExitStack() as stack:
        for other, client in zip(others, clients, strict=True):
            await stack.enter_async_context(fed(other, client))
            await append(other, 0)
        monkeypatch.setattr(threads, "run_in_thread", noted)
        for feed in list(get_hub().feeds.values()):
            feed.wake()
        await until(lambda: all(client.seqs == [1] for client in clients))

    assert read_with[0] == 6


async def test_only_news_of_the_record_is_told_again(conversation):
    client = Client()
    async with fed(conversation, client):
        await append(conversation, 0)
        await until(lambda: client.seqs == [1])
        await sync_to_async(services.rename)(conversation_id=conversation.pk, title="Other")
        await until(lambda: "Other" in client.frames[-1].text)

    kinds = [json.loads(one.text)["type"] for one in client.frames]
    assert kinds == ["status", "event", "status"]

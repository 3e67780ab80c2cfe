"""The hub: one read per nudge for all sockets of a process, and no gap between reading and subscribing."""

import asyncio
import contextlib
import json

import pytest
from asgiref.sync import sync_to_async
from django.db import connection, connections
from django.test.utils import CaptureQueriesContext

from conversations import announcing, services
from conversations.models import Conversation, Event, Lease
from conversations.realtime import feed as feeds
from conversations.realtime import reading, threads
from conversations.realtime import subscription as subscriptions
from conversations.realtime.hub import get_hub
from lib.bus import publisher
from tests.conversations.conftest import make_frame
from tests.waiting import wait_until_async

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
    """Return the seqs that the subscription yields until ``upto`` arrives."""
    seqs = []

    async def collect_seqs():
        async for one in subscription.frames():
            if one.seq is not None:
                seqs.append(one.seq)
                if one.seq >= upto:
                    return

    await asyncio.wait_for(collect_seqs(), seconds)
    return seqs


async def test_subscriber_gets_history_then_new_events_once(conversation):
    await append(conversation, 0, 1)
    async with get_hub().subscribe(conversation.pk, after=1) as subscription:
        task = asyncio.create_task(collect(subscription, 4))
        await append(conversation, 2)
        await append(conversation, 3)

        assert await task == [2, 3, 4]


async def test_first_page_is_read_with_the_state_and_dropped_after_the_backlog(
    conversation, monkeypatch
):
    await append(conversation, 0, 1)
    names, original = [], threads.run_in_thread

    async def run_and_record(function, *args):
        names.append(function.__name__)
        return await original(function, *args)

    monkeypatch.setattr(threads, "run_in_thread", run_and_record)
    async with get_hub().subscribe(conversation.pk, after=0) as first:
        assert (first.feed.seq, first.feed.reading.frames) == (2, [])
        assert await collect(first, 2) == [1, 2]
        assert names == ["read_pages"]

        # A page of a later subscription is read again, because the first reader's page was dropped.
        async with get_hub().subscribe(conversation.pk, after=1) as later:
            assert await collect(later, 2) == [2]
        assert names == ["read_pages", "read_pages"]
        assert first.feed._pages == {}


async def test_first_page_of_a_pruned_log_is_read_once(conversation, monkeypatch):
    """Protocols without reset frames continue at the horizon instead of the client's cursor."""
    await append(conversation, 0, 1, 2)
    await Event.objects.filter(conversation=conversation, seq=1).adelete()
    await Conversation.objects.filter(pk=conversation.pk).aupdate(pruned_seq=1)
    places, original = [], reading.read_pages
    monkeypatch.setattr(
        feeds, "read_pages", lambda asked, page: (places.extend(asked), original(asked, page))[1]
    )
    async with get_hub().subscribe(conversation.pk, after=0) as subscription:
        subscription.cursor = subscription.feed.horizon
        assert await collect(subscription, 3) == [2, 3]
    assert places == [(conversation.pk, 0)]


@pytest.mark.parametrize("pause_at", range(8))
async def test_event_committed_at_any_step_of_the_join_is_received(
    conversation, monkeypatch, pause_at
):
    """The event is committed right after the thread call with the number ``pause_at``."""
    await append(conversation, 0)
    calls = 0
    original = threads.run_in_thread

    async def run_and_append(function, *args):
        nonlocal calls
        result = await original(function, *args)
        calls += 1
        if calls == pause_at:
            await append(conversation, 1)
        return result

    monkeypatch.setattr(threads, "run_in_thread", run_and_append)
    if pause_at == 0:
        await append(conversation, 1)
    async with get_hub().subscribe(conversation.pk, after=0) as subscription:
        if pause_at > 2:
            await append(conversation, 1)
        assert await collect(subscription, 2) == [1, 2]


async def test_poll_delivers_an_event_whose_nudge_was_lost(conversation, monkeypatch):
    monkeypatch.setattr(publisher, "nudge", lambda *a: None)
    async with get_hub().subscribe(conversation.pk, after=0) as subscription:
        task = asyncio.create_task(collect(subscription, 1))
        await append(conversation, 0)

        assert await task == [1]


class HangingLayer:
    """A channel layer that does not join groups until ``answers`` is set, like a Redis that hangs."""

    def __init__(self, layer):
        self._layer = layer
        self.answers = asyncio.Event()

    def __getattr__(self, name):
        return getattr(self._layer, name)

    async def group_add(self, group, channel):
        await self.answers.wait()
        await self._layer.group_add(group, channel)


async def test_hanging_redis_does_not_delay_the_poll(alice, conversation):
    """Nine feeds are unsubscribed, and each attempt to subscribe a feed takes two seconds."""
    create = sync_to_async(services.create_conversation)
    others = [await create(user=alice) for _ in range(8)]
    hub = get_hub()
    hub._layer = hanging = HangingLayer(hub._layer)
    async with contextlib.AsyncExitStack() as stack:

        async def join(one):
            return await stack.enter_async_context(hub.subscribe(one.pk, after=0))

        *_, subscription = await asyncio.gather(*(join(one) for one in [*others, conversation]))
        for seq in (1, 2):
            await append(conversation, seq - 1)
            assert await collect(subscription, seq, seconds=6) == [seq]

        hanging.answers.set()
        await wait_until_async(
            lambda: all(feed.is_subscribed for feed in hub.feeds.values()),
            "all feeds to be subscribed",
            seconds=6,
        )


async def test_event_committed_before_a_feed_is_subscribed_again_is_read(
    conversation, settings, monkeypatch
):
    hub = get_hub()
    hub._layer = hanging = HangingLayer(hub._layer)
    original = threads.run_in_thread

    async def append_and_let_redis_answer(function, *args):
        result = await original(function, *args)
        if function is reading.find_changed and not hanging.answers.is_set():
            await append(conversation, 0)
            await asyncio.sleep(0.3)  # the nudge of the event is lost meanwhile
            settings.HUB_POLL_SECONDS = 300
            hanging.answers.set()
        return result

    async with hub.subscribe(conversation.pk, after=0) as subscription:
        monkeypatch.setattr(threads, "run_in_thread", append_and_let_redis_answer)
        assert await collect(subscription, 1, seconds=6) == [1]


async def count_reads(conversation, sockets, seq, monkeypatch):
    """Return the number of queries that one nudge costs while ``sockets`` sockets follow."""
    hub = get_hub()
    queries = []

    def run_and_count(function, *args):
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
            threads,
            "run_in_thread",
            lambda function, *args: original(run_and_count, function, *args),
        )
        try:
            await append(conversation, seq - 1)
            results = await asyncio.gather(*tasks)
        finally:
            monkeypatch.undo()
    assert results == [[seq]] * sockets
    return len(queries)


async def test_nudge_costs_one_query_for_two_and_for_200_sockets(
    conversation, settings, monkeypatch
):
    settings.HUB_POLL_SECONDS = 300
    two = await count_reads(conversation, 2, 1, monkeypatch)
    two_hundred = await count_reads(conversation, 200, 2, monkeypatch)

    print(json.dumps({"reads_per_nudge": {"2": two, "200": two_hundred}}))
    assert two == two_hundred == 1


async def test_subscriber_that_does_not_read_overflows_and_gets_no_event(conversation, settings):
    settings.SOCKET_BUFFER_BYTES = 4_096
    async with get_hub().subscribe(conversation.pk, after=0) as subscription:
        frames = subscription.frames()
        await anext(frames)  # the subscription is live after its status frame
        for n in range(30):
            await append(conversation, n)
        await wait_until_async(lambda: subscription.has_overflowed, "the subscription to overflow")

        rest = [one async for one in frames]

    assert subscription.has_overflowed
    assert [one.seq for one in rest if one.seq] == []
    assert subscription.cursor == 0


async def test_cursor_ahead_of_the_log_gets_a_reset_and_then_new_events(conversation):
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


async def test_new_epoch_resets_an_open_subscription(conversation):
    await append(conversation, 0, 1)
    async with get_hub().subscribe(conversation.pk, after=2, epoch=1) as subscription:
        frames = subscription.frames()
        await anext(frames)

        def raise_epoch():
            Conversation.objects.update(epoch=2, last_seq=1)
            announcing.announce(conversation.pk)

        await sync_to_async(raise_epoch)()

        async for one in frames:
            if one.reset_to is not None:
                break
        assert json.loads(one.text) == {"type": "reset", "last_seq": 1, "epoch": 2}


async def test_deleted_conversation_ends_its_streams(conversation):
    async with get_hub().subscribe(conversation.pk, after=0) as subscription:
        frames = subscription.frames()
        await anext(frames)
        await sync_to_async(services.delete_conversation)(conversation_id=conversation.pk)

        async def collect_rest():
            return [one async for one in frames]

        assert [one for one in await asyncio.wait_for(collect_rest(), 5) if not one.text] == []
    assert subscription.feed.is_gone


async def test_long_history_is_read_in_pages(conversation, monkeypatch):
    monkeypatch.setattr(feeds, "PAGE", 7)
    await append(conversation, *range(40))
    async with get_hub().subscribe(conversation.pk, after=0) as subscription:
        assert await collect(subscription, 40) == list(range(1, 41))


async def test_feed_is_removed_with_its_last_subscription(conversation):
    hub = get_hub()
    async with hub.subscribe(conversation.pk, after=0), hub.subscribe(conversation.pk, after=0):
        assert list(hub.feeds) == [conversation.pk]

    assert hub.feeds == {}


class FakeSocket:
    """A socket that collects its frames, or blocks while it is full, until ``has_room`` is set."""

    def __init__(self):
        self.batches = []
        self.frames, self.is_full, self.is_gone = [], False, False
        self.has_room = asyncio.Event()

    async def push(self, frames):
        if self.is_gone:
            raise ConnectionError
        if self.is_full:
            await self.has_room.wait()
        self.batches.append([one.seq for one in frames])
        self.frames.extend(frames)

    @property
    def seqs(self):
        return [one.seq for one in self.frames if one.seq is not None]


@contextlib.asynccontextmanager
async def subscribe_socket(conversation, socket, after=0):
    async with get_hub().subscribe(conversation.pk, after=after) as subscription:
        task = asyncio.create_task(subscription.send_until_over(socket.push))
        await wait_until_async(lambda: subscription.is_live, "the subscription to be live")
        try:
            yield subscription, task
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


async def test_full_socket_gets_the_rest_in_order_and_does_not_delay_others(conversation):
    slow, quick = FakeSocket(), FakeSocket()
    async with subscribe_socket(conversation, slow), subscribe_socket(conversation, quick):
        slow.is_full = True
        for n in range(6):
            await append(conversation, n)
        await wait_until_async(
            lambda: quick.seqs == [1, 2, 3, 4, 5, 6], "the quick socket to get six events"
        )
        assert slow.seqs == []

        slow.is_full = False
        slow.has_room.set()

        await wait_until_async(
            lambda: slow.seqs == [1, 2, 3, 4, 5, 6], "the slow socket to get six events"
        )
        assert slow.frames[1] is quick.frames[1]


async def test_full_socket_is_dropped_beyond_its_buffer(conversation, settings):
    settings.SOCKET_BUFFER_BYTES = 4_096
    socket = FakeSocket()
    async with subscribe_socket(conversation, socket) as (subscription, task):
        socket.is_full = True
        # However few reads they take, one batch is being pushed, and the rest exceeds the buffer.
        for n in range(40):
            await append(conversation, n, text="x" * 8_000)

        await asyncio.wait_for(task, 20)

    assert subscription.has_overflowed
    assert socket.seqs == []


@pytest.mark.parametrize("is_live", [True, False])
async def test_frames_are_pushed_in_batches_of_a_bounded_size(conversation, monkeypatch, is_live):
    monkeypatch.setattr(subscriptions, "BATCH_BYTES", 1_000)
    socket = FakeSocket()
    if not is_live:
        await append(conversation, *range(7), text="x" * 300)
    async with subscribe_socket(conversation, socket):
        if is_live:
            await append(conversation, *range(7), text="x" * 300)
        await wait_until_async(
            lambda: socket.seqs == [1, 2, 3, 4, 5, 6, 7], "the socket to get seven events"
        )

    assert [batch for batch in socket.batches if batch != [None]][:2] == [[1, 2], [3, 4]]


async def test_socket_that_is_full_within_a_page_gets_the_rest_once(conversation, monkeypatch):
    monkeypatch.setattr(subscriptions, "BATCH_BYTES", 1_000)
    socket = FakeSocket()
    async with subscribe_socket(conversation, socket) as (subscription, _):
        socket.is_full = True
        await append(conversation, *range(7), text="x" * 300)
        await wait_until_async(lambda: subscription.cursor == 2, "the push of the first batch")
        await append(conversation, 7, 8, text="x" * 300)
        await wait_until_async(lambda: subscription.feed.seq == 9, "the feed to read nine events")
        assert (socket.seqs, subscription.cursor) == ([], 2)

        socket.is_full = False
        socket.has_room.set()

        await wait_until_async(lambda: len(socket.seqs) >= 9, "the socket to get nine events")
        assert socket.seqs == list(range(1, 10))


async def test_disconnected_socket_ends_and_the_others_continue(conversation):
    disconnected, other = FakeSocket(), FakeSocket()
    async with (
        subscribe_socket(conversation, disconnected) as (subscription, task),
        subscribe_socket(conversation, other),
    ):
        disconnected.is_gone = True
        await append(conversation, 0)

        await asyncio.wait_for(task, 20)
        await wait_until_async(lambda: other.seqs == [1], "the other socket to get its event")
        assert subscription.has_failed


async def test_logs_that_advance_together_are_read_by_one_statement(
    alice, conversation, monkeypatch
):
    """All feeds that wait when a reader becomes free are read by one statement."""
    others = [await sync_to_async(services.create_conversation)(user=alice) for _ in range(6)]
    await sync_to_async(Lease.objects.update)(generation=1)
    sockets = [FakeSocket() for _ in others]
    monkeypatch.setattr(publisher, "nudge", lambda *a: None)
    batch_sizes = []
    original = threads.run_in_thread

    async def record_reads(function, *args):
        if function is reading.read:
            batch_sizes.append(len(args[0]))
        return await original(function, *args)

    async with contextlib.AsyncExitStack() as stack:
        for other, socket in zip(others, sockets, strict=True):
            await stack.enter_async_context(subscribe_socket(other, socket))
            await append(other, 0)
        monkeypatch.setattr(threads, "run_in_thread", record_reads)
        for feed in list(get_hub().feeds.values()):
            feed.wake()
        await wait_until_async(
            lambda: all(socket.seqs == [1] for socket in sockets), "every socket to get its event"
        )

    assert batch_sizes[0] == 6


async def test_status_is_sent_again_only_if_the_record_changed(conversation):
    socket = FakeSocket()
    async with subscribe_socket(conversation, socket):
        await append(conversation, 0)
        await wait_until_async(lambda: socket.seqs == [1], "the socket to get the event")
        await sync_to_async(services.rename)(conversation_id=conversation.pk, title="Other")
        await wait_until_async(
            lambda: "Other" in socket.frames[-1].text, "the socket to get the changed record"
        )

    kinds = [json.loads(one.text)["type"] for one in socket.frames]
    assert kinds == ["status", "event", "status"]

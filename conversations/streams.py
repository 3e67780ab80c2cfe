"""Tells browsers: the nudge after a commit, and the hub that reads a log once for all sockets of a process.

Delivery is reading the log. Redis carries "conversation X moved", never what happened, so a lost nudge
costs the time to the next poll and nothing else.
"""

import asyncio
import contextlib
import logging
import weakref
from collections import deque
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypeVar
from uuid import UUID

from channels.layers import get_channel_layer
from django.conf import settings
from django.db import connections, transaction

from accounts.services.sessions import access_group
from conversations.models import Conversation, Event
from conversations.records import record_of
from openhands_site.lib import bus
from openhands_site.lib.api import dumps
from openhands_site.lib.bus import publisher

log = logging.getLogger(__name__)
T = TypeVar("T")
PAGE = 200
"""Events read at a time."""


def group_for(conversation_id: UUID) -> str:
    """The channel-layer group of one conversation."""
    return f"conversation.{conversation_id.hex}"


def announce_on_commit(conversation_id: UUID) -> None:
    """Nudge every process that follows this conversation, once the change is visible to it."""
    transaction.on_commit(lambda: announce(conversation_id), robust=True)


def announce(conversation_id: UUID) -> None:
    """Nudge now; for changes that are committed already."""
    publisher.nudge(group_for(conversation_id), bus.LogAdvanced(conversation_id))


def wake_managers_on_commit() -> None:
    """Tell all managers that there is something to claim; who does not hear looks by itself soon."""
    transaction.on_commit(lambda: publisher.nudge(bus.MANAGERS, bus.ManagerWake()), robust=True)


async def send_deltas(conversation_id: UUID, deltas: list[dict[str, Any]]) -> None:
    """Pass on what the agent is saying right now. Unnumbered and never stored: the event supersedes it."""
    message = bus.encode(bus.DeltaArrived(conversation_id, deltas))
    with contextlib.suppress(
        Exception
    ):  # ephemeral: not worth a retry, nor the wait for a Redis that hangs
        async with asyncio.timeout(0.5):
            await get_channel_layer().group_send(group_for(conversation_id), message)


# --- The hub --------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Frame:
    """What every socket is sent: text made once. ``seq`` is None for frames outside the log."""

    text: str
    seq: int | None = None
    reset_to: int | None = None


@dataclass(frozen=True, slots=True)
class Reading:
    """What one look at a conversation gave."""

    epoch: int
    last_seq: int
    updated_at: datetime | None
    status: str
    frames: list[Frame]
    is_gone: bool = False


class Subscription:
    """One socket's place in a conversation: its cursor, and what waits to be sent to it.

    It begins *behind*: ``frames`` reads the log until the cursor meets the feed's. From that instant, in
    which nothing is awaited, the feed offers it news, so nothing falls between reading and listening.
    """

    def __init__(self, feed: "Feed", after: int, epoch: int | None) -> None:
        self.feed = feed
        self.cursor = after
        self.epoch = epoch
        self.is_live = False
        self.has_overflowed = False
        self._waiting: deque[Frame] = deque()
        self._bytes = 0
        self._woken = asyncio.Event()

    def offer(self, frames: list[Frame]) -> None:
        """Queue frames for a live socket; one that does not read is given up, to resume later."""
        if not self.is_live or self.has_overflowed:
            return
        self._waiting.extend(frames)
        self._bytes += sum(len(frame.text) for frame in frames)
        if self._bytes > settings.SOCKET_BUFFER_BYTES:
            self.has_overflowed = True
            self._waiting.clear()
        self._woken.set()

    def wake(self) -> None:
        self._woken.set()

    async def frames(self) -> AsyncIterator[Frame]:
        """Frames from the cursor on, each event once, in order; ends on overflow or when it is all gone."""
        async for frame in self._backlog():
            yield frame
        if self.feed.status:
            yield Frame(self.feed.status)
        while not (self.has_overflowed or self.feed.is_gone):
            if not self._waiting:
                self._woken.clear()
                await self._woken.wait()
            while self._waiting and not self.has_overflowed:
                frame = self._waiting.popleft()
                self._bytes -= len(frame.text)
                if frame.reset_to is not None:
                    self.cursor = frame.reset_to
                elif frame.seq is not None:
                    if frame.seq <= self.cursor:
                        continue
                    self.cursor = frame.seq
                yield frame

    async def _backlog(self) -> AsyncIterator[Frame]:
        if reset := await self._reset():
            self.cursor = reset.reset_to or 0
            yield reset
        while self.cursor < self.feed.seq:
            page = self.feed.recent(self.cursor)
            if page is None:
                page = await run_in_thread(read_frames, self.feed.conversation_id, self.cursor)
            for frame in page:
                if frame.seq is not None and frame.seq > self.cursor:
                    yield frame
                    self.cursor = frame.seq
            if not page:
                break
        self.is_live = True

    async def _reset(self) -> Frame | None:
        """A reset frame when this cursor belongs to no log we have.

        A cursor ahead of the feed may only be ahead of the last nudge, so the log itself is asked.
        """
        is_of_another_epoch = self.epoch not in (None, self.feed.epoch)
        if self.cursor <= self.feed.seq and not is_of_another_epoch:
            return None
        reading = await run_in_thread(read, self.feed.conversation_id, None)
        if reading.is_gone or (self.cursor <= reading.last_seq and not is_of_another_epoch):
            return None
        return reset_frame(reading)


class Feed:
    """One conversation as one process follows it: where it stands, and a ring of its recent frames."""

    def __init__(self, conversation_id: UUID) -> None:
        self.conversation_id = conversation_id
        self.subscriptions: set[Subscription] = set()
        self.seq = 0
        self.epoch = 0
        self.updated_at: datetime | None = None
        self.status = ""
        self.is_gone = False
        self.is_subscribed = False
        self.reads = 0
        self._ring: deque[Frame] = deque()
        self._ring_bytes = 0
        self._dirty = asyncio.Event()
        self._task: asyncio.Task | None = None

    async def start(self) -> None:
        """Learn where the log stands and begin to follow it."""
        reading = await run_in_thread(read, self.conversation_id, None)
        self._take(reading)
        self._task = asyncio.create_task(self._follow())

    def stop(self) -> None:
        if self._task:
            self._task.cancel()

    def wake(self) -> None:
        self._dirty.set()

    def recent(self, after: int) -> list[Frame] | None:
        """Frames behind ``after`` from the ring, or None when it does not reach back so far."""
        if not self._ring or (self._ring[0].seq or 0) > after + 1:
            return None
        return [frame for frame in self._ring if (frame.seq or 0) > after]

    async def _follow(self) -> None:
        while not self.is_gone:
            await self._dirty.wait()
            self._dirty.clear()
            try:
                reading = await run_in_thread(read, self.conversation_id, self.seq)
                self.reads += 1
            except Exception:
                log.exception("reading a log failed; trying again")
                await asyncio.sleep(1)
                self._dirty.set()
                continue
            self._take(reading)

    def _take(self, reading: Reading) -> None:
        """Advance to what was read and hand it to every live socket. Nothing is awaited here."""
        if reading.is_gone:
            self.is_gone = True
            for subscription in self.subscriptions:
                subscription.wake()
            return
        news = list(reading.frames)
        self._remember(reading.frames)
        if self.epoch not in (0, reading.epoch) or reading.last_seq < self.seq:
            news, self._ring, self._ring_bytes = [reset_frame(reading)], deque(), 0
            self.seq = reading.last_seq
        elif reading.frames:
            self.seq = reading.frames[-1].seq or self.seq
        elif not self.epoch:
            self.seq = reading.last_seq
        self.epoch, self.updated_at = reading.epoch, reading.updated_at
        if reading.last_seq > self.seq:
            self._dirty.set()  # the page was full: there is more
        if reading.status and reading.status != self.status:
            self.status = reading.status
            news.append(Frame(self.status))
        for subscription in self.subscriptions:
            subscription.offer(news)

    def pass_on(self, frames: list[Frame]) -> None:
        """Hand frames outside the log to every live socket."""
        for subscription in self.subscriptions:
            subscription.offer(frames)

    def _remember(self, frames: list[Frame]) -> None:
        self._ring.extend(frames)
        self._ring_bytes += sum(len(frame.text) for frame in frames)
        while self._ring and self._ring_bytes > settings.HUB_RING_BYTES:
            self._ring_bytes -= len(self._ring.popleft().text)


class Hub:
    """What one process (one event loop) follows on behalf of all its sockets."""

    def __init__(self) -> None:
        self.feeds: dict[UUID, Feed] = {}
        self._starting: dict[UUID, asyncio.Task] = {}
        self._watchers: dict[UUID, set[asyncio.Event]] = {}
        self._unheard: set[UUID] = set()
        self._layer = get_channel_layer()
        self._channel = ""
        self._opening = asyncio.Lock()
        self._has_channel = asyncio.Event()
        self._tasks: list[asyncio.Task] = []
        self._joining: set[asyncio.Task[bool]] = set()

    @contextlib.asynccontextmanager
    async def subscribe(
        self, conversation_id: UUID, *, after: int, epoch: int | None = None
    ) -> AsyncIterator[Subscription]:
        """Follow a conversation from ``after``; leave it when the block ends."""
        await self._ensure_running()
        feed = await self._feed(conversation_id)
        while self.feeds.get(conversation_id) is not feed:  # its other sockets left while we waited
            feed = await self._feed(conversation_id)
        subscription = Subscription(feed, after, epoch)
        feed.subscriptions.add(subscription)
        try:
            yield subscription
        finally:
            feed.subscriptions.discard(subscription)
            if not feed.subscriptions:
                await self._drop(feed)

    @contextlib.asynccontextmanager
    async def watch_access(self, user_id: UUID) -> AsyncIterator[asyncio.Event]:
        """An event that is set whenever what this user may do could have changed: session, key, role."""
        await self._ensure_running()
        woken = asyncio.Event()
        self._watchers.setdefault(user_id, set()).add(woken)
        await self._hear_of(user_id)
        try:
            yield woken
        finally:
            watchers = self._watchers.get(user_id, set())
            watchers.discard(woken)
            if not watchers:
                self._watchers.pop(user_id, None)
                self._unheard.discard(user_id)
                with contextlib.suppress(Exception):
                    await self._layer.group_discard(access_group(user_id), self._channel)
                if user_id in self._watchers:  # another socket came while we left
                    await self._hear_of(user_id)

    async def _hear_of(self, user_id: UUID) -> None:
        if await self._join(access_group(user_id)):
            self._unheard.discard(user_id)
        else:
            self._unheard.add(user_id)

    async def _feed(self, conversation_id: UUID) -> Feed:
        """The conversation's feed, made once however many sockets ask at the same time."""
        task = self._starting.get(conversation_id)
        if task is None:
            # Only now: a feed that is starting stands in ``feeds`` too, and does not know its place yet. Who
            # joined it there would go live at 0 and miss all that is in the log.
            if feed := self.feeds.get(conversation_id):
                return feed
            task = asyncio.create_task(self._open(conversation_id))
            self._starting[conversation_id] = task
            task.add_done_callback(lambda _: self._starting.pop(conversation_id, None))
        return await asyncio.shield(task)

    async def _open(self, conversation_id: UUID) -> Feed:
        feed = Feed(conversation_id)
        await self._listen(feed)  # first listen, then read: a nudge in between marks the feed dirty
        self.feeds[conversation_id] = feed
        try:
            await feed.start()
        except BaseException:
            await self._drop(feed)
            raise
        return feed

    async def _drop(self, feed: Feed) -> None:
        if self.feeds.get(feed.conversation_id) is feed:
            del self.feeds[feed.conversation_id]
        feed.stop()
        with contextlib.suppress(Exception):
            await self._layer.group_discard(group_for(feed.conversation_id), self._channel)

    async def _listen(self, feed: Feed) -> None:
        """Ask for the feed's wake-ups. Without Redis the poll carries on alone, and tries again."""
        if await self._join(group_for(feed.conversation_id)):
            feed.is_subscribed = True

    async def _join(self, group: str) -> bool:
        # In a task of its own: redis-py waits by ``asyncio.wait_for``, which on Python 3.11 may swallow the
        # cancellation of who waits (cpython#86296), and a watcher would outlive its socket.
        task = asyncio.create_task(self._join_now(group))
        self._joining.add(task)
        task.add_done_callback(self._joining.discard)
        return await asyncio.shield(task)

    async def _join_now(self, group: str) -> bool:
        try:
            async with asyncio.timeout(2):
                async with self._opening:  # or two that begin at once listen on two channels
                    if not self._channel:
                        self._channel = await self._layer.new_channel("hub")
                        self._has_channel.set()
                await self._layer.group_add(group, self._channel)
        except Exception as error:  # noqa: BLE001 - Redis away, in whatever way
            log.warning("no wake-ups for now: %s", type(error).__name__)
            return False
        return True

    async def _ensure_running(self) -> None:
        if not self._tasks:
            self._tasks = [
                asyncio.create_task(self._receive()),
                asyncio.create_task(self._poll()),
            ]

    async def _receive(self) -> None:
        await self._has_channel.wait()
        while True:
            try:
                message = await self._layer.receive(self._channel)
            except Exception:  # noqa: BLE001 - the layer is reconnecting
                await asyncio.sleep(0.2)
                continue
            self._take_wakeup(bus.decode(message))

    def _take_wakeup(self, wakeup: bus.Wakeup | None) -> None:
        match wakeup:
            case bus.LogAdvanced(conversation=key):
                if feed := self.feeds.get(key):
                    feed.wake()
            case bus.DeltaArrived(conversation=key, deltas=deltas):
                if feed := self.feeds.get(key):
                    feed.pass_on([Frame(_text({"type": "delta"} | delta)) for delta in deltas])
            case bus.AccessChanged(user=user_id):
                for woken in self._watchers.get(user_id, ()):
                    woken.set()

    async def _poll(self) -> None:
        """Repair lost nudges: one query for all feeds; oftener while Redis gives us none."""
        while True:
            is_deaf = any(not feed.is_subscribed for feed in self.feeds.values())
            pause = min(2, settings.HUB_POLL_SECONDS) if is_deaf else settings.HUB_POLL_SECONDS
            await asyncio.sleep(pause)
            feeds = dict(self.feeds)
            for feed in feeds.values():
                if not (feed.subscriptions or feed.conversation_id in self._starting):
                    await self._drop(feed)  # whoever asked for it went away before it had started
                elif not feed.is_subscribed:
                    await self._listen(feed)
            for user_id in list(self._unheard):
                await self._hear_of(user_id)
            known = {key: (feed.seq, feed.updated_at) for key, feed in feeds.items()}
            with contextlib.suppress(Exception):  # the database away: the next round asks again
                for conversation_id in await run_in_thread(read_moved, known):
                    feeds[conversation_id].wake()


_hubs: "weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, Hub]" = weakref.WeakKeyDictionary()


def hub() -> Hub:
    """The hub of the running event loop; a server process has one loop, hence one hub."""
    return _hubs.setdefault(asyncio.get_running_loop(), Hub())


# --- Reading --------------------------------------------------------------------

_threads = ThreadPoolExecutor(max_workers=4, thread_name_prefix="hub")


async def run_in_thread(function: Callable[..., T], *args: Any) -> T:
    """Run a reading of the database in the hub's own few threads, and give its connection back."""

    def run() -> T:
        try:
            return function(*args)
        finally:
            connections.close_all()

    return await asyncio.get_running_loop().run_in_executor(_threads, run)


def read(conversation_id: UUID, after: int | None) -> Reading:
    """A conversation's state, and the events behind ``after``: a fixed number of queries for any audience."""
    conversation = Conversation.objects.filter(pk=conversation_id, deleted_at=None).first()
    if conversation is None:
        return Reading(0, after or 0, None, "", [], is_gone=True)
    has_news = after is not None and conversation.last_seq > after
    return Reading(
        epoch=conversation.epoch,
        last_seq=conversation.last_seq,
        updated_at=conversation.updated_at,
        status=_text({"type": "status", "conversation": record_of(conversation)}),
        frames=read_frames(conversation_id, after or 0) if has_news else [],
    )


def read_frames(conversation_id: UUID, after: int) -> list[Frame]:
    """A page of event frames behind ``after``."""
    events = Event.objects.filter(conversation_id=conversation_id, seq__gt=after).order_by("seq")
    return [frame_of(event) for event in events[:PAGE]]


def read_moved(known: dict[UUID, tuple[int, datetime | None]]) -> list[UUID]:
    """Which of the conversations are no longer as we know them."""
    rows = Conversation.objects.filter(pk__in=known, deleted_at=None)
    found = {pk: (seq, at) for pk, seq, at in rows.values_list("pk", "last_seq", "updated_at")}
    return [key for key, place in known.items() if found.get(key) != place]


def frame_of(event: Event) -> Frame:
    """An event as sockets get it."""
    return Frame(_text({"type": "event", "seq": event.seq, "event": event.to_wire()}), event.seq)


def reset_frame(reading: Reading) -> Frame:
    """Says that cursors of before mean nothing: fetch the log anew over REST."""
    body = {"type": "reset", "last_seq": reading.last_seq, "epoch": reading.epoch}
    return Frame(_text(body), reset_to=reading.last_seq)


def _text(body: dict[str, Any]) -> str:
    return dumps(body).decode()

"""The hub: read each log once for all sockets of a process.

Delivery is reading the log. Redis carries "conversation X moved", never what happened, so a lost nudge
costs the time to the next poll and nothing else.
"""

import asyncio
import contextlib
import logging
import random
import weakref
from collections import deque
from collections.abc import AsyncIterator
from functools import partial
from uuid import UUID

from channels.layers import get_channel_layer
from django.conf import settings

from accounts.services.sessions import access_group
from conversations.announcing import group_for
from conversations.realtime import threads
from conversations.realtime.feed import PAGE, Feed
from conversations.realtime.frames import DeltaFrame
from conversations.realtime.reading import read, read_moved
from conversations.realtime.subscription import FollowedLog, Subscription
from lib import bus

log = logging.getLogger(__name__)
READERS = 4
"""Readings of the database under way at a time in one process; each holds a connection."""
CONVERSATIONS_PER_READING = 32
"""Conversations that one statement reads when many moved; also how many groups are joined at a time."""


class Hub:
    """What one process (one event loop) follows on behalf of all its sockets."""

    def __init__(self) -> None:
        self.feeds: dict[UUID, Feed] = {}
        self._starting: dict[UUID, asyncio.Task[Feed]] = {}
        self._dirty: deque[Feed] = deque()
        self._has_dirty = asyncio.Event()
        self._watchers: dict[UUID, set[asyncio.Event]] = {}
        self._unheard: set[UUID] = set()
        self._layer = get_channel_layer()
        self._channel = ""
        self._opening = asyncio.Lock()
        self._has_channel = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._joining: set[asyncio.Task[bool]] = set()

    @contextlib.asynccontextmanager
    async def subscribe(
        self, conversation_id: UUID, *, after: int, epoch: int | None = None
    ) -> AsyncIterator[Subscription]:
        """Follow a conversation from ``after``; leave it when the block ends."""
        subscription = await self.join(conversation_id, after=after, epoch=epoch)
        try:
            yield subscription
        finally:
            await self.leave(subscription)

    async def join(
        self, conversation_id: UUID, *, after: int, epoch: int | None = None
    ) -> Subscription:
        """The same without a block: whoever joins must ``leave``."""
        await self._ensure_running()
        feed = await self._feed(conversation_id)
        while self.feeds.get(conversation_id) is not feed:  # its other sockets left while we waited
            feed = await self._feed(conversation_id)
        subscription = Subscription(feed, after, epoch)
        feed.subscriptions.add(subscription)
        return subscription

    async def leave(self, subscription: Subscription) -> None:
        """Send nothing more to it; the last to leave ends the feed."""
        subscription.stop()
        feed = subscription.feed
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

    async def _hear_of(self, user_id: UUID) -> bool:
        is_heard = await self._join(access_group(user_id))
        if is_heard:
            self._unheard.discard(user_id)
        else:
            self._unheard.add(user_id)
        return is_heard

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
        feed = Feed(conversation_id, queue=self.queue)
        await self._listen(feed)  # first listen, then read: a nudge in between marks the feed dirty
        self.feeds[conversation_id] = feed
        try:
            await feed.start()
        except BaseException:
            await self._drop(feed)
            raise
        return feed

    async def _drop(self, feed: FollowedLog) -> None:
        if self.feeds.get(feed.conversation_id) is feed:
            del self.feeds[feed.conversation_id]
        with contextlib.suppress(Exception):
            await self._layer.group_discard(group_for(feed.conversation_id), self._channel)

    async def _listen(self, feed: Feed) -> bool:
        """Ask for the feed's wake-ups. Without Redis the poll carries on alone, and tries again."""
        feed.is_subscribed = await self._join(group_for(feed.conversation_id))
        return feed.is_subscribed

    async def _listen_again(self) -> None:
        """Ask for the wake-ups that we do not get, some at a time, until Redis gives none of them.

        One that hangs is two seconds in refusing: one after the other, the poll would stand still meanwhile. In
        no order, for one of several servers may be away.
        """
        deaf = [feed for feed in self.feeds.values() if not feed.is_subscribed]
        asking = [partial(self._listen, feed) for feed in deaf]
        asking += [partial(self._hear_of, user_id) for user_id in self._unheard]
        random.shuffle(asking)
        for start in range(0, len(asking), CONVERSATIONS_PER_READING):
            if not any(
                await asyncio.gather(
                    *(ask() for ask in asking[start : start + CONVERSATIONS_PER_READING])
                )
            ):
                break
        for feed in deaf:
            if feed.is_subscribed:
                feed.wake()  # what moved between the poll and now was announced to nobody

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
                *(asyncio.create_task(self._read()) for _ in range(READERS)),
            ]

    def queue(self, feed: Feed) -> None:
        """Have a feed read by whichever reader is free; those that wait are read together."""
        self._dirty.append(feed)
        self._has_dirty.set()

    async def _read(self) -> None:
        """One of a few readers: the more feeds wait, the more of them a single statement reads."""
        while True:
            while not self._dirty:
                self._has_dirty.clear()
                await self._has_dirty.wait()
            feeds: dict[UUID, Feed] = {}
            while self._dirty and len(feeds) < CONVERSATIONS_PER_READING:
                feed = self._dirty.popleft()
                feed.is_dirty, feed.is_busy = False, True
                feeds[feed.conversation_id] = feed
            try:
                await self._read_into(feeds)
            except Exception:
                log.exception("reading logs failed; trying again")
                for feed in feeds.values():
                    feed.is_dirty = True
                await asyncio.sleep(1)
            finally:
                for feed in feeds.values():
                    feed.is_busy = False
                    if feed.is_dirty and not feed.is_gone:
                        self.queue(feed)

    async def _read_into(self, feeds: dict[UUID, Feed]) -> None:
        places = {key: feed.seq for key, feed in feeds.items()}
        readings = await threads.run_in_thread(read, places, PAGE)
        for key, feed in feeds.items():
            feed.reads += 1
            await feed.hand_out(feed.take(readings[key]))

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
                    feed.pass_on([DeltaFrame(delta).sized() for delta in deltas])
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
            known = {key: (feed.seq, feed.updated_at) for key, feed in feeds.items()}
            with contextlib.suppress(Exception):  # the database away: the next round asks again
                for conversation_id in await threads.run_in_thread(read_moved, known):
                    feeds[conversation_id].wake()
            for feed in feeds.values():
                if not (feed.subscriptions or feed.conversation_id in self._starting):
                    await self._drop(feed)  # whoever asked for it went away before it had started
            await self._listen_again()


_hubs: "weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, Hub]" = weakref.WeakKeyDictionary()


def get_hub() -> Hub:
    """The hub of the running event loop; a server process has one loop, hence one hub."""
    return _hubs.setdefault(asyncio.get_running_loop(), Hub())

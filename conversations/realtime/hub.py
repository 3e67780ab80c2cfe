"""The hub reads each followed log once for all sockets of a process.

All events come from the database. Redis carries only nudges, which say that a conversation changed but not how. If a
nudge is lost, the next poll finds the change.
"""

import asyncio
import contextlib
import logging
import random
import weakref
from collections import deque
from collections.abc import AsyncIterator, Callable
from functools import partial
from uuid import UUID

from channels.layers import get_channel_layer
from django.conf import settings

from accounts.services.sessions import access_group
from conversations.announcing import group_for
from conversations.realtime import threads
from conversations.realtime.feed import PAGE, Feed
from conversations.realtime.frames import DeltaFrame
from conversations.realtime.reading import find_changed, read
from conversations.realtime.subscription import Encoder, FeedProtocol, Subscription
from lib import bus

log = logging.getLogger(__name__)
READERS = 4
"""The number of concurrent database reads per process. Each uses a connection."""
CONVERSATIONS_PER_READING = 32
"""The largest number of conversations that one statement reads. Redis groups are joined in batches of this size too."""


class Hub:
    """The feeds of all conversations that one process follows. There is one hub for each event loop."""

    def __init__(self) -> None:
        self.feeds: dict[UUID, Feed] = {}
        # Feeds whose first read is still running.
        self._starting: dict[UUID, asyncio.Task[Feed]] = {}
        # Feeds whose read is queued, the oldest first.
        self._dirty: deque[Feed] = deque()
        self._has_dirty = asyncio.Event()
        # By user id: the function to call when the user's access may have changed.
        self._watchers: dict[UUID, Callable[[], None]] = {}
        # Users for whom the subscription to changes of access failed. The poll retries it.
        self._unsubscribed_users: set[UUID] = set()
        self._layer = get_channel_layer()
        # The name of this hub's own channel in Redis; empty until the channel is created.
        self._channel = ""
        self._channel_lock = asyncio.Lock()
        self._has_channel = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._joining: set[asyncio.Task[bool]] = set()

    @contextlib.asynccontextmanager
    async def subscribe(
        self, conversation_id: UUID, *, after: int, epoch: int | None = None
    ) -> AsyncIterator[Subscription]:
        """Yield a subscription to a conversation's events after the seq ``after``; leave it at the end of the block."""
        subscription = await self.join(conversation_id, after=after, epoch=epoch)
        try:
            yield subscription
        finally:
            await self.leave(subscription)

    async def join(
        self,
        conversation_id: UUID,
        *,
        after: int,
        epoch: int | None = None,
        encoder: type[Encoder] | None = None,
    ) -> Subscription:
        """Return a subscription to a conversation's events after the seq ``after``. The caller must call ``leave``.

        ``encoder`` encodes the frames for the protocol of the subscription. None means that ``push`` encodes them.
        """
        await self._ensure_running()
        feed = await self._feed(conversation_id, after)
        # The feed may have been dropped while we waited for its first read.
        while self.feeds.get(conversation_id) is not feed:
            feed = await self._feed(conversation_id, after)
        subscription = Subscription(feed, after, epoch)
        feed.add(subscription, encoder)
        return subscription

    async def leave(self, subscription: Subscription) -> None:
        """Close a subscription, and drop its feed if no other subscription uses the feed."""
        subscription.close()
        feed = subscription.feed
        feed.remove(subscription)
        if not feed.subscriptions:
            await self._drop(feed)

    async def watch_user(self, user_id: UUID, changed: Callable[[], None]) -> None:
        """Call ``changed`` whenever a user's access may have changed, until ``unwatch_user`` is called.

        This happens, for example, when a session ends, a key is revoked or a role changes. A user has at most one such
        function.
        """
        self._watchers[user_id] = changed
        await self._ensure_running()
        await self._subscribe_user(user_id)

    async def unwatch_user(self, user_id: UUID) -> None:
        """Stop calling the function of ``watch_user``. Safe to repeat."""
        self._watchers.pop(user_id, None)
        self._unsubscribed_users.discard(user_id)
        with contextlib.suppress(Exception):
            await self._layer.group_discard(access_group(user_id), self._channel)
        # The user may be watched again since we began to leave the group.
        if user_id in self._watchers:
            await self._subscribe_user(user_id)

    async def _subscribe_user(self, user_id: UUID) -> bool:
        is_subscribed = await self._join(access_group(user_id))
        if is_subscribed:
            self._unsubscribed_users.discard(user_id)
        else:
            self._unsubscribed_users.add(user_id)
        return is_subscribed

    async def _feed(self, conversation_id: UUID, after: int) -> Feed:
        """Return the conversation's feed, creating it once for all concurrent callers.

        A new feed also reads the page after the seq ``after``.
        """
        task = self._starting.get(conversation_id)
        if task is None:
            # Look at `feeds` only now: it also contains feeds that are starting, which do not know
            # their position yet. A subscription to such a feed would go live at 0 and miss the
            # whole log.
            if feed := self.feeds.get(conversation_id):
                return feed
            task = asyncio.create_task(self._open(conversation_id, after))
            self._starting[conversation_id] = task
            task.add_done_callback(lambda _: self._starting.pop(conversation_id, None))
        # Shielded, because other callers wait for the same task.
        return await asyncio.shield(task)

    async def _open(self, conversation_id: UUID, after: int) -> Feed:
        feed = Feed(conversation_id, queue=self.queue)
        # Subscribe first, then read: a nudge in between marks the feed dirty and is not lost.
        await self._subscribe_feed(feed)
        self.feeds[conversation_id] = feed
        try:
            await feed.start(after)
        except BaseException:
            # Also on cancellation: a feed that never started must not stay registered.
            await self._drop(feed)
            raise
        return feed

    async def _drop(self, feed: FeedProtocol) -> None:
        if self.feeds.get(feed.conversation_id) is feed:
            del self.feeds[feed.conversation_id]
        with contextlib.suppress(Exception):
            await self._layer.group_discard(group_for(feed.conversation_id), self._channel)

    async def _subscribe_feed(self, feed: Feed) -> bool:
        """Subscribe to the nudges for a feed; return whether that succeeded.

        While Redis is unreachable, the poll finds changes and retries the subscription.
        """
        feed.is_subscribed = await self._join(group_for(feed.conversation_id))
        return feed.is_subscribed

    async def _retry_subscriptions(self) -> None:
        """Retry failed subscriptions in batches, and stop after a batch in which every attempt fails.

        An attempt at a Redis server that hangs takes two seconds, so attempts one by one would block the poll. The
        order is random, because only one of several Redis servers may be down.
        """
        unsubscribed = [feed for feed in self.feeds.values() if not feed.is_subscribed]
        attempts = [partial(self._subscribe_feed, feed) for feed in unsubscribed]
        attempts += [partial(self._subscribe_user, user_id) for user_id in self._unsubscribed_users]
        random.shuffle(attempts)
        for start in range(0, len(attempts), CONVERSATIONS_PER_READING):
            if not any(
                await asyncio.gather(
                    *(attempt() for attempt in attempts[start : start + CONVERSATIONS_PER_READING])
                )
            ):
                break
        for feed in unsubscribed:
            if feed.is_subscribed:
                feed.wake()  # no nudge arrived for changes between the poll and the subscription

    async def _join(self, group: str) -> bool:
        # Joining runs in its own task: redis-py uses `asyncio.wait_for`, which on Python 3.11 may swallow
        # the cancellation of its caller (cpython#86296). Then a watcher would outlive its socket.
        task = asyncio.create_task(self._join_now(group))
        self._joining.add(task)
        task.add_done_callback(self._joining.discard)
        return await asyncio.shield(task)

    async def _join_now(self, group: str) -> bool:
        try:
            async with asyncio.timeout(2):
                # Two concurrent first callers must not create two channels.
                async with self._channel_lock:
                    if not self._channel:
                        self._channel = await self._layer.new_channel("hub")
                        self._has_channel.set()
                await self._layer.group_add(group, self._channel)
        except Exception as error:  # noqa: BLE001 - any failure of Redis
            log.warning(
                "Redis is unreachable; changes are found only by polling until it is back: %s",
                type(error).__name__,
            )
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
        """Queue a read of a feed. A reader takes several queued feeds together."""
        self._dirty.append(feed)
        self._has_dirty.set()

    async def _read(self) -> None:
        """Read queued feeds, forever. The more feeds are queued, the more of them one statement reads."""
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
                log.exception("reading logs failed; retrying in a second")
                for feed in feeds.values():
                    feed.is_dirty = True
                await asyncio.sleep(1)
            finally:
                for feed in feeds.values():
                    feed.is_busy = False
                    # A nudge arrived during the read, the page was full, or the read failed.
                    if feed.is_dirty and not feed.is_gone:
                        self.queue(feed)

    async def _read_into(self, feeds: dict[UUID, Feed]) -> None:
        places = {key: feed.seq for key, feed in feeds.items()}
        readings = await threads.run_in_thread(read, places, PAGE)
        for key, feed in feeds.items():
            await feed.broadcast(feed.apply(readings[key]))

    async def _receive(self) -> None:
        await self._has_channel.wait()
        while True:
            try:
                message = await self._layer.receive(self._channel)
            except Exception:  # noqa: BLE001 - the layer is reconnecting
                await asyncio.sleep(0.2)
                continue
            self._handle_wakeup(bus.decode(message))

    def _handle_wakeup(self, wakeup: bus.Wakeup | None) -> None:
        match wakeup:
            case bus.LogAdvanced(conversation=key):
                if feed := self.feeds.get(key):
                    feed.wake()
            case bus.DeltaArrived(conversation=key, deltas=deltas):
                if feed := self.feeds.get(key):
                    feed.broadcast_deltas([DeltaFrame(delta).with_exact_size() for delta in deltas])
            case bus.AccessChanged(user=user_id):
                if changed := self._watchers.get(user_id):
                    changed()

    async def _poll(self) -> None:
        """Find changes whose nudges were lost, with one query for all feeds, forever.

        While Redis is unreachable, poll more often.
        """
        while True:
            lacks_nudges = any(not feed.is_subscribed for feed in self.feeds.values())
            pause = min(2, settings.HUB_POLL_SECONDS) if lacks_nudges else settings.HUB_POLL_SECONDS
            await asyncio.sleep(pause)
            feeds = dict(self.feeds)
            if not feeds:
                await self._retry_subscriptions()
                continue
            known = {key: (feed.seq, feed.updated_at) for key, feed in feeds.items()}
            # If the database is unreachable, the next round retries.
            with contextlib.suppress(Exception):
                for conversation_id in await threads.run_in_thread(find_changed, known):
                    feeds[conversation_id].wake()
            for feed in feeds.values():
                if not (feed.subscriptions or feed.conversation_id in self._starting):
                    # Its subscriber was cancelled before the feed had started.
                    await self._drop(feed)
            await self._retry_subscriptions()


_hubs: "weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, Hub]" = weakref.WeakKeyDictionary()


def get_hub() -> Hub:
    """Return the hub of the running event loop. A server process has one event loop and so one hub."""
    return _hubs.setdefault(asyncio.get_running_loop(), Hub())

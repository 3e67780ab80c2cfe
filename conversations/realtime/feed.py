"""One conversation as one process follows it."""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from datetime import datetime
from uuid import UUID

from django.conf import settings

from conversations.realtime import threads
from conversations.realtime.frames import EventFrame, Frame
from conversations.realtime.reading import Reading, read, read_events
from conversations.realtime.subscription import Subscription

PAGE = 200
"""Events of one conversation read at a time."""
BURST = 1_000
"""Frames sent to an audience before other tasks get their turn."""


class Feed:
    """One conversation as one process follows it: where it stands, and a ring of its recent frames."""

    def __init__(self, conversation_id: UUID, queue: Callable[["Feed"], None]) -> None:
        self.conversation_id = conversation_id
        self.subscriptions: set[Subscription] = set()
        self.seq = 0
        self.epoch = 0
        self.horizon = 0
        self.updated_at: datetime | None = None
        self.reading: Reading | None = None
        self.is_gone = False
        self.is_subscribed = False
        self.is_dirty = self.is_busy = False
        self.reads = 0
        self._queue = queue
        self._ring: deque[EventFrame] = deque()
        self._ring_bytes = 0

    async def start(self) -> None:
        """Learn where the log stands."""
        self.is_busy = True
        try:
            self.take(await self.look())
        finally:
            self.is_busy = False
        if self.is_dirty:
            self._queue(self)

    async def look(self) -> Reading:
        """How the log and the record stand in the database, without events."""
        key = self.conversation_id
        return (await threads.run_in_thread(read, {key: None}, PAGE))[key]

    async def page_behind(self, after: int) -> list[Frame]:
        """A page of the log from the database."""
        return await threads.run_in_thread(read_events, self.conversation_id, after, PAGE)

    def wake(self) -> None:
        """Have the log read soon, unless that is queued already."""
        if not self.is_dirty:
            self.is_dirty = True
            if not self.is_busy:
                self._queue(self)

    def recent(self, after: int) -> list[Frame] | None:
        """Frames behind ``after`` from the ring, or None when it does not reach back so far."""
        if not self._ring or (self._ring[0].seq or 0) > after + 1:
            return None
        return [frame for frame in self._ring if (frame.seq or 0) > after]

    def take(self, reading: Reading) -> list[Frame]:
        """Advance to what was read; gives what live sockets must be told. Nothing is awaited here."""
        if reading.is_gone:
            self.is_gone = True
            for subscription in self.subscriptions:
                subscription.wake()
            return []
        news: list[Frame] = list(reading.frames)
        self._remember(reading.frames)
        if self.epoch not in (0, reading.epoch) or reading.last_seq < self.seq:
            news, self._ring, self._ring_bytes = [reading.reset], deque(), 0
            self.seq = reading.last_seq
        elif reading.frames:
            self.seq = reading.frames[-1].seq or self.seq
        elif not self.epoch:
            self.seq = reading.last_seq
        self.epoch, self.horizon = reading.epoch, reading.horizon
        self.updated_at = reading.updated_at
        if reading.last_seq > self.seq:
            self.is_dirty = True  # the page was full: there is more
        before, self.reading = self.reading, reading
        if before is None or reading.news != before.news:
            news.append(reading.status)
        return news

    async def hand_out(self, news: Sequence[Frame]) -> None:
        """Offer news to every socket that is live now; who joins meanwhile reads it from the ring.

        Now and then the loop is let go on, so that a large audience does not hold up the others.
        """
        sent = 0
        for subscription in [one for one in self.subscriptions if one.is_live]:
            subscription.offer(news)
            sent += len(news)
            if sent >= BURST:
                sent = 0
                await asyncio.sleep(0)
        for frame in news:
            if isinstance(frame, EventFrame):
                frame.forget()  # the ring keeps events, and not each twice

    def pass_on(self, frames: list[Frame]) -> None:
        """Hand frames outside the log to every live socket."""
        for subscription in self.subscriptions:
            subscription.offer(frames)

    def _remember(self, frames: list[EventFrame]) -> None:
        self._ring.extend(frames)
        self._ring_bytes += sum(frame.size for frame in frames)
        limit = settings.HUB_RING_BYTES
        while self._ring and self._ring_bytes > limit:
            self._ring_bytes -= self._ring.popleft().size

"""The feed of a conversation: its log as one process follows it for all its subscriptions."""

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
"""The most events of one conversation that one read returns."""
BURST = 1_000
"""Frames sent to a feed's subscriptions before other tasks get a turn."""


class Feed:
    """A followed conversation: its position in the log, a ring buffer of recent frames, and its subscriptions."""

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
        """Read the log's head and record from the database."""
        self.is_busy = True
        try:
            self.apply(await self.read_head())
        finally:
            self.is_busy = False
        # A nudge during the read may announce events that the read did not see.
        if self.is_dirty:
            self._queue(self)

    async def read_head(self) -> Reading:
        """Read the log's head and the conversation's record, without events."""
        key = self.conversation_id
        return (await threads.run_in_thread(read, {key: None}, PAGE))[key]

    async def read_page(self, after: int) -> list[Frame]:
        """Read a page of events after the seq ``after`` from the database."""
        return await threads.run_in_thread(read_events, self.conversation_id, after, PAGE)

    def wake(self) -> None:
        """Queue a read of the log, unless one is queued already."""
        if not self.is_dirty:
            self.is_dirty = True
            if not self.is_busy:
                self._queue(self)

    def recent_frames(self, after: int) -> list[Frame] | None:
        """Return the frames after ``after`` from the ring, or None if the ring does not reach back that far."""
        if not self._ring or (self._ring[0].seq or 0) > after + 1:
            return None
        return [frame for frame in self._ring if (frame.seq or 0) > after]

    def apply(self, reading: Reading) -> list[Frame]:
        """Advance to the state in ``reading``; return the frames for live sockets.

        It awaits nothing, so a subscription cannot go live in the middle of an update.
        """
        if reading.is_gone:
            self.is_gone = True
            for subscription in self.subscriptions:
                subscription.wake()
            return []
        updates: list[Frame] = list(reading.frames)
        self._remember(reading.frames)
        # A new epoch or a shorter log means that the log was replaced: earlier frames are void.
        if self.epoch not in (0, reading.epoch) or reading.last_seq < self.seq:
            updates, self._ring, self._ring_bytes = [reading.reset], deque(), 0
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
        if before is None or reading.announced_fields != before.announced_fields:
            updates.append(reading.status)
        return updates

    async def broadcast(self, updates: Sequence[Frame]) -> None:
        """Offer frames to every live subscription.

        A subscription that goes live meanwhile reads them from the ring. Other tasks get a turn after every
        ``BURST`` frames, so a large audience does not delay other conversations.
        """
        sent = 0
        for subscription in [each for each in self.subscriptions if each.is_live]:
            subscription.offer(updates)
            sent += len(updates)
            if sent >= BURST:
                sent = 0
                await asyncio.sleep(0)
        for frame in updates:
            if isinstance(frame, EventFrame):
                # The ring keeps the event itself; an encoded copy would double its memory.
                frame.drop_wire()

    def broadcast_deltas(self, frames: list[Frame]) -> None:
        """Offer frames that are not in the log, such as deltas, to every live subscription."""
        for subscription in self.subscriptions:
            subscription.offer(frames)

    def _remember(self, frames: list[EventFrame]) -> None:
        self._ring.extend(frames)
        self._ring_bytes += sum(frame.size for frame in frames)
        limit = settings.HUB_RING_BYTES
        while self._ring and self._ring_bytes > limit:
            self._ring_bytes -= self._ring.popleft().size

"""The feed of a conversation: the position of one process in the log, and the subscriptions that it serves."""

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
"""The largest number of events that one read returns for a conversation."""
BURST = 1_000
"""The number of frames that a feed sends to its subscriptions before other tasks get a turn."""


class Feed:
    """A followed conversation: the position in its log, a ring buffer of recent frames, and its subscriptions.

    ``seq`` is the position up to which the log was read. ``epoch`` is the log's epoch, which is raised when the log is
    restored from a backup; 0 before the first read. Events up to ``horizon`` were pruned. ``reading`` is the newest
    reading.
    """

    def __init__(self, conversation_id: UUID, queue: Callable[["Feed"], None]) -> None:
        self.conversation_id = conversation_id
        self.subscriptions: set[Subscription] = set()
        self.seq = 0
        self.epoch = 0
        self.horizon = 0
        self.updated_at: datetime | None = None
        self.reading: Reading | None = None
        self.is_gone = False
        # Whether nudges for this conversation reach the hub.
        self.is_subscribed = False
        # Dirty: the log may have changed since the last read began. Busy: a read is running.
        self.is_dirty = self.is_busy = False
        self._queue = queue
        self._ring: deque[EventFrame] = deque()
        self._ring_bytes = 0

    async def start(self) -> None:
        """Set the feed's first position from the conversation's record in the database."""
        self.is_busy = True
        try:
            self.apply(await self.read_head())
        finally:
            self.is_busy = False
        # A nudge during the read may announce events that the read did not see.
        if self.is_dirty:
            self._queue(self)

    async def read_head(self) -> Reading:
        """Read the conversation's record and the seq of its newest event, but no events."""
        key = self.conversation_id
        return (await threads.run_in_thread(read, {key: None}, PAGE))[key]

    async def read_page(self, after: int) -> list[Frame]:
        """Return a page of the event frames after the seq ``after``, read from the database."""
        return await threads.run_in_thread(read_events, self.conversation_id, after, PAGE)

    def wake(self) -> None:
        """Queue a read of the log, unless a read is queued already."""
        if not self.is_dirty:
            self.is_dirty = True
            # While a read is running, the hub queues the next read when that read ends.
            if not self.is_busy:
                self._queue(self)

    def recent_frames(self, after: int) -> list[Frame] | None:
        """Return the frames after the seq ``after``, or None if the ring buffer no longer contains all of them."""
        if not self._ring or (self._ring[0].seq or 0) > after + 1:
            return None
        return [frame for frame in self._ring if (frame.seq or 0) > after]

    def apply(self, reading: Reading) -> list[Frame]:
        """Advance to the state in ``reading``; return the frames for live subscriptions.

        This function must not await: a subscription must not go live in the middle of an update.
        """
        if reading.is_gone:
            self.is_gone = True
            for subscription in self.subscriptions:
                subscription.wake()
            return []
        updates: list[Frame] = list(reading.frames)
        self._remember(reading.frames)
        # A new epoch or a shorter log means that the log was replaced, so earlier frames are void. Epoch 0 means
        # that nothing was read before.
        if self.epoch not in (0, reading.epoch) or reading.last_seq < self.seq:
            updates, self._ring, self._ring_bytes = [reading.reset], deque(), 0
            self.seq = reading.last_seq
        elif reading.frames:
            self.seq = reading.frames[-1].seq or self.seq
        elif not self.epoch:
            # The first reading contains no events: subscriptions read the earlier events themselves.
            self.seq = reading.last_seq
        self.epoch, self.horizon = reading.epoch, reading.horizon
        self.updated_at = reading.updated_at
        if reading.last_seq > self.seq:
            self.is_dirty = True  # the page was full, so read the next page too
        previous, self.reading = self.reading, reading
        if previous is None or reading.announced_fields != previous.announced_fields:
            updates.append(reading.status)
        return updates

    async def broadcast(self, updates: Sequence[Frame]) -> None:
        """Offer frames to every live subscription.

        Other tasks get a turn after every ``BURST`` frames, so a large audience does not delay other conversations.
        """
        sent = 0
        # A list, because subscriptions come and go during the sleep. A subscription that goes live in the meantime
        # has read these frames from the ring buffer.
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
        """Offer frames that are not in the log, such as pieces of streamed text, to every live subscription."""
        for subscription in self.subscriptions:
            subscription.offer(frames)

    def _remember(self, frames: list[EventFrame]) -> None:
        self._ring.extend(frames)
        self._ring_bytes += sum(frame.size for frame in frames)
        limit = settings.HUB_RING_BYTES
        while self._ring and self._ring_bytes > limit:
            self._ring_bytes -= self._ring.popleft().size

"""The feed of a conversation: the position of one process in the log, and the subscriptions that it serves."""

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime
from uuid import UUID

from django.conf import settings

from conversations.realtime import threads
from conversations.realtime.frames import EventFrame, Frame
from conversations.realtime.reading import Reading, read, read_pages
from conversations.realtime.subscription import Encoder, Subscription
from lib.batches import Batches

log = logging.getLogger(__name__)
PAGE = 200
"""The largest number of events that one read returns for a conversation."""
BURST = 1_000
"""The number of frames that a feed sends to its subscriptions before other tasks get a turn."""
HEADS_TOGETHER = 32
"""The number of conversations whose newest state one statement reads without events."""
PAGES_TOGETHER = 8
"""The number of conversations of which one statement reads a page when feeds start, or for the backlog."""


async def _read_heads(ids: list[UUID]) -> dict[UUID, Reading | Exception]:
    return dict(await threads.run_in_thread(read, dict.fromkeys(ids), PAGE))


async def _read_pages(
    places: list[tuple[UUID, int]],
) -> dict[tuple[UUID, int], Reading | Exception]:
    return dict(await threads.run_in_thread(read_pages, places, PAGE))


_heads = Batches(_read_heads, size=HEADS_TOGETHER)
_pages = Batches(_read_pages, size=PAGES_TOGETHER)


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
        self._encoders: dict[type[Encoder], Encoder] = {}
        # The subscriptions that read the backlog now, and the pages that they have read, by the seq before the page.
        self._backlog_readers = 0
        self._pages: dict[int, asyncio.Future[list[EventFrame]]] = {}
        self._pages_bytes = 0
        self._was_ring_read = False

    async def start(self, after: int) -> None:
        """Set the feed's first position from the conversation's record in the database.

        The same statement reads the page after the seq ``after``, which the first subscription needs. The page is kept
        until that subscription has read the backlog.
        """
        self.is_busy = True
        try:
            reading = await _pages.ask((self.conversation_id, after))
            self.apply(replace(reading, frames=[]))
            if reading.frames:
                page = asyncio.get_running_loop().create_future()
                page.set_result(reading.frames)
                # Events up to the horizon were deleted, so the page also follows the horizon.
                self._pages[max(after, reading.horizon)] = page
                self._pages_bytes += sum(frame.size for frame in reading.frames)
        finally:
            self.is_busy = False
        # A nudge during the read may announce events that the read did not see.
        if self.is_dirty:
            self._queue(self)

    async def read_head(self) -> Reading:
        """Read the conversation's record and the seq of its newest event, but no events."""
        return await _heads.ask(self.conversation_id)

    # --- Subscriptions ---

    def add(self, subscription: Subscription, encoder: type[Encoder] | None) -> None:
        """Add a subscription whose frames are encoded by ``encoder``, which all subscriptions of its class share."""
        if encoder is not None:
            if encoder not in self._encoders:
                self._encoders[encoder] = encoder(self)
            subscription.encoder = self._encoders[encoder]
        self.subscriptions.add(subscription)

    def remove(self, subscription: Subscription) -> None:
        """Remove a subscription, and its encoder if no other subscription uses it. Safe to repeat."""
        self.subscriptions.discard(subscription)
        encoder = subscription.encoder
        if encoder is not None and all(each.encoder is not encoder for each in self.subscriptions):
            self._encoders.pop(type(encoder), None)

    # --- The backlog ---

    @contextmanager
    def backlog_reader(self) -> Iterator[None]:
        """While the block runs, keep the pages that ``read_page`` returns, up to ``HUB_RING_BYTES``.

        So a page is read and encoded once for all subscriptions that start at about the same time.
        """
        self._backlog_readers += 1
        try:
            yield
        finally:
            self._backlog_readers -= 1
            if not self._backlog_readers:
                self._drop_pages()
                if self._was_ring_read:
                    self._was_ring_read = False
                    for frame in self._ring:
                        frame.drop_encoded()

    async def read_page(self, after: int) -> Sequence[Frame]:
        """Return a page of the event frames after the seq ``after``, read from the database."""
        page = self._pages.get(after)
        if page is None:
            page = self._pages[after] = asyncio.create_task(self._load_page(after))
        return page.result() if page.done() else await asyncio.shield(page)

    async def _load_page(self, after: int) -> list[EventFrame]:
        frames: list[EventFrame] = []
        try:
            frames = (await _pages.ask((self.conversation_id, after))).frames
        finally:
            self._pages_bytes += sum(frame.size for frame in frames)
            # An empty page is not kept: the log may have grown when it is read again.
            if not frames or self._pages_bytes > settings.HUB_RING_BYTES:
                self._drop_pages()
        return frames

    def _drop_pages(self) -> None:
        self._pages, self._pages_bytes = {}, 0

    # --- The position ---

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
        self._was_ring_read = True
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
            self._drop_pages()
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
        """Offer frames to every live subscription: first to those without an encoder, then to those of each encoder.

        Other tasks get a turn after every ``BURST`` frames, so a large audience does not delay other conversations.
        """
        # A list, because subscriptions come and go while this method waits. A subscription that goes live in the
        # meantime has read these frames from the ring buffer.
        live = [each for each in self.subscriptions if each.is_live]
        if not self._encoders:
            await self._offer(live, updates)
        else:
            await self._offer([each for each in live if each.encoder is None], updates)
            for encoder in list(self._encoders.values()):
                await self._encode_and_offer(
                    encoder, [each for each in live if each.encoder is encoder], updates
                )
        for frame in updates:
            if isinstance(frame, EventFrame):
                # The ring keeps the event itself; encoded copies would multiply its memory.
                frame.drop_encoded()

    async def _encode_and_offer(
        self, encoder: Encoder, audience: list[Subscription], updates: Sequence[Frame]
    ) -> None:
        try:
            await encoder.encode_live(updates)
        except Exception:
            log.exception("Events could not be encoded; the clients will reconnect and resume.")
            for subscription in audience:
                subscription.fail()
        else:
            await self._offer(audience, updates)

    async def _offer(self, audience: list[Subscription], updates: Sequence[Frame]) -> None:
        sent = 0
        for subscription in audience:
            subscription.offer(updates)
            sent += len(updates)
            if sent >= BURST:
                sent = 0
                await asyncio.sleep(0)

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

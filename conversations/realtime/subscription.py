"""Subscriptions: a reader's cursor in a conversation's log, and the frames sent to that reader."""

import asyncio
import types
from collections import deque
from collections.abc import (
    AsyncIterator,
    Callable,
    Coroutine,
    Generator,
    Iterable,
    Iterator,
    Sequence,
)
from typing import Any, Protocol
from uuid import UUID

from django.conf import settings

from conversations.realtime.frames import Frame
from conversations.realtime.reading import Reading

Push = Callable[[Sequence[Frame]], Coroutine[Any, Any, None]]
BATCH_BYTES = 65_536
"""The size in bytes at which a batch of frames is sent to a client.

About the amount that a server buffers before its ``send`` waits.
"""


class FollowedLog(Protocol):
    """The interface of ``feed.Feed`` that subscriptions use: the log as this process follows it."""

    conversation_id: UUID
    subscriptions: "set[Subscription]"
    seq: int
    epoch: int
    horizon: int
    reading: Reading | None
    is_gone: bool

    async def read_head(self) -> Reading: ...

    async def read_page(self, after: int) -> list[Frame]: ...

    def recent_frames(self, after: int) -> list[Frame] | None: ...


class Subscription:
    """A reader's cursor in a conversation's log, and the frames that wait to be sent to the reader.

    A subscription starts behind and reads the log until its cursor reaches the feed's. From that moment,
    without an await in between, the feed offers new frames, so no frame is lost between reading and
    listening.

    With ``send_until_over`` or ``go_live`` the hub sends frames itself, without waking a task per socket
    and event; frames that the client does not accept immediately wait here. With ``frames`` the caller
    iterates. Most subscriptions are idle, so queues and events are created when they are needed.
    """

    __slots__ = (
        "_bytes",
        "_push",
        "_sending",
        "_waiting",
        "_when_over",
        "_woken",
        "cursor",
        "epoch",
        "feed",
        "has_failed",
        "has_overflowed",
        "is_ended",
        "is_live",
    )

    def __init__(self, feed: FollowedLog, after: int, epoch: int | None) -> None:
        self.feed = feed
        self.cursor = after
        self.epoch = epoch
        self.is_live = False
        self.has_overflowed = False
        self.has_failed = False
        self.is_ended = False
        self._push: Push | None = None
        self._sending: asyncio.Task[None] | None = None
        self._waiting: deque[Frame] | None = None
        self._bytes = 0
        self._woken: asyncio.Event | None = None
        self._when_over: Callable[[], None] | None = None

    @property
    def is_over(self) -> bool:
        """Whether no more frames will be sent."""
        return self.is_ended or self.has_overflowed or self.has_failed or self.feed.is_gone

    @property
    def is_behind(self) -> bool:
        """Whether more frames are available without waiting for new events."""
        return bool(self._waiting) or self.cursor < self.feed.seq

    def wake(self) -> None:
        """Wake the task that waits for frames, and call ``when_over`` if the subscription is over."""
        if self._woken is not None:
            self._woken.set()
        if self._when_over is not None and self.is_over:
            self._when_over()

    def end(self) -> None:
        """End the subscription because its reader lost access: send nothing more."""
        self.is_ended, self.is_live = True, False
        self._waiting = None
        self.wake()

    def stop(self) -> None:
        """Stop sending because the reader is gone; ``when_over`` is not called."""
        self.is_live, self._when_over = False, None
        if self._sending is not None:
            self._sending.cancel()

    def offer(self, frames: Sequence[Frame]) -> None:
        """Send or queue frames for a live socket.

        A client that reads too slowly overflows its queue (``SOCKET_BUFFER_BYTES``); it is closed and
        resumes from its cursor.
        """
        if not self.is_live or self.has_overflowed or self.has_failed:
            return
        if self._push is not None and self._sending is None:
            frames = self._send_now(self._push, frames)
            if not frames:
                return
        if self._waiting is None:
            self._waiting = deque()
        self._waiting.extend(frames)
        self._bytes += sum(frame.size for frame in frames)
        if self._bytes > settings.SOCKET_BUFFER_BYTES:
            # Dropping the queue loses nothing: the client resumes from its last seq.
            self.has_overflowed = True
            self._waiting = None
            self.wake()
        elif self._push is None:
            self.wake()

    async def go_live(self, push: Push, when_over: Callable[[], None]) -> None:
        """Send all frames from the cursor on to ``push``, in order, then let the hub send new frames.

        Each event is sent once. Returns when the subscription is live; ``when_over`` is called when no more
        frames will come. An idle socket needs no task this way. The caller must call ``stop`` in the end.
        """
        async for page in self._read_backlog():
            for batch in self._batches(page):
                # Access may be lost while a long backlog is being sent.
                if not self.is_ended:
                    await push(batch)
        self._push, self._when_over = push, when_over
        self._start_live()
        if self.is_over:
            when_over()

    async def send_until_over(self, push: Push) -> None:
        """Like ``go_live``, but return only when the subscription is over; ``stop`` is called."""
        over = asyncio.Event()
        try:
            await self.go_live(push, over.set)
            await over.wait()
        finally:
            self.stop()

    async def frames(self) -> AsyncIterator[Frame]:
        """Yield the frames from the cursor on, each event once and in order.

        Ends on overflow, lost access or a deleted conversation.
        """
        async for page in self._read_backlog():
            for frame in page:
                if self._advance(frame):
                    yield frame
        woken = self._woken = asyncio.Event()
        self._start_live()
        while not self.is_over:
            if not self._waiting:
                woken.clear()
                await woken.wait()
            while self._waiting and not self.has_overflowed:
                frame = self._waiting.popleft()
                self._bytes -= frame.size
                if self._advance(frame):
                    yield frame

    def _advance(self, frame: Frame) -> bool:
        """Move the cursor past a frame; return False if the frame is not ahead of the cursor."""
        if frame.reset_to is not None:
            self.cursor = frame.reset_to
        elif frame.seq is not None:
            if frame.seq <= self.cursor:
                return False
            self.cursor = frame.seq
        return True

    def _batches(self, frames: Iterable[Frame]) -> Iterator[list[Frame]]:
        """Yield the frames that the client lacks in batches, moving the cursor past them.

        Lazy: no frame is consumed before its batch is requested, so a caller that stops can queue the rest.
        """
        batch: list[Frame] = []
        size = 0
        for frame in frames:
            if not self._advance(frame):
                continue
            batch.append(frame)
            size += frame.size
            if size >= BATCH_BYTES:
                yield batch
                batch, size = [], 0
        if batch:
            yield batch

    def _start_live(self) -> None:
        self.is_live = not self.is_ended
        # Every reader gets the current record when it goes live, then only changes.
        if self.feed.reading is not None and not self.feed.is_gone:
            self.offer([self.feed.reading.status])

    def _send_now(self, push: Push, frames: Sequence[Frame]) -> Sequence[Frame]:
        """Send as many frames as the client accepts without waiting; return the frames that are left.

        A server's ``send`` waits only if the socket's buffer is full. So its coroutine is stepped once by
        hand, which finishes it in nearly all cases; a coroutine that waits continues in its own task. A
        task per socket and event would cost as much as the sending (ADR 12).
        """
        rest = iter(frames)
        for batch in self._batches(rest):
            step = push(batch)
            try:
                awaited = step.send(None)
            except StopIteration:
                continue
            except Exception:  # noqa: BLE001 - the client left; the server notices the disconnect by itself
                self._fail()
                return ()
            # The socket's buffer is full: a task finishes the batch, so a slow client blocks no other.
            self._sending = asyncio.create_task(_finish(step, awaited))
            self._sending.add_done_callback(self._has_sent)
            return list(rest)
        return ()

    def _has_sent(self, task: asyncio.Task[None]) -> None:
        self._sending = None
        if task.cancelled() or task.exception() is not None:
            self._fail()
            return
        # Frames that were queued while the batch was in flight; offer() sends or queues them again.
        waiting, self._waiting, self._bytes = self._waiting, None, 0
        if waiting:
            self.offer(list(waiting))

    def _fail(self) -> None:
        self.has_failed = True
        self._waiting = None
        self.wake()

    async def _read_backlog(self) -> AsyncIterator[Sequence[Frame]]:
        """Yield pages of frames until the cursor, which the consumer moves, reaches the feed's position."""
        if reset := await self._find_reset():
            yield [reset]
        while self.cursor < self.feed.seq and not (self.feed.is_gone or self.is_ended):
            page = self.feed.recent_frames(self.cursor)
            if page is None:  # the ring does not reach back to the cursor
                page = await self.feed.read_page(self.cursor)
            # No event is left there: the log was pruned or deleted meanwhile.
            if not page:
                break
            yield page

    async def _find_reset(self) -> Frame | None:
        """Return a reset frame if the cursor is not a place in this log any more, else None.

        That is a cursor of another epoch, in a pruned part, or ahead of the log. A cursor ahead of the feed
        may only be ahead of the last nudge, so the database is asked.
        """
        is_of_another_epoch = self.epoch not in (None, self.feed.epoch)
        if self.feed.horizon <= self.cursor <= self.feed.seq and not is_of_another_epoch:
            return None
        reading = await self.feed.read_head()
        is_within = reading.horizon <= self.cursor <= reading.last_seq
        if reading.is_gone or (is_within and not is_of_another_epoch):
            return None
        return reading.reset


async def _finish(step: Coroutine[Any, Any, None], awaited: Any) -> None:
    """Run a coroutine to its end that was stepped once by hand and now waits for ``awaited``."""
    await _resume(step, awaited)


@types.coroutine
def _resume(step: Coroutine[Any, Any, None], awaited: Any) -> Generator[Any, Any, None]:
    try:
        while True:
            try:
                result = yield awaited
            except BaseException as error:  # noqa: BLE001 - pass everything on, also a cancellation
                awaited = step.throw(error)
            else:
                awaited = step.send(result)
    except StopIteration:
        return

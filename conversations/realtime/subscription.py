"""Subscriptions: a reader's cursor in a feed, and the frames that wait to be sent to that reader."""

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
from contextlib import AbstractContextManager
from typing import Any, Protocol
from uuid import UUID

from django.conf import settings

from conversations.realtime.frames import Frame
from conversations.realtime.reading import Reading

Push = Callable[[Sequence[Frame]], Coroutine[Any, Any, None]]
"""Sends frames to the reader. The coroutine waits while the reader's socket accepts no more data."""
BATCH_BYTES = 65_536
"""The size in bytes at which a batch of frames is pushed: about what a server buffers before its ``send`` waits."""


class Encoder(Protocol):
    """The encoding of one conversation's frames for one protocol, shared by all its subscriptions in a process.

    An encoder caches the encoded form on each frame (``Frame.cache_form``). A form depends only on the log, never on
    the subscription that needs it first. The forms of events are dropped after they were sent.
    """

    def __init__(self, feed: "FeedProtocol") -> None: ...

    async def encode_live(self, frames: Sequence[Frame]) -> None:
        """Encode new frames. It is called once for all new frames, in order."""

    async def encode_page(self, frames: Sequence[Frame]) -> None:
        """Encode the events of a page of the log that have no form yet: a part of the backlog, or of a slow queue."""


class FeedProtocol(Protocol):
    """The part of ``feed.Feed`` that subscriptions use. See there for the attributes."""

    conversation_id: UUID
    subscriptions: "set[Subscription]"
    seq: int
    epoch: int
    horizon: int
    reading: Reading | None
    is_gone: bool

    async def read_head(self) -> Reading: ...

    async def read_page(self, after: int) -> Sequence[Frame]: ...

    def backlog_reader(self) -> AbstractContextManager[None]: ...

    def recent_frames(self, after: int) -> list[Frame] | None: ...

    def remove(self, subscription: "Subscription") -> None: ...


class Subscription:
    """A reader's cursor in a feed, and the frames that wait to be sent to the reader.

    A subscription first reads the backlog: the events between its cursor and the feed's position. Then it goes live,
    without an await in between, so no event is lost: the feed offers new frames to all live subscriptions.

    There are two ways to receive frames. With ``go_live`` or ``send_until_over`` the feed pushes frames to the reader
    itself, without waking a task per socket and event. Frames that the reader does not accept immediately wait in a
    queue. With ``frames``, the caller iterates over the frames.

    A subscription is over (``is_over``) when its reader lost access (``is_revoked``), its queue became too large
    (``has_overflowed``), ``push`` raised an exception (``has_failed``), or the conversation was deleted
    (``feed.is_gone``). ``close`` must be called in every case; ``Hub.leave`` calls it.
    """

    __slots__ = (
        "_bytes",
        "_push",
        "_sending",
        "_waiting",
        "_when_over",
        "_woken",
        "cursor",
        "encoder",
        "epoch",
        "feed",
        "has_failed",
        "has_overflowed",
        "is_live",
        "is_revoked",
    )

    def __init__(self, feed: FeedProtocol, after: int, epoch: int | None) -> None:
        self.feed = feed
        self.encoder: Encoder | None = None
        self.cursor = after
        self.epoch = epoch
        self.is_live = False
        self.has_overflowed = False
        self.has_failed = False
        self.is_revoked = False
        self._push: Push | None = None
        # The task that finishes a batch, while the reader's socket accepts no more data.
        self._sending: asyncio.Task[None] | None = None
        # The frames that wait for the reader, and their size. Most subscriptions are idle, so the queue and the event
        # are created only when they are needed.
        self._waiting: deque[Frame] | None = None
        self._bytes = 0
        self._woken: asyncio.Event | None = None
        self._when_over: Callable[[], None] | None = None

    @property
    def is_over(self) -> bool:
        """Whether no more frames will be sent, for one of the four reasons in the docstring of the class."""
        return self.is_revoked or self.has_overflowed or self.has_failed or self.feed.is_gone

    @property
    def is_behind(self) -> bool:
        """Whether frames are available now, without waiting for new events."""
        return bool(self._waiting) or self.cursor < self.feed.seq

    def wake(self) -> None:
        """Wake the iterator of ``frames``. If the subscription is over, call ``when_over``, but only once."""
        if self._woken is not None:
            self._woken.set()
        if self._when_over is not None and self.is_over:
            when_over, self._when_over = self._when_over, None
            when_over()

    def revoke(self) -> None:
        """Send nothing more, because the reader lost access. The subscription is over."""
        self.is_revoked, self.is_live = True, False
        self._waiting = None
        self.wake()

    def close(self) -> None:
        """Stop sending, because the reader left or is done. ``when_over`` is not called. Safe to repeat."""
        # The reader's callbacks refer to the reader, which refers to this subscription.
        self.is_live, self._push, self._when_over = False, None, None
        if self._sending is not None:
            self._sending.cancel()

    def offer(self, frames: Sequence[Frame]) -> None:
        """Push frames to a live reader, or queue them while the reader accepts no more data.

        If the queue exceeds ``SOCKET_BUFFER_BYTES``, the subscription has overflowed and is over. The reader may
        subscribe again from its cursor.
        """
        if not self.is_live or self.has_overflowed or self.has_failed:
            return
        # While an earlier batch is in flight, new frames must wait behind it.
        if self._push is not None and self._sending is None:
            frames = self._send_now(self._push, frames)
            if not frames:
                return
        if self._waiting is None:
            self._waiting = deque()
        self._waiting.extend(frames)
        self._bytes += sum(frame.size for frame in frames)
        if self._bytes > settings.SOCKET_BUFFER_BYTES:
            # Dropping the queue loses nothing: the reader resumes from the last seq that it received.
            self.has_overflowed = True
            self._waiting = None
            self.wake()
        elif self._push is None:
            self.wake()

    async def go_live(self, push: Push, when_over: Callable[[], None]) -> None:
        """Pass all frames after the cursor to ``push``, in order and each once, then let the feed push new frames.

        Return when the subscription is live. An idle reader then needs no task. ``when_over`` is called once when the
        subscription is over, possibly before this function returns. An exception of ``push`` is raised here while the
        backlog is sent; later, it only sets ``has_failed``. Call ``close`` afterwards, also after an exception.
        """
        with self.feed.backlog_reader():
            async for page in self._read_backlog():
                # `_batches` moves the cursor. `_read_backlog` ends when the cursor reaches the feed's position.
                for batch in self._batches(page):
                    # Access may be lost while a long backlog is being sent.
                    if not self.is_revoked:
                        await push(batch)
        # No await from here to `_start_live`: the feed must not advance between the last page and going live.
        self._push, self._when_over = push, when_over
        self._start_live()
        # The subscription may be over already, for example if access was lost during the backlog.
        self.wake()

    async def send_until_over(self, push: Push) -> None:
        """Do what ``go_live`` does, but return only when the subscription is over, and close it."""
        over = asyncio.Event()
        try:
            await self.go_live(push, over.set)
            await over.wait()
        finally:
            self.close()

    async def frames(self) -> AsyncIterator[Frame]:
        """Yield all frames after the cursor, in order and each event once, until the subscription is over."""
        with self.feed.backlog_reader():
            async for page in self._read_backlog():
                for frame in page:
                    if self._advance(frame):
                        yield frame
        # No await from here to `_start_live`: the feed must not advance between the last page and going live.
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
        """Move the cursor past a frame. Return False, and skip the frame, if the reader already has its event."""
        # Frames without a seq, such as pings, do not move the cursor.
        if frame.reset_to is not None:
            self.cursor = frame.reset_to
        elif frame.seq is not None:
            if frame.seq <= self.cursor:
                return False
            self.cursor = frame.seq
        return True

    def _batches(self, frames: Iterable[Frame]) -> Iterator[list[Frame]]:
        """Yield batches of the frames that the reader does not have yet, and move the cursor past these frames.

        No frame is consumed before its batch is requested, so a caller that stops early can queue the other frames.
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
        self.is_live = not self.is_revoked
        # Each reader gets the current record when it goes live, and later only changed records.
        if self.feed.reading is not None and not self.feed.is_gone:
            self.offer([self.feed.reading.status])

    def _send_now(self, push: Push, frames: Sequence[Frame]) -> Sequence[Frame]:
        """Push as many frames as the reader accepts without waiting; return the other frames.

        A coroutine of ``push`` waits only if the socket's buffer is full. So each coroutine is stepped once by hand,
        which completes it in nearly all cases. A coroutine that waits continues in its own task. One task per socket
        and event would cost as much as the sending itself (ADR 12).
        """
        # One iterator for all batches, so that `rest` contains the frames of no batch.
        rest = iter(frames)
        for batch in self._batches(rest):
            step = push(batch)
            try:
                awaited = step.send(None)
            except StopIteration:  # the coroutine completed without waiting
                continue
            except Exception:  # noqa: BLE001 - the reader left; its server notices the disconnect itself
                self.fail()
                return ()
            # The socket's buffer is full. A task finishes the batch, so a slow reader does not block the others.
            self._sending = asyncio.create_task(_finish(step, awaited))
            self._sending.add_done_callback(self._has_sent)
            return list(rest)
        return ()

    def _has_sent(self, task: asyncio.Task[None]) -> None:
        self._sending = None
        if task.cancelled() or task.exception() is not None:
            self.fail()
            return
        # These frames were queued while the batch was in flight. `offer` pushes or queues them again.
        waiting, self._waiting, self._bytes = self._waiting, None, 0
        if waiting:
            self.offer(list(waiting))

    def fail(self) -> None:
        """Send nothing more, because frames could not be encoded or sent. The subscription is over."""
        self.has_failed = True
        self._waiting = None
        self.wake()

    async def _read_backlog(self) -> AsyncIterator[Sequence[Frame]]:
        """Yield pages of frames until the cursor reaches the feed's position.

        The caller must move the cursor past each page, with ``_advance`` or ``_batches``, before it requests the next.
        """
        if reset := await self._find_reset():
            yield [reset]
        while self.cursor < self.feed.seq and not (self.feed.is_gone or self.is_revoked):
            page = self.feed.recent_frames(self.cursor)
            if page is None:  # the ring buffer no longer contains the next event
                page = list(await self.feed.read_page(self.cursor))
            # The events after the cursor were pruned or deleted in the meantime.
            if not page:
                break
            if self.encoder is not None:
                await self.encoder.encode_page(page)
            yield page

    async def _find_reset(self) -> Frame | None:
        """Return a reset frame if the cursor is invalid, else None.

        A cursor is invalid if it belongs to another epoch, points to a pruned event, or is ahead of the log. A cursor
        ahead of the feed may be valid, because the feed may be behind the log. Then the database decides.
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
    """Complete a coroutine that was stepped once by hand and now waits for ``awaited``."""
    # A task accepts only a coroutine that has not started yet, so this coroutine continues the other one.
    await _resume(step, awaited)


@types.coroutine
def _resume(step: Coroutine[Any, Any, None], awaited: Any) -> Generator[Any, Any, None]:
    try:
        while True:
            try:
                result = yield awaited
            except BaseException as error:  # noqa: BLE001 - pass every exception on, also a cancellation
                awaited = step.throw(error)
            else:
                awaited = step.send(result)
    except StopIteration:
        return

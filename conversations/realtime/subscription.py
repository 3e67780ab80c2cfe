"""One reader's place in a conversation's log, and how news is sent to it."""

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
"""Frames go to a client in batches that end beyond so many bytes: about what a server buffers before it has us wait."""


class FollowedLog(Protocol):
    """What a subscription needs of the log that its process follows (``feed.Feed``)."""

    conversation_id: UUID
    subscriptions: "set[Subscription]"
    seq: int
    epoch: int
    horizon: int
    reading: Reading | None
    is_gone: bool

    async def look(self) -> Reading: ...

    async def page_behind(self, after: int) -> list[Frame]: ...

    def recent(self, after: int) -> list[Frame] | None: ...


class Subscription:
    """One socket's place in a conversation: its cursor, and what waits to be sent to it.

    It begins *behind*, and reads the log until the cursor meets the feed's. From that instant, in which
    nothing is awaited, the feed offers it news, so nothing falls between reading and listening.

    With ``feed_to`` the hub sends news itself, and no task is woken per socket and event; what a client does
    not take at once waits here. With ``frames`` whoever iterates gets them. Most of the many are idle, so what
    only some need (a queue, an event to wait for) is made when it is needed.
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
        return self.is_ended or self.has_overflowed or self.has_failed or self.feed.is_gone

    @property
    def is_behind(self) -> bool:
        """Whether there is more to be had without waiting for news."""
        return bool(self._waiting) or self.cursor < self.feed.seq

    def wake(self) -> None:
        """Tell whoever waits for frames, or for the end."""
        if self._woken is not None:
            self._woken.set()
        if self._when_over is not None and self.is_over:
            self._when_over()

    def end(self) -> None:
        """Send nothing more: whoever it was for may not see it any longer."""
        self.is_ended, self.is_live = True, False
        self._waiting = None
        self.wake()

    def stop(self) -> None:
        """Take nothing more and tell nobody: the reader is gone."""
        self.is_live, self._when_over = False, None
        if self._sending is not None:
            self._sending.cancel()

    def offer(self, frames: Sequence[Frame]) -> None:
        """Send or queue frames for a live socket; one that does not read is given up, to resume later."""
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
            self.has_overflowed = True
            self._waiting = None
            self.wake()
        elif self._push is None:
            self.wake()

    async def go_live(self, push: Push, when_over: Callable[[], None]) -> None:
        """Send everything from the cursor on to ``push``, each event once, in order; then let the hub go on.

        It returns when the socket is live, and ``when_over`` is called once there is nothing more to come. A
        thousand sockets that wait need no task each for this. Whoever calls it calls ``stop`` in the end.
        """
        async for page in self._backlog():
            for batch in self._batches(page):
                if not self.is_ended:
                    await push(batch)
        self._push, self._when_over = push, when_over
        self._begin()
        if self.is_over:
            when_over()

    async def feed_to(self, push: Push) -> None:
        """The same, until it is all over."""
        over = asyncio.Event()
        try:
            await self.go_live(push, over.set)
            await over.wait()
        finally:
            self.stop()

    async def frames(self) -> AsyncIterator[Frame]:
        """Frames from the cursor on, each event once, in order; ends on overflow or when it is all gone."""
        async for page in self._backlog():
            for frame in page:
                if self._is_next(frame):
                    yield frame
        woken = self._woken = asyncio.Event()
        self._begin()
        while not self.is_over:
            if not self._waiting:
                woken.clear()
                await woken.wait()
            while self._waiting and not self.has_overflowed:
                frame = self._waiting.popleft()
                self._bytes -= frame.size
                if self._is_next(frame):
                    yield frame

    def _is_next(self, frame: Frame) -> bool:
        """Move the cursor over a frame; False for one that is behind it."""
        if frame.reset_to is not None:
            self.cursor = frame.reset_to
        elif frame.seq is not None:
            if frame.seq <= self.cursor:
                return False
            self.cursor = frame.seq
        return True

    def _batches(self, frames: Iterable[Frame]) -> Iterator[list[Frame]]:
        """Move the cursor over frames, and give those that the client lacks in batches; none is taken early."""
        batch: list[Frame] = []
        size = 0
        for frame in frames:
            if not self._is_next(frame):
                continue
            batch.append(frame)
            size += frame.size
            if size >= BATCH_BYTES:
                yield batch
                batch, size = [], 0
        if batch:
            yield batch

    def _begin(self) -> None:
        self.is_live = not self.is_ended
        if self.feed.reading is not None and not self.feed.is_gone:
            self.offer([self.feed.reading.status])

    def _send_now(self, push: Push, frames: Sequence[Frame]) -> Sequence[Frame]:
        """Send as far as the client takes it without waiting; gives what is left.

        A server's ``send`` waits only when the socket's buffer is full. So its coroutine is stepped once by
        hand, which ends it in nearly all cases; one that waits goes on in a task of its own. A task woken for
        each socket and event would cost as much as the sending (docs/adr/0031).
        """
        rest = iter(frames)
        for batch in self._batches(rest):
            step = push(batch)
            try:
                waits_for = step.send(None)
            except StopIteration:
                continue
            except Exception:  # noqa: BLE001 - the client left; its server notices that by itself, too
                self._fail()
                return ()
            self._sending = asyncio.create_task(_rest_of(step, waits_for))
            self._sending.add_done_callback(self._has_sent)
            return list(rest)
        return ()

    def _has_sent(self, task: asyncio.Task[None]) -> None:
        self._sending = None
        if task.cancelled() or task.exception() is not None:
            self._fail()
            return
        waiting, self._waiting, self._bytes = self._waiting, None, 0
        if waiting:
            self.offer(list(waiting))

    def _fail(self) -> None:
        self.has_failed = True
        self._waiting = None
        self.wake()

    async def _backlog(self) -> AsyncIterator[Sequence[Frame]]:
        """Pages up to where the feed is, as the cursor is moved over them."""
        if reset := await self._reset():
            yield [reset]
        while self.cursor < self.feed.seq and not (self.feed.is_gone or self.is_ended):
            page = self.feed.recent(self.cursor)
            if page is None:
                page = await self.feed.page_behind(self.cursor)
            if not page:
                break
            yield page

    async def _reset(self) -> Frame | None:
        """A reset frame when this cursor belongs to no log we have, or to a part that is no longer kept.

        A cursor ahead of the feed may only be ahead of the last nudge, so the log itself is asked.
        """
        is_of_another_epoch = self.epoch not in (None, self.feed.epoch)
        if self.feed.horizon <= self.cursor <= self.feed.seq and not is_of_another_epoch:
            return None
        reading = await self.feed.look()
        is_within = reading.horizon <= self.cursor <= reading.last_seq
        if reading.is_gone or (is_within and not is_of_another_epoch):
            return None
        return reading.reset


async def _rest_of(step: Coroutine[Any, Any, None], waits_for: Any) -> None:
    """What is left of a coroutine that was stepped once and waits for ``waits_for``."""
    await _resumed(step, waits_for)


@types.coroutine
def _resumed(step: Coroutine[Any, Any, None], waits_for: Any) -> Generator[Any, Any, None]:
    try:
        while True:
            try:
                came = yield waits_for
            except BaseException as error:  # noqa: BLE001 - cancellation is the coroutine's to see
                waits_for = step.throw(error)
            else:
                waits_for = step.send(came)
    except StopIteration:
        return

"""Raw bytes in both directions, with back pressure, half-closed connections and a limit of idle time."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Coroutine
from typing import Any

from conversations.sandboxes.egress.dialing import CHUNK, Limits, Stream


class Idle(Exception):
    """No byte passed in any direction for too long."""


class Activity:
    """The time of the last byte, and the idle time that is allowed."""

    def __init__(self, seconds: float) -> None:
        self.seconds, self._last = seconds, time.monotonic()

    def touch(self) -> None:
        """Note that bytes passed now."""
        self._last = time.monotonic()

    def remaining(self) -> float:
        """Return the seconds until the connection is idle for too long."""
        return self._last + self.seconds - time.monotonic()


@contextlib.asynccontextmanager
async def running(
    *coroutines: Coroutine[Any, Any, Any],
) -> AsyncIterator[list[asyncio.Task[Any]]]:
    """Run coroutines as tasks; at the end cancel those that still run and wait for them."""
    tasks = [asyncio.ensure_future(coroutine) for coroutine in coroutines]
    try:
        yield tasks
    finally:
        for task in tasks:
            task.cancel()
        # The results were read by the block; this only collects the tasks.
        await asyncio.gather(*tasks, return_exceptions=True)


async def wait_for_all(
    tasks: list[asyncio.Task[Any]], activity: Activity, *, until: asyncio.Task[Any] | None = None
) -> None:
    """Wait for all tasks, or only for ``until``. Raise the first error of a task, and ``Idle``."""
    waiting = set(tasks)
    while waiting and not (until and until.done()):
        done, waiting = await asyncio.wait(
            waiting, timeout=max(0, activity.remaining()), return_when=asyncio.FIRST_COMPLETED
        )
        for task in done:
            task.result()
        if not done and activity.remaining() <= 0:
            raise Idle


async def tunnel(
    client: Stream,
    upstream: Stream,
    limits: Limits,
    *,
    from_client: bytes = b"",
    from_upstream: bytes = b"",
) -> None:
    """Carry bytes until both sides have ended, one side fails, or the idle time is over.

    ``from_client`` and ``from_upstream`` are bytes that were already read. A side that ends its direction still
    receives the rest of the other. Both connections stay open for the caller to close; a failed one is aborted.
    """
    activity = Activity(limits.idle_seconds)

    async def carry(first: bytes, source: Stream, target: Stream) -> None:
        data = first or await source.reader.read(CHUNK)
        while data:
            activity.touch()
            target.writer.write(data)
            await target.writer.drain()
            activity.touch()
            data = await source.reader.read(CHUNK)
        if not target.writer.can_write_eof():
            # TLS cannot close one direction, so the end of one side is the end of both.
            raise Idle
        target.writer.write_eof()
        activity.touch()
        activity.seconds = limits.half_closed_seconds

    both = (carry(from_client, client, upstream), carry(from_upstream, upstream, client))
    try:
        async with running(*both) as tasks:
            await wait_for_all(tasks, activity)
    except OSError:
        client.writer.transport.abort()
        upstream.writer.transport.abort()
    except Idle:
        pass

"""What many followers of one process bring to be stored, gathered into few statements."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Any
from uuid import UUID

from conversations import services
from conversations.engine.payloads import Durable

log = logging.getLogger(__name__)
LANES = 2
"""Statements on their way at a time."""
BATCHES_PER_STATEMENT = 100
"""The most conversations that one statement stores events of."""
LINGER_SECONDS = 0.02
"""Under load, how long a lane waits for more before its next statement."""
LOADED_FROM = 4
"""A statement of at least so many conversations means load."""
Call = Callable[..., Awaitable[Any]]


class Storing:
    """Alone, a batch is stored at once; what comes while the lanes are busy goes together with the next."""

    def __init__(self, in_database: Call) -> None:
        self._in_database = in_database
        self._waiting: list[tuple[services.Batch, asyncio.Future[bool]]] = []
        self._lanes: set[asyncio.Task[None]] = set()

    async def store(
        self, *, conversation_id: UUID, generation: int, frames: Sequence[Durable]
    ) -> None:
        """Append an engine's events. Raises ``StaleLease`` and ``LogGap``; safe to repeat."""
        batch = services.Batch(conversation_id, generation, frames)
        is_stored = asyncio.get_running_loop().create_future()
        self._waiting.append((batch, is_stored))
        if len(self._lanes) < LANES:
            lane = asyncio.create_task(self._work())
            self._lanes.add(lane)
            lane.add_done_callback(self._lanes.discard)
        if not await is_stored:
            await self._in_database(
                services.ingest_events,
                conversation_id=conversation_id,
                generation=generation,
                frames=frames,
            )

    async def _work(self) -> None:
        while self._waiting:
            taken, self._waiting = (
                self._waiting[:BATCHES_PER_STATEMENT],
                self._waiting[BATCHES_PER_STATEMENT:],
            )
            try:
                _settle(
                    taken,
                    await self._in_database(
                        services.ingest_together, batches=[batch for batch, _ in taken]
                    ),
                )
            except Exception as error:  # noqa: BLE001 - each follower hears it, and tries again
                _settle(taken, error)
            if len(taken) >= LOADED_FROM:
                await asyncio.sleep(LINGER_SECONDS)


def _settle(
    taken: list[tuple[services.Batch, "asyncio.Future[bool]"]], stored: set[UUID] | Exception
) -> None:
    for batch, is_stored in taken:
        if is_stored.done():  # its follower was stopped meanwhile
            continue
        if isinstance(stored, Exception):
            is_stored.set_exception(stored)
        else:
            is_stored.set_result(batch.conversation_id in stored)

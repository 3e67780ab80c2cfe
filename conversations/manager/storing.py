"""Storage of events, which combines the batches of all followers in a process into few SQL statements."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Any
from uuid import UUID

from conversations import services
from conversations.engine.payloads import Durable

log = logging.getLogger(__name__)
LANES = 2
"""The number of lanes, which is the number of concurrent statements."""
BATCHES_PER_STATEMENT = 100
"""The largest number of conversations whose events one statement stores."""
LINGER_SECONDS = 0.02
"""How long a lane under load waits for more batches before its next statement."""
LOADED_FROM = 4
"""A lane is under load if its last statement stored at least this number of batches."""
Call = Callable[..., Awaitable[Any]]


class Storing:
    """The store for the batches of all followers. A few tasks, the lanes, run the SQL statements.

    A single batch is stored immediately. Batches that arrive while all lanes are busy are stored together by the next
    statement (ADR 15).
    """

    def __init__(self, in_database: Call) -> None:
        self._in_database = in_database
        self._waiting: list[tuple[services.Batch, asyncio.Future[bool]]] = []
        self._lanes: set[asyncio.Task[None]] = set()

    async def store(
        self, *, conversation_id: UUID, generation: int, frames: Sequence[Durable]
    ) -> None:
        """Append an engine's events to the log. Safe to repeat. Raise what ``ingest_events`` raises."""
        batch = services.Batch(conversation_id, generation, frames)
        is_stored = asyncio.get_running_loop().create_future()
        self._waiting.append((batch, is_stored))
        if len(self._lanes) < LANES:
            lane = asyncio.create_task(self._run_lane())
            self._lanes.add(lane)
            lane.add_done_callback(self._lanes.discard)
        # The combined statement skips a batch that needs more than an append, and a batch whose lease is stale. This
        # slower call stores such a batch or raises the reason.
        if not await is_stored:
            await self._in_database(
                services.ingest_events,
                conversation_id=conversation_id,
                generation=generation,
                frames=frames,
            )

    async def _run_lane(self) -> None:
        while self._waiting:
            batches, self._waiting = (
                self._waiting[:BATCHES_PER_STATEMENT],
                self._waiting[BATCHES_PER_STATEMENT:],
            )
            try:
                stored_ids = await self._in_database(
                    services.ingest_together, batches=[batch for batch, _ in batches]
                )
                _settle(batches, stored_ids)
            except Exception as error:  # noqa: BLE001 - each follower receives the error and retries
                _settle(batches, error)
            if len(batches) >= LOADED_FROM:
                await asyncio.sleep(LINGER_SECONDS)


def _settle(
    batches: list[tuple[services.Batch, "asyncio.Future[bool]"]], result: set[UUID] | Exception
) -> None:
    for batch, is_stored in batches:
        if is_stored.done():  # the follower was cancelled meanwhile
            continue
        if isinstance(result, Exception):
            is_stored.set_exception(result)
        else:
            is_stored.set_result(batch.conversation_id in result)

"""Followers. A follower reads one engine's session socket, stores its events, and forwards the streamed text."""

import asyncio
import contextlib
import logging
import random
import time
from collections.abc import Callable
from typing import Any, Protocol, TypeVar
from uuid import UUID

from django.db import Error as DatabaseError

from conversations import announcing, services
from conversations.engine.client import EngineClient
from conversations.engine.errors import (
    EngineMissing,
    EngineRefused,
    EngineUnreachable,
    FrameTooLarge,
)
from conversations.engine.following import follow
from conversations.engine.payloads import Delta, Durable, Frame, ItemAborted, Sync
from conversations.manager.storing import Storing
from conversations.services.streamed_text import StreamedText

log = logging.getLogger(__name__)
Place = services.EngineTarget
T = TypeVar("T")
# The largest number of frames in a batch, and in the queue between the socket and the batches.
BATCH = 200
QUEUE_FRAMES = 1_000
# The pause after a message with deltas, so that the next message contains several deltas.
DELTA_SECONDS = 0.05
MAX_PAUSE_SECONDS = 5.0
OBSERVE_TRIES = 5
"""Attempts to read the agent's state. A few are enough, because events also report the state, except after a crash."""


class Host(Protocol):
    """The part of ``Manager`` that followers use: threads for blocking calls, and the storing of events."""

    storing: Storing

    async def in_database(self, function: Callable[..., T], **arguments: Any) -> T: ...
    async def at_engine(self, function: Callable[..., T], **arguments: Any) -> T: ...
    async def hand_back(self, conversation_id: UUID) -> None: ...


class Follower:
    """The follower of one claimed conversation. It stores the engine's events and forwards the engine's deltas.

    ``generation`` is the lease generation. When it is no longer current, all writes of this follower are rejected.
    """

    def __init__(self, manager: Host, conversation_id: UUID, generation: int) -> None:
        self.manager = manager
        self.conversation_id = conversation_id
        self.generation = generation
        self.active_at = time.monotonic()
        self._lease: dict[str, Any] = {"conversation_id": conversation_id, "generation": generation}

    async def run(self) -> None:
        """Follow the engine until it stops or the lease is lost. Retry after any other failure, with back-off."""
        pause = 0.1
        try:
            while True:
                started = time.monotonic()
                try:
                    if not await self._follow_once():
                        break
                except (services.StaleLease, asyncio.CancelledError):
                    raise
                # Without a traceback, because all followers fail at the same time.
                except DatabaseError as error:
                    log.warning(
                        "following conversation %s paused, the database is unreachable: %s",
                        self.conversation_id,
                        type(error).__name__,
                    )
                    pause = max(pause, 1.0)
                except Exception:
                    log.exception(
                        "following conversation %s failed; retrying", self.conversation_id
                    )
                    pause = max(pause, 1.0)
                # After a connection that lasted, start again with a short pause.
                pause = 0.1 if time.monotonic() - started > MAX_PAUSE_SECONDS else pause * 2
                pause = min(pause, MAX_PAUSE_SECONDS)
                await asyncio.sleep(pause * random.uniform(0.5, 1))  # noqa: S311 - jitter
        except services.StaleLease:
            log.info(
                "conversation %s is followed by another manager, or was deleted",
                self.conversation_id,
            )
        await self.manager.hand_back(self.conversation_id)

    async def _follow_once(self) -> bool:
        """Follow the engine over one connection until the connection ends. Return False if the engine stopped."""
        place = await self.manager.in_database(services.find_engine, **self._lease)
        if place is None:
            return False
        try:
            await self._follow(place)
        except FrameTooLarge:
            client = EngineClient(place.dial, place.session_key)
            # Read the large event over REST. The next connection continues after this event.
            await self.manager.at_engine(services.read_log, client=client, **self._lease)
        except (EngineUnreachable, EngineMissing, EngineRefused, services.LogGap) as error:
            log.info("the engine socket of conversation %s ended: %s", self.conversation_id, error)
            return not await self.manager.at_engine(
                services.handle_unreachable_engine, **self._lease
            )
        return True

    async def _follow(self, place: Place) -> None:
        """Follow over one connection: a task reads frames into a bounded queue, and this loop handles batches."""
        frames: asyncio.Queue[Frame | Exception] = asyncio.Queue(QUEUE_FRAMES)
        reader = asyncio.create_task(self._read(place, frames))
        # The last index of the replay; None until the engine reports it, and -1 without a replay.
        self._streamed = StreamedText()
        self._replay_end: int | None = None
        self._is_caught_up = False
        try:
            while True:
                batch = [await frames.get()]
                while len(batch) < BATCH and not frames.empty():
                    batch.append(frames.get_nowait())
                await self._handle(batch, place)
        finally:
            reader.cancel()
            # `await reader` would raise CancelledError, which would look like a cancellation of this task.
            await asyncio.wait([reader])

    async def _read(self, place: Place, frames: "asyncio.Queue[Frame | Exception]") -> None:
        source = follow(place.dial, place.session_key, self.conversation_id, place.after_seq)
        try:
            async for frame in source:
                await frames.put(frame)
        except asyncio.CancelledError:
            raise
        except Exception as error:  # noqa: BLE001 - _handle raises it after it has handled the earlier frames
            await frames.put(error)
        finally:
            with contextlib.suppress(Exception):
                await source.aclose()

    async def _handle(self, batch: list[Any], place: Place) -> None:
        self.active_at = time.monotonic()
        durable = [frame for frame in batch if isinstance(frame, Durable)]
        # Store the events first: events that precede an error or the end of the replay belong to the log.
        if durable:
            await self.manager.storing.store(frames=durable, **self._lease)
        for frame in batch:
            if isinstance(frame, Exception):
                raise frame
            if isinstance(frame, Sync):
                self._replay_end = -1 if frame.through_seq is None else frame.through_seq
                await self.manager.in_database(
                    services.mark_following, run=place.run, **self._lease
                )
        await self._catch_up(durable[-1].seq if durable else place.after_seq, place)
        deltas = merge_deltas([f for f in batch if isinstance(f, Delta | ItemAborted)])
        if deltas:
            deltas = await self.manager.in_database(
                self._streamed.redact, conversation_id=self.conversation_id, deltas=deltas
            )
        if deltas:
            await announcing.send_deltas(self.conversation_id, deltas)
            # Deltas that arrive during this pause are sent in one message.
            await asyncio.sleep(DELTA_SECONDS)

    async def _catch_up(self, seq: int, place: Place) -> None:
        """When the replay is stored, read the agent's state once, because no event reports the state after a crash."""
        if self._is_caught_up or self._replay_end is None or seq < self._replay_end:
            return
        self._is_caught_up = True
        await self._observe(place)

    async def _observe(self, place: Place) -> None:
        """Ask the engine for the agent's state and store it. Retry if a user sent a message or an answer meanwhile.

        States in transient frames are ignored, because changes of the state are also events of the log, and an outdated
        state from before a user's answer would ask the user again.
        """
        client = EngineClient(place.dial, place.session_key)
        target = {"conversation_id": self.conversation_id}
        for _ in range(OBSERVE_TRIES):
            as_of = await self.manager.in_database(services.snapshot_state, **target)
            state = await self.manager.at_engine(client.get_conversation, **target)
            status = (state or {}).get("execution_status")
            if not status or await self.manager.in_database(
                services.observe_status, status=status, as_of=as_of, **self._lease
            ):
                return


def merge_deltas(frames: list[Delta | ItemAborted]) -> list[dict[str, Any]]:
    """Return deltas in the format of the sockets. Consecutive pieces of the same item are merged."""
    result: list[dict[str, Any]] = []
    for frame in frames:
        if isinstance(frame, ItemAborted):
            result.append({"item_id": frame.item_id, "kind": "aborted", "content": "", "order": 0})
            continue
        last = result[-1] if result else None
        if last and (last["item_id"], last["kind"]) == (frame.item_id, frame.kind):
            last["content"] += frame.content
        else:
            result.append(
                {
                    "item_id": frame.item_id,
                    "kind": frame.kind,
                    "content": frame.content,
                    "order": frame.order,
                }
            )
    return result

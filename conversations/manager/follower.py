"""Following one conversation: its engine's socket into our log, and what the agent is saying passed on."""

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
from conversations.engine.client import (
    EngineClient,
    EngineMissing,
    EngineRefused,
    EngineUnreachable,
    FrameTooLarge,
    follow,
)
from conversations.engine.payloads import Delta, Durable, Frame, ItemAborted, Sync
from conversations.manager.storing import Storing

log = logging.getLogger(__name__)
Place = services.EngineTarget
T = TypeVar("T")
BATCH = 200
QUEUE_FRAMES = 1_000
DELTA_SECONDS = 0.05
MAX_PAUSE_SECONDS = 5.0
OBSERVE_TRIES = 5
"""Events tell the state too; this only has to catch what they leave out."""


class Host(Protocol):
    """What a follower has of its manager: where blocking calls are made, and who stores."""

    storing: Storing

    async def in_database(self, function: Callable[..., T], **arguments: Any) -> T: ...
    async def at_engine(self, function: Callable[..., T], **arguments: Any) -> T: ...
    async def give_back(self, conversation_id: UUID) -> None: ...


class Follower:
    """One claimed conversation: reads the engine's socket, appends its events, passes its deltas on."""

    def __init__(self, manager: Host, conversation_id: UUID, generation: int) -> None:
        self.manager = manager
        self.conversation_id = conversation_id
        self.generation = generation
        self.active_at = time.monotonic()
        self._named: dict[str, Any] = {"conversation_id": conversation_id, "generation": generation}

    async def run(self) -> None:
        """Follow until the lease or the engine is gone; whatever else is lost is tried again."""
        pause = 0.1
        try:
            while True:
                started = time.monotonic()
                try:
                    if not await self._follow_once():
                        break
                except (services.StaleLease, asyncio.CancelledError):
                    raise
                except DatabaseError as error:  # for all at once: a line each, and no more
                    log.warning(
                        "following %s waits: %s", self.conversation_id, type(error).__name__
                    )
                    pause = max(pause, 1.0)
                except Exception:
                    log.exception("following %s failed; trying again", self.conversation_id)
                    pause = max(pause, 1.0)
                pause = 0.1 if time.monotonic() - started > MAX_PAUSE_SECONDS else pause * 2
                pause = min(pause, MAX_PAUSE_SECONDS)
                await asyncio.sleep(pause * random.uniform(0.5, 1))  # noqa: S311 - not all in step
        except services.StaleLease:
            log.info("%s is followed by somebody else, or gone", self.conversation_id)
        await self.manager.give_back(self.conversation_id)

    async def _follow_once(self) -> bool:
        """Follow over one connection until it ends; False when there is no engine to follow any more."""
        place = await self.manager.in_database(services.find_engine, **self._named)
        if place is None:
            return False
        try:
            await self._follow(place)
        except FrameTooLarge:
            client = EngineClient(place.base_url, place.session_key)
            # Fetched by REST; the socket goes on behind it.
            await self.manager.at_engine(services.read_log, client=client, **self._named)
        except (EngineUnreachable, EngineMissing, EngineRefused, services.LogGap) as error:
            log.info("socket of %s ended: %s", self.conversation_id, error)
            return not await self.manager.at_engine(
                services.handle_unreachable_engine, **self._named
            )
        return True

    async def _follow(self, place: Place) -> None:
        """One connection: a reader fills a bounded queue, this empties it in batches."""
        frames: asyncio.Queue[Frame | Exception] = asyncio.Queue(QUEUE_FRAMES)
        reader = asyncio.create_task(self._read(place, frames))
        self._behind: int | None = None
        self._is_caught_up = False
        try:
            while True:
                batch = [await frames.get()]
                while len(batch) < BATCH and not frames.empty():
                    batch.append(frames.get_nowait())
                await self._take(batch, place)
        finally:
            reader.cancel()
            await asyncio.wait(
                [reader]
            )  # awaited itself, it would take a cancellation of ours for its own

    async def _read(self, place: Place, frames: "asyncio.Queue[Frame | Exception]") -> None:
        source = follow(place.base_url, place.session_key, self.conversation_id, place.after_seq)
        try:
            async for frame in source:
                await frames.put(frame)
        except asyncio.CancelledError:
            raise
        except Exception as error:  # noqa: BLE001 - raised by _take, behind the frames that came before it
            await frames.put(error)
        finally:
            with contextlib.suppress(Exception):
                await source.aclose()

    async def _take(self, batch: list[Any], place: Place) -> None:
        self.active_at = time.monotonic()
        durable = [frame for frame in batch if isinstance(frame, Durable)]
        if durable:
            await self.manager.storing.store(frames=durable, **self._named)
        for frame in batch:
            if isinstance(frame, Exception):
                raise frame
            if isinstance(frame, Sync):
                self._behind = -1 if frame.through_seq is None else frame.through_seq
                await self.manager.in_database(
                    services.mark_following, run=place.run, **self._named
                )
        await self._catch_up(durable[-1].seq if durable else place.after_seq, place)
        deltas = joined([f for f in batch if isinstance(f, Delta | ItemAborted)])
        if deltas:
            await announcing.send_deltas(self.conversation_id, deltas)
            await asyncio.sleep(DELTA_SECONDS)  # gathers what comes meanwhile into one message

    async def _catch_up(self, seq: int, place: Place) -> None:
        """Once the replay is in, ask where the engine stands: after a crash no event tells (section 10)."""
        if self._is_caught_up or self._behind is None or seq < self._behind:
            return
        self._is_caught_up = True
        await self._observe(place)

    async def _observe(self, place: Place) -> None:
        """Ask the engine for the agent's state, and again if a person spoke or answered meanwhile.

        The states that frames carry without a place in the log are not taken: their changes are events too, and
        one of before an answer would ask the person again.
        """
        client = EngineClient(place.base_url, place.session_key)
        named = {"conversation_id": self.conversation_id}
        for _ in range(OBSERVE_TRIES):
            as_of = await self.manager.in_database(services.snapshot_state, **named)
            found = await self.manager.at_engine(client.conversation, **named)
            status = (found or {}).get("execution_status")
            if not status or await self.manager.in_database(
                services.observe_status, status=status, as_of=as_of, **self._named
            ):
                return


def joined(frames: list[Delta | ItemAborted]) -> list[dict[str, Any]]:
    """Deltas as sockets give them, consecutive pieces of one item joined into one."""
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

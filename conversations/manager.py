"""The conversation manager: claims live conversations and follows each one's engine into our log."""

import asyncio
import contextlib
import logging
import os
import secrets
import socket
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, TypeVar
from uuid import UUID

from django.conf import settings
from django.db import connections

from conversations import services, streams
from conversations.agent.client import (
    AgentClient,
    EngineMissing,
    EngineRefused,
    EngineUnreachable,
    FrameTooLarge,
    follow,
)
from conversations.agent.payloads import (
    Delta,
    Durable,
    Frame,
    ItemAborted,
    Sync,
    Transient,
    execution_status,
)

log = logging.getLogger(__name__)
Place = services.Place
T = TypeVar("T")
CLAIM_SECONDS = 0.5
BATCH = 200
QUEUE_FRAMES = 1_000
DELTA_SECONDS = 0.05
MAX_PAUSE_SECONDS = 5.0
GATEWAY_SECONDS = 60.0


class Manager:
    """Follows conversations under leases until it is told to stop. Any number may run, on any machine."""

    def __init__(self) -> None:
        self.owner = f"{socket.gethostname()[:60]}:{os.getpid()}:{secrets.token_hex(4)}"
        self.followers: dict[UUID, tuple[int, asyncio.Task]] = {}
        self.stopping = asyncio.Event()
        self._threads = ThreadPoolExecutor(max_workers=16, thread_name_prefix="manager")

    async def run(self) -> None:
        """Claim, renew and follow until ``stopping``; then hand everything back at once."""
        chores = [
            asyncio.create_task(self._repeat(CLAIM_SECONDS, self._claim)),
            asyncio.create_task(self._repeat(settings.LEASE_SECONDS / 3, self._renew)),
            asyncio.create_task(self._repeat(GATEWAY_SECONDS, self._keep_gateway_open)),
        ]
        await self.stopping.wait()
        followers = [task for _, task in self.followers.values()]
        for task in [*chores, *followers]:
            task.cancel()
        await asyncio.gather(*chores, *followers, return_exceptions=True)
        released = await self.in_thread(services.release_leases, owner=self.owner)
        log.info("handed back %d conversations", released)
        self._threads.shutdown(wait=False)

    async def _repeat(self, seconds: float, chore: Callable[[], Any]) -> None:
        while True:
            try:
                await chore()
            except Exception:
                log.exception("a chore of the manager failed; trying again")
            await asyncio.sleep(seconds)

    async def _claim(self) -> None:
        room = settings.MANAGER_MAX_CONVERSATIONS - len(self.followers)
        if room <= 0:
            return
        claims = await self.in_thread(services.claim_conversations, owner=self.owner, limit=room)
        for claim in claims:
            log.info("following %s, generation %d", claim.conversation_id, claim.generation)
            self._drop(claim.conversation_id)
            follower = Follower(self, claim.conversation_id, claim.generation)
            task = asyncio.create_task(follower.run())
            self.followers[claim.conversation_id] = (claim.generation, task)
            task.add_done_callback(partial(self._ended, claim.conversation_id))

    def _ended(self, conversation_id: UUID, task: asyncio.Task) -> None:
        if self.followers.get(conversation_id, (0, None))[1] is task:
            del self.followers[conversation_id]

    def _drop(self, conversation_id: UUID) -> None:
        _, task = self.followers.pop(conversation_id, (0, None))
        if task is not None:
            task.cancel()

    async def _renew(self) -> None:
        """Prolong leases, and let go of what somebody else took: its generation moved on without us."""
        held = await self.in_thread(services.renew_leases, owner=self.owner)
        for conversation_id, (generation, _) in list(self.followers.items()):
            if held.get(conversation_id) != generation:
                log.warning("lost the lease of %s", conversation_id)
                self._drop(conversation_id)

    async def _keep_gateway_open(self) -> None:
        await self.in_thread(services.keep_gateway_open, owner=self.owner)

    async def in_thread(self, function: Callable[..., T], **arguments: Any) -> T:
        """Run a service call in one of the manager's threads and give its connection back."""

        def call() -> T:
            try:
                return function(**arguments)
            finally:
                connections.close_all()

        return await asyncio.get_running_loop().run_in_executor(self._threads, call)


class Follower:
    """One claimed conversation: reads the engine's socket, appends its events, passes its deltas on."""

    def __init__(self, manager: Manager, conversation_id: UUID, generation: int) -> None:
        self.manager = manager
        self.conversation_id = conversation_id
        self.generation = generation
        self._named = {"conversation_id": conversation_id, "generation": generation}

    async def run(self) -> None:
        """Follow until the lease or the engine is gone; a lost connection is made again."""
        pause = 0.1
        try:
            while True:
                place = await self.manager.in_thread(services.place_to_follow, **self._named)
                if place is None:
                    break
                started = time.monotonic()
                try:
                    await self._follow(place)
                except FrameTooLarge:
                    await self._read_by_rest(place)
                except (EngineUnreachable, EngineMissing, EngineRefused, services.LogGap) as error:
                    log.info("socket of %s ended: %s", self.conversation_id, error)
                    if await self.manager.in_thread(services.note_engine_lost, **self._named):
                        break
                pause = 0.1 if time.monotonic() - started > MAX_PAUSE_SECONDS else pause * 2
                await asyncio.sleep(min(pause, MAX_PAUSE_SECONDS))
        except services.StaleLease:
            log.info("%s is followed by somebody else", self.conversation_id)
            return
        except asyncio.CancelledError:
            raise
        except Exception:
            log.exception("following %s failed; another claim tries again", self.conversation_id)
            await asyncio.sleep(1)
        await self.manager.in_thread(
            services.release_leases, owner=self.manager.owner, conversation_id=self.conversation_id
        )

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
            with contextlib.suppress(BaseException):
                await reader

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
        durable = [frame for frame in batch if isinstance(frame, Durable)]
        if durable:
            await self.manager.in_thread(services.ingest_events, frames=durable, **self._named)
        for frame in batch:
            if isinstance(frame, Exception):
                raise frame
            if isinstance(frame, Sync):
                self._behind = -1 if frame.through_seq is None else frame.through_seq
                await self.manager.in_thread(services.mark_following, run=place.run, **self._named)
            elif isinstance(frame, Transient) and self._is_caught_up:
                await self._observe(execution_status(frame.event))
        await self._catch_up(durable[-1].seq if durable else place.after_seq, place)
        deltas = joined([f for f in batch if isinstance(f, Delta | ItemAborted)])
        if deltas:
            await streams.send_deltas(self.conversation_id, deltas)
            await asyncio.sleep(DELTA_SECONDS)  # gathers what comes meanwhile into one message

    async def _catch_up(self, seq: int, place: Place) -> None:
        """Once the replay is in, ask where the engine stands: after a crash no event tells (section 10)."""
        if self._is_caught_up or self._behind is None or seq < self._behind:
            return
        self._is_caught_up = True
        client = AgentClient(place.base_url, place.session_key)
        found = await self.manager.in_thread(
            client.conversation, conversation_id=self.conversation_id
        )
        await self._observe((found or {}).get("execution_status"))

    async def _observe(self, status: str | None) -> None:
        if status:
            await self.manager.in_thread(services.observe_status, status=status, **self._named)

    async def _read_by_rest(self, place: Place) -> None:
        """Fetch what does not fit a socket frame; the socket goes on behind it."""
        client = AgentClient(place.base_url, place.session_key)
        await self.manager.in_thread(services.read_log, client=client, **self._named)


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

"""The conversation manager: claims its share of the live conversations and follows each one's engine into our log."""

import asyncio
import contextlib
import logging
import math
import random
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar
from uuid import UUID

from channels.layers import get_channel_layer
from django.conf import settings
from django.db import connection

from conversations import services
from conversations.manager.follower import Follower
from conversations.manager.storing import Storing
from lib import bus
from lib.connections import keep_own_connection
from lib.threads import DatabaseThreads

log = logging.getLogger(__name__)
T = TypeVar("T")
CLAIM_SECONDS = 1.0
CLAIM_BATCH = 100
"""Conversations that one claim takes at most: the engines' sockets are opened in portions."""
STARVED_SECONDS = 3.0
"""After this long, what nobody's share covers is taken by whoever has room."""
HANDOVER_BATCH = 10
"""Conversations that are handed to others in one round, at least where a tenth of the share is less."""
ORPHAN_SECONDS = 30.0
GATEWAY_SECONDS = 60.0
DATABASE_THREADS = 8
ENGINE_THREADS = 32


class Manager:
    """Follows conversations under leases until it is told to stop. Any number may run, on any machine.

    Each takes the share of all live conversations that its capacity is of all capacities. One that has more
    hands some over in rounds; one that is gone has its own taken over; one that is told to stop hands back all.
    """

    def __init__(self, owner: str) -> None:
        self.owner = owner
        self.capacity = settings.MANAGER_MAX_CONVERSATIONS
        self.followers: dict[UUID, tuple[Follower, asyncio.Task[None]]] = {}
        self.stopping = asyncio.Event()
        self.waiting = 0
        self.handed_over = 0
        self.keeper = Keeper(self)
        self._woken = asyncio.Event()
        self._free_since: float | None = None
        self._rounds_above = 0
        self._database = DatabaseThreads("manager-db", DATABASE_THREADS, keep_connections=True)
        self._engines = DatabaseThreads("manager-engine", ENGINE_THREADS)
        self.in_database = self._database.run
        """For service calls: a few threads, each of which keeps a connection."""
        self.at_engine = self._engines.run
        """For calls that ask an engine or a sandbox provider, which may take long."""
        self.storing = Storing(self.in_database)

    async def run(self) -> None:
        """Claim, renew and follow until ``stopping``; then hand everything back at once."""
        self.keeper.start(asyncio.get_running_loop())
        chores = [
            asyncio.create_task(self._claim_again_and_again()),
            asyncio.create_task(self._listen()),
            asyncio.create_task(self._repeat(settings.LEASE_SECONDS / 3, self._balance)),
            asyncio.create_task(self._repeat(ORPHAN_SECONDS, self._look_for_strays)),
            asyncio.create_task(self._repeat(GATEWAY_SECONDS, self._keep_gateway_open)),
        ]
        await self.stopping.wait()
        followers = [task for _, task in self.followers.values()]
        ending = [*chores, *followers]
        for task in ending:
            task.cancel()
        # Engines may take their time to part; what is still written meanwhile is fenced.
        await asyncio.wait(ending, timeout=1)
        await asyncio.to_thread(self.keeper.stop)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(5):  # without a database they lapse by themselves
                count = await self.in_database(services.unregister_manager, owner=self.owner)
                log.info("handed back %d conversations", count)
        await asyncio.to_thread(bus.publisher.flush, 1.0)
        await asyncio.wait(ending, timeout=4)
        self._database.shutdown()
        self._engines.shutdown()

    def figures(self) -> dict[str, float]:
        """What this manager has to do, for the list of nodes."""
        return {
            "conversations": len(self.followers),
            "capacity": self.capacity,
            "waiting": self.waiting,
            "handed_over": self.handed_over,
        }

    async def _repeat(self, seconds: float, chore: Callable[[], Any]) -> None:
        while True:
            try:
                await chore()
            except Exception:
                log.exception("a chore of the manager failed; trying again")
            await asyncio.sleep(seconds)

    # --- Claiming ---

    async def _claim_again_and_again(self) -> None:
        while True:
            self._woken.clear()
            try:
                await self._claim()
            except Exception:
                log.exception("claiming failed; trying again")
                await asyncio.sleep(CLAIM_SECONDS)
            with contextlib.suppress(TimeoutError):
                # Not in step with the others; who is woken by a hand-over is all the same a moment apart.
                async with asyncio.timeout(CLAIM_SECONDS * random.uniform(0.6, 1)):  # noqa: S311
                    await self._woken.wait()

    async def _listen(self) -> None:
        """Be woken when there is something to claim. Without Redis the next look finds it."""
        layer: Any = get_channel_layer()
        channel = ""
        while True:
            try:
                if not channel:
                    channel = await layer.new_channel("manager")
                    await layer.group_add(bus.MANAGERS, channel)
                if isinstance(bus.decode(await layer.receive(channel)), bus.ManagerWake):
                    self._woken.set()
            except Exception:  # noqa: BLE001 - Redis away, in whatever way
                channel = ""
                await asyncio.sleep(2)

    async def _claim(self) -> None:
        if self.keeper.may_judge():
            freed = await self.in_database(services.free_expired_leases, owner=self.owner)
            if freed:
                log.warning("a manager is gone; its %d conversations are free", freed)
        if not self.keeper.is_registered:
            return
        census = await self.in_database(services.take_census, capacity=self.capacity)
        self.waiting = census.free
        limit = self._limit(census)
        if limit <= 0:
            return
        claims = await self.in_database(
            services.claim_conversations, owner=self.owner, limit=min(limit, CLAIM_BATCH)
        )
        for claim in claims:
            self._follow(claim)
        if len(claims) == CLAIM_BATCH:
            self._woken.set()

    def _limit(self, census: services.Census) -> int:
        """How many to claim now: what the share lacks, or all there is room for when nobody else comes."""
        now = time.monotonic()
        if not census.free:
            self._free_since = None
            return 0
        self._free_since = self._free_since or now
        is_starved = now - self._free_since > STARVED_SECONDS
        return (self.capacity if is_starved else census.share) - len(self.followers)

    def _follow(self, claim: services.Claim) -> None:
        log.info("following %s, generation %d", claim.conversation_id, claim.generation)
        self._drop(claim.conversation_id)
        follower = Follower(self, claim.conversation_id, claim.generation)
        task = asyncio.create_task(follower.run())
        self.followers[claim.conversation_id] = (follower, task)
        task.add_done_callback(partial(self._ended, claim.conversation_id))

    def _ended(self, conversation_id: UUID, task: "asyncio.Task[None]") -> None:
        held = self.followers.get(conversation_id)
        if held and held[1] is task:
            del self.followers[conversation_id]

    def _drop(self, conversation_id: UUID) -> "asyncio.Task[None] | None":
        held = self.followers.pop(conversation_id, None)
        if held is None:
            return None
        held[1].cancel()
        return held[1]

    # --- Giving up ---

    async def _balance(self) -> None:
        """Hand a few to managers that have less, once it has been too much for two rounds; the quietest first."""
        census = await self.in_database(services.take_census, capacity=self.capacity)
        excess = len(self.followers) - census.share - census.share // 10
        self._rounds_above = self._rounds_above + 1 if excess > 0 else 0
        if self._rounds_above < 2:
            return
        count = min(len(self.followers) - census.share, max(HANDOVER_BATCH, census.share // 10))
        quietest = sorted(self.followers.values(), key=lambda held: held[0].active_at)
        keys = [follower.conversation_id for follower, _ in quietest[:count]]
        tasks = [task for key in keys if (task := self._drop(key))]
        await asyncio.gather(*tasks, return_exceptions=True)
        given = await self.in_database(
            services.release_leases, owner=self.owner, conversation_ids=keys
        )
        self.handed_over += given
        log.info("handed %d conversations to managers that have less", given)

    def lose_all(self) -> None:
        """Let go of everything: we were taken for dead, and others follow it now."""
        for conversation_id in list(self.followers):
            log.warning("lost the lease of %s", conversation_id)
            self._drop(conversation_id)

    async def give_back(self, conversation_id: UUID) -> None:
        """Hand back what is not to be followed any more, if it is ours; what fails is a stray, looked for later."""
        try:
            await self.in_database(
                services.release_leases, owner=self.owner, conversation_ids=[conversation_id]
            )
        except Exception:
            log.exception("%s could not be handed back", conversation_id)

    async def _look_for_strays(self) -> None:
        """Leases of nobody that is known are freed; ours without a follower are handed back, and the reverse."""
        await self.in_database(services.free_orphaned_leases)
        known = set(self.followers)
        held = await self.in_database(services.list_leases, owner=self.owner)
        for conversation_id, (follower, _) in list(self.followers.items()):
            if conversation_id in known and held.get(conversation_id) != follower.generation:
                log.warning("lost the lease of %s", conversation_id)
                self._drop(conversation_id)
        for conversation_id in held.keys() - known - self.followers.keys():
            await self.give_back(conversation_id)

    async def _keep_gateway_open(self) -> None:
        await self.in_database(services.extend_gateway_tokens, owner=self.owner)


class Keeper:
    """Renews a manager's leases from a thread and a connection of its own, whatever the others wait for.

    It does so only while the manager's loop turns: one that hangs must lose its conversations.
    """

    def __init__(self, manager: Manager) -> None:
        self.manager = manager
        self.is_registered = False
        self._turned_at = time.monotonic()
        self._trusted_from = 0.0
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="keeper", daemon=True)

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._thread.start()

    def stop(self) -> None:
        """Renew no more; returns when the last renewal is over, or after some seconds."""
        self._stopping.set()
        self._thread.join(5)

    def may_judge(self) -> bool:
        """Whether we may take silent managers for dead: not right after we were cut off ourselves.

        When the database was away for all, nobody could renew, and the first one back would take everything.
        """
        return self.is_registered and time.monotonic() >= self._trusted_from

    def _run(self) -> None:
        keep_own_connection()
        try:
            while not self._stopping.is_set():
                started = time.monotonic()
                self._renew()
                pause = settings.LEASE_SECONDS / 3
                self._stopping.wait(max(0.1, pause - (time.monotonic() - started)))
        finally:
            connection.close()

    def _renew(self) -> None:
        started = time.monotonic()
        self._call_in_loop(self._note_turn)
        if started - self._turned_at > settings.LEASE_SECONDS:
            log.error("the manager's loop hangs; its leases are not renewed")
            return
        try:
            was_known = services.renew_manager(
                owner=self.manager.owner,
                capacity=self.manager.capacity,
                followed=len(self.manager.followers),
            )
        except Exception as error:  # noqa: BLE001 - the database away, in whatever way
            log.warning("leases could not be renewed: %s", type(error).__name__)
            connection.close()
            self._distrust()
            return
        if time.monotonic() - started > settings.LEASE_SECONDS / 2:
            self._distrust()
        if self.is_registered and not was_known:
            log.warning("we were taken for dead")
            self._call_in_loop(self.manager.lose_all)
        self.is_registered = True

    def _distrust(self) -> None:
        self._trusted_from = time.monotonic() + math.ceil(settings.LEASE_SECONDS * 1.5)

    def _note_turn(self) -> None:
        self._turned_at = time.monotonic()

    def _call_in_loop(self, function: Callable[[], None]) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is over
            self._loop.call_soon_threadsafe(function)

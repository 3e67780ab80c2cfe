"""The conversation manager, which claims a share of the live conversations and stores the events of their engines."""

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
IDLE_CLAIM_SECONDS = 30.0
"""The pause between claims while there is nothing to claim. A nudge or the keeper, which looks for work, ends it."""
LOOK_SECONDS = 2.0
"""The longest pause between two looks of the keeper for work."""
CLAIM_BATCH = 100
"""The largest number of conversations in one claim, so that engine sockets are opened in portions."""
STARVED_SECONDS = 3.0
"""Seconds after which a manager with free capacity claims free conversations beyond its fair share."""
HANDOVER_BATCH = 10
"""The number of conversations that are handed to other managers per round, or a tenth of the share if that is more."""
ORPHAN_SECONDS = 30.0
GATEWAY_SECONDS = 60.0
EGRESS_SECONDS = 1.0
"""The interval at which new network decisions are stored. A proxy writes a decision up to one second late, and people
should see it within three seconds."""
DATABASE_THREADS = 8
ENGINE_THREADS = 32


class Manager:
    """A process that claims and follows conversations until it is stopped. Any number of managers may run.

    Each manager claims live conversations up to its fair share, which is proportional to its capacity. A manager above
    its fair share releases conversations in batches, so that other managers claim them. Other managers claim the
    conversations of a dead manager, and a manager that is stopped releases all of its conversations (ADR 15).
    """

    def __init__(self, owner: str) -> None:
        self.owner = owner
        self.capacity = settings.MANAGER_MAX_CONVERSATIONS
        self.followers: dict[UUID, tuple[Follower, asyncio.Task[None]]] = {}
        self.stopping = asyncio.Event()
        self.unclaimed = 0
        self.handed_over = 0
        self.keeper = Keeper(self)
        self.woken = asyncio.Event()
        """Set this to claim conversations now."""
        self._free_since: float | None = None
        self._overloaded_rounds = 0
        self._database = DatabaseThreads("manager-db", DATABASE_THREADS, keep_connections=True)
        self._engines = DatabaseThreads("manager-engine", ENGINE_THREADS)
        self.in_database = self._database.run
        """Run a service call in a thread of a small pool, whose threads keep their database connections."""
        self.at_engine = self._engines.run
        """Run a call to an engine or a sandbox provider, which may take a long time, in a thread of another pool."""
        self.storing = Storing(self.in_database)

    async def run(self) -> None:
        """Claim and follow conversations until ``stopping`` is set, then hand all conversations back immediately."""
        self.keeper.start(asyncio.get_running_loop())
        periodic_tasks = [
            asyncio.create_task(self._keep_claiming()),
            asyncio.create_task(self._receive_nudges()),
            asyncio.create_task(self._repeat(settings.LEASE_SECONDS / 3, self._balance)),
            # One after the other, because each call at the same time opens a connection that its thread keeps.
            asyncio.create_task(self._repeat(ORPHAN_SECONDS, self._reconcile_leases, after=0.3)),
            asyncio.create_task(self._repeat(GATEWAY_SECONDS, self._keep_gateway_open, after=0.6)),
            asyncio.create_task(self._repeat(EGRESS_SECONDS, self._collect_egress)),
        ]
        await self.stopping.wait()
        followers = [task for _, task in self.followers.values()]
        ending = [*periodic_tasks, *followers]
        for task in ending:
            task.cancel()
        # Do not wait long, because engines may be slow to close their sockets. A follower that still writes is
        # harmless, because every write checks the lease.
        await asyncio.wait(ending, timeout=1)
        await asyncio.to_thread(self.keeper.stop)
        with contextlib.suppress(TimeoutError):
            # If the database is unreachable, the leases expire without this call.
            async with asyncio.timeout(5):
                count = await self.in_database(services.unregister_manager, owner=self.owner)
                log.info("handed back %d conversations", count)
        await asyncio.to_thread(bus.publisher.flush, 1.0)
        await asyncio.wait(ending, timeout=4)
        self._database.shutdown()
        self._engines.shutdown()

    def figures(self) -> dict[str, float]:
        """Return this manager's load, for the list of nodes."""
        return {
            "conversations": len(self.followers),
            "capacity": self.capacity,
            "waiting": self.unclaimed,
            "handed_over": self.handed_over,
        }

    async def _repeat(self, seconds: float, task: Callable[[], Any], *, after: float = 0.0) -> None:
        await asyncio.sleep(after)
        while True:
            try:
                await task()
            except Exception:
                log.exception("a periodic task of the manager failed; retrying")
            await asyncio.sleep(seconds)

    # --- Claiming ---

    async def _keep_claiming(self) -> None:
        while True:
            self.woken.clear()
            try:
                await self._claim()
            except Exception:
                log.exception("claiming conversations failed; retrying")
                await asyncio.sleep(CLAIM_SECONDS)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._claim_pause()):
                    await self.woken.wait()

    def _claim_pause(self) -> float:
        """Return the seconds until the next claim. Other managers may die, so then the pause is short."""
        if not (self.keeper.has_others or self.keeper.has_free or self.unclaimed):
            return IDLE_CLAIM_SECONDS
        # Jitter, so that managers do not claim at the same moment.
        return CLAIM_SECONDS * random.uniform(0.6, 1)  # noqa: S311

    async def _receive_nudges(self) -> None:
        """Claim immediately after a nudge. While Redis is unreachable, the keeper finds the conversations."""
        layer: Any = get_channel_layer()
        channel = ""
        while True:
            try:
                if not channel:
                    channel = await layer.new_channel("manager")
                    await layer.group_add(bus.MANAGERS, channel)
                if isinstance(bus.decode(await layer.receive(channel)), bus.ManagerWake):
                    self.woken.set()
            except Exception:  # noqa: BLE001 - any failure of Redis: reconnect
                channel = ""
                await asyncio.sleep(2)

    async def _claim(self) -> None:
        if self.keeper.may_declare_dead():
            freed = await self.in_database(services.free_expired_leases, owner=self.owner)
            if freed:
                log.warning(
                    "a manager stopped renewing its leases; %d conversations are free to claim",
                    freed,
                )
        # An unregistered manager cannot claim; the keeper registers it soon.
        if not self.keeper.is_registered:
            return
        census = await self.in_database(services.take_census, capacity=self.capacity)
        self.unclaimed = census.free
        limit = self._count_claimable(census)
        if limit <= 0:
            return
        claims = await self.in_database(
            services.claim_conversations, owner=self.owner, limit=min(limit, CLAIM_BATCH)
        )
        for claim in claims:
            self._follow(claim)
        # The batch is full, so there may be more conversations to claim.
        if len(claims) == CLAIM_BATCH:
            self.woken.set()

    def _count_claimable(self, census: services.Census) -> int:
        """Return how many conversations to claim now: up to the share, or up to the capacity if nobody claims them."""
        now = time.monotonic()
        if not census.free:
            self._free_since = None
            return 0
        self._free_since = self._free_since or now
        is_starved = now - self._free_since > STARVED_SECONDS
        return (self.capacity if is_starved else census.share) - len(self.followers)

    def _follow(self, claim: services.Claim) -> None:
        # A new claim replaces a follower with an older lease generation.
        log.info(
            "started to follow conversation %s, lease generation %d",
            claim.conversation_id,
            claim.generation,
        )
        self._stop_following(claim.conversation_id)
        follower = Follower(self, claim.conversation_id, claim.generation)
        task = asyncio.create_task(follower.run())
        self.followers[claim.conversation_id] = (follower, task)
        task.add_done_callback(partial(self._forget, claim.conversation_id))

    def _forget(self, conversation_id: UUID, task: "asyncio.Task[None]") -> None:
        entry = self.followers.get(conversation_id)
        if entry and entry[1] is task:
            del self.followers[conversation_id]

    def _stop_following(self, conversation_id: UUID) -> "asyncio.Task[None] | None":
        entry = self.followers.pop(conversation_id, None)
        if entry is None:
            return None
        entry[1].cancel()
        return entry[1]

    # --- Handing back ---

    async def _balance(self) -> None:
        """After two rounds above the share, hand the quietest conversations to other managers.

        One round is not enough, because the counts of other managers lag by up to two seconds (ADR 15).
        """
        if not (self.followers and self.keeper.has_others):
            self._overloaded_rounds = 0
            return
        census = await self.in_database(services.take_census, capacity=self.capacity)
        # Tolerate a tenth above the share, so that conversations do not move back and forth.
        excess = len(self.followers) - census.share - census.share // 10
        self._overloaded_rounds = self._overloaded_rounds + 1 if excess > 0 else 0
        if self._overloaded_rounds < 2:
            return
        surplus = min(len(self.followers) - census.share, max(HANDOVER_BATCH, census.share // 10))
        quietest = sorted(self.followers.values(), key=lambda entry: entry[0].active_at)
        keys = [follower.conversation_id for follower, _ in quietest[:surplus]]
        tasks = [task for key in keys if (task := self._stop_following(key))]
        await asyncio.gather(*tasks, return_exceptions=True)
        count = await self.in_database(
            services.release_leases,
            owner=self.owner,
            conversation_ids=keys,
            followed=len(self.followers),
        )
        self.handed_over += count
        log.info("handed %d conversations over to other managers", count)

    def lose_all(self) -> None:
        """Stop following all conversations, because other managers declared this manager dead and freed its leases."""
        for conversation_id in list(self.followers):
            log.warning("lost the lease of conversation %s", conversation_id)
            self._stop_following(conversation_id)

    async def hand_back(self, conversation_id: UUID) -> None:
        """Release the lease of a conversation that needs no follower any more, if this manager still holds the lease.

        After a failure, this manager keeps the lease, and ``_reconcile_leases`` tries again.
        """
        try:
            await self.in_database(
                services.release_leases,
                owner=self.owner,
                conversation_ids=[conversation_id],
                followed=len(self.followers.keys() - {conversation_id}),
            )
        except Exception:
            log.exception(
                "the lease of conversation %s could not be handed back; retrying later",
                conversation_id,
            )

    async def _reconcile_leases(self) -> None:
        """Correct differences between leases and followers.

        Free the leases of unregistered managers, release leases that have no follower, and stop followers that have no
        lease.
        """
        await self.in_database(services.free_orphaned_leases)
        # The next round handles followers that start or end during the query.
        known = set(self.followers)
        leases = await self.in_database(services.list_leases, owner=self.owner)
        for conversation_id, (follower, _) in list(self.followers.items()):
            if conversation_id in known and leases.get(conversation_id) != follower.generation:
                log.warning("lost the lease of conversation %s", conversation_id)
                self._stop_following(conversation_id)
        for conversation_id in leases.keys() - known - self.followers.keys():
            await self.hand_back(conversation_id)

    async def _keep_gateway_open(self) -> None:
        """Extend the model gateway tokens of the followed conversations before they expire."""
        await self.in_database(services.extend_gateway_tokens, owner=self.owner)

    async def _collect_egress(self) -> None:
        """Store the new network decisions of the followed conversations and of sandboxes that are starting."""
        if self.followers or self.keeper.has_starting:
            await self.at_engine(services.collect_egress, conversation_ids=list(self.followers))


class Keeper:
    """The thread that renews a manager's leases. It has its own database connection, so no other work delays it.

    The thread renews leases only while the manager's event loop runs: a manager that hangs must lose its conversations.
    The statement that renews also looks for work, so that an idle manager sends no other query.
    """

    def __init__(self, manager: Manager) -> None:
        self.manager = manager
        self.is_registered = False
        self.has_others = self.has_free = self.has_starting = False
        """The findings of the last renewal; see ``services.Renewal``."""
        self._loop_ran_at = time.monotonic()
        self._trusted_from = 0.0
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="keeper", daemon=True)

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._thread.start()

    def stop(self) -> None:
        """Stop renewing. Return when the last renewal has ended, or after five seconds."""
        self._stopping.set()
        self._thread.join(5)

    def may_declare_dead(self) -> bool:
        """Return whether this manager may free the leases of managers that did not renew them.

        It may not do so shortly after a renewal of its own leases failed: the database may have been unreachable for
        all managers, and the first manager that recovers would take over all conversations.
        """
        return self.is_registered and time.monotonic() >= self._trusted_from

    def _run(self) -> None:
        keep_own_connection()
        try:
            while not self._stopping.is_set():
                started = time.monotonic()
                self._renew()
                pause = min(settings.LEASE_SECONDS / 3, LOOK_SECONDS)
                self._stopping.wait(max(0.1, pause - (time.monotonic() - started)))
        finally:
            connection.close()

    def _renew(self) -> None:
        started = time.monotonic()
        self._call_in_loop(self._note_loop_ran)
        if started - self._loop_ran_at > settings.LEASE_SECONDS:
            log.error("the manager's event loop hangs, so its leases are not renewed")
            return
        try:
            renewal = services.renew_manager(
                owner=self.manager.owner,
                capacity=self.manager.capacity,
                followed=len(self.manager.followers),
            )
        except Exception as error:  # noqa: BLE001 - any failure of the database
            log.warning("leases could not be renewed; retrying: %s", type(error).__name__)
            connection.close()
            self._distrust()
            return
        # If this renewal was slow, other managers may have failed to renew their leases.
        if time.monotonic() - started > settings.LEASE_SECONDS / 2:
            self._distrust()
        if self.is_registered and not renewal.was_registered:
            log.warning(
                "other managers declared this manager dead; its conversations were taken over"
            )
            self._call_in_loop(self.manager.lose_all)
        self._note(renewal)

    def _note(self, renewal: services.Renewal) -> None:
        """Keep what a renewal has found. Claim now if the manager was just registered, or has to claim more often."""
        before = (self.is_registered, self.has_others, self.has_free)
        self.has_starting = renewal.has_starting
        self.is_registered = True
        self.has_others, self.has_free = renewal.has_others, renewal.has_free
        if before != (True, renewal.has_others, renewal.has_free):
            self._call_in_loop(self.manager.woken.set)

    def _distrust(self) -> None:
        # One and a half lease periods give every manager time to renew after an outage.
        self._trusted_from = time.monotonic() + math.ceil(settings.LEASE_SECONDS * 1.5)

    def _note_loop_ran(self) -> None:
        self._loop_ran_at = time.monotonic()

    def _call_in_loop(self, function: Callable[[], None]) -> None:
        with contextlib.suppress(RuntimeError):  # the event loop is closed
            self._loop.call_soon_threadsafe(function)

"""Leases. A lease assigns a live conversation to one conversation manager, which stores the engine's events.

Each claim of a conversation raises the lease's generation. The database rejects writes under an older lease
generation, so a manager that has lost a lease cannot change the log.

A lease lasts as long as its owner's ``LiveManager`` row, so that renewing a thousand leases is one small update
(ADR 15). All times come from the database, because the clocks of managers differ. Leases do not depend on Redis.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from uuid import UUID

from django.conf import settings
from django.db import connection, transaction
from django.db.models import Count, Exists, OuterRef, Sum

from billing import services as billing
from conversations import announcing
from conversations.models import Conversation, Lease, LiveManager, Sandbox

# PostgreSQL sets `xmax` to 0 in a row that was inserted and not updated.
_RENEW = """
INSERT INTO conversations_livemanager (owner, capacity, followed, started_at, expires_at)
VALUES (%(owner)s, %(capacity)s, %(followed)s, now(), now() + %(lease)s)
ON CONFLICT (owner) DO UPDATE SET
    capacity = excluded.capacity, followed = excluded.followed, expires_at = excluded.expires_at
RETURNING
    xmax <> 0,
    EXISTS (SELECT FROM conversations_livemanager AS other WHERE other.owner <> %(owner)s),
    EXISTS (SELECT FROM conversations_lease WHERE is_wanted AND owner = ''),
    EXISTS (SELECT FROM conversations_sandbox WHERE observed = 'starting')
"""
# Skip locked rows, so that managers that claim at the same time get different leases without waiting.
_CLAIM = """
UPDATE conversations_lease
SET owner = %(owner)s, generation = generation + 1, following_run = NULL
WHERE conversation_id IN (
    SELECT conversation_id FROM conversations_lease WHERE is_wanted AND owner = ''
    LIMIT %(limit)s FOR UPDATE SKIP LOCKED
)
RETURNING conversation_id, generation
"""
_FREE_EXPIRED = """
WITH expired AS (
    DELETE FROM conversations_livemanager WHERE expires_at <= now() AND owner <> %(owner)s RETURNING owner
)
UPDATE conversations_lease AS lease SET owner = '', following_run = NULL
FROM expired WHERE lease.is_wanted AND lease.owner = expired.owner
"""


@dataclass(frozen=True, slots=True)
class Claim:
    """A conversation that a manager has claimed. ``generation`` is the lease generation."""

    conversation_id: UUID
    generation: int


@dataclass(frozen=True, slots=True)
class Renewal:
    """The result of a renewal: the state of the registration, and whether there is work for the manager."""

    was_registered: bool
    """Whether the manager was registered before. If not, but it registered earlier, it has lost all of its leases."""
    has_others: bool
    """Whether other managers are registered, live or expired."""
    has_free: bool
    """Whether a conversation has a running engine and no manager."""
    has_starting: bool
    """Whether a sandbox is starting."""


@dataclass(frozen=True, slots=True)
class Census:
    """The numbers of live managers, followed conversations and free conversations, and a manager's fair share."""

    managers: int
    followed: int
    free: int
    share: int


def fair_share(*, total: int, capacity: int, all_capacity: int) -> int:
    """Return a manager's fair share of ``total`` conversations: proportional to its capacity, but not above it."""
    return min(capacity, math.ceil(total * capacity / max(all_capacity, capacity, 1)))


def renew_manager(*, owner: str, capacity: int, followed: int) -> Renewal:
    """Register a manager for ``LEASE_SECONDS``, or extend its registration, which also extends all of its leases.

    The result also says whether there is work for the manager, so that an idle manager needs no other query.
    """
    lease = timedelta(seconds=settings.LEASE_SECONDS)
    values: dict[str, Any] = {
        "owner": owner,
        "capacity": capacity,
        "followed": followed,
        "lease": lease,
    }
    with connection.cursor() as cursor:
        cursor.execute(_RENEW, values)
        return Renewal(*cursor.fetchone())


def take_census(*, capacity: int) -> Census:
    """Count the live managers and conversations, and compute the fair share of a manager with this capacity."""
    # Each manager stores how many conversations it follows, so a census reads only free leases.
    totals = LiveManager.objects.alive().aggregate(
        managers=Count("owner"), capacity=Sum("capacity"), followed=Sum("followed")
    )
    followed = totals["followed"] or 0
    free = Lease.objects.filter(is_wanted=True, owner="").count()
    share = fair_share(
        total=followed + free, capacity=capacity, all_capacity=totals["capacity"] or 0
    )
    return Census(totals["managers"], followed, free, share)


@transaction.atomic
def claim_conversations(*, owner: str, limit: int) -> list[Claim]:
    """Claim up to ``limit`` conversations that have a running engine and no manager, and raise their lease generations.

    Concurrent calls claim different conversations. Return an empty list if the manager is not registered or its
    registration has expired.
    """
    manager = LiveManager.objects.alive().select_for_update().filter(owner=owner).first()
    if manager is None or limit <= 0:
        return []
    with connection.cursor() as cursor:
        cursor.execute(_CLAIM, {"owner": owner, "limit": limit})
        claims = [Claim(key, generation) for key, generation in cursor.fetchall()]
    if claims:
        # Update the count now, so that other managers' censuses are right before our next renewal.
        LiveManager.objects.filter(owner=owner).update(followed=manager.followed + len(claims))
    return claims


def free_expired_leases(*, owner: str) -> int:
    """Free the leases of all expired managers except ``owner``. Return the number of freed leases. Safe to repeat."""
    with connection.cursor() as cursor:
        cursor.execute(_FREE_EXPIRED, {"owner": owner})
        return int(cursor.rowcount)


def free_orphaned_leases() -> int:
    """Free the leases of owners that are not registered, for example after a backup was restored.

    Return the number of freed leases. Safe to repeat.
    """
    managers = LiveManager.objects.filter(owner=OuterRef("owner"))
    orphans = Lease.objects.filter(is_wanted=True).exclude(owner="").exclude(Exists(managers))
    return orphans.update(owner="", following_run=None)


def list_leases(*, owner: str) -> dict[UUID, int]:
    """Return a dict from conversation id to lease generation, for all leases that a manager holds."""
    leases = Lease.objects.filter(owner=owner, is_wanted=True)
    return dict(leases.values_list("conversation_id", "generation"))


def release_leases(*, owner: str, conversation_ids: Sequence[UUID], followed: int) -> int:
    """Release leases that a manager holds, so that other managers can claim the conversations.

    ``followed`` is the number of conversations that the manager still follows. A conversation without a running engine
    cannot be claimed until its engine runs. Return the number of released leases. Safe to repeat.
    """
    # Store the count first. Otherwise a released conversation is counted as followed and as free until the next
    # renewal, and each manager's fair share is too large. This is a transaction of its own, so that a renewal never
    # waits for the locks of leases.
    LiveManager.objects.filter(owner=owner).update(followed=followed)
    return _release(owner, conversation_ids)


@transaction.atomic
def _release(owner: str, conversation_ids: Sequence[UUID]) -> int:
    leases = Lease.objects.select_for_update().filter(owner=owner, pk__in=conversation_ids)
    # Lock in the order of the keys, so that concurrent calls cannot deadlock.
    keys = list(leases.order_by("pk").values_list("pk", flat=True))
    # Check the engines in a second statement. It sees changes that were committed while this transaction waited for the
    # locks, such as a start that set `is_wanted`.
    engines = Conversation.objects.filter(
        pk=OuterRef("pk"),
        deleted_at=None,
        sandbox__observed=Sandbox.Observed.RUNNING,
        sandbox__conversation_started=True,
    )
    Lease.objects.filter(pk__in=keys).update(
        owner="", following_run=None, is_wanted=Exists(engines)
    )
    if keys:
        announcing.wake_managers_on_commit()
    return len(keys)


@transaction.atomic
def unregister_manager(*, owner: str) -> int:
    """Unregister a manager that shuts down, and release its leases. Return how many it had. Safe to repeat."""
    LiveManager.objects.filter(owner=owner).delete()
    leases = Lease.objects.filter(owner=owner, is_wanted=True)
    count = leases.update(owner="", following_run=None)
    announcing.wake_managers_on_commit()
    return count


def request_manager(*, conversation_id: UUID) -> None:
    """Allow managers to claim a conversation, and nudge them.

    Call this function in the transaction that marks the conversation's engine as running. Safe to repeat.
    """
    Lease.objects.filter(conversation_id=conversation_id).update(is_wanted=True)
    announcing.wake_managers_on_commit()


def list_live_owners() -> set[str]:
    """Return the ``owner`` ids of all live managers."""
    return set(LiveManager.objects.alive().values_list("owner", flat=True))


def mark_following(*, conversation_id: UUID, generation: int, run: int | None) -> None:
    """Record the engine run to which the manager is connected, or None after the manager disconnected.

    Do nothing if the lease generation is not current.
    """
    Lease.objects.filter(conversation_id=conversation_id, generation=generation).update(
        following_run=run
    )


def extend_gateway_tokens(*, owner: str) -> int:
    """Extend the model gateway tokens of all conversations that a manager follows. Return the number of tokens."""
    return billing.extend_gateway_tokens(conversation_ids=list(list_leases(owner=owner)))

"""Leases, which assign each live conversation to one manager and fence its writes by a generation.

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
RETURNING xmax <> 0
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
    """A conversation that a manager has claimed, with the generation of its lease."""

    conversation_id: UUID
    generation: int


@dataclass(frozen=True, slots=True)
class Census:
    """Counts of live managers, followed and free conversations, and the calling manager's fair share."""

    managers: int
    followed: int
    free: int
    share: int


def fair_share(*, total: int, capacity: int, all_capacity: int) -> int:
    """Return the number of conversations that a manager should follow: in proportion to its capacity, and no more."""
    return min(capacity, math.ceil(total * capacity / max(all_capacity, capacity, 1)))


def renew_manager(*, owner: str, capacity: int, followed: int) -> bool:
    """Register a manager, or extend its registration and with it all of its leases, for ``LEASE_SECONDS``.

    Return whether it was already registered. If a manager that has registered before gets False, its registration
    expired and it lost all of its leases.
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
        return bool(cursor.fetchone()[0])


def take_census(*, capacity: int) -> Census:
    """Count the live managers and conversations, and compute the share of a manager with this capacity."""
    # Managers store how many conversations they follow, so a census reads no lease that is held.
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
    """Claim up to ``limit`` conversations that have a running engine and no manager. Each claim gets a new generation.

    Concurrent claims get different conversations. Return nothing if the manager is not registered or has expired.
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
    """Free the leases of expired managers other than ``owner`` and return their number. Safe to repeat."""
    with connection.cursor() as cursor:
        cursor.execute(_FREE_EXPIRED, {"owner": owner})
        return int(cursor.rowcount)


def free_orphaned_leases() -> int:
    """Free the leases of owners that are not registered, as after a restore; return their number. Safe to repeat."""
    managers = LiveManager.objects.filter(owner=OuterRef("owner"))
    orphans = Lease.objects.filter(is_wanted=True).exclude(owner="").exclude(Exists(managers))
    return orphans.update(owner="", following_run=None)


def list_leases(*, owner: str) -> dict[UUID, int]:
    """Return the generations of a manager's leases by conversation id."""
    leases = Lease.objects.filter(owner=owner, is_wanted=True)
    return dict(leases.values_list("conversation_id", "generation"))


@transaction.atomic
def release_leases(*, owner: str, conversation_ids: Sequence[UUID]) -> int:
    """Release a manager's leases, so that other managers can claim the conversations, and return their number.

    A conversation without a running engine is not claimed again until its engine runs. Safe to repeat.
    """
    leases = Lease.objects.select_for_update().filter(owner=owner, pk__in=conversation_ids)
    # Lock in the order of the keys, so that concurrent calls cannot deadlock.
    keys = list(leases.order_by("pk").values_list("pk", flat=True))
    # Check the engines in a second statement: it sees what was committed while we waited for the locks, such as a
    # start that set `is_wanted`.
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
    """Unregister a manager that shuts down, release all of its leases and return their number. Safe to repeat."""
    LiveManager.objects.filter(owner=owner).delete()
    leases = Lease.objects.filter(owner=owner, is_wanted=True)
    count = leases.update(owner="", following_run=None)
    announcing.wake_managers_on_commit()
    return count


def request_manager(*, conversation_id: UUID) -> None:
    """Mark a conversation as one that a manager should follow.

    Call this in the transaction that marks its engine as running. Safe to repeat.
    """
    Lease.objects.filter(conversation_id=conversation_id).update(is_wanted=True)
    announcing.wake_managers_on_commit()


def list_live_owners() -> set[str]:
    """Return the owners of all live managers."""
    return set(LiveManager.objects.alive().values_list("owner", flat=True))


def mark_following(*, conversation_id: UUID, generation: int, run: int | None) -> None:
    """Record the run of the engine to whose socket the manager is connected, or None after it disconnected.

    Do nothing if the generation is not current.
    """
    Lease.objects.filter(conversation_id=conversation_id, generation=generation).update(
        following_run=run
    )


def extend_gateway_tokens(*, owner: str) -> int:
    """Extend the model gateway tokens of the conversations that a manager follows and return their number."""
    return billing.extend_gateway_tokens(conversation_ids=list(list_leases(owner=owner)))

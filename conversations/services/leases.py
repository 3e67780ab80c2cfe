"""Leases: which manager follows which conversation, fenced by a generation.

A lease lasts as long as its owner's ``LiveManager`` row, so keeping a thousand of them costs one small update.
All times are the database's, for managers' clocks differ. Nothing here needs Redis.
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

# `xmax` is 0 in a row that was inserted, not updated.
_RENEW = """
INSERT INTO conversations_livemanager (owner, capacity, followed, started_at, expires_at)
VALUES (%(owner)s, %(capacity)s, %(followed)s, now(), now() + %(lease)s)
ON CONFLICT (owner) DO UPDATE SET
    capacity = excluded.capacity, followed = excluded.followed, expires_at = excluded.expires_at
RETURNING xmax <> 0
"""
_CLAIM = """
UPDATE conversations_lease
SET owner = %(owner)s, generation = generation + 1, following_run = NULL
WHERE conversation_id IN (
    SELECT conversation_id FROM conversations_lease WHERE is_wanted AND owner = ''
    LIMIT %(limit)s FOR UPDATE SKIP LOCKED
)
RETURNING conversation_id, generation
"""
_TAKE_FROM_DEAD = """
WITH dead AS (
    DELETE FROM conversations_livemanager WHERE expires_at <= now() AND owner <> %(owner)s RETURNING owner
)
UPDATE conversations_lease AS lease SET owner = '', following_run = NULL
FROM dead WHERE lease.is_wanted AND lease.owner = dead.owner
"""


@dataclass(frozen=True, slots=True)
class Claim:
    """A conversation that one manager follows until its lease is lost."""

    conversation_id: UUID
    generation: int


@dataclass(frozen=True, slots=True)
class Census:
    """How many managers are up, what they follow, what is free, and the share of the one that asks."""

    managers: int
    followed: int
    free: int
    share: int


def fair_share(*, total: int, capacity: int, all_capacity: int) -> int:
    """How many of ``total`` conversations a manager should follow: in proportion, and no more than it can."""
    return min(capacity, math.ceil(total * capacity / max(all_capacity, capacity, 1)))


def renew_manager(*, owner: str, capacity: int, followed: int) -> bool:
    """Stay among the living for ``LEASE_SECONDS`` more: one small statement for however many leases.

    Returns whether the manager was known. If not, it is registered anew; one that had been known before was
    taken for dead and has lost all its leases.
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
    """Count managers and conversations, for a manager of this capacity; a few rows of two small indexes."""
    living = LiveManager.objects.alive().aggregate(
        managers=Count("owner"), capacity=Sum("capacity"), followed=Sum("followed")
    )
    followed = living["followed"] or 0
    free = Lease.objects.filter(is_wanted=True, owner="").count()
    share = fair_share(
        total=followed + free, capacity=capacity, all_capacity=living["capacity"] or 0
    )
    return Census(living["managers"], followed, free, share)


@transaction.atomic
def claim_conversations(*, owner: str, limit: int) -> list[Claim]:
    """Take conversations with a running engine that nobody follows; each claim has a new generation.

    Managers that claim at the same time get different ones. One that is not registered, or was taken for
    dead, gets none.
    """
    me = LiveManager.objects.alive().select_for_update().filter(owner=owner).first()
    if me is None or limit <= 0:
        return []
    with connection.cursor() as cursor:
        cursor.execute(_CLAIM, {"owner": owner, "limit": limit})
        claims = [Claim(key, generation) for key, generation in cursor.fetchall()]
    if claims:  # so that the census of the others is right before our next renewal
        LiveManager.objects.filter(owner=owner).update(followed=me.followed + len(claims))
    return claims


def take_from_dead(*, owner: str) -> int:
    """Free the leases of managers whose time has run out, but ``owner``'s; how many. Safe to repeat."""
    with connection.cursor() as cursor:
        cursor.execute(_TAKE_FROM_DEAD, {"owner": owner})
        return int(cursor.rowcount)


def free_orphans() -> int:
    """Free leases whose owner is not registered at all, such as after a restore; how many. Safe to repeat."""
    known = LiveManager.objects.filter(owner=OuterRef("owner"))
    orphans = Lease.objects.filter(is_wanted=True).exclude(owner="").exclude(Exists(known))
    return orphans.update(owner="", following_run=None)


def held_leases(*, owner: str) -> dict[UUID, int]:
    """What a manager holds: conversation to generation."""
    held = Lease.objects.filter(owner=owner, is_wanted=True)
    return dict(held.values_list("conversation_id", "generation"))


@transaction.atomic
def hand_back(*, owner: str, conversation_ids: Sequence[UUID]) -> int:
    """Give conversations back for others to claim at once; how many were still held. Safe to repeat.

    One whose engine does not run any more is not wanted until it does.
    """
    held = Lease.objects.select_for_update().filter(owner=owner, pk__in=conversation_ids)
    keys = list(held.order_by("pk").values_list("pk", flat=True))
    # A new statement sees what was committed while we waited for the lock: a start sets `is_wanted` under it.
    engines = Conversation.objects.filter(
        pk=OuterRef("pk"),
        deleted_at=None,
        sandbox__observed=Sandbox.Observed.RUNNING,
        sandbox__conversation_started=True,
    )
    found = Lease.objects.filter(pk__in=keys)
    found.update(owner="", following_run=None, is_wanted=Exists(engines))
    if keys:
        announcing.wake_managers_on_commit()
    return len(keys)


@transaction.atomic
def leave_managers(*, owner: str) -> int:
    """Hand everything back and stop being counted, as a manager that ends in order; how many. Safe to repeat."""
    LiveManager.objects.filter(owner=owner).delete()
    held = Lease.objects.filter(owner=owner, is_wanted=True)
    count = held.update(owner="", following_run=None)
    announcing.wake_managers_on_commit()
    return count


def want_manager(*, conversation_id: UUID) -> None:
    """Ask for a manager: the engine runs. In the transaction that says so. Safe to repeat."""
    Lease.objects.filter(conversation_id=conversation_id).update(is_wanted=True)
    announcing.wake_managers_on_commit()


def live_owners() -> set[str]:
    """The managers that are up; a lease of any other is nobody's."""
    return set(LiveManager.objects.alive().values_list("owner", flat=True))


def mark_following(*, conversation_id: UUID, generation: int, run: int | None) -> None:
    """Note that the engine's socket of a run is open (or, with None, no longer)."""
    Lease.objects.filter(conversation_id=conversation_id, generation=generation).update(
        following_run=run
    )


def keep_gateway_open(*, owner: str) -> int:
    """Extend the model tokens of the conversations that the owner follows; how many."""
    return billing.extend_gateway_tokens(conversation_ids=list(held_leases(owner=owner)))

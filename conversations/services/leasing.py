"""Leases: which manager follows which conversation, fenced by a generation."""

from dataclasses import dataclass
from datetime import timedelta
from uuid import UUID

from django.conf import settings
from django.db import transaction
from django.utils import timezone

from billing import services as billing
from conversations.models import Lease, Sandbox


@dataclass(frozen=True, slots=True)
class Claim:
    """A conversation that one manager follows until its lease is lost."""

    conversation_id: UUID
    generation: int


def _ends():  # noqa: ANN202
    return timezone.now() + timedelta(seconds=settings.LEASE_SECONDS)


@transaction.atomic
def claim_conversations(*, owner: str, limit: int) -> list[Claim]:
    """Take conversations with a running engine that nobody follows; each claim has a new generation.

    Managers that claim at the same time get different ones.
    """
    free = Lease.objects.select_for_update(skip_locked=True, of=("self",)).filter(
        expires_at__lte=timezone.now(),
        conversation__deleted_at=None,
        conversation__sandbox__observed=Sandbox.Observed.RUNNING,
        conversation__sandbox__conversation_started=True,
    )
    claims = []
    for lease in free.order_by("expires_at")[:limit]:
        lease.owner, lease.generation, lease.expires_at = owner, lease.generation + 1, _ends()
        lease.following_run = None
        lease.save()
        claims.append(Claim(lease.conversation_id, lease.generation))
    return claims


def renew_leases(*, owner: str) -> dict[UUID, int]:
    """Prolong what the owner still holds: conversation to generation. What is missing was lost."""
    held = Lease.objects.filter(owner=owner, expires_at__gt=timezone.now())
    held.update(expires_at=_ends())
    return dict(held.values_list("conversation_id", "generation"))


def release_leases(*, owner: str, conversation_id: UUID | None = None) -> int:
    """Hand back one conversation, or all, for others to claim at once; how many. Safe to repeat."""
    held = Lease.objects.filter(owner=owner)
    if conversation_id is not None:
        held = held.filter(conversation_id=conversation_id)
    return held.update(owner="", expires_at=timezone.now(), following_run=None)


def mark_following(*, conversation_id: UUID, generation: int, run: int | None) -> None:
    """Note that the engine's socket of a run is open (or, with None, no longer)."""
    Lease.objects.filter(conversation_id=conversation_id, generation=generation).update(
        following_run=run
    )


def keep_gateway_open(*, owner: str) -> int:
    """Extend the model tokens of the conversations that the owner follows; how many."""
    held = Lease.objects.filter(owner=owner, expires_at__gt=timezone.now())
    return billing.extend_gateway_tokens(
        conversation_ids=list(held.values_list("conversation_id", flat=True))
    )

"""Retention: the oldest events of logs that rest, removed by an operator's word and never by itself."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from django.db import transaction
from django.db.models import F, Max

from accounts.services import audit
from conversations import announcing
from conversations.models import Conversation, Event

KEEP_EVENTS = 100
"""The newest of each log stay, however old: what follows an engine begins at them."""
AT_A_TIME = 10_000
RESTING = (
    Conversation.Status.PAUSED,
    Conversation.Status.STOPPED,
    Conversation.Status.FAILED,
)


@dataclass(slots=True)
class Pruned:
    """What was removed, or would be."""

    conversations: int = 0
    events: int = 0


def prune_events(*, before: datetime, reason: str, dry_run: bool = False) -> Pruned:
    """Remove the events received before a moment from logs whose sandbox does not run.

    Readers with a cursor behind what is left are told ``reset``. Safe to repeat and to kill: each step moves
    the log's horizon and removes what is behind it in one transaction.
    """
    found = Pruned()
    for pk in _candidates(before):
        if dry_run:
            upto, horizon = _horizon(pk, before)
            removed = max(0, upto - horizon)
        else:
            removed = sum(_prune(pk, before))
        found.events += removed
        found.conversations += bool(removed)
    if found.events and not dry_run:
        after = {"conversations": found.conversations, "events": found.events}
        with transaction.atomic():
            audit.record(
                action="events.pruned",
                subject_name=f"events before {before.isoformat()}",
                after=after,
                reason=reason,
            )
    return found


def _candidates(before: datetime) -> list[UUID]:
    rows = Conversation.objects.filter(created_at__lt=before, status__in=RESTING)
    rows = rows.filter(last_seq__gt=F("pruned_seq") + KEEP_EVENTS)
    return list(rows.order_by("created_at").values_list("pk", flat=True))


def _horizon(pk: UUID, before: datetime, at_most: int | None = None) -> tuple[int, int]:
    """Up to where a log may go, and up to where it went."""
    known = Conversation.objects.filter(pk=pk, status__in=RESTING)
    place = known.values_list("last_seq", "pruned_seq").first()
    if place is None:
        return 0, 0
    last, pruned = place
    end = last - KEEP_EVENTS if at_most is None else min(last - KEEP_EVENTS, pruned + at_most)
    old = Event.objects.filter(conversation_id=pk, seq__gt=pruned, seq__lte=end)
    upto = old.filter(received_at__lt=before).aggregate(upto=Max("seq"))["upto"]
    return upto or pruned, pruned


def _prune(pk: UUID, before: datetime) -> Iterator[int]:
    while True:
        with transaction.atomic():
            if not Conversation.objects.select_for_update().filter(pk=pk).exists():
                return
            upto, pruned = _horizon(pk, before, AT_A_TIME)
            if upto <= pruned:
                return
            Conversation.objects.filter(pk=pk).update(pruned_seq=upto)
            old = Event.objects.filter(conversation_id=pk, seq__lte=upto)
            removed = old._raw_delete("default")  # noqa: SLF001 - nothing points at events
            announcing.announce_on_commit(pk)
        yield removed

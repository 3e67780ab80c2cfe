"""Removal of old events from inactive logs. Only an operator's command removes events, never a schedule."""

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
"""The number of newest events that every log keeps, whatever their age. A manager needs the newest event to continue
reading the engine's log after it."""
BATCH = 10_000
"""The largest number of events that one transaction removes."""
INACTIVE = (
    Conversation.Status.PAUSED,
    Conversation.Status.STOPPED,
    Conversation.Status.FAILED,
)


@dataclass(slots=True)
class PruneResult:
    """How many events were removed from how many conversations. A dry run counts what would be removed."""

    conversations: int = 0
    events: int = 0


def prune_events(*, before: datetime, reason: str, dry_run: bool = False) -> PruneResult:
    """Remove the events that were received before a time, from conversations whose sandbox is not running.

    Readers whose cursor points to a removed event receive ``reset``. ``reason`` is written to the audit log. A dry run
    only counts. Safe to repeat, and safe to kill at any point.
    """
    result = PruneResult()
    for pk in _candidates(before):
        if dry_run:
            end, start = _prunable_range(pk, before)
            removed = max(0, end - start)
        else:
            removed = sum(_prune(pk, before))
        result.events += removed
        result.conversations += bool(removed)
    if result.events and not dry_run:
        after = {"conversations": result.conversations, "events": result.events}
        with transaction.atomic():
            audit.record(
                action="events.pruned",
                subject_name=f"events before {before.isoformat()}",
                after=after,
                reason=reason,
            )
    return result


def _candidates(before: datetime) -> list[UUID]:
    rows = Conversation.objects.filter(created_at__lt=before, status__in=INACTIVE)
    rows = rows.filter(last_seq__gt=F("pruned_seq") + KEEP_EVENTS)
    return list(rows.order_by("created_at").values_list("pk", flat=True))


def _prunable_range(pk: UUID, before: datetime, limit: int | None = None) -> tuple[int, int]:
    """Return the seq of the last event that may be removed, and of the last event that was removed already."""
    rows = Conversation.objects.filter(pk=pk, status__in=INACTIVE)
    row = rows.values_list("last_seq", "pruned_seq").first()
    if row is None:
        return 0, 0
    last, pruned = row
    end = last - KEEP_EVENTS if limit is None else min(last - KEEP_EVENTS, pruned + limit)
    events = Event.objects.filter(conversation_id=pk, seq__gt=pruned, seq__lte=end)
    newest = events.filter(received_at__lt=before).aggregate(newest=Max("seq"))["newest"]
    return newest or pruned, pruned


def _prune(pk: UUID, before: datetime) -> Iterator[int]:
    """Remove events in batches, with one transaction each. Yield the number of removed events of each batch."""
    while True:
        with transaction.atomic():
            if not Conversation.objects.select_for_update().filter(pk=pk).exists():
                return
            end, pruned = _prunable_range(pk, before, BATCH)
            if end <= pruned:
                return
            # Update `pruned_seq` in the same transaction, so that no reader sees a gap in the log.
            Conversation.objects.filter(pk=pk).update(pruned_seq=end)
            events = Event.objects.filter(conversation_id=pk, seq__lte=end)
            removed = events._raw_delete("default")  # noqa: SLF001 - no row refers to events
            announcing.announce_on_commit(pk)
        yield removed

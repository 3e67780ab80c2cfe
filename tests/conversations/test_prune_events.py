from datetime import timedelta
from io import StringIO

import pytest
from django.core.management import call_command
from django.utils import timezone

from accounts.models import AuditEntry
from conversations.models import Conversation, Event, NewEvent
from conversations.services import retention

OLD = timezone.now() - timedelta(days=40)


@pytest.fixture
def prunable(conversation, monkeypatch):
    """Return a stopped conversation with eight old and two new events."""
    monkeypatch.setattr(retention, "KEEP_EVENTS", 1)
    conversation.append(*[NewEvent(f"e{n}", "Step", "agent", "{}") for n in range(10)])
    Event.objects.filter(conversation=conversation, seq__lte=8).update(received_at=OLD)
    Conversation.objects.update(status="stopped", created_at=OLD)
    return conversation


def prune(*options):
    out = StringIO()
    call_command(
        "prune_events", "--older-than-days", "30", "--reason", "disk", *options, stdout=out
    )
    return out.getvalue().strip()


def read_seqs(conversation):
    return list(conversation.events.order_by("seq").values_list("seq", flat=True))


def test_old_events_are_removed_and_the_pruned_seq_moves(prunable):
    assert prune() == "Removed 8 event(s) from 1 conversation(s)."

    prunable.refresh_from_db()
    assert (read_seqs(prunable), prunable.pruned_seq, prunable.last_seq) == ([9, 10], 8, 10)
    entry = AuditEntry.objects.get(action="events.pruned")
    assert (entry.reason, entry.after) == ("disk", {"conversations": 1, "events": 8})
    assert prune() == "Removed 0 event(s) from 0 conversation(s)."


def test_dry_run_counts_and_removes_nothing(prunable):
    assert prune("--dry-run") == "Would remove 8 event(s) from 1 conversation(s)."

    assert len(read_seqs(prunable)) == 10
    assert Conversation.objects.get(pk=prunable.pk).pruned_seq == 0


def test_newest_events_are_kept_even_if_they_are_old(prunable, monkeypatch):
    monkeypatch.setattr(retention, "KEEP_EVENTS", 6)

    prune()

    assert read_seqs(prunable) == [5, 6, 7, 8, 9, 10]


def test_log_of_a_running_sandbox_is_not_pruned(prunable):
    Conversation.objects.update(status="running")

    assert prune() == "Removed 0 event(s) from 0 conversation(s)."
    assert len(read_seqs(prunable)) == 10


def test_large_log_is_pruned_in_steps(prunable, monkeypatch):
    monkeypatch.setattr(retention, "BATCH", 3)

    assert prune() == "Removed 8 event(s) from 1 conversation(s)."
    assert read_seqs(prunable) == [9, 10]

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
def rested(conversation, monkeypatch):
    """A stopped conversation with eight old events and two new ones."""
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


def seqs(conversation):
    return list(conversation.events.order_by("seq").values_list("seq", flat=True))


def test_old_events_go_and_the_horizon_says_so(rested):
    assert prune() == "Removed 8 event(s) from 1 conversation(s)."

    rested.refresh_from_db()
    assert (seqs(rested), rested.pruned_seq, rested.last_seq) == ([9, 10], 8, 10)
    entry = AuditEntry.objects.get(action="events.pruned")
    assert (entry.reason, entry.after) == ("disk", {"conversations": 1, "events": 8})
    assert prune() == "Removed 0 event(s) from 0 conversation(s)."


def test_dry_run_counts_and_removes_nothing(rested):
    assert prune("--dry-run") == "Would remove 8 event(s) from 1 conversation(s)."

    assert len(seqs(rested)) == 10
    assert Conversation.objects.get(pk=rested.pk).pruned_seq == 0


def test_newest_events_stay_however_old(rested, monkeypatch):
    monkeypatch.setattr(retention, "KEEP_EVENTS", 6)

    prune()

    assert seqs(rested) == [5, 6, 7, 8, 9, 10]


def test_log_of_a_running_sandbox_stays_whole(rested):
    Conversation.objects.update(status="running")

    assert prune() == "Removed 0 event(s) from 0 conversation(s)."


def test_large_logs_go_in_steps(rested, monkeypatch):
    monkeypatch.setattr(retention, "AT_A_TIME", 3)

    assert prune() == "Removed 8 event(s) from 1 conversation(s)."
    assert seqs(rested) == [9, 10]

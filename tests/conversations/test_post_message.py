import pytest
from django.db import transaction

from conversations import services
from conversations.models import Conversation, OutgoingMessage
from lib.bus import LogAdvanced, publisher
from tests.conversations.conftest import list_queued_jobs


def post(conversation, text="hi", message_id="m1", **more):
    return services.post_message(
        conversation_id=conversation.pk, text=text, message_id=message_id, **more
    )


@transaction.atomic
def post_and_fail(conversation):
    post(conversation)
    raise ZeroDivisionError


def test_repeated_message_is_posted_once(conversation):
    first, second = post(conversation), post(conversation)

    assert first == second
    assert list_queued_jobs("deliver_messages") == [{"conversation_id": str(conversation.pk)}]
    assert OutgoingMessage.objects.count() == 1


def test_messages_get_consecutive_seqs(conversation):
    assert [post(conversation, message_id=f"m{n}").seq for n in range(3)] == [1, 2, 3]


@pytest.mark.parametrize("text", ["a\0b", "\ud800", "x\udfffy"])
def test_unsendable_text_is_refused(conversation, text):
    with pytest.raises(services.UnsendableText):
        post(conversation, text=text)
    with pytest.raises(services.UnsendableText):
        post(conversation, images=["https://example.com/a.png", text])

    assert conversation.events.count() == 0


def test_rolled_back_post_leaves_no_job_and_no_event(conversation):
    with pytest.raises(ZeroDivisionError):
        post_and_fail(conversation)

    assert list_queued_jobs("deliver_messages") == []
    assert Conversation.objects.get().last_seq == 0


def test_nudge_is_sent_after_the_commit(
    conversation, monkeypatch, django_capture_on_commit_callbacks
):
    nudges = []
    monkeypatch.setattr(publisher, "nudge", lambda *a: nudges.append(a))

    with django_capture_on_commit_callbacks(execute=True):
        post(conversation)
        assert nudges == []

    assert len(nudges) == 1
    assert nudges[0][1] == LogAdvanced(conversation.pk)

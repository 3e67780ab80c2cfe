"""The agent's state as its engine tells it when asked: taken over, unless somebody spoke in between."""

import pytest
from procrastinate.contrib.django.models import ProcrastinateJob

from conversations import queue, services
from conversations.engine.client import EngineUnreachable
from tests.conversations.conftest import ingest, list_queued_jobs, make_status_frame

WAITING = "waiting_for_confirmation"


@pytest.fixture
def asking(running):
    """An agent that asked, and waits for the answer."""
    ingest(running, make_status_frame(0, "running"), make_status_frame(1, WAITING))
    running.refresh_from_db()
    return running


def observe(conversation, status, as_of) -> bool:
    return services.observe_status(
        conversation_id=conversation.pk, generation=1, status=status, as_of=as_of
    )


def standing(conversation) -> services.StateSnapshot:
    return services.snapshot_state(conversation_id=conversation.pk)


def answer(conversation) -> None:
    services.answer_confirmation(conversation_id=conversation.pk, accept=True)


def state(conversation):
    conversation.refresh_from_db()
    return conversation.execution_status, conversation.asked_seq, conversation.asked_in_run


def test_a_state_that_no_event_told_is_taken_over(asking):
    assert observe(asking, "error", standing(asking))

    assert state(asking) == ("error", None, None)


def test_a_question_of_an_engine_that_came_back_takes_the_long_way(running):
    assert observe(running, WAITING, standing(running))

    assert state(running) == (WAITING, running.last_seq, 0)


def test_an_answer_between_looking_and_telling_is_not_undone(asking):
    as_of = standing(asking)
    answer(asking)
    ProcrastinateJob.objects.all()._raw_delete("default")  # carried already
    before = state(asking)

    assert not observe(asking, WAITING, as_of)

    assert state(asking) == before == (before[0], None, None)


def test_an_answer_that_was_on_its_way_is_not_asked_for_again(asking):
    answer(asking)
    as_of = standing(asking)
    assert as_of.is_answered
    ProcrastinateJob.objects.all()._raw_delete(
        "default"
    )  # carried right after the engine was asked
    before = state(asking)

    assert observe(asking, WAITING, as_of)

    assert state(asking) == before


def test_an_answer_while_it_is_looked_is_not_undone(asking, monkeypatch):
    is_queued = queue.is_queued

    def answered_right_behind(*named):
        found = is_queued(*named)
        answer(asking)
        return found

    monkeypatch.setattr(queue, "is_queued", answered_right_behind)
    as_of = standing(asking)
    before = state(asking)

    assert not observe(asking, WAITING, as_of)

    assert state(asking) == before


def test_a_message_between_looking_and_telling_is_looked_at_anew(asking):
    as_of = standing(asking)
    services.post_message(conversation_id=asking.pk, text="And this?", message_id="m1")

    assert not observe(asking, "finished", as_of)
    assert observe(asking, "finished", standing(asking))

    assert state(asking)[0] == "finished"


def test_an_engine_that_does_not_know_the_conversation_yet_gets_the_answer_later(asking, engine):
    engine.conversations.clear()

    with pytest.raises(EngineUnreachable):
        services.deliver_answer(
            conversation_id=asking.pk, accept=True, reason="", asked_in_run=asking.asked_in_run
        )

    assert list_queued_jobs("answer_agent") == []

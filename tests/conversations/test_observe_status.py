"""The status that is read from the engine: it is stored unless the conversation changed after the snapshot."""

import pytest
from procrastinate.contrib.django.models import ProcrastinateJob

from conversations import queue, services
from conversations.engine.errors import EngineUnreachable
from tests.conversations.conftest import ingest, list_queued_jobs, make_status_frame

WAITING = "waiting_for_confirmation"


@pytest.fixture
def waiting(running):
    """Return a conversation whose agent waits for a confirmation."""
    ingest(running, make_status_frame(0, "running"), make_status_frame(1, WAITING))
    running.refresh_from_db()
    return running


def observe(conversation, status, as_of) -> bool:
    return services.observe_status(
        conversation_id=conversation.pk, generation=1, status=status, as_of=as_of
    )


def take_snapshot(conversation) -> services.StateSnapshot:
    return services.snapshot_state(conversation_id=conversation.pk)


def answer(conversation) -> None:
    services.answer_confirmation(conversation_id=conversation.pk, accept=True)


def read_state(conversation):
    conversation.refresh_from_db()
    return conversation.execution_status, conversation.asked_seq, conversation.asked_in_run


def test_status_that_is_missing_from_the_log_is_stored(waiting):
    assert observe(waiting, "error", take_snapshot(waiting))

    assert read_state(waiting) == ("error", None, None)


def test_question_that_is_missing_from_the_log_is_stored_with_run_zero(running):
    assert observe(running, WAITING, take_snapshot(running))

    assert read_state(running) == (WAITING, running.last_seq, 0)


def test_answer_after_the_snapshot_is_not_undone(waiting):
    as_of = take_snapshot(waiting)
    answer(waiting)
    ProcrastinateJob.objects.all()._raw_delete("default")  # the answer was delivered
    before = read_state(waiting)

    assert not observe(waiting, WAITING, as_of)

    assert read_state(waiting) == before == (before[0], None, None)


def test_answer_queued_before_the_snapshot_does_not_reopen_the_question(waiting):
    answer(waiting)
    as_of = take_snapshot(waiting)
    assert as_of.is_answered
    # The answer is delivered right after the engine's status was read.
    ProcrastinateJob.objects.all()._raw_delete("default")
    before = read_state(waiting)

    assert observe(waiting, WAITING, as_of)

    assert read_state(waiting) == before


def test_answer_during_the_check_is_not_undone(waiting, monkeypatch):
    is_queued = queue.is_queued

    def answer_after_the_check(*arguments):
        result = is_queued(*arguments)
        answer(waiting)
        return result

    monkeypatch.setattr(queue, "is_queued", answer_after_the_check)
    as_of = take_snapshot(waiting)
    before = read_state(waiting)

    assert not observe(waiting, WAITING, as_of)

    assert read_state(waiting) == before


def test_message_after_the_snapshot_requires_a_new_snapshot(waiting):
    as_of = take_snapshot(waiting)
    services.post_message(conversation_id=waiting.pk, text="And this?", message_id="m1")

    assert not observe(waiting, "finished", as_of)
    assert observe(waiting, "finished", take_snapshot(waiting))

    assert read_state(waiting)[0] == "finished"


def test_answer_to_an_engine_without_the_conversation_raises_for_a_retry(waiting, engine):
    engine.conversations.clear()

    with pytest.raises(EngineUnreachable):
        services.deliver_answer(
            conversation_id=waiting.pk, accept=True, reason="", asked_in_run=waiting.asked_in_run
        )

    assert list_queued_jobs("answer_agent") == []

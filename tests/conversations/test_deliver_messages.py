import pytest

from conversations import services
from conversations.engine.errors import EngineUnreachable
from conversations.models import OutgoingMessage
from conversations.sandboxes.provider import State
from tests.conversations.conftest import ingest, list_queued_jobs, make_frame, make_status_frame


def post(conversation, text, **more):
    return services.post_message(
        conversation_id=conversation.pk, text=text, message_id=f"id of {text}", **more
    )


def deliver(conversation):
    services.deliver_messages(conversation_id=conversation.pk)


def read_statuses():
    return list(OutgoingMessage.objects.order_by("seq").values_list("status", flat=True))


def test_messages_are_delivered_once_in_order(running, engine):
    for text in ("one", "two", "three"):
        post(running, text)

    deliver(running)
    deliver(running)

    assert engine.user_texts(str(running.pk)) == ["one", "two", "three"]
    assert read_statuses() == ["delivered"] * 3


def test_message_whose_response_was_lost_is_not_sent_again(running, engine):
    post(running, "once")
    engine.drop_after.add("POST /events")
    with pytest.raises(EngineUnreachable):
        deliver(running)
    assert read_statuses() == ["sending"]

    engine.drop_after.clear()
    deliver(running)

    assert engine.user_texts(str(running.pk)) == ["once"]
    assert read_statuses() == ["delivered"]


def test_message_in_status_sending_is_sent_if_the_engine_does_not_have_it(running, engine):
    post(running, "lost")
    OutgoingMessage.objects.update(status="sending", attempts=1, engine_mark=-1)

    deliver(running)

    assert engine.user_texts(str(running.pk)) == ["lost"]


def test_two_messages_with_the_same_text_are_both_delivered(running, engine):
    post(running, "again")
    deliver(running)
    services.post_message(conversation_id=running.pk, text="again", message_id="another")
    engine.drop_after.add("POST /events")
    with pytest.raises(EngineUnreachable):
        deliver(running)
    [first, _] = engine.logs[str(running.pk)]
    ingest(running, make_frame(0, **first))

    engine.drop_after.clear()
    deliver(running)

    assert engine.user_texts(str(running.pk)) == ["again", "again"]
    assert read_statuses() == ["delivered", "delivered"]


def test_refused_message_fails_with_a_notice_of_the_reason(running, engine):
    post(running, "no")
    engine.answers["POST /events"] = (422, {"detail": "too odd"})

    deliver(running)

    assert read_statuses() == ["failed"]
    notice = running.events.get(kind="SandboxNotice")
    assert '"code":"message_refused"' in notice.payload
    assert "too odd" in notice.payload


def test_message_to_an_engine_without_a_free_slot_is_delivered_and_run_later(running, engine):
    post(running, "later")
    engine.answers["POST /events"] = (429, {"detail": "no slot"})

    deliver(running)

    assert read_statuses() == ["delivered"]
    assert list_queued_jobs("run_agent") == [
        {"conversation_id": str(running.pk), "only_if_stopped": False}
    ]


def test_message_starts_a_stopped_sandbox_before_its_delivery(running, sandboxes, engine):
    services.stop_sandbox(conversation_id=running.pk)
    assert sandboxes.state == State.STOPPED
    post(running, "wake up")

    deliver(running)

    assert engine.user_texts(str(running.pk)) == []
    services.start_conversation(conversation_id=running.pk)
    assert sandboxes.starts == 2
    deliver(running)
    assert engine.user_texts(str(running.pk)) == ["wake up"]


def test_message_waits_while_the_agent_waits_for_a_confirmation(running, engine):
    ingest(running, make_status_frame(0, "waiting_for_confirmation"))
    post(running, "careful")

    deliver(running)

    assert engine.user_texts(str(running.pk)) == []
    ingest(running, make_status_frame(1, "idle"))
    assert {"conversation_id": str(running.pk)} in list_queued_jobs("deliver_messages")
    deliver(running)
    assert engine.user_texts(str(running.pk)) == ["careful"]


@pytest.mark.parametrize(("policy", "sent"), [("never", ["now"]), ("risky", []), ("always", [])])
def test_message_during_a_run_waits_if_the_policy_may_ask(running, engine, policy, sent):
    type(running).objects.update(confirmation_policy=policy)
    ingest(running, make_status_frame(0, "running"))
    post(running, "now")

    deliver(running)

    assert engine.user_texts(str(running.pk)) == sent


def test_echo_in_the_engines_log_confirms_delivery(running):
    post(running, "echo")
    OutgoingMessage.objects.update(status="sending", attempts=1)
    content = [{"type": "text", "text": "echo"}]

    ingest(running, make_frame(0, source="user", llm_message={"role": "user", "content": content}))

    assert OutgoingMessage.objects.values_list("status", "engine_event_id").get() == (
        "delivered",
        "event-0",
    )

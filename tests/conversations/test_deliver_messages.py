import pytest

from conversations import services
from conversations.engine.client import EngineUnreachable
from conversations.models import OutgoingMessage
from conversations.sandboxes.provider import State
from tests.conversations.conftest import ingest, list_queued_jobs, make_frame, make_status_frame


def post(conversation, text, **more):
    return services.post_message(
        conversation_id=conversation.pk, text=text, message_id=f"id of {text}", **more
    )


def deliver(conversation):
    services.deliver_messages(conversation_id=conversation.pk)


def statuses():
    return list(OutgoingMessage.objects.order_by("seq").values_list("status", flat=True))


def test_messages_arrive_in_order_and_once(running, engine):
    for text in ("one", "two", "three"):
        post(running, text)

    deliver(running)
    deliver(running)

    assert engine.user_texts(str(running.pk)) == ["one", "two", "three"]
    assert statuses() == ["delivered"] * 3


def test_cut_after_the_engine_took_it_is_not_sent_again(running, engine):
    post(running, "once")
    engine.drop_after.add("POST /events")
    with pytest.raises(EngineUnreachable):
        deliver(running)
    assert statuses() == ["sending"]

    engine.drop_after.clear()
    deliver(running)

    assert engine.user_texts(str(running.pk)) == ["once"]
    assert statuses() == ["delivered"]


def test_killed_before_it_was_sent_it_is_sent(running, engine):
    post(running, "lost")
    OutgoingMessage.objects.update(status="sending", attempts=1, engine_mark=-1)

    deliver(running)

    assert engine.user_texts(str(running.pk)) == ["lost"]


def test_same_text_twice_is_two_messages(running, engine):
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
    assert statuses() == ["delivered", "delivered"]


def test_refused_message_fails_and_says_why(running, engine):
    post(running, "no")
    engine.answers["POST /events"] = (422, {"detail": "too odd"})

    deliver(running)

    assert statuses() == ["failed"]
    notice = running.events.get(kind="SandboxNotice")
    assert '"code":"message_refused"' in notice.payload
    assert "too odd" in notice.payload


def test_full_engine_keeps_the_message_and_runs_later(running, engine):
    post(running, "later")
    engine.answers["POST /events"] = (429, {"detail": "no slot"})

    deliver(running)

    assert statuses() == ["delivered"]
    assert list_queued_jobs("run_agent") == [
        {"conversation_id": str(running.pk), "only_if_stopped": False}
    ]


def test_message_wakes_a_sleeping_sandbox(running, sandboxes, engine):
    services.stop_sandbox(conversation_id=running.pk)
    assert sandboxes.state == State.STOPPED
    post(running, "wake up")

    deliver(running)

    assert engine.user_texts(str(running.pk)) == []
    services.start_conversation(conversation_id=running.pk)
    assert sandboxes.starts == 2
    deliver(running)
    assert engine.user_texts(str(running.pk)) == ["wake up"]


def test_message_never_answers_a_question(running, engine):
    ingest(running, make_status_frame(0, "waiting_for_confirmation"))
    post(running, "careful")

    deliver(running)

    assert engine.user_texts(str(running.pk)) == []
    ingest(running, make_status_frame(1, "idle"))
    assert {"conversation_id": str(running.pk)} in list_queued_jobs("deliver_messages")
    deliver(running)
    assert engine.user_texts(str(running.pk)) == ["careful"]


@pytest.mark.parametrize(("policy", "sent"), [("never", ["now"]), ("risky", []), ("always", [])])
def test_while_the_agent_may_ask_messages_wait_for_the_end_of_its_run(
    running, engine, policy, sent
):
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

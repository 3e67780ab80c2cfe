"""The agent's engine knows a stricter policy before the agent gets work, even if the policy's own job still waits."""

import pytest

from conversations import services
from conversations.engine.errors import EngineUnreachable

pytestmark = pytest.mark.django_db


def list_calls(engine):
    names = ("/confirmation_policy", "/security_analyzer", "/events", "/run")
    return [path for method, path, _ in engine.calls if method == "POST" and path in names]


@pytest.fixture
def unasked(running, engine):
    """A running conversation whose engine does not ask, with a policy that its engine does not know yet."""
    engine.conversations[str(running.pk)]["confirmation_policy"] = {"kind": "NeverConfirm"}
    services.set_confirmation(conversation_id=running.pk, confirmation_policy="always")
    engine.calls.clear()
    return running


def test_message_is_sent_after_the_policy(unasked, engine):
    services.post_message(conversation_id=unasked.pk, text="Go", message_id="m1")

    services.deliver_messages(conversation_id=unasked.pk)

    assert list_calls(engine)[:3] == ["/security_analyzer", "/confirmation_policy", "/events"]


def test_stopped_agent_runs_on_after_the_policy(unasked, engine):
    engine.conversations[str(unasked.pk)]["execution_status"] = "paused"

    services.run_agent(conversation_id=unasked.pk)

    assert list_calls(engine) == ["/security_analyzer", "/confirmation_policy", "/run"]


def test_message_stays_open_while_the_engine_refuses_the_policy(unasked, engine):
    engine.answers["POST /confirmation_policy"] = (500, {"detail": "no"})
    services.post_message(conversation_id=unasked.pk, text="Go", message_id="m1")

    with pytest.raises(EngineUnreachable):
        services.deliver_messages(conversation_id=unasked.pk)

    assert "/events" not in list_calls(engine)


def test_known_policy_is_not_sent_again(unasked, engine):
    info = engine.conversations[str(unasked.pk)]
    info["confirmation_policy"] = {"kind": "AlwaysConfirm"}
    info["security_analyzer"] = {"kind": "LLMSecurityAnalyzer"}
    services.post_message(conversation_id=unasked.pk, text="Go", message_id="m1")

    services.deliver_messages(conversation_id=unasked.pk)

    assert list_calls(engine)[0] == "/events"

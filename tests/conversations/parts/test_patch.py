import pytest

from accounts.models import AuditEntry
from conversations import services
from conversations.engine.errors import EngineUnreachable
from conversations.services import starts
from tests.conversations.conftest import list_queued_jobs


def patch(api, conversation, **body):
    return api.patch(f"/api/v1/conversations/{conversation.pk}", body, format="json")


def read_confirmation_requests(engine):
    """Return the bodies of the requests that changed the engine's policy and analyzer, by path."""
    paths = ("/confirmation_policy", "/security_analyzer")
    return {path: body for method, path, body in engine.calls if path in paths}


def test_tags_are_replaced_and_stored_sorted_and_unique(api, conversation):
    assert patch(api, conversation, tags=["b", "a", "b"]).json()["tags"] == ["a", "b"]
    assert patch(api, conversation, tags=[]).json()["tags"] == []


@pytest.mark.parametrize(
    "body",
    [
        {"tags": ["x" * 51]},
        {"tags": ["a,b"]},
        {"tags": ["a\nb"]},
        {"tags": ["a"] * 21},
        {"tags": [""]},
        {"archived": "perhaps"},
        {"confirmation_policy": "often"},
        {"security_analyzer": "me"},
        {},
    ],
)
def test_invalid_change_is_refused(api, conversation, body):
    assert patch(api, conversation, **body).status_code == 400


def test_archived_conversation_is_hidden_from_the_default_list_only(api, conversation):
    def count_listed():
        queries = ({}, {"archived": "true"}, {"archived": "any"})
        pages = [api.get("/api/v1/conversations", query).json() for query in queries]
        return [len(page["items"]) for page in pages]

    assert patch(api, conversation, archived=True).json()["archived_at"]
    assert count_listed() == [0, 1, 1]
    assert api.get(f"/api/v1/conversations/{conversation.pk}").status_code == 200

    assert patch(api, conversation, archived=False).json()["archived_at"] is None
    assert count_listed() == [1, 0, 1]


def test_archiving_twice_is_audited_once(api, conversation):
    patch(api, conversation, archived=True)
    patch(api, conversation, archived=True)

    assert AuditEntry.objects.filter(action="conversation.archived").count() == 1


def test_changed_policy_is_stored_and_sent_to_the_engine(api, running, engine):
    answer = patch(api, running, confirmation_policy="risky", security_analyzer="none")

    assert (answer.json()["confirmation_policy"], answer.json()["security_analyzer"]) == (
        "risky",
        "none",
    )
    [job] = list_queued_jobs("carry_confirmation")
    services.send_confirmation_settings(**job)
    assert read_confirmation_requests(engine) == {
        "/confirmation_policy": {
            "policy": {"kind": "ConfirmRisky", "threshold": "HIGH", "confirm_unknown": True}
        },
        "/security_analyzer": {"security_analyzer": None},
    }


def test_unchanged_policy_is_not_sent_to_the_engine(api, running):
    assert patch(api, running, confirmation_policy="never").status_code == 200

    assert list_queued_jobs("carry_confirmation") == []


def test_policy_that_the_engine_refuses_raises_for_a_retry(running, engine):
    engine.answers["POST /confirmation_policy"] = (500, {"detail": "no"})
    services.set_confirmation(conversation_id=running.pk, confirmation_policy="always")

    with pytest.raises(EngineUnreachable):
        services.send_confirmation_settings(conversation_id=running.pk)


def test_stopped_engine_gets_the_changed_policy_when_it_starts_again(running, engine, sandboxes):
    info = engine.conversations[str(running.pk)]
    info["confirmation_policy"] = {"kind": "NeverConfirm"}
    info["security_analyzer"] = {"kind": "LLMSecurityAnalyzer"}
    services.stop_sandbox(conversation_id=running.pk)
    services.set_confirmation(conversation_id=running.pk, confirmation_policy="always")
    services.send_confirmation_settings(conversation_id=running.pk)
    assert read_confirmation_requests(engine) == {}

    services.resume(conversation_id=running.pk)
    services.start_conversation(conversation_id=running.pk)

    assert read_confirmation_requests(engine)["/confirmation_policy"] == {
        "policy": {"kind": "AlwaysConfirm"}
    }


def test_policy_changed_during_the_start_is_sent_after_the_start(
    conversation, engine, sandboxes, monkeypatch
):
    start_engine_conversation = starts._start_engine_conversation

    def change_policy_and_start(starting_conversation, sandbox, client):
        services.set_confirmation(
            conversation_id=starting_conversation.pk, confirmation_policy="always"
        )
        start_engine_conversation(starting_conversation, sandbox, client)

    monkeypatch.setattr(starts, "_start_engine_conversation", change_policy_and_start)
    services.start_conversation(conversation_id=conversation.pk)

    assert len(list_queued_jobs("carry_confirmation")) == 2

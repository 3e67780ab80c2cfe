import pytest

from accounts.models import AuditEntry
from conversations import services
from conversations.engine.client import EngineUnreachable
from tests.conversations.conftest import list_queued_jobs


def patch(api, conversation, **body):
    return api.patch(f"/api/v1/conversations/{conversation.pk}", body, format="json")


def told(engine):
    """What the engine was told of its policy and analyzer, in order."""
    wanted = ("/confirmation_policy", "/security_analyzer")
    return {path: body for method, path, body in engine.calls if path in wanted}


def test_tags_replace_each_other(api, conversation):
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
def test_what_makes_no_sense_is_refused(api, conversation, body):
    assert patch(api, conversation, **body).status_code == 400


def test_the_archive_hides_from_the_list_alone(api, conversation):
    def listed(**query):
        return len(api.get("/api/v1/conversations", query).json()["items"])

    assert patch(api, conversation, archived=True).json()["archived_at"]
    assert (listed(), listed(archived="true"), listed(archived="any")) == (0, 1, 1)
    assert api.get(f"/api/v1/conversations/{conversation.pk}").status_code == 200

    assert patch(api, conversation, archived=False).json()["archived_at"] is None
    assert (listed(), listed(archived="true"), listed(archived="any")) == (1, 0, 1)


def test_archiving_twice_is_written_down_once(api, conversation):
    patch(api, conversation, archived=True)
    patch(api, conversation, archived=True)

    assert AuditEntry.objects.filter(action="conversation.archived").count() == 1


def test_a_changed_policy_counts_at_once_and_is_carried_to_the_engine(api, running, engine):
    answer = patch(api, running, confirmation_policy="risky", security_analyzer="none")

    assert (answer.json()["confirmation_policy"], answer.json()["security_analyzer"]) == (
        "risky",
        "none",
    )
    [job] = list_queued_jobs("carry_confirmation")
    services.send_confirmation_settings(**job)
    assert told(engine) == {
        "/confirmation_policy": {
            "policy": {"kind": "ConfirmRisky", "threshold": "HIGH", "confirm_unknown": True}
        },
        "/security_analyzer": {"security_analyzer": None},
    }


def test_what_does_not_change_is_not_carried(api, running):
    patch(api, running, confirmation_policy="never")

    assert list_queued_jobs("carry_confirmation") == []


def test_an_engine_that_refuses_is_asked_again(running, engine):
    engine.answers["POST /confirmation_policy"] = (500, {"detail": "no"})
    services.set_confirmation(conversation_id=running.pk, confirmation_policy="always")

    with pytest.raises(EngineUnreachable):
        services.send_confirmation_settings(conversation_id=running.pk)


def test_an_engine_that_slept_is_told_when_it_wakes(running, engine, sandboxes):
    known = engine.conversations[str(running.pk)]
    known["confirmation_policy"] = {"kind": "NeverConfirm"}
    known["security_analyzer"] = {"kind": "LLMSecurityAnalyzer"}
    services.stop_sandbox(conversation_id=running.pk)
    services.set_confirmation(conversation_id=running.pk, confirmation_policy="always")
    services.send_confirmation_settings(conversation_id=running.pk)
    assert told(engine) == {}

    services.resume(conversation_id=running.pk)
    services.start_conversation(conversation_id=running.pk)

    assert told(engine)["/confirmation_policy"] == {"policy": {"kind": "AlwaysConfirm"}}


def test_a_change_amid_the_start_is_carried_after_it(conversation, engine, sandboxes, monkeypatch):
    from conversations.services import starts

    begin = starts._start_engine_conversation

    def change(started, sandbox, client):
        services.set_confirmation(conversation_id=started.pk, confirmation_policy="always")
        begin(started, sandbox, client)

    monkeypatch.setattr(starts, "_start_engine_conversation", change)
    services.start_conversation(conversation_id=conversation.pk)

    assert len(list_queued_jobs("carry_confirmation")) == 2

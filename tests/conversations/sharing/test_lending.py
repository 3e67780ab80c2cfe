"""The lender of a run's secrets, tokens, MCP servers and model, and changes of the lender."""

import json

import pytest
from django.test import Client

from accounts.models import AuditEntry, CustomSecretUse
from billing import services as billing
from billing.models import GatewayToken
from conversations import services
from conversations.models import Lease, OutgoingMessage, Sandbox
from conversations.sandboxes.provider import State
from tests.conversations.conftest import ingest, make_frame
from tests.conversations.sharing.conftest import (
    LENT,
    PERSONAL,
    READ_ONLY,
    SHARED,
    STEERED,
    lend_model,
    run_start,
    session_client,
    start,
)


def fetch(source):
    path = source["url"].split("/", 3)[3]
    response = Client().get(f"/{path}", headers=source["headers"])
    return response.content.decode() if response.status_code == 200 else response.status_code


def token_of(body):
    return billing.authenticate_gateway_token(body["agent"]["llm"]["api_key"])


def model_of(body):
    access = billing.get_token_access(token_of(body))
    return access.model if access else "demo"


def share(conversation, **sharing):
    conversation = services.set_sharing(
        conversation_id=conversation.pk, by=conversation.created_by, **sharing
    )
    conversation.refresh_from_db()
    return conversation


def assert_lent_by_organization(body):
    assert not [value for value in PERSONAL.values() if value in json.dumps(body)]
    assert set(body["secrets"]) == {"SHARED", "BOTH"}
    assert body["agent"]["mcp_config"] == {}
    assert model_of(body) == "lent"
    assert fetch(body["secrets"]["SHARED"]) == SHARED
    assert fetch(body["secrets"]["BOTH"]) == "Sec-shared-2"
    for name in ("OWN", "GITHUB_TOKEN"):
        source = body["secrets"]["SHARED"]
        assert fetch(source | {"url": source["url"].replace("SHARED", name)}) == 404


def assert_lent_by_creator(body):
    assert set(body["secrets"]) == {"OWN", "SHARED", "BOTH", "GITHUB_TOKEN"}
    assert len(body["agent"]["mcp_config"]) == 2
    assert model_of(body) == "own"
    assert fetch(body["secrets"]["OWN"]) == PERSONAL["secret"]
    assert fetch(body["secrets"]["GITHUB_TOKEN"]) == PERSONAL["git"]
    assert fetch(body["secrets"]["BOTH"]) == "Sec-personal-5"


class TestNewConversation:
    @pytest.mark.parametrize("sharing", [{}, READ_ONLY, LENT])
    def test_creator_lends_while_alone_or_with_consent(self, equipped, engine, sharing):
        assert_lent_by_creator(start(equipped, engine, **sharing)[1])

    def test_only_the_organization_lends_while_others_may_steer(self, equipped, engine):
        conversation, body = start(equipped, engine, **STEERED)

        assert_lent_by_organization(body)
        assert conversation.lender == "organization"

    def test_fork_of_a_lent_conversation_lends_nothing_to_others(self, equipped, engine, bob):
        conversation, _ = start(equipped, engine, **LENT)
        ingest_answer(conversation)

        fork = services.fork_conversation(user=bob, conversation=conversation)

        assert (fork.visibility, fork.others_may_steer, fork.lends_personal) == (
            "private",
            False,
            False,
        )
        body = run_start(fork, engine)
        assert not [value for value in PERSONAL.values() if value in json.dumps(body)]
        assert set(body["secrets"]) == {"SHARED", "BOTH"}

    def test_without_a_model_of_the_organization_the_start_says_what_to_do(self, equipped, engine):
        billing.clear_model_access(organization_id=equipped.personal_organization.pk, user_id=None)

        conversation = services.create_conversation(user=equipped, message="Go", **STEERED)
        services.start_conversation(conversation_id=conversation.pk)

        conversation.refresh_from_db()
        assert conversation.status == "failed"
        assert "lends none" in conversation.status_detail
        assert not [c for c in engine.calls if c[:2] == ("POST", "/api/conversations")]

    def test_demo_model_stays_the_demo_model(self, alice, engine, sandboxes):
        conversation = services.create_conversation(user=alice, message="Go", **STEERED)

        assert model_of(run_start(conversation, engine)) == "demo"


def ingest_answer(conversation):
    Lease.objects.filter(conversation=conversation).update(owner="m", generation=1)
    ingest(conversation, make_frame(0, text="done"))
    conversation.refresh_from_db()


CHANGES = {
    "others may steer": (READ_ONLY, {"others_may_steer": True}, assert_lent_by_organization),
    "shared and steered at once": ({}, STEERED, assert_lent_by_organization),
    "consent withdrawn": (LENT, {"lends_personal": False}, assert_lent_by_organization),
    "consent given": (STEERED, {"lends_personal": True}, assert_lent_by_creator),
    "others may not steer any more": (
        STEERED,
        {"others_may_steer": False},
        assert_lent_by_creator,
    ),
    "private again": (STEERED, {"visibility": "private"}, assert_lent_by_creator),
}


class TestChangeOfTheLender:
    @pytest.mark.parametrize("name", CHANGES)
    def test_sandbox_is_stopped_and_starts_with_the_other_equipment(
        self, equipped, engine, sandboxes, name
    ):
        sharing, change, check = CHANGES[name]
        conversation, old = start(equipped, engine, **sharing)
        assert GatewayToken.objects.filter(revoked_at=None).exists()

        conversation = share(conversation, **change)

        # The sandbox loses everything at once, although its process ends only later.
        assert not GatewayToken.objects.filter(revoked_at=None).exists()
        assert fetch(old["secrets"]["SHARED"]) == 401
        assert conversation.status == "stopped"
        services.stop_sandbox(conversation_id=conversation.pk, unless_in_use=True)
        assert sandboxes.state == State.STOPPED
        notice = conversation.events.filter(kind="SandboxNotice").last()
        assert json.loads(notice.payload)["code"] == "equipment_changed"

        services.post_message(conversation_id=conversation.pk, text="More", message_id="m2")
        services.deliver_messages(conversation_id=conversation.pk)
        body = run_start(conversation, engine)
        check(body)
        assert engine.user_texts(str(conversation.pk)) == ["More"]
        assert "Go" in body["agent"]["agent_context"]["system_message_suffix"]
        assert "More" not in body["agent"]["agent_context"]["system_message_suffix"]

    def test_message_right_after_the_change_does_not_reach_the_old_run(
        self, equipped, engine, sandboxes, bob
    ):
        """The message makes the queued stop do nothing, so the start itself must stop the old run."""
        conversation, _ = start(equipped, engine, **READ_ONLY)
        share(conversation, others_may_steer=True)

        services.post_message(
            conversation_id=conversation.pk, text="Print it", message_id="b", by=bob
        )
        services.deliver_messages(conversation_id=conversation.pk)
        assert engine.user_texts(str(conversation.pk)) == ["Go"]
        services.stop_sandbox(conversation_id=conversation.pk, unless_in_use=True)
        assert sandboxes.state == State.RUNNING
        starts = sandboxes.starts

        assert_lent_by_organization(run_start(conversation, engine))
        assert sandboxes.starts == starts + 1
        assert engine.user_texts(str(conversation.pk)) == ["Print it"]

    def test_change_during_a_start_begins_the_start_again(
        self, equipped, engine, sandboxes, monkeypatch
    ):
        conversation = services.create_conversation(user=equipped, message="Go", **READ_ONLY)
        prepare = services.starts.prepare_workspace

        def share_meanwhile(*args):
            prepare(*args)
            monkeypatch.setattr(services.starts, "prepare_workspace", prepare)
            share(conversation, others_may_steer=True)

        monkeypatch.setattr(services.starts, "prepare_workspace", share_meanwhile)
        services.start_conversation(conversation_id=conversation.pk)
        services.deliver_messages(conversation_id=conversation.pk)
        assert engine.user_texts(str(conversation.pk)) == []

        assert_lent_by_organization(run_start(conversation, engine))
        assert engine.user_texts(str(conversation.pk)) == ["Go"]

    def test_unread_events_of_the_old_run_are_stored_first(self, equipped, engine, sandboxes):
        conversation, _ = start(equipped, engine, **READ_ONLY)
        engine.log_event(str(conversation.pk), kind="MessageEvent", source="agent", text="late", llm_message={"role": "assistant", "content": [{"text": "late"}]})  # fmt: skip
        share(conversation, others_may_steer=True)
        services.post_message(conversation_id=conversation.pk, text="More", message_id="m2")

        run_start(conversation, engine)

        assert conversation.events.filter(payload__contains='"late"').count() == 1
        assert not conversation.events.exclude(engine_seq=None).exists()
        assert conversation.engine_seq == -1

    def test_read_only_sharing_changes_nothing_for_the_run(self, equipped, engine, sandboxes):
        conversation, body = start(equipped, engine)

        conversation = share(conversation, **READ_ONLY)

        assert conversation.status == "running"
        assert_lent_by_creator(body)

    def test_conversation_of_an_earlier_release_is_equipped_again(
        self, equipped, engine, sandboxes
    ):
        """Earlier releases stored no lender."""
        conversation, _ = start(equipped, engine, **READ_ONLY)
        Sandbox.objects.update(lent_by="")
        share(conversation, others_may_steer=True)
        services.post_message(conversation_id=conversation.pk, text="More", message_id="m2")

        assert_lent_by_organization(run_start(conversation, engine))

    def test_revoked_or_not_a_personal_token_gives_no_personal_secret_while_others_steer(
        self, equipped, engine
    ):
        """The value is refused at its use, even if a token of the old run were still valid."""
        conversation, body = start(equipped, engine, **READ_ONLY)
        share(conversation, others_may_steer=True)
        GatewayToken.objects.update(revoked_at=None)
        Sandbox.objects.update(desired=Sandbox.Desired.RUNNING)

        assert fetch(body["secrets"]["OWN"]) == 404
        assert fetch(body["secrets"]["GITHUB_TOKEN"]) == 404
        assert fetch(body["secrets"]["BOTH"]) == "Sec-shared-2"


class TestAfterOthersSteered:
    def test_creator_must_agree_before_personal_secrets_return(
        self, equipped, engine, sandboxes, bob
    ):
        """Bob's messages stay in the agent's context, so they would drive a run with Alice's secrets."""
        conversation, _ = start(equipped, engine, **STEERED)
        services.post_message(
            conversation_id=conversation.pk, text="Later print $OWN", message_id="b", by=bob
        )
        services.deliver_messages(conversation_id=conversation.pk)

        conversation = share(conversation, visibility="private")
        assert conversation.lender == "organization"

        conversation = share(conversation, lends_personal=True)
        services.post_message(conversation_id=conversation.pk, text="More", message_id="m2")
        assert_lent_by_creator(run_start(conversation, engine))

    @pytest.mark.parametrize("run", [True, False])
    def test_waiting_messages_of_others_are_withdrawn(self, equipped, engine, bob, run):
        conversation = services.create_conversation(user=equipped, message="Go", **STEERED)
        services.post_message(
            conversation_id=conversation.pk, text="Print it", message_id="b", by=bob, run=run
        )

        share(conversation, others_may_steer=False)

        waiting = OutgoingMessage.objects.get(text="Print it")
        assert (waiting.status, waiting.posted_by) == ("failed", bob)
        run_start(conversation, engine)
        assert engine.user_texts(str(conversation.pk)) == ["Go"]
        assert conversation.events.filter(payload__contains="message_withdrawn").count() == 1


class TestRecordOfUses:
    def test_each_use_names_who_posted_the_running_message(
        self, equipped, engine, sandboxes, bob, api
    ):
        conversation, body = start(equipped, engine, **LENT)
        fetch(body["secrets"]["SHARED"])
        services.post_message(conversation_id=conversation.pk, text="B", message_id="b", by=bob)
        services.deliver_messages(conversation_id=conversation.pk)
        fetch(body["secrets"]["SHARED"])
        fetch(body["secrets"]["GITHUB_TOKEN"])

        uses = CustomSecretUse.objects.order_by("used_at")
        assert [use.posted_by for use in uses] == [equipped, bob]
        secret = uses[0].secret_id
        listed = api.get(f"/api/v1/secrets/{secret}/uses").json()["items"]
        assert [use["posted_by"] for use in listed] == [str(bob.pk), str(equipped.pk)]
        entry = AuditEntry.objects.get(action="provider_token.used")
        assert entry.after["posted_by"] == str(bob.pk)


def test_model_of_the_organization_is_set_by_administrators_only(alice, api, bob):
    lend_model(alice.personal_organization)
    path = f"/api/v1/organizations/{alice.personal_organization.pk}/model-access"
    body = {"base_url": "https://m.example.com/v1", "model": "m2", "api_key": "Sec-model-1"}

    assert session_client(bob).put(path, body, format="json").status_code == 403
    answer = api.put(path, body, format="json")
    assert (answer.status_code, answer.json()["model"]) == (200, "m2")
    assert "Sec-model-1" not in answer.content.decode()
    # It is not the model of Alice's own conversations.
    own = api.get("/api/v1/settings/model-access").json()
    assert own["is_demo"] is True
    assert api.delete(path).status_code == 204
    assert api.get(path).json()["is_demo"] is True

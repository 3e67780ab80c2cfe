"""``/api/v1/conversations/{id}/sandbox``: the state of a sandbox, and its verbs."""

import pytest
from rest_framework.test import APIClient

from accounts.models import AuditEntry, Organization
from conversations import services
from conversations.models import Conversation, Sandbox
from tests.conftest import key_client
from tests.conversations.conftest import list_queued_jobs
from tests.factories.conversations import ConversationFactory

VERBS = ("start", "resume", "pause")
LIMITS = {"idle_seconds": 1_800, "start_seconds": 120, "max_running": 8}


def url(conversation, verb=""):
    return f"/api/v1/conversations/{conversation.pk}/sandbox" + (f"/{verb}" if verb else "")


def calls(client, conversation):
    """The responses to a GET and to every verb."""
    return [
        client.get(url(conversation)),
        *(client.post(url(conversation, verb)) for verb in VERBS),
    ]


def wire(moment):
    return moment.isoformat().replace("+00:00", "Z")


class TestState:
    def test_starting_sandbox_is_shown_with_its_place_in_the_queue(self, api, conversation):
        start = conversation.start_tasks.get()
        conversation.start_tasks.update(queue_position=3)
        sandbox = conversation.sandbox

        response = api.get(url(conversation))

        assert response.status_code == 200
        assert response.json() == {
            "id": str(sandbox.pk),
            "status": "starting",
            "since": wire(start.created_at),
            "queue_position": 3,
            "provider": "process",
            "engine_version": "",
            "runs": 0,
            "created_at": wire(sandbox.created_at),
            "started_at": None,
            "stopped_at": None,
            "last_used_at": wire(Sandbox.objects.get().active_at),
            "limits": LIMITS,
        }

    def test_running_sandbox_is_shown_with_its_engine(self, api, running):
        start, sandbox = running.start_tasks.get(), Sandbox.objects.get()

        assert api.get(url(running)).json() == {
            "id": str(sandbox.pk),
            "status": "running",
            "since": wire(start.finished_at),
            "queue_position": None,
            "provider": "process",
            "engine_version": "1.58.0",
            "runs": 1,
            "created_at": wire(sandbox.created_at),
            "started_at": wire(sandbox.started_at),
            "stopped_at": None,
            "last_used_at": wire(sandbox.active_at),
            "limits": LIMITS,
        }

    def test_stopped_sandbox_says_since_when(self, api, running):
        services.stop_sandbox(conversation_id=running.pk)

        state = api.get(url(running)).json()

        stopped_at = wire(Sandbox.objects.get().stopped_at)
        assert (state["status"], state["since"], state["stopped_at"]) == (
            "stopped",
            stopped_at,
            stopped_at,
        )

    def test_failed_start_says_since_when_and_not_why(self, api, running):
        Sandbox.objects.update(detail="The disk of /srv/data is full.", observed="failed")
        Conversation.objects.update(status="failed")

        response = api.get(url(running))

        assert response.json()["status"] == "failed"
        assert response.json()["since"] == wire(running.start_tasks.get().finished_at)
        assert "/srv/data" not in response.text

    def test_keys_addresses_and_paths_are_not_shown(self, api, running):
        sandbox = Sandbox.objects.get()

        text = api.get(url(running)).text

        for private in (
            sandbox.session_key(),
            sandbox.secret_key(),
            sandbox.base_url,
            sandbox.base_url.rpartition(":")[2],
            sandbox.workspace,
        ):
            assert private
            assert private not in text

    @pytest.mark.parametrize(
        ("status", "observed", "place"),
        [
            ("starting", "starting", "STARTING"),
            ("running", "running", "RUNNING"),
            ("paused", "stopped", "PAUSED"),
            ("stopped", "stopped", "PAUSED"),
            ("failed", "failed", "ERROR"),
            ("running", "missing", "MISSING"),
        ],
    )
    def test_v1_clients_are_told_the_same_status(self, api, conversation, status, observed, place):
        Conversation.objects.update(status=status)
        Sandbox.objects.update(observed=observed)

        ours = api.get(url(conversation)).json()
        [theirs] = api.get("/api/v1/sandboxes", {"id": ours["id"]}).json()

        assert ours["status"] == ("missing" if place == "MISSING" else status)
        assert theirs["status"] == place

    def test_number_of_queries_is_fixed(self, api, conversation, django_assert_num_queries):
        api.get(url(conversation))

        with django_assert_num_queries(4):  # the key, the conversation, the role, the start
            assert api.get(url(conversation)).status_code == 200

    def test_unknown_parameter_is_refused_with_a_sentence(self, api, conversation):
        response = api.get(url(conversation), {"colour": "red"})

        assert response.status_code == 400
        assert response.json()["error"] == "colour: This route has no such parameter."


class TestVerbs:
    def test_pause_stops_the_sandbox_once(self, api, running):
        first, second = (api.post(url(running, "pause")) for _ in range(2))

        assert (first.status_code, first.json()["status"]) == (202, "paused")
        assert (second.status_code, second.json()) == (202, first.json())
        assert list_queued_jobs("stop_sandbox") == [{"conversation_id": str(running.pk)}]
        assert AuditEntry.objects.filter(action="sandbox.paused").count() == 1

    @pytest.mark.parametrize(("verb", "runs"), [("start", 0), ("resume", 1)])
    def test_stopped_sandbox_is_started_once(self, api, running, verb, runs):
        services.stop_sandbox(conversation_id=running.pk)
        jobs = len(list_queued_jobs("start_conversation"))

        first, second = (api.post(url(running, verb)) for _ in range(2))

        assert (first.status_code, first.json()["status"]) == (202, "starting")
        assert (second.status_code, second.json()["status"]) == (202, "starting")
        assert first.json()["since"] == second.json()["since"]
        assert len(list_queued_jobs("start_conversation")) == jobs + 1
        assert Sandbox.objects.get().desired == "running"
        # Only `resume` lets an agent that was stopped continue.
        assert bool(list_queued_jobs("run_agent")) == bool(runs)

    def test_running_sandbox_is_not_started_again(self, api, running):
        jobs = len(list_queued_jobs("start_conversation"))

        response = api.post(url(running, "start"))

        assert (response.status_code, response.json()["status"]) == (202, "running")
        assert len(list_queued_jobs("start_conversation")) == jobs

    def test_get_is_not_a_verb(self, api, conversation):
        for verb in VERBS:
            assert api.get(url(conversation, verb)).status_code == 405
        assert api.delete(url(conversation)).status_code == 405


class TestAccess:
    def test_conversation_without_a_sandbox_has_none(self, api, alice):
        published = ConversationFactory(created_by=alice, is_external=True, status="running")

        for response in calls(api, published):
            assert (response.status_code, response.json()["code"]) == (404, "no-sandbox")
            assert "another program" in response.json()["error"]
        assert (
            list_queued_jobs("start_conversation")
            == list_queued_jobs("run_agent")
            == list_queued_jobs("stop_sandbox")
            == []
        )

    def test_anonymous_caller_is_unauthorized(self, conversation):
        assert {response.status_code for response in calls(APIClient(), conversation)} == {401}

    def test_stranger_gets_404(self, conversation, charlie):
        for response in calls(key_client(charlie), conversation):
            assert response.status_code == 404
            assert response.json()["code"] == "not-found"
            assert str(conversation.sandbox_id) not in response.text

    def test_teammate_gets_404_while_the_conversation_is_private(self, conversation, alice, bob):
        client = key_client(bob, organization=alice.personal_organization)

        assert {response.status_code for response in calls(client, conversation)} == {404}

    def test_viewer_sees_a_shared_sandbox_and_may_not_steer_it(self, conversation, alice, bob):
        Conversation.objects.update(visibility="organization")
        bob.memberships.filter(organization=alice.personal_organization).update(role="viewer")
        client = key_client(bob, organization=alice.personal_organization)

        state, *verbs = calls(client, conversation)

        assert (state.status_code, state.json()["status"]) == (200, "starting")
        for response in verbs:
            assert response.status_code == 403
            assert response.json()["permission"] == "conversations.steer"

    def test_key_without_the_scope_is_told_which(self, conversation, alice):
        state, *verbs = calls(key_client(alice, scopes=["conversations.view"]), conversation)

        assert state.status_code == 200
        for response in verbs:
            assert (response.status_code, response.json()["permission"]) == (
                403,
                "conversations.steer",
            )

    def test_key_of_the_organization_reaches_it_and_another_key_does_not(self, conversation, alice):
        other = Organization.objects.create(name="Other")
        alice.memberships.create(organization=other, role="owner")
        own = key_client(alice, organization=conversation.organization)
        foreign = key_client(alice, organization=other)

        assert [r.status_code for r in calls(own, conversation)] == [200, 202, 202, 202]
        assert {r.status_code for r in calls(foreign, conversation)} == {404}

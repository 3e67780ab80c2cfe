"""``/api/v1/conversations/{id}/sandbox``: the state of a sandbox, and its verbs."""

from datetime import UTC, datetime

import pytest
from rest_framework.test import APIClient

from accounts.models import AuditEntry, Organization
from conversations import services
from conversations.models import Conversation, Sandbox
from conversations.sandboxes.provider import Isolation, Limits, Usage, Wall
from tests.conftest import key_client
from tests.conversations.conftest import list_queued_jobs
from tests.factories.conversations import ConversationFactory

VERBS = ("start", "resume", "pause")
LIMITS = {
    "idle_seconds": 1_800,
    "start_seconds": 120,
    "max_running": 8,
    "memory_bytes": None,
    "processes": None,
    "disk_bytes": None,
}
ISOLATION = {
    "word": "Not isolated",
    "meaning": "It is a fake.",
    "is_isolated": False,
    "walls": [],
}


def build_url(conversation, verb=""):
    return f"/api/v1/conversations/{conversation.pk}/sandbox" + (f"/{verb}" if verb else "")


def call_every_route(client, conversation):
    """Return the responses to a GET and to a POST of every verb."""
    return [
        client.get(build_url(conversation)),
        *(client.post(build_url(conversation, verb)) for verb in VERBS),
    ]


def format_time(moment):
    return moment.isoformat().replace("+00:00", "Z")


class TestState:
    def test_starting_sandbox_has_its_queue_position(self, api, conversation, sandboxes):
        start = conversation.start_tasks.get()
        conversation.start_tasks.update(queue_position=3)
        sandbox = conversation.sandbox

        response = api.get(build_url(conversation))

        assert response.status_code == 200
        assert response.json() == {
            "id": str(sandbox.pk),
            "status": "starting",
            "since": format_time(start.created_at),
            "queue_position": 3,
            "detail": "",
            "provider": "process",
            "engine_version": "",
            "runs": 0,
            "created_at": format_time(sandbox.created_at),
            "started_at": None,
            "stopped_at": None,
            "last_used_at": format_time(Sandbox.objects.get().active_at),
            "limits": LIMITS,
            "isolation": ISOLATION,
            "usage": None,
        }

    def test_running_sandbox_has_its_engine_version(self, api, running):
        start, sandbox = running.start_tasks.get(), Sandbox.objects.get()

        assert api.get(build_url(running)).json() == {
            "id": str(sandbox.pk),
            "status": "running",
            "since": format_time(start.finished_at),
            "queue_position": None,
            "detail": "",
            "provider": "process",
            "engine_version": "1.58.2",
            "runs": 1,
            "created_at": format_time(sandbox.created_at),
            "started_at": format_time(sandbox.started_at),
            "stopped_at": None,
            "last_used_at": format_time(sandbox.active_at),
            "limits": LIMITS,
            "isolation": ISOLATION,
            "usage": None,
        }

    def test_stopped_sandbox_has_the_time_of_its_stop(self, api, running):
        services.stop_sandbox(conversation_id=running.pk)

        state = api.get(build_url(running)).json()

        stopped_at = format_time(Sandbox.objects.get().stopped_at)
        assert (state["status"], state["since"], state["stopped_at"]) == (
            "stopped",
            stopped_at,
            stopped_at,
        )

    def test_failed_sandbox_has_the_time_of_its_failure_but_not_the_reason(self, api, running):
        Sandbox.objects.update(detail="The disk of /srv/data is full.", observed="failed")
        Conversation.objects.update(status="failed")

        response = api.get(build_url(running))

        assert response.json()["status"] == "failed"
        assert response.json()["since"] == format_time(running.start_tasks.get().finished_at)
        assert "/srv/data" not in response.text

    def test_keys_addresses_and_paths_are_not_in_the_response(self, api, running, engine):
        sandbox = Sandbox.objects.get()

        response = api.get(build_url(running))

        assert (response.status_code, response.json()["status"]) == (200, "running")
        for private in (
            sandbox.session_key(),
            sandbox.secret_key(),
            str(engine.server_address[1]),
            sandbox.handle["sandbox"],
            sandbox.workspace,
        ):
            assert private
            assert private not in response.text

    @pytest.mark.parametrize(
        ("status", "observed", "v1_status"),
        [
            ("starting", "starting", "STARTING"),
            ("running", "running", "RUNNING"),
            ("paused", "stopped", "PAUSED"),
            ("stopped", "stopped", "PAUSED"),
            ("failed", "failed", "ERROR"),
            ("running", "missing", "MISSING"),
        ],
    )
    def test_v1_clients_get_the_same_status(self, api, conversation, status, observed, v1_status):
        Conversation.objects.update(status=status)
        Sandbox.objects.update(observed=observed)

        state = api.get(build_url(conversation)).json()
        [v1_state] = api.get("/api/v1/sandboxes", {"id": state["id"]}).json()

        assert state["status"] == ("missing" if v1_status == "MISSING" else status)
        assert v1_state["status"] == v1_status

    def test_state_is_read_by_four_queries(self, api, conversation, django_assert_num_queries):
        api.get(build_url(conversation))

        with django_assert_num_queries(4):  # the key, the conversation, the role, the start
            assert api.get(build_url(conversation)).status_code == 200

    def test_measured_sandbox_has_its_isolation_limits_and_usage(self, api, running, sandboxes):
        sandboxes.isolation = Isolation(
            "Isolated",
            "It has walls.",
            is_isolated=True,
            walls=(Wall("Files", True, "Only its own."), Wall("Landlock", False, "None.")),
            limits=Limits(memory_bytes=4_000_000, processes=512, disk_bytes=0),
            cause="The path /srv/bwrap is wrong.",
        )
        at = datetime(2026, 11, 29, 12, 0, 5, tzinfo=UTC)
        sandboxes.usage = Usage(at, memory_bytes=3_000_000, processes=7, disk_bytes=1_000)

        response = api.get(build_url(running))
        state = response.json()

        assert state["isolation"] == {
            "word": "Isolated",
            "meaning": "It has walls.",
            "is_isolated": True,
            "walls": [
                {"name": "Files", "in_force": True, "detail": "Only its own."},
                {"name": "Landlock", "in_force": False, "detail": "None."},
            ],
        }
        assert state["limits"] == LIMITS | {"memory_bytes": 4_000_000, "processes": 512}
        assert state["usage"] == {
            "at": "2026-11-29T12:00:05Z",
            "memory_bytes": 3_000_000,
            "processes": 7,
            "disk_bytes": 1_000,
        }
        assert "/srv/bwrap" not in response.text

    def test_sandbox_of_an_unknown_provider_has_unknown_isolation(self, api, conversation):
        Sandbox.objects.update(provider="nope")

        isolation = api.get(build_url(conversation)).json()["isolation"]

        assert (isolation["word"], isolation["is_isolated"]) == ("Unknown", False)
        assert "nope" in isolation["meaning"]

    def test_unknown_parameter_is_refused_with_a_sentence(self, api, conversation):
        response = api.get(build_url(conversation), {"colour": "red"})

        assert response.status_code == 400
        assert response.json()["error"] == "colour: This parameter is not supported here."


class TestVerbs:
    def test_repeated_pause_stops_the_sandbox_once(self, api, running):
        first, second = (api.post(build_url(running, "pause")) for _ in range(2))

        assert (first.status_code, first.json()["status"]) == (202, "paused")
        assert (second.status_code, second.json()) == (202, first.json())
        assert list_queued_jobs("stop_sandbox") == [{"conversation_id": str(running.pk)}]
        assert AuditEntry.objects.filter(action="sandbox.paused").count() == 1

    @pytest.mark.parametrize(("verb", "runs"), [("start", 0), ("resume", 1)])
    def test_repeated_start_or_resume_starts_a_stopped_sandbox_once(self, api, running, verb, runs):
        services.stop_sandbox(conversation_id=running.pk)
        jobs = len(list_queued_jobs("start_conversation"))

        first, second = (api.post(build_url(running, verb)) for _ in range(2))

        assert (first.status_code, first.json()["status"]) == (202, "starting")
        assert (second.status_code, second.json()["status"]) == (202, "starting")
        assert first.json()["since"] == second.json()["since"]
        assert len(list_queued_jobs("start_conversation")) == jobs + 1
        assert Sandbox.objects.get().desired == "running"
        # Only `resume` lets an agent that was stopped continue.
        assert bool(list_queued_jobs("run_agent")) == bool(runs)

    def test_running_sandbox_is_not_started_again(self, api, running):
        jobs = len(list_queued_jobs("start_conversation"))

        response = api.post(build_url(running, "start"))

        assert (response.status_code, response.json()["status"]) == (202, "running")
        assert len(list_queued_jobs("start_conversation")) == jobs

    def test_get_of_a_verb_and_delete_of_a_sandbox_get_405(self, api, conversation):
        for verb in VERBS:
            assert api.get(build_url(conversation, verb)).status_code == 405
        assert api.delete(build_url(conversation)).status_code == 405


class TestAccess:
    def test_external_conversation_has_no_sandbox(self, api, alice):
        published = ConversationFactory(created_by=alice, is_external=True, status="running")

        for response in call_every_route(api, published):
            assert (response.status_code, response.json()["code"]) == (404, "no-sandbox")
            assert "another program" in response.json()["error"]
        assert (
            list_queued_jobs("start_conversation")
            == list_queued_jobs("run_agent")
            == list_queued_jobs("stop_sandbox")
            == []
        )

    def test_anonymous_caller_is_unauthorized(self, conversation):
        assert {
            response.status_code for response in call_every_route(APIClient(), conversation)
        } == {401}

    def test_stranger_gets_404(self, conversation, charlie):
        for response in call_every_route(key_client(charlie), conversation):
            assert response.status_code == 404
            assert response.json()["code"] == "not-found"
            assert str(conversation.sandbox_id) not in response.text

    def test_teammate_gets_404_while_the_conversation_is_private(self, conversation, alice, bob):
        client = key_client(bob, organization=alice.personal_organization)

        assert {response.status_code for response in call_every_route(client, conversation)} == {
            404
        }

    def test_viewer_reads_a_shared_sandbox_and_may_not_steer_it(self, conversation, alice, bob):
        Conversation.objects.update(visibility="organization")
        bob.memberships.filter(organization=alice.personal_organization).update(role="viewer")
        client = key_client(bob, organization=alice.personal_organization)

        state, *verbs = call_every_route(client, conversation)

        assert (state.status_code, state.json()["status"]) == (200, "starting")
        for response in verbs:
            assert response.status_code == 403
            assert response.json()["permission"] == "conversations.steer"

    def test_key_without_the_steering_scope_may_only_read(self, conversation, alice):
        state, *verbs = call_every_route(
            key_client(alice, scopes=["conversations.view"]), conversation
        )

        assert state.status_code == 200
        for response in verbs:
            assert (response.status_code, response.json()["permission"]) == (
                403,
                "conversations.steer",
            )

    def test_only_a_key_of_the_organization_reaches_the_sandbox(self, conversation, alice):
        other = Organization.objects.create(name="Other")
        alice.memberships.create(organization=other, role="owner")
        own = key_client(alice, organization=conversation.organization)
        foreign = key_client(alice, organization=other)

        assert [r.status_code for r in call_every_route(own, conversation)] == [200, 202, 202, 202]
        assert {r.status_code for r in call_every_route(foreign, conversation)} == {404}

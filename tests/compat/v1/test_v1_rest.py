"""The REST routes of the V1 protocol: status codes and full bodies."""

import json
from uuid import uuid4

import pytest
from rest_framework.test import APIClient

from conversations import services
from conversations.models import Conversation
from tests.conftest import key_client
from tests.conversations.conftest import ingest, list_queued_jobs, make_frame, make_status_frame

URL = "/api/v1/app-conversations"


def format_time(moment):
    return moment.isoformat().replace("+00:00", "Z")


def create_key_client(conversation, user):
    """Return a client with a user's key to this conversation as its only credential."""
    key = services.conversation_key(conversation=conversation, user=user)
    return APIClient(headers={"X-Session-API-Key": key})


def serialize_conversation(row, key, **changes):
    """Return the V1 record of a running conversation without messages, with ``changes`` applied."""
    return {
        "id": row.pk.hex,
        "created_by_user_id": str(row.created_by_id),
        "sandbox_id": row.sandbox_id.hex,
        "selected_repository": None,
        "selected_branch": None,
        "git_provider": None,
        "title": "A conversation",
        "trigger": "gui",
        "pr_number": [],
        "llm_model": "demo",
        "metrics": {
            "model_name": "demo",
            "accumulated_cost": 0.0,
            "max_budget_per_task": None,
            "accumulated_token_usage": {
                "model": "demo",
                "prompt_tokens": 0,
                "completion_tokens": 0,
                "cache_read_tokens": 0,
                "cache_write_tokens": 0,
                "reasoning_tokens": 0,
                "context_window": 0,
                "per_turn_token": 0,
                "response_id": "",
            },
        },
        "parent_conversation_id": None,
        "sub_conversation_ids": [],
        "created_at": format_time(row.created_at),
        "updated_at": format_time(row.updated_at),
        "sandbox_status": "RUNNING",
        "execution_status": "idle",
        "conversation_url": f"http://testserver/api/conversations/{row.pk.hex}",
        "session_api_key": key,
    } | changes


def serialize_start_task(row, **changes):
    start = row.start_tasks.get()
    return {
        "id": start.pk.hex,
        "created_by_user_id": str(row.created_by_id),
        "status": "WORKING",
        "detail": None,
        "app_conversation_id": None,
        "sandbox_id": row.sandbox_id.hex,
        "agent_server_url": None,
        "request": {
            "sandbox_id": None,
            "conversation_id": None,
            "initial_message": None,
            "system_message_suffix": None,
            "processors": [],
            "llm_model": "demo",
            "selected_repository": None,
            "selected_branch": None,
            "git_provider": None,
            "title": row.title,
            "trigger": row.trigger,
            "pr_number": [],
            "parent_conversation_id": None,
            "agent_type": "default",
        },
        "created_at": format_time(start.created_at),
        "updated_at": format_time(start.updated_at),
    } | changes


class TestAppConversations:
    def test_lookup_keeps_the_order_of_ids_with_null_for_unknown_ids(self, running, alice):
        client = create_key_client(running, alice)

        response = client.get(f"{URL}?ids={uuid4()}&ids={running.pk}&ids={running.pk.hex}")

        key = services.conversation_key(conversation=running, user=alice)
        whole = serialize_conversation(running, key)
        assert response.json() == [None, whole, whole]

    def test_search_pages_hold_every_conversation_and_match_the_count(self, api, alice):
        rows = [services.create_conversation(user=alice, title=f"no {n}") for n in range(5)]
        child = services.create_conversation(user=alice, title="child", parent=rows[0])

        first = api.get(f"{URL}/search?limit=3").json()
        rest = api.get(f"{URL}/search?limit=3&page_id={first['next_page_id']}").json()

        ids = [item["id"] for item in first["items"] + rest["items"]]
        assert ids == [row.pk.hex for row in reversed(rows)]
        assert rest["next_page_id"] is None
        assert rest["items"][-1]["sub_conversation_ids"] == [child.pk.hex]
        assert api.get(f"{URL}/count").json() == 5
        assert api.get(f"{URL}/count?include_sub_conversations=true").json() == 6
        assert api.get(f"{URL}/count?title__contains=NO 1").json() == 1
        assert api.get(f"{URL}/count?title__contains=%25").json() == 0

    @pytest.mark.parametrize("query", ["limit=0", "limit=101", "limit=x", "page_id=nonsense"])
    def test_invalid_page_query_is_422(self, api, query):
        response = api.get(f"{URL}/search?{query}")

        assert response.status_code == 422
        assert response.json()["error"]

    @pytest.mark.parametrize(
        "query", ["", "?ids=x", "?" + "&".join(f"ids={uuid4()}" for _ in range(101))]
    )
    def test_invalid_ids_query_is_422(self, api, query):
        assert api.get(URL + query).status_code == 422

    def test_other_user_gets_null_and_an_empty_page(self, conversation, charlie):
        client = key_client(charlie)

        assert client.get(f"{URL}?ids={conversation.pk}").json() == [None]
        assert client.get(f"{URL}/search").json() == {"items": [], "next_page_id": None}

    def test_conversation_key_finds_its_own_conversation_only(self, conversation, alice):
        other = services.create_conversation(user=alice)
        client = create_key_client(conversation, alice)

        assert client.get(f"{URL}?ids={other.pk}").json() == [None]
        items = client.get(f"{URL}/search").json()["items"]
        assert [item["id"] for item in items] == [conversation.pk.hex]
        assert client.post(URL, {}, format="json").status_code == 403


class TestStart:
    def test_start_returns_a_start_task_that_becomes_ready(self, api, sandboxes):
        body = {
            "parent_conversation_id": None,
            "initial_message": {"role": "user", "content": [{"type": "text", "text": "Say hi"}]},
        }

        response = api.post(URL, body, format="json")

        row = Conversation.objects.get()
        assert response.status_code == 200
        assert response.json() == serialize_start_task(
            row, request=serialize_start_task(row)["request"]
        )
        assert (row.title, row.trigger) == ("Say hi", "openhands_api")
        assert row.events.get().payload == '{"text":"Say hi"}'
        assert len(list_queued_jobs("deliver_messages")) == 1

        services.start_conversation(conversation_id=row.pk)

        url = f"{URL}/start-tasks"
        [ready, missing] = api.get(f"{url}?ids={response.json()['id']}&ids={uuid4()}").json()
        assert missing is None
        assert (ready["status"], ready["app_conversation_id"]) == ("READY", row.pk.hex)
        assert ready["agent_server_url"] == "http://testserver"
        assert api.get(f"{url}/search?conversation_id__eq={row.pk}").json() == {
            "items": [ready],
            "next_page_id": None,
        }
        assert api.get(f"{url}/count").json() == 1

    def test_resumed_conversation_adds_no_visible_start_task(self, api, running):
        services.stop_sandbox(conversation_id=running.pk)
        services.resume(conversation_id=running.pk)

        assert running.start_tasks.count() == 2
        assert api.get(f"{URL}/start-tasks/count").json() == 1

    def test_stream_start_sends_one_json_array_of_start_tasks(self, api, sandboxes, monkeypatch):
        from compat.v1 import app_conversations

        monkeypatch.setattr(app_conversations, "STREAM_PAUSE", 0)
        monkeypatch.setattr(
            app_conversations.time,
            "sleep",
            lambda _: services.start_conversation(conversation_id=Conversation.objects.get().pk),
        )

        response = api.post(f"{URL}/stream-start", {}, format="json")

        starts = json.loads(b"".join(response))
        assert [start["status"] for start in starts] == ["WORKING", "READY"]

    def test_child_conversation_inherits_repository_and_model(self, api, alice):
        repository = {"provider": "github", "full_name": "a/b", "branch": "main"}
        parent = services.create_conversation(user=alice, repository=repository, model="m")

        api.post(URL, {"parent_conversation_id": str(parent.pk)}, format="json")

        child = parent.children.get()
        assert (child.repository, child.model) == (repository, "m")

    def test_start_uses_the_requested_repository_and_id_once(self, api):
        conversation_id = uuid4()
        body = {
            "selected_repository": "owner/name",
            "selected_branch": "main",
            "git_provider": "gitlab",
            "conversation_id": str(conversation_id),
        }

        assert api.post(URL, body, format="json").status_code == 200

        row = Conversation.objects.get()
        assert row.pk == conversation_id
        assert row.repository == {
            "provider": "gitlab",
            "full_name": "owner/name",
            "branch": "main",
        }
        assert api.post(URL, body, format="json").status_code == 409

    @pytest.mark.parametrize(
        "body",
        [
            {"agent_type": "plan"},
            {"agent_type": "other"},
            {"processors": [{"kind": "X"}]},
            {"system_message_suffix": "Be bold"},
            {"selected_repository": "../x"},
            {"initial_message": {"role": "assistant", "content": []}},
            {"sandbox_id": "x"},
            [],
        ],
    )
    def test_invalid_start_is_422_and_creates_no_conversation(self, api, body):
        response = api.post(URL, body, format="json")

        assert response.status_code == 422
        assert response.json()["error"]
        assert not Conversation.objects.exists()

    def test_start_with_an_unknown_parent_is_404(self, api):
        body = {"parent_conversation_id": str(uuid4())}

        assert api.post(URL, body, format="json").status_code == 404


class TestSandboxes:
    URL = "/api/v1/sandboxes"

    def test_sandbox_record_has_every_v1_field(self, running, alice):
        client = create_key_client(running, alice)

        records = client.get(f"{self.URL}?id={running.sandbox_id}&id={uuid4()}").json()

        assert records == [
            {
                "id": running.sandbox_id.hex,
                "created_by_user_id": str(alice.pk),
                "sandbox_spec_id": "agent-server",
                "status": "RUNNING",
                "session_api_key": services.conversation_key(conversation=running, user=alice),
                "exposed_urls": [{"name": "AGENT_SERVER", "url": "http://testserver", "port": 80}],
                "created_at": format_time(running.sandbox.created_at),
            },
            None,
        ]
        assert client.get(f"{self.URL}/search").json() == {
            "items": records[:1],
            "next_page_id": None,
        }

    def test_sandbox_is_paused_and_resumed(self, api, running):
        url = f"{self.URL}/{running.sandbox_id.hex}"

        for _ in range(2):
            assert api.post(f"{url}/pause").json() == {"success": True}
        assert len(list_queued_jobs("stop_sandbox")) == 1
        services.stop_sandbox(conversation_id=running.pk, unless_in_use=True)
        [paused] = api.get(f"{URL}?ids={running.pk}").json()
        assert paused["sandbox_status"] == "PAUSED"
        assert api.post(f"{url}/resume").json() == {"success": True}
        [waking] = api.get(f"{URL}?ids={running.pk}").json()
        assert waking["sandbox_status"] == "STARTING"
        assert api.post(f"{self.URL}/{uuid4()}/pause").status_code == 404
        assert api.post(f"{self.URL}/x/pause").status_code == 404

    def test_sandbox_created_alone_accepts_one_conversation(self, api):
        sandbox = api.post(self.URL).json()
        assert (sandbox["status"], sandbox["session_api_key"]) == ("STARTING", None)
        message = {"role": "user", "content": [{"type": "text", "text": "Say hi"}]}
        body = {"sandbox_id": sandbox["id"], "initial_message": message}

        assert api.post(URL, body, format="json").status_code == 200
        row = Conversation.objects.get()
        assert (row.title, row.events.count()) == ("Say hi", 1)
        assert api.post(URL, body, format="json").status_code == 422
        assert api.delete(f"{self.URL}/{sandbox['id']}").status_code == 409

    @pytest.mark.parametrize("place", ["path", "query"])
    def test_unused_sandbox_is_deleted(self, api, place):
        sandbox_id = api.post(self.URL).json()["id"]
        path = sandbox_id if place == "path" else f"x?sandbox_id={sandbox_id}"

        assert api.delete(f"{self.URL}/{path}").json() == {"success": True}
        assert api.get(f"{self.URL}/search").json()["items"] == []

    def test_sandbox_specification_has_an_empty_environment(self, api, client):
        spec = {
            "id": "agent-server",
            "command": None,
            "created_at": "2026-11-22T00:00:00Z",
            "initial_env": {},
            "working_dir": "/workspace/project",
        }
        url = "/api/v1/sandbox-specs"

        assert api.get(f"{url}/search").json() == {"items": [spec], "next_page_id": None}
        assert api.get(f"{url}?id=x&id=agent-server").json() == [None, spec]
        assert client.get(f"{url}/search").status_code == 401


class TestEvents:
    URL = "/api/v1/events"

    @pytest.fixture
    def log(self, running):
        """A log with a sent message, the engine's echo, an action with missing fields, and a state change."""
        services.post_message(conversation_id=running.pk, text="hi", message_id="m1")
        services.deliver_messages(conversation_id=running.pk)
        ingest(
            running,
            make_frame(
                0,
                source="user",
                llm_message={"role": "user", "content": [{"type": "text", "text": "hi"}]},
            ),
            make_frame(1, kind="ActionEvent", action={"kind": "FinishAction"}, tool_name="finish"),
            make_status_frame(2, "finished"),
        )
        return running

    def test_search_returns_events_in_v1_form(self, api, log):
        sent = log.events.get(event_id="m1")

        body = api.get(f"{self.URL}/search?conversation_id__eq={log.pk}").json()

        stamp = sent.received_at.replace(tzinfo=None).isoformat(timespec="microseconds") + "Z"
        message, action, status = body["items"]
        assert message == {
            "id": "m1",
            "timestamp": stamp,
            "source": "user",
            "llm_message": {"role": "user", "content": [{"type": "text", "text": "hi"}]},
            "activated_skills": [],
            "extended_content": [],
            "kind": "MessageEvent",
        }
        assert (action["thought"], action["action"]) == (
            [],
            {"kind": "FinishAction", "message": ""},
        )
        assert action["timestamp"]
        assert (status["id"], status["value"]) == ("event-2", "finished")
        assert body["next_page_id"] is None
        assert api.get(f"{self.URL}/count?conversation_id__eq={log.pk}").json() == 3

    def test_event_pages_hold_each_event_once_in_both_orders(self, api, log):
        for order in ("TIMESTAMP", "TIMESTAMP_DESC"):
            ids, page_id = [], ""
            while page_id is not None:
                query = f"limit=1&sort_order={order}" + (f"&page_id={page_id}" if page_id else "")
                body = api.get(f"{self.URL}/search?{query}").json()
                ids += [event["id"] for event in body["items"]]
                page_id = body["next_page_id"]
            expected = ["m1", "event-1", "event-2"]
            assert ids == (expected if order == "TIMESTAMP" else expected[::-1])

    def test_event_filters_count_matching_events(self, api, log):
        def count(query):
            return api.get(f"{self.URL}/count?{query}").json()

        assert count("kind__eq=MessageEvent") == 1
        assert count("kind__eq=ActionEvent") == 1
        assert count("timestamp__gte=2000-01-01T00:00:00") == 3
        assert count("timestamp__lt=2000-01-01T00:00:00Z") == 0
        assert api.get(f"{self.URL}/search?page_id=x").status_code == 422
        assert api.get(f"{self.URL}/search?limit=0").status_code == 422

    def test_event_is_found_by_its_uuid_with_and_without_dashes_in_one_request(self, api, log):
        event_id = uuid4()
        ingest(log, make_frame(3, id=str(event_id)))

        events = api.get(f"{self.URL}?id={event_id}&id={event_id.hex}").json()

        assert [event["id"] for event in events] == [str(event_id), str(event_id)]

    def test_events_are_found_by_ids_with_null_for_unknown_and_foreign_ids(self, api, log, charlie):
        url = f"{self.URL}?id=event-1&id=nothing&id=event-0"

        assert [e and e["id"] for e in api.get(url).json()] == ["event-1", None, None]
        assert key_client(charlie).get(url).json() == [None, None, None]
        assert api.get(self.URL).status_code == 422


class TestWebhooks:
    def url(self, row, what="conversations"):
        return f"/api/v1/webhooks/{row.sandbox_id}/{what}"

    def test_webhook_is_accepted_and_its_events_are_not_stored(self, running, client):
        headers = {"X-Session-API-Key": running.sandbox.session_key()}

        for what in ("conversations", f"events/{running.pk.hex}", f"events/{running.pk}"):
            response = client.post(
                self.url(running, what),
                '[{"kind": "MessageEvent", "id": "forged", "source": "user"}]',
                content_type="application/json",
                headers=headers,
            )
            assert (response.status_code, response.json()) == (200, {"success": True})
        assert not running.events.exists()

    def test_webhook_with_another_key_is_401(self, running, alice, client):
        other = services.create_conversation(user=alice)
        keys = [
            "",
            "x",
            other.sandbox.session_key(),
            services.conversation_key(conversation=running, user=alice),
        ]
        for key in keys:
            response = client.post(self.url(running), headers={"X-Session-API-Key": key})
            assert response.status_code == 401
        right = {"X-Session-API-Key": running.sandbox.session_key()}
        assert (
            client.post(self.url(running, f"events/{other.pk}"), headers=right).status_code == 401
        )
        assert client.post(self.url(other), headers=right).status_code == 401
        assert client.post("/api/v1/webhooks/x/conversations", headers=right).status_code == 401


class TestEngineRoutes:
    def url(self, row, what):
        return f"/api/conversations/{row.pk.hex}/{what}"

    def test_conversation_key_pauses_and_runs_the_agent_once(self, running, alice):
        client = create_key_client(running, alice)

        assert client.post(self.url(running, "pause"), {}, format="json").json() == {
            "success": True
        }
        assert len(list_queued_jobs("interrupt_agent")) == 1
        assert client.post(self.url(running, "run"), {}, format="json").json() == {"success": True}
        assert len(list_queued_jobs("run_agent")) == 1
        ingest(running, make_status_frame(0, "running"))
        assert client.post(self.url(running, "run"), {}, format="json").status_code == 409

    def test_confirmation_is_answered_once_and_by_neither_message_nor_run(self, running, alice):
        ingest(running, make_status_frame(0, "waiting_for_confirmation"))
        client = create_key_client(running, alice)
        url = self.url(running, "events/respond_to_confirmation")

        services.post_message(conversation_id=running.pk, text="go on", message_id="m")
        services.deliver_messages(conversation_id=running.pk)
        assert client.post(self.url(running, "run"), {}, format="json").status_code == 200
        assert not list_queued_jobs("answer_agent")
        assert client.post(url, {"accept": True}, format="json").json() == {"success": True}
        assert len(list_queued_jobs("answer_agent")) == 1
        assert client.post(url, {"accept": True}, format="json").status_code == 409
        assert client.post(url, {}, format="json").status_code == 422

    def test_key_of_another_conversation_is_404(self, running, alice):
        other = services.create_conversation(user=alice)
        client = create_key_client(other, alice)

        for what in ("run", "pause", "events/respond_to_confirmation"):
            body = {"accept": True}
            assert client.post(self.url(running, what), body, format="json").status_code == 404
        assert client.get(self.url(running, "events/search")).status_code == 404
        unknown_key = {"X-Session-API-Key": "x"}
        assert client.post(self.url(running, "run"), headers=unknown_key).status_code == 401
        assert APIClient().post(self.url(running, "run")).status_code == 401

    def test_held_message_is_queued_only_after_the_run_command(self, running):
        before = len(list_queued_jobs("deliver_messages"))
        services.post_message(conversation_id=running.pk, text="hi", message_id="m", run=False)
        assert len(list_queued_jobs("deliver_messages")) == before

        assert services.send_held_messages(conversation_id=running.pk)

        assert len(list_queued_jobs("deliver_messages")) == before + 1
        assert not services.send_held_messages(conversation_id=running.pk)

    def test_file_routes_need_a_conversation_key_and_a_workspace_path(self, api, running, alice):
        assert api.get("/api/git/changes/x").status_code == 422
        assert APIClient().get("/api/git/changes/x").status_code == 401
        reader = APIClient(
            headers={
                "X-Session-API-Key": services.conversation_key(conversation=running, user=alice)
            }
        )
        assert reader.get("/api/file/download").status_code == 422
        assert reader.get("/api/file/download?path=/etc/passwd").status_code == 400

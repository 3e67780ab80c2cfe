"""The REST routes of the V0 protocol: status codes and full bodies."""

import json
from datetime import timedelta
from uuid import uuid4

import pytest
from django.core.files.uploadedfile import SimpleUploadedFile
from django.utils import timezone
from rest_framework.test import APIClient

from conversations import services
from conversations.models import Conversation, Event, NewEvent
from conversations.services import conversation_key
from tests.conftest import key_client
from tests.conversations.conftest import ingest, list_queued_jobs, make_frame, make_status_frame
from tests.factories.conversations import ConversationFactory

pytestmark = pytest.mark.django_db


@pytest.fixture
def talk(conversation) -> Conversation:
    """Alice's conversation with one message in its log."""
    services.post_message(conversation_id=conversation.pk, text="Hello", message_id=str(uuid4()))
    conversation.refresh_from_db()
    return conversation


def build_path(conversation, rest=""):
    return f"/api/conversations/{conversation.pk.hex}{rest}"


def format_time(moment):
    return moment.isoformat().replace("+00:00", "Z")


class TestConversationRecord:
    def test_conversation_record_has_every_v0_field(self, api, alice, conversation):
        Conversation.objects.filter(pk=conversation.pk).update(
            repository={"provider": "github", "full_name": "a/b", "branch": "main"},
            pull_requests=[7],
        )
        child = ConversationFactory(created_by=alice, parent=conversation)
        conversation.refresh_from_db()

        response = api.get(build_path(conversation))

        body = response.json()
        key = body.pop("session_api_key")
        assert (response.status_code, body) == (
            200,
            {
                "conversation_id": conversation.pk.hex,
                "title": "A conversation",
                "last_updated_at": format_time(conversation.updated_at),
                "status": "STARTING",
                "runtime_status": "STATUS$STARTING_RUNTIME",
                "selected_repository": "a/b",
                "selected_branch": "main",
                "git_provider": "github",
                "trigger": "gui",
                "num_connections": 0,
                "url": f"/api/conversations/{conversation.pk.hex}",
                "created_at": format_time(conversation.created_at),
                "pr_number": [7],
                "conversation_version": "V1",
                "sub_conversation_ids": [child.pk.hex],
            },
        )
        opened = APIClient(headers={"X-Session-API-Key": key}).get(
            build_path(conversation, "/config")
        )
        assert opened.status_code == 200

    @pytest.mark.parametrize("form", ["hex", "__str__"])
    def test_conversation_id_works_with_and_without_dashes(self, api, conversation, form):
        conversation_id = conversation.pk.hex if form == "hex" else str(conversation.pk)

        assert api.get(f"/api/conversations/{conversation_id}").status_code == 200

    @pytest.mark.parametrize("conversation_id", ["0" * 32, "x", "..", "a" * 200])
    def test_unknown_or_malformed_id_is_404_with_a_sentence(self, api, conversation_id):
        response = api.get(f"/api/conversations/{conversation_id}")

        assert response.status_code == 404
        assert isinstance(response.json()["error"], str)

    def test_anonymous_caller_is_401(self, client, conversation):
        response = client.get(build_path(conversation))

        assert (response.status_code, "error" in response.json()) == (401, True)

    def test_conversation_key_gets_404_for_another_conversation(self, alice, conversation):
        other = ConversationFactory(created_by=alice)
        key = conversation_key(conversation=conversation, user=alice)
        holder = APIClient(headers={"X-Session-API-Key": key})

        assert holder.get(build_path(conversation, "/events")).status_code == 200
        assert holder.get(build_path(other, "/events")).status_code == 404

    def test_conversation_key_gets_engine_bodies_on_routes_shared_with_v0(self, alice, talk):
        key = conversation_key(conversation=talk, user=alice)
        holder = APIClient(headers={"X-Session-API-Key": key})

        info = holder.get(build_path(talk)).json()
        by_ids = holder.generic(
            "GET", build_path(talk, "/events"), b"[]", content_type="application/json"
        )
        message = {"role": "user", "content": [{"type": "text", "text": "Hi"}]}
        engine_reply = holder.post(build_path(talk, "/events"), message, format="json")
        event = {"action": "message", "args": {"content": "Ho"}}
        v0_reply = holder.post(build_path(talk, "/events"), event, format="json")

        assert ("execution_status" in info, "conversation_version" in info) == (True, False)
        assert by_ids.json() == []
        assert [engine_reply.json(), v0_reply.json()] == [{"success": True}] * 2
        texts = [json.loads(e.payload)["text"] for e in talk.events.order_by("seq")]
        assert texts == ["Hello", "Hi", "Ho"]

    @pytest.mark.parametrize(
        ("status", "execution", "v0_status", "runtime"),
        [
            ("running", "idle", "RUNNING", "STATUS$READY"),
            ("running", "error", "RUNNING", "STATUS$ERROR"),
            ("stopped", "idle", "STOPPED", "STATUS$STOPPED"),
            ("paused", "idle", "STOPPED", "STATUS$STOPPED"),
            ("failed", "error", "ERROR", "STATUS$ERROR"),
        ],
    )
    def test_conversation_state_maps_to_v0_status_and_runtime_status(
        self, api, conversation, status, execution, v0_status, runtime
    ):
        Conversation.objects.update(status=status, execution_status=execution)

        body = api.get(build_path(conversation)).json()

        assert (body["status"], body["runtime_status"]) == (v0_status, runtime)


class TestConversationList:
    def test_pages_list_v0_and_v1_conversations_once_each(self, api, alice):
        now = timezone.now()
        rows = [
            ConversationFactory(
                created_by=alice,
                wire_version=("V0", "V1")[number % 2],
                created_at=now - timedelta(minutes=number // 2),
            )
            for number in range(7)
        ]
        results, page_id, pages = [], "", 0
        while pages == 0 or page_id:
            body = api.get(
                f"/api/conversations?limit=3&page_id={page_id}"
                if page_id
                else "/api/conversations?limit=3"
            ).json()
            results += body["results"]
            page_id = body["next_page_id"]
            pages += 1

        assert pages == 3
        assert sorted(row["conversation_id"] for row in results) == sorted(
            row.pk.hex for row in rows
        )
        assert [row["created_at"] for row in results] == sorted(
            (row["created_at"] for row in results), reverse=True
        )
        assert {row["conversation_version"] for row in results} == {"V0", "V1"}

    def test_filters_apply_before_the_page_limit(self, api, alice):
        match = ConversationFactory(
            created_by=alice, repository={"full_name": "a/b"}, trigger="slack"
        )
        for _ in range(3):
            ConversationFactory(created_by=alice, parent=match)

        for query in (
            "selected_repository=a/b",
            "conversation_trigger=slack",
            "include_sub_conversations=false",
        ):
            body = api.get(f"/api/conversations?limit=1&{query}").json()
            assert [row["conversation_id"] for row in body["results"]] == [match.pk.hex]
            assert body["next_page_id"] is None

    def test_list_of_twenty_conversations_uses_at_most_nine_queries(
        self, api, alice, django_assert_max_num_queries
    ):
        for _ in range(20):
            ConversationFactory(created_by=alice)
        with django_assert_max_num_queries(9):
            assert len(api.get("/api/conversations?limit=20").json()["results"]) == 20

    @pytest.mark.parametrize(
        "query",
        ["limit=0", "limit=101", "limit=x", "page_id=x", "page_id=!!", "conversation_trigger=x"],
    )
    def test_invalid_list_query_is_422(self, api, query):
        response = api.get(f"/api/conversations?{query}")

        assert (response.status_code, "error" in response.json()) == (422, True)

    def test_microagent_conversations_are_listed_by_repository(self, api, alice):
        ConversationFactory(created_by=alice)
        conversation = ConversationFactory(
            created_by=alice, trigger="microagent_management", repository={"full_name": "a/b"}
        )

        body = api.get("/api/microagent-management/conversations?selected_repository=a/b").json()

        assert [row["conversation_id"] for row in body["results"]] == [conversation.pk.hex]


class TestCreate:
    def test_create_with_message_and_repository_stores_both(self, api):
        response = api.post(
            "/api/conversations",
            {
                "initial_user_msg": "Fix it",
                "repository": "a/b",
                "git_provider": "gitlab",
                "selected_branch": "dev",
            },
            format="json",
        )

        row = Conversation.objects.get()
        assert (response.status_code, response.json()) == (
            200,
            {
                "status": "ok",
                "conversation_id": row.pk.hex,
                "conversation_status": "STARTING",
                "message": None,
            },
        )
        assert (row.wire_version, row.trigger, row.title) == ("V0", "openhands_api", "Fix it")
        assert row.repository == {"provider": "gitlab", "full_name": "a/b", "branch": "dev"}
        assert json.loads(row.events.get().payload) == {"text": "Fix it"}

    def test_create_with_a_session_and_no_message_has_trigger_gui(self, client, alice):
        client.force_login(alice)

        response = client.post("/api/conversations", {}, content_type="application/json")

        row = Conversation.objects.get()
        assert (response.status_code, row.trigger, row.events.count()) == (200, "gui", 0)

    def test_create_stores_images_of_the_first_message(self, api):
        image = "data:image/png;base64,AAAA"
        api.post(
            "/api/conversations", {"initial_user_msg": "Look", "image_urls": [image]}, format="json"
        )

        assert json.loads(Event.objects.get().payload) == {"text": "Look", "images": [image]}

    @pytest.mark.parametrize(
        ("task", "sentence"),
        [("OPEN_ISSUE", "issue #5 (Broken) in a/b"), ("SOMETHING", "#5 (Broken) in a/b")],
    )
    def test_suggested_task_becomes_the_first_message(self, client, alice, task, sentence):
        client.force_login(alice)
        body = {
            "git_provider": "github",
            "task_type": task,
            "repo": "a/b",
            "issue_number": 5,
            "title": "Broken",
        }

        client.post("/api/conversations", {"suggested_task": body}, content_type="application/json")

        row = Conversation.objects.get()
        assert row.trigger == "suggested_task"
        assert row.repository == {"provider": "github", "full_name": "a/b"}
        assert sentence in json.loads(row.events.get().payload)["text"]

    def test_conversation_instructions_precede_the_first_message(self, client, alice):
        client.force_login(alice)
        body = {
            "create_microagent": {"repo": "a/b", "title": "tests"},
            "conversation_instructions": "Be brief.",
        }

        client.post("/api/conversations", body, content_type="application/json")

        row = Conversation.objects.get()
        text = json.loads(row.events.get().payload)["text"]
        assert row.trigger == "microagent_management"
        assert text.startswith(
            "Be brief.\n\nWrite down what an agent should know about tests in a/b"
        )

    @pytest.mark.parametrize(
        "body",
        [
            {"conversation_id": "x"},
            {"odd": 1},
            {"initial_user_msg": 5},
            {"replay_json": "[]"},
            {"mcp_config": {"a": 1}},
            [],
        ],
    )
    def test_invalid_creation_is_422_and_creates_no_conversation(self, api, body):
        response = api.post("/api/conversations", body, format="json")

        assert (response.status_code, "error" in response.json()) == (422, True)
        assert not Conversation.objects.exists()

    def test_invalid_image_is_400_and_creates_no_conversation(self, api):
        response = api.post(
            "/api/conversations",
            {"initial_user_msg": "Look", "image_urls": ["file:///etc/passwd"]},
            format="json",
        )

        assert response.status_code == 400
        assert not Conversation.objects.exists()


class TestSteering:
    def test_conversation_is_renamed_and_deleted(self, api, conversation):
        renamed = api.patch(build_path(conversation), {"title": "New"}, format="json")
        empty = api.patch(build_path(conversation), {"title": ""}, format="json")
        conversation.refresh_from_db()
        deleted = api.delete(build_path(conversation))

        assert (renamed.status_code, renamed.json(), conversation.title) == (200, True, "New")
        assert empty.status_code == 422
        assert (deleted.status_code, deleted.json()) == (200, True)
        assert api.get(build_path(conversation)).status_code == 404

    def test_conversation_is_stopped_twice_and_started_again(self, api, running):
        stopped = api.post(build_path(running, "/stop"))
        again = api.post(build_path(running, "/stop"))
        started = api.post(
            build_path(running, "/start"), {"providers_set": ["github"]}, format="json"
        )

        base = {"status": "ok", "conversation_id": running.pk.hex, "message": None}
        assert (stopped.status_code, stopped.json()) == (
            200,
            base | {"conversation_status": "STOPPED"},
        )
        assert again.json() == stopped.json()
        assert started.json()["conversation_status"] in ("STARTING", "RUNNING")
        assert list_queued_jobs("run_agent") == []

    def test_message_route_appends_a_user_message(self, api, conversation):
        response = api.post(build_path(conversation, "/message"), {"message": "Hi"}, format="json")

        assert (response.status_code, response.json()) == (200, {"success": True})
        assert json.loads(conversation.events.get().payload) == {"text": "Hi"}

    def test_event_route_accepts_user_actions_and_refuses_agent_actions(self, api, running):
        ingest(
            running,
            make_status_frame(0, "running"),
            make_status_frame(1, "waiting_for_confirmation"),
        )

        def send(action, **args):
            return api.post(
                build_path(running, "/events"), {"action": action, "args": args}, format="json"
            )

        confirmed = send("change_agent_state", agent_state="user_confirmed")
        repeated = send("change_agent_state", agent_state="user_confirmed")
        stopped = send("change_agent_state", agent_state="stopped")
        posted = send("message", content="Hi", image_urls=[], file_urls=["/w/a.txt"])
        refused = [
            send("run", command="rm -rf /"),
            send("change_agent_state", agent_state="odd"),
            send("message", content=" "),
        ]

        assert [reply.status_code for reply in (confirmed, repeated, stopped, posted)] == [
            200,
            409,
            200,
            200,
        ]
        assert posted.json() == {"success": True}
        assert [reply.status_code for reply in refused] == [400, 400, 400]
        assert list_queued_jobs("interrupt_agent")
        events = [
            (e.kind, json.loads(e.payload))
            for e in running.events.filter(source="user").order_by("seq")
        ]
        assert [kind for kind, _ in events] == ["UserConfirmation", "UserMessage"]
        assert events[1][1]["text"] == "Hi\n\nFiles in the workspace: /w/a.txt"

    def test_viewer_reads_events_but_gets_403_for_a_message(self, alice, bob, conversation):
        services.set_sharing(
            conversation_id=conversation.pk, by=conversation.created_by, visibility="organization"
        )
        bob.memberships.filter(organization=alice.personal_organization).update(role="viewer")
        viewer = key_client(bob, organization=alice.personal_organization)

        assert viewer.get(build_path(conversation, "/events")).status_code == 200
        assert (
            viewer.post(
                build_path(conversation, "/message"), {"message": "x"}, format="json"
            ).status_code
            == 403
        )


class TestEvents:
    @pytest.fixture
    def long(self, conversation) -> Conversation:
        """A conversation with thirty agent events: number 10 is a state change, the others are messages."""
        Conversation.objects.update(epoch=1)
        news = [
            NewEvent(
                event_id=f"e{n}",
                kind="MessageEvent" if n != 10 else "ConversationStateUpdateEvent",
                source="agent" if n != 10 else "environment",
                payload=json.dumps(
                    {"llm_message": {"content": [{"type": "text", "text": f"number {n}"}]}}
                    if n != 10
                    else {"key": "execution_status", "value": "running"}
                ),
            )
            for n in range(1, 31)
        ]
        conversation.append(*news)
        return conversation

    def get(self, api, conversation, query=""):
        response = api.get(build_path(conversation, f"/events?{query}"))
        assert response.status_code == 200, response.json()
        return response.json()

    def ids(self, body):
        return [event["id"] for event in body["events"]]

    def test_user_message_is_shown_in_v0_form(self, api, talk):
        event = talk.events.get()

        assert self.get(api, talk) == {
            "events": [
                {
                    "id": 1,
                    "timestamp": event.received_at.isoformat(),
                    "source": "user",
                    "message": "Hello",
                    "action": "message",
                    "args": {
                        "content": "Hello",
                        "file_urls": [],
                        "image_urls": [],
                        "wait_for_response": False,
                        "security_risk": -1,
                    },
                }
            ],
            "has_more": False,
        }

    def test_pages_in_both_directions_hold_each_event_once(self, api, long, monkeypatch):
        monkeypatch.setattr("compat.v0.event_pages.BATCH_ROWS", 4)
        event_ids, start, more = [], 0, True
        while more:
            body = self.get(api, long, f"start_id={start}&limit=7")
            event_ids += self.ids(body)
            start, more = event_ids[-1] + 1, body["has_more"]
        newest_first = self.get(api, long, "reverse=true&limit=100")

        assert event_ids == list(range(1, 31))
        assert self.ids(newest_first) == list(range(30, 0, -1))

    @pytest.mark.parametrize(
        ("query", "ids"),
        [
            ("start_id=29", [29, 30]),
            ("end_id=2", [1, 2]),
            ("include_types=agent_state_changed", [10]),
            ("exclude_types=message,null", [10]),
            ("source=environment", [10]),
            ("query=NUMBER 30", [30]),
            ("limit=0", []),
            ("end_date=2020-01-01T00:00:00Z", []),
            ("start_date=2020-01-01T00:00:00&limit=1", [1]),
            ("reverse=true&limit=2", [30, 29]),
        ],
    )
    def test_event_filters_select_matching_ids(self, api, long, query, ids):
        assert self.ids(self.get(api, long, query)) == ids

    def test_event_filters_are_read_from_the_body_of_a_get(self, api, long):
        body = json.dumps({"source": "environment"})
        response = api.generic(
            "GET", build_path(long, "/events"), body, content_type="application/json"
        )

        assert self.ids(response.json()) == [10]

    @pytest.mark.parametrize("limit", [-1, 101])
    def test_limit_outside_0_to_100_is_400(self, api, long, limit):
        response = api.get(build_path(long, f"/events?limit={limit}"))

        assert (response.status_code, response.json()["error"]) == (400, "Invalid limit")

    def test_engine_echo_of_a_sent_message_is_left_out(self, api, running):
        message_event = services.post_message(
            conversation_id=running.pk, text="Hello", message_id=str(uuid4())
        )
        running.outgoing_messages.update(attempts=1)
        message = {"role": "user", "content": [{"type": "text", "text": "Hello"}]}
        ingest(
            running,
            make_frame(0, source="user", llm_message=message),
            make_frame(1, source="user", llm_message=message),
        )

        body = self.get(api, running)

        assert self.ids(body) == [
            message_event.seq,
            message_event.seq + 2,
        ]  # the second frame echoes no sent message

    def test_event_with_lone_surrogate_and_infinite_number_is_still_shown(self, api, conversation):
        conversation.append(
            NewEvent(
                event_id="e",
                kind="MessageEvent",
                source="agent",
                payload=r'{"llm_message":{"content":"\ud800\u0000","n":1e400}}',
            )
        )
        body = self.get(api, conversation)

        assert body["events"][0]["message"] == "\ud800\0"

    def test_trajectory_holds_every_event_in_order(self, api, long):
        response = api.get(build_path(long, "/trajectory"))

        body = json.loads(b"".join(response))
        assert [event["id"] for event in body["trajectory"]] == list(range(1, 31))

    def test_remember_prompt_ends_with_the_conversation_up_to_the_event(self, api, long):
        response = api.get(build_path(long, "/remember-prompt?event_id=2"))

        body = response.json()
        assert (response.status_code, body["status"]) == (200, "success")
        assert body["prompt"].endswith("The agent said: number 1\nThe agent said: number 2")
        assert api.get(build_path(long, "/remember-prompt")).status_code == 422


class TestSandboxRoutes:
    def test_sandbox_routes_without_data_return_empty_bodies(self, api, conversation):
        def get(name):
            response = api.get(build_path(conversation, f"/{name}"))
            assert response.status_code == 200
            return response.json()

        assert get("config") == {
            "runtime_id": conversation.sandbox_id.hex,
            "session_id": conversation.pk.hex,
        }
        assert get("vscode-url") == {"vscode_url": None}
        assert get("web-hosts") == {"hosts": {}}
        assert get("microagents") == {"microagents": []}
        written = api.post(build_path(conversation, "/exp-config"), {"config": {}}, format="json")
        assert (written.status_code, written.json()) == (200, False)

    def test_file_routes_without_a_running_sandbox_are_409(self, api, conversation):
        for name in (
            "list-files",
            "select-file?file=a",
            "zip-directory",
            "git/changes",
            "git/diff?path=a",
        ):
            response = api.get(build_path(conversation, f"/{name}"))
            assert (response.status_code, response.json()["code"]) == (
                409,
                "sandbox-not-running",
            ), name

    def test_upload_lists_stored_and_skipped_files_with_reasons(
        self, api, running, monkeypatch, settings
    ):
        settings.UPLOAD_MAX_BYTES = 5
        written = {}

        def write_files(*, conversation_id, files, by):
            for path, content in files:
                written[path] = content.read()
                yield services.WrittenFile(path, len(written[path]))

        monkeypatch.setattr(services, "write_files", write_files)
        files = [
            SimpleUploadedFile(name, body)
            for name, body in (("a.bin", b"\xff\0"), ("b.txt", b"123456"), ("...", b"x"))
        ]
        response = api.post(
            build_path(running, "/upload-files"), {"files": files}, format="multipart"
        )

        body = response.json()
        assert response.status_code == 200, body
        assert [path.rpartition("/")[2] for path in body["uploaded_files"]] == ["a.bin"]
        assert {"name": "b.txt", "reason": "A file may have at most 5 bytes."} in body[
            "skipped_files"
        ]
        assert written == {"a.bin": b"\xff\0"}


class TestFeedback:
    def test_event_rating_is_stored_and_listed_in_the_batch(self, api, running):
        ingest(running, make_frame(0), make_frame(1))
        body = {
            "conversation_id": running.pk.hex,
            "event_id": 1,
            "rating": 4,
            "reason": "good",
            "metadata": {"a": 1},
        }

        response = api.post("/feedback/conversation", body, format="json")
        batch = api.get(f"/feedback/conversation/{running.pk.hex}/batch")

        assert (response.status_code, response.json()["status"]) == (201, "success")
        assert batch.json() == {
            "1": {"exists": True, "rating": 4, "reason": "good"},
            "2": {"exists": False},
        }
        assert running.feedback.get().metadata == {"a": 1}

    def test_negative_feedback_on_a_conversation_is_stored_as_rating_1(self, api, talk):
        body = {
            "email": "",
            "version": "1.0",
            "permissions": "private",
            "polarity": "negative",
            "feedback": "No.",
        }
        response = api.post(build_path(talk, "/submit-feedback"), body, format="json")

        feedback = talk.feedback.get()
        assert response.json() == {
            "body": {
                "message": "Thanks for your feedback.",
                "feedback_id": str(feedback.pk),
                "password": "",
            }
        }
        assert (feedback.rating, feedback.reason) == (1, "No.")

    def test_feedback_is_401_for_anonymous_and_404_for_other_users(self, client, charlie, talk):
        body = {"conversation_id": talk.pk.hex, "rating": 1}

        assert (
            client.post("/feedback/conversation", body, content_type="application/json").status_code
            == 401
        )
        assert (
            key_client(charlie).post("/feedback/conversation", body, format="json").status_code
            == 404
        )
        assert (
            key_client(charlie).get(f"/feedback/conversation/{talk.pk.hex}/batch").status_code
            == 404
        )

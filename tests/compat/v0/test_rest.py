"""V0's REST routes, by full bodies."""

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
from tests.conversations.conftest import frame, ingest, queued, status_frame
from tests.factories.conversations import ConversationFactory

pytestmark = pytest.mark.django_db


@pytest.fixture
def talk(conversation) -> Conversation:
    """Alice's, with something in its log."""
    services.post_message(conversation_id=conversation.pk, text="Hello", message_id=str(uuid4()))
    conversation.refresh_from_db()
    return conversation


def address(conversation, rest=""):
    return f"/api/conversations/{conversation.pk.hex}{rest}"


def stamp(moment):
    return moment.isoformat().replace("+00:00", "Z")


class TestRecord:
    def test_a_record_is_complete(self, api, alice, conversation):
        Conversation.objects.filter(pk=conversation.pk).update(
            repository={"provider": "github", "full_name": "a/b", "branch": "main"},
            pull_requests=[7],
        )
        child = ConversationFactory(created_by=alice, parent=conversation)
        conversation.refresh_from_db()

        answer = api.get(address(conversation))

        body = answer.json()
        key = body.pop("session_api_key")
        assert (answer.status_code, body) == (
            200,
            {
                "conversation_id": conversation.pk.hex,
                "title": "A conversation",
                "last_updated_at": stamp(conversation.updated_at),
                "status": "STARTING",
                "runtime_status": "STATUS$STARTING_RUNTIME",
                "selected_repository": "a/b",
                "selected_branch": "main",
                "git_provider": "github",
                "trigger": "gui",
                "num_connections": 0,
                "url": f"/api/conversations/{conversation.pk.hex}",
                "created_at": stamp(conversation.created_at),
                "pr_number": [7],
                "conversation_version": "V1",
                "sub_conversation_ids": [child.pk.hex],
            },
        )
        opened = APIClient(headers={"X-Session-API-Key": key}).get(address(conversation, "/config"))
        assert opened.status_code == 200

    @pytest.mark.parametrize("form", ["hex", "__str__"])
    def test_ids_come_with_dashes_or_without(self, api, conversation, form):
        shown = conversation.pk.hex if form == "hex" else str(conversation.pk)

        assert api.get(f"/api/conversations/{shown}").status_code == 200

    @pytest.mark.parametrize("shown", ["0" * 32, "x", "..", "a" * 200])
    def test_what_is_not_there_is_404_with_a_sentence(self, api, shown):
        answer = api.get(f"/api/conversations/{shown}")

        assert answer.status_code == 404
        assert isinstance(answer.json()["error"], str)

    def test_nobody_is_401(self, client, conversation):
        answer = client.get(address(conversation))

        assert (answer.status_code, "error" in answer.json()) == (401, True)

    def test_a_key_to_one_conversation_opens_no_other(self, alice, conversation):
        other = ConversationFactory(created_by=alice)
        key = conversation_key(conversation=conversation, user=alice)
        holder = APIClient(headers={"X-Session-API-Key": key})

        assert holder.get(address(conversation, "/events")).status_code == 200
        assert holder.get(address(other, "/events")).status_code == 404

    def test_a_conversation_key_speaks_the_engines_protocol_where_addresses_are_shared(
        self, alice, talk
    ):
        key = conversation_key(conversation=talk, user=alice)
        holder = APIClient(headers={"X-Session-API-Key": key})

        info = holder.get(address(talk)).json()
        by_ids = holder.generic(
            "GET", address(talk, "/events"), b"[]", content_type="application/json"
        )
        said = {"role": "user", "content": [{"type": "text", "text": "Hi"}]}
        theirs = holder.post(address(talk, "/events"), said, format="json")
        event = {"action": "message", "args": {"content": "Ho"}}
        ours = holder.post(address(talk, "/events"), event, format="json")

        assert ("execution_status" in info, "conversation_version" in info) == (True, False)
        assert by_ids.json() == []
        assert [theirs.json(), ours.json()] == [{"success": True}] * 2
        texts = [json.loads(e.payload)["text"] for e in talk.events.order_by("seq")]
        assert texts == ["Hello", "Hi", "Ho"]

    @pytest.mark.parametrize(
        ("status", "execution", "shown", "runtime"),
        [
            ("running", "idle", "RUNNING", "STATUS$READY"),
            ("running", "error", "RUNNING", "STATUS$ERROR"),
            ("stopped", "idle", "STOPPED", "STATUS$STOPPED"),
            ("paused", "idle", "STOPPED", "STATUS$STOPPED"),
            ("failed", "error", "ERROR", "STATUS$ERROR"),
        ],
    )
    def test_states(self, api, conversation, status, execution, shown, runtime):
        Conversation.objects.update(status=status, execution_status=execution)

        body = api.get(address(conversation)).json()

        assert (body["status"], body["runtime_status"]) == (shown, runtime)


class TestList:
    def test_pages_hold_every_conversation_of_both_kinds_once(self, api, alice):
        now = timezone.now()
        rows = [
            ConversationFactory(
                created_by=alice,
                wire_version=("V0", "V1")[number % 2],
                created_at=now - timedelta(minutes=number // 2),
            )
            for number in range(7)
        ]
        seen, page_id, pages = [], "", 0
        while pages == 0 or page_id:
            body = api.get(
                f"/api/conversations?limit=3&page_id={page_id}"
                if page_id
                else "/api/conversations?limit=3"
            ).json()
            seen += body["results"]
            page_id = body["next_page_id"]
            pages += 1

        assert pages == 3
        assert sorted(one["conversation_id"] for one in seen) == sorted(row.pk.hex for row in rows)
        assert [one["created_at"] for one in seen] == sorted(
            (one["created_at"] for one in seen), reverse=True
        )
        assert {one["conversation_version"] for one in seen} == {"V0", "V1"}

    def test_filters_come_before_the_page_is_cut(self, api, alice):
        wanted = ConversationFactory(
            created_by=alice, repository={"full_name": "a/b"}, trigger="slack"
        )
        for _ in range(3):
            ConversationFactory(created_by=alice, parent=wanted)

        for query in (
            "selected_repository=a/b",
            "conversation_trigger=slack",
            "include_sub_conversations=false",
        ):
            body = api.get(f"/api/conversations?limit=1&{query}").json()
            assert [one["conversation_id"] for one in body["results"]] == [wanted.pk.hex]
            assert body["next_page_id"] is None

    def test_the_number_of_queries_does_not_grow(self, api, alice, django_assert_max_num_queries):
        for _ in range(20):
            ConversationFactory(created_by=alice)
        with django_assert_max_num_queries(9):
            assert len(api.get("/api/conversations?limit=20").json()["results"]) == 20

    @pytest.mark.parametrize(
        "query",
        ["limit=0", "limit=101", "limit=x", "page_id=x", "page_id=!!", "conversation_trigger=x"],
    )
    def test_odd_queries_are_422(self, api, query):
        answer = api.get(f"/api/conversations?{query}")

        assert (answer.status_code, "error" in answer.json()) == (422, True)

    def test_microagents_have_a_list_of_their_own(self, api, alice):
        ConversationFactory(created_by=alice)
        one = ConversationFactory(
            created_by=alice, trigger="microagent_management", repository={"full_name": "a/b"}
        )

        body = api.get("/api/microagent-management/conversations?selected_repository=a/b").json()

        assert [row["conversation_id"] for row in body["results"]] == [one.pk.hex]


class TestCreate:
    def test_with_a_message_and_a_repository(self, api):
        answer = api.post(
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
        assert (answer.status_code, answer.json()) == (
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

    def test_from_scratch_with_a_cookie(self, client, alice):
        client.force_login(alice)

        answer = client.post("/api/conversations", {}, content_type="application/json")

        row = Conversation.objects.get()
        assert (answer.status_code, row.trigger, row.events.count()) == (200, "gui", 0)

    def test_with_images(self, api):
        image = "data:image/png;base64,AAAA"
        api.post(
            "/api/conversations", {"initial_user_msg": "Look", "image_urls": [image]}, format="json"
        )

        assert json.loads(Event.objects.get().payload) == {"text": "Look", "images": [image]}

    @pytest.mark.parametrize(
        ("task", "said"),
        [("OPEN_ISSUE", "issue #5 (Broken) in a/b"), ("SOMETHING", "#5 (Broken) in a/b")],
    )
    def test_a_suggested_task_becomes_a_message(self, client, alice, task, said):
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
        assert said in json.loads(row.events.get().payload)["text"]

    def test_instructions_stand_before_the_message(self, client, alice):
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
    def test_what_is_not_taken_is_422_and_makes_nothing(self, api, body):
        answer = api.post("/api/conversations", body, format="json")

        assert (answer.status_code, "error" in answer.json()) == (422, True)
        assert not Conversation.objects.exists()

    def test_a_bad_image_makes_nothing(self, api):
        answer = api.post(
            "/api/conversations",
            {"initial_user_msg": "Look", "image_urls": ["file:///etc/passwd"]},
            format="json",
        )

        assert answer.status_code == 400
        assert not Conversation.objects.exists()


class TestSteering:
    def test_rename_and_delete(self, api, conversation):
        renamed = api.patch(address(conversation), {"title": "New"}, format="json")
        empty = api.patch(address(conversation), {"title": ""}, format="json")
        conversation.refresh_from_db()
        deleted = api.delete(address(conversation))

        assert (renamed.status_code, renamed.json(), conversation.title) == (200, True, "New")
        assert empty.status_code == 422
        assert (deleted.status_code, deleted.json()) == (200, True)
        assert api.get(address(conversation)).status_code == 404

    def test_stop_and_start(self, api, running):
        stopped = api.post(address(running, "/stop"))
        again = api.post(address(running, "/stop"))
        started = api.post(address(running, "/start"), {"providers_set": ["github"]}, format="json")

        base = {"status": "ok", "conversation_id": running.pk.hex, "message": None}
        assert (stopped.status_code, stopped.json()) == (
            200,
            base | {"conversation_status": "STOPPED"},
        )
        assert again.json() == stopped.json()
        assert started.json()["conversation_status"] in ("STARTING", "RUNNING")
        assert queued("run_agent") == []

    def test_message(self, api, conversation):
        answer = api.post(address(conversation, "/message"), {"message": "Hi"}, format="json")

        assert (answer.status_code, answer.json()) == (200, {"success": True})
        assert json.loads(conversation.events.get().payload) == {"text": "Hi"}

    def test_events_are_actions_of_people(self, api, running):
        ingest(running, status_frame(0, "running"), status_frame(1, "waiting_for_confirmation"))

        def send(action, **args):
            return api.post(
                address(running, "/events"), {"action": action, "args": args}, format="json"
            )

        confirmed = send("change_agent_state", agent_state="user_confirmed")
        twice = send("change_agent_state", agent_state="user_confirmed")
        stopped = send("change_agent_state", agent_state="stopped")
        said = send("message", content="Hi", image_urls=[], file_urls=["/w/a.txt"])
        refused = [
            send("run", command="rm -rf /"),
            send("change_agent_state", agent_state="odd"),
            send("message", content=" "),
        ]

        assert [one.status_code for one in (confirmed, twice, stopped, said)] == [
            200,
            409,
            200,
            200,
        ]
        assert said.json() == {"success": True}
        assert [one.status_code for one in refused] == [400, 400, 400]
        assert queued("interrupt_agent")
        events = [
            (e.kind, json.loads(e.payload))
            for e in running.events.filter(source="user").order_by("seq")
        ]
        assert [kind for kind, _ in events] == ["UserConfirmation", "UserMessage"]
        assert events[1][1]["text"] == "Hi\n\nFiles in the workspace: /w/a.txt"

    def test_a_viewer_may_watch_and_not_steer(self, alice, bob, conversation):
        services.set_visibility(conversation_id=conversation.pk, visibility="organization")
        bob.memberships.filter(organization=alice.personal_organization).update(role="viewer")
        viewer = key_client(bob, organization=alice.personal_organization)

        assert viewer.get(address(conversation, "/events")).status_code == 200
        assert (
            viewer.post(
                address(conversation, "/message"), {"message": "x"}, format="json"
            ).status_code
            == 403
        )


class TestEvents:
    @pytest.fixture
    def long(self, conversation) -> Conversation:
        """Thirty messages of the agent, with one state between them."""
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
        answer = api.get(address(conversation, f"/events?{query}"))
        assert answer.status_code == 200, answer.json()
        return answer.json()

    def ids(self, body):
        return [event["id"] for event in body["events"]]

    def test_one_event(self, api, talk):
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
        seen, start, more = [], 0, True
        while more:
            body = self.get(api, long, f"start_id={start}&limit=7")
            seen += self.ids(body)
            start, more = seen[-1] + 1, body["has_more"]
        back = self.get(api, long, "reverse=true&limit=100")

        assert seen == list(range(1, 31))
        assert self.ids(back) == list(range(30, 0, -1))

    @pytest.mark.parametrize(
        ("query", "found"),
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
    def test_filters(self, api, long, query, found):
        assert self.ids(self.get(api, long, query)) == found

    def test_filters_in_the_body_of_the_get(self, api, long):
        body = json.dumps({"source": "environment"})
        answer = api.generic("GET", address(long, "/events"), body, content_type="application/json")

        assert self.ids(answer.json()) == [10]

    @pytest.mark.parametrize("limit", [-1, 101])
    def test_an_odd_limit_is_400(self, api, long, limit):
        answer = api.get(address(long, f"/events?limit={limit}"))

        assert (answer.status_code, answer.json()["error"]) == (400, "Invalid limit")

    def test_the_echo_of_a_message_is_not_told_twice(self, api, running):
        said = services.post_message(
            conversation_id=running.pk, text="Hello", message_id=str(uuid4())
        )
        running.outgoing_messages.update(attempts=1)
        message = {"role": "user", "content": [{"type": "text", "text": "Hello"}]}
        ingest(
            running,
            frame(0, source="user", llm_message=message),
            frame(1, source="user", llm_message=message),
        )

        body = self.get(api, running)

        assert self.ids(body) == [said.seq, said.seq + 2]  # the second is nobody's echo

    def test_what_no_writer_of_json_takes_is_told_all_the_same(self, api, conversation):
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

    def test_trajectory(self, api, long):
        answer = api.get(address(long, "/trajectory"))

        body = json.loads(b"".join(answer))
        assert [event["id"] for event in body["trajectory"]] == list(range(1, 31))

    def test_remember_prompt(self, api, long):
        answer = api.get(address(long, "/remember-prompt?event_id=2"))

        body = answer.json()
        assert (answer.status_code, body["status"]) == (200, "success")
        assert body["prompt"].endswith("The agent said: number 1\nThe agent said: number 2")
        assert api.get(address(long, "/remember-prompt")).status_code == 422


class TestPlace:
    def test_honest_answers(self, api, conversation):
        def get(name):
            answer = api.get(address(conversation, f"/{name}"))
            assert answer.status_code == 200
            return answer.json()

        assert get("config") == {
            "runtime_id": conversation.sandbox_id.hex,
            "session_id": conversation.pk.hex,
        }
        assert get("vscode-url") == {"vscode_url": None}
        assert get("web-hosts") == {"hosts": {}}
        assert get("microagents") == {"microagents": []}
        written = api.post(address(conversation, "/exp-config"), {"config": {}}, format="json")
        assert (written.status_code, written.json()) == (200, False)

    def test_files_need_a_running_sandbox(self, api, conversation):
        for name in (
            "list-files",
            "select-file?file=a",
            "zip-directory",
            "git/changes",
            "git/diff?path=a",
        ):
            answer = api.get(address(conversation, f"/{name}"))
            assert (answer.status_code, answer.json()["code"]) == (409, "sandbox-not-running"), name

    def test_upload_says_what_it_skipped(self, api, running, monkeypatch, settings):
        settings.UPLOAD_MAX_BYTES = 5
        written = {}

        def write_file(*, conversation_id, path, content):
            written[path] = content.read()
            return len(written[path])

        monkeypatch.setattr(services, "write_file", write_file)
        files = [
            SimpleUploadedFile(name, body)
            for name, body in (("a.bin", b"\xff\0"), ("b.txt", b"123456"), ("...", b"x"))
        ]
        answer = api.post(address(running, "/upload-files"), {"files": files}, format="multipart")

        body = answer.json()
        assert answer.status_code == 200, body
        assert [one.rpartition("/")[2] for one in body["uploaded_files"]] == ["a.bin"]
        assert {"name": "b.txt", "reason": "A file may have at most 5 bytes."} in body[
            "skipped_files"
        ]
        assert written == {"a.bin": b"\xff\0"}


class TestFeedback:
    def test_of_an_event(self, api, running):
        ingest(running, frame(0), frame(1))
        body = {
            "conversation_id": running.pk.hex,
            "event_id": 1,
            "rating": 4,
            "reason": "good",
            "metadata": {"a": 1},
        }

        given = api.post("/feedback/conversation", body, format="json")
        batch = api.get(f"/feedback/conversation/{running.pk.hex}/batch")

        assert (given.status_code, given.json()["status"]) == (201, "success")
        assert batch.json() == {
            "1": {"exists": True, "rating": 4, "reason": "good"},
            "2": {"exists": False},
        }
        assert running.feedback.get().metadata == {"a": 1}

    def test_of_a_conversation(self, api, talk):
        body = {
            "email": "",
            "version": "1.0",
            "permissions": "private",
            "polarity": "negative",
            "feedback": "No.",
        }
        answer = api.post(address(talk, "/submit-feedback"), body, format="json")

        kept = talk.feedback.get()
        assert answer.json() == {
            "body": {
                "message": "Thanks for your feedback.",
                "feedback_id": str(kept.pk),
                "password": "",
            }
        }
        assert (kept.rating, kept.reason) == (1, "No.")

    def test_needs_somebody_who_may_see_it(self, client, charlie, talk):
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

"""Edge cases of the V1 protocol's REST routes: foreign rows, invalid input, streams and unusual states."""

import json
from uuid import uuid4

import pytest

from compat.v1 import app_conversations, responses
from conversations import services
from conversations.models import Conversation, StartTask
from tests.conftest import key_client
from tests.conversations.conftest import ingest, list_queued_jobs, make_frame, make_status_frame

URL = "/api/v1/app-conversations"
MESSAGE = {"role": "user", "content": [{"type": "text", "text": "Hi"}]}


def read(client, conversation):
    [record] = client.get(f"{URL}?ids={conversation.pk}").json()
    return record


class TestStatus:
    def test_deleted_sandbox_is_missing_without_a_key_or_an_address(self, api, running):
        assert read(api, running)["sandbox_status"] == "RUNNING"
        Conversation.objects.update(sandbox=None, status="stopped")
        assert Conversation.objects.get().sandbox is None

        record = read(api, running)

        fields = (
            "sandbox_id",
            "sandbox_status",
            "execution_status",
            "conversation_url",
            "session_api_key",
        )
        assert [record[name] for name in fields] == ["", "MISSING", None, None, None]

    def test_run_that_the_stopped_sandbox_did_not_end_is_paused(self, api, running):
        ingest(running, make_status_frame(0, "running"))
        assert read(api, running)["execution_status"] == "running"

        Conversation.objects.update(status="stopped")

        record = read(api, running)
        assert (record["sandbox_status"], record["execution_status"]) == ("PAUSED", "paused")

    def test_waiting_message_makes_a_finished_agent_running(self, api, running):
        ingest(running, make_status_frame(0, "finished"))
        assert read(api, running)["execution_status"] == "finished"

        services.post_message(conversation_id=running.pk, text="Hi", message_id="m1")

        assert read(api, running)["execution_status"] == "running"

    def test_start_that_waits_shows_its_place_in_the_queue(self, api, conversation):
        StartTask.objects.update(queue_position=3)
        start = conversation.start_tasks.get()

        [task] = api.get(f"{URL}/start-tasks?ids={start.pk}").json()

        assert (task["status"], task["app_conversation_id"]) == ("WORKING", None)
        assert task["detail"] == "Waiting for a sandbox: number 3 in the queue."

    def test_failed_start_shows_its_error(self, api, conversation):
        StartTask.objects.update(phase="ERROR", error="The clone failed.", queue_position=3)

        [task] = api.get(f"{URL}/start-tasks/search").json()["items"]

        assert (task["status"], task["detail"]) == ("ERROR", "The clone failed.")

    def test_sandbox_that_does_not_run_has_neither_key_nor_addresses(self, api, conversation):
        [sandbox] = api.get(f"/api/v1/sandboxes?id={conversation.sandbox_id}").json()

        fields = ("status", "session_api_key", "exposed_urls")
        assert [sandbox[name] for name in fields] == ["STARTING", None, None]

    def test_conversation_without_a_sandbox_cannot_be_serialized_as_one(self, alice, conversation):
        conversation.sandbox = None

        with pytest.raises(ValueError, match="no sandbox"):
            responses.serialize_sandbox(conversation, alice)


class TestStart:
    def test_message_starts_in_the_requested_sandbox_with_its_title(self, api):
        sandbox = api.post("/api/v1/sandboxes").json()
        body = {"sandbox_id": sandbox["id"], "title": "Named"}

        response = api.post(URL, body, format="json")

        row = Conversation.objects.get()
        assert response.json()["sandbox_id"] == sandbox["id"]
        assert (row.title, row.events.count()) == ("Named", 0)

    def test_empty_start_in_a_sandbox_keeps_the_title(self, api):
        sandbox = api.post("/api/v1/sandboxes").json()
        title = Conversation.objects.get().title

        response = api.post(URL, {"sandbox_id": sandbox["id"]}, format="json")

        assert (response.status_code, Conversation.objects.get().title) == (200, title)

    def test_unknown_or_foreign_sandbox_is_404(self, api, charlie):
        foreign = services.create_conversation(user=charlie)

        for sandbox_id in (uuid4(), foreign.sandbox_id):
            body = {"sandbox_id": str(sandbox_id), "initial_message": MESSAGE}
            assert api.post(URL, body, format="json").status_code == 404
        assert not foreign.events.exists()

    def test_foreign_parent_is_404_and_creates_nothing(self, api, charlie):
        foreign = services.create_conversation(user=charlie)

        response = api.post(URL, {"parent_conversation_id": str(foreign.pk)}, format="json")

        assert (response.status_code, response.json()["code"]) == (404, "not-found")
        assert Conversation.objects.get() == foreign

    @pytest.mark.parametrize(
        ("body", "sentence"),
        [
            (
                {"agent_type": "plan"},
                "agent_type: This server has no planning agent. Use the default agent.",
            ),
            (
                {"processors": [{}]},
                "processors: Clients cannot set callback processors on this server. Use webhooks instead.",
            ),
            (
                {"system_message_suffix": "x"},
                "system_message_suffix: This field is not supported. Put the instructions into the first message.",
            ),
            ({"sandbox_id": "x"}, "sandbox_id: This is not a UUID."),
            ({"trigger": "x"}, 'trigger: "x" is not a valid choice.'),
        ],
    )
    def test_unsupported_field_is_422_with_its_name_and_reason(self, api, body, sentence):
        response = api.post(URL, body, format="json")

        assert (response.status_code, response.json()["error"]) == (422, sentence)
        assert not Conversation.objects.exists()

    @pytest.mark.parametrize(
        "image",
        [
            *({}, {"image_url": None}, {"image_url": "https://a.example/b.png"}, {"image_url": {}}),
            *({"image_url": {"url": url}} for url in (None, [], {}, "", "\ud800", "a\0b")),
        ],
    )
    def test_image_part_without_a_usable_url_is_422(self, api, image):
        part = {"type": "image_url", "text": "a"} | image
        body = json.dumps({"initial_message": {"role": "user", "content": [part]}})

        response = api.post(URL, body, content_type="application/json")

        assert response.status_code == 422, response.content
        assert not Conversation.objects.exists()

    def test_image_parts_of_both_forms_are_stored(self, api):
        parts = [
            {"type": "text", "text": "Look"},
            {"type": "image", "image_urls": ["https://example.com/a.png"]},
            {"type": "image_url", "image_url": {"url": "https://example.com/b.png"}},
            {"type": "text", "text": "here"},
        ]
        body = {"initial_message": {"role": "user", "content": parts}}

        assert api.post(URL, body, format="json").status_code == 200

        assert json.loads(Conversation.objects.get().events.get().payload) == {
            "text": "Look\nhere",
            "images": ["https://example.com/a.png", "https://example.com/b.png"],
        }

    def test_web_session_has_trigger_gui_and_a_key_has_trigger_api(self, client, api, alice):
        client.force_login(alice)

        client.post(URL, {}, content_type="application/json")
        api.post(URL, {}, format="json")

        triggers = Conversation.objects.order_by("created_at").values_list("trigger", flat=True)
        assert list(triggers) == ["gui", "openhands_api"]


class TestStream:
    @pytest.fixture(autouse=True)
    def _no_pause(self, monkeypatch):
        monkeypatch.setattr(app_conversations, "STREAM_PAUSE", 0)

    def read_stream(self, api):
        return json.loads(b"".join(api.post(f"{URL}/stream-start", {}, format="json")))

    def test_unchanged_task_is_sent_once(self, api, monkeypatch):
        looks = []

        def sleep(_):
            looks.append(1)
            if len(looks) == 3:
                StartTask.objects.update(phase="ERROR", error="It failed.")

        monkeypatch.setattr(app_conversations.time, "sleep", sleep)

        statuses = [(task["status"], task["detail"]) for task in self.read_stream(api)]

        assert statuses == [("WORKING", None), ("ERROR", "It failed.")]

    def test_deleted_conversation_ends_the_stream(self, api, monkeypatch):
        monkeypatch.setattr(
            app_conversations.time, "sleep", lambda _: StartTask.objects.all().delete()
        )

        assert [task["status"] for task in self.read_stream(api)] == ["WORKING"]

    def test_stream_without_time_is_an_empty_array(self, api, monkeypatch):
        monkeypatch.setattr(app_conversations, "STREAM_SECONDS", -1)

        assert self.read_stream(api) == []


class TestSearch:
    @pytest.mark.parametrize(
        ("query", "count"),
        [
            ("created_at__gte=2000-01-01T00:00:00Z", 1),
            ("created_at__lt=2000-01-01T00:00:00Z", 0),
            ("updated_at__gte=2100-01-01T00:00:00Z", 0),
            ("updated_at__lt=2100-01-01T00:00:00Z", 1),
            ("title__contains=CONVERSATION", 1),
            ("title__contains=_", 0),
        ],
    )
    def test_filters_of_the_count(self, api, conversation, query, count):
        assert api.get(f"{URL}/count?{query}").json() == count

    @pytest.mark.parametrize("query", ["created_at__gte=x", "include_sub_conversations=x"])
    def test_invalid_filter_is_422_naming_the_field(self, api, query):
        response = api.get(f"{URL}/count?{query}")

        assert response.status_code == 422
        assert response.json()["error"].startswith(query.partition("=")[0])

    def test_start_tasks_are_sorted_and_filtered(self, api, alice):
        first, second = (services.create_conversation(user=alice) for _ in range(2))

        def read_sandboxes(query):
            items = api.get(f"{URL}/start-tasks/search?{query}").json()["items"]
            return [item["sandbox_id"] for item in items]

        newest_first = [second.sandbox_id.hex, first.sandbox_id.hex]
        assert read_sandboxes("") == newest_first
        assert read_sandboxes("sort_order=CREATED_AT") == newest_first[::-1]
        assert read_sandboxes("created_at__gte=2100-01-01T00:00:00Z") == []
        assert api.get(f"{URL}/start-tasks/count?conversation_id__eq={first.pk}").json() == 1

    def test_foreign_start_tasks_are_null_and_not_counted(self, conversation, charlie):
        client, start = key_client(charlie), conversation.start_tasks.get()

        assert client.get(f"{URL}/start-tasks?ids={start.pk}").json() == [None]
        assert client.get(f"{URL}/start-tasks/count").json() == 0
        assert client.get(f"{URL}/start-tasks/search").json() == {"items": [], "next_page_id": None}


class TestSandboxes:
    URL = "/api/v1/sandboxes"

    @pytest.mark.parametrize("action", ["pause", "resume"])
    def test_foreign_sandbox_is_404_and_not_changed(self, running, charlie, action):
        before = {task: list_queued_jobs(task) for task in ("stop_sandbox", "run_agent")}

        response = key_client(charlie).post(f"{self.URL}/{running.sandbox_id}/{action}")

        assert (response.status_code, response.json()["code"]) == (404, "not-found")
        assert {task: list_queued_jobs(task) for task in before} == before

    def test_foreign_sandbox_is_null_and_cannot_be_deleted(self, running, charlie):
        client = key_client(charlie)

        assert client.get(f"{self.URL}?id={running.sandbox_id}").json() == [None]
        assert client.delete(f"{self.URL}/{running.sandbox_id}").status_code == 404
        assert client.delete(f"{self.URL}/x?sandbox_id={running.sandbox_id}").status_code == 404
        running.refresh_from_db()
        assert running.deleted_at is None

    def test_unknown_specification_is_422_and_creates_nothing(self, api):
        response = api.post(f"{self.URL}?sandbox_spec_id=big")

        sentence = "sandbox_spec_id: This specification does not exist. Use agent-server."
        assert (response.status_code, response.json()["error"]) == (422, sentence)
        assert not Conversation.objects.exists()

    @pytest.mark.parametrize("query", ["", "?" + "&".join(["id=x"] * 101)])
    @pytest.mark.parametrize("route", ["sandbox-specs", "events"])
    def test_missing_or_too_many_ids_are_422(self, api, route, query):
        response = api.get(f"/api/v1/{route}{query}")

        assert (response.status_code, response.json()["error"]) == (422, "id: Send 1 to 100 ids.")

    @pytest.mark.parametrize("text", ["x", "{0}", "urn:uuid:0"])
    def test_malformed_sandbox_id_is_422(self, api, text):
        response = api.get(self.URL, {"id": text})

        assert (response.status_code, response.json()["error"]) == (422, "id: This is not a UUID.")


class TestEvents:
    @pytest.mark.parametrize("spelling", ["hex", "dashes"])
    def test_event_id_is_found_with_and_without_dashes(self, api, running, spelling):
        event_id = uuid4()
        ingest(running, make_frame(0, id=event_id.hex if spelling == "dashes" else str(event_id)))
        requested = event_id.hex if spelling == "hex" else str(event_id)

        [event] = api.get(f"/api/v1/events?id={requested}").json()

        assert event["kind"] == "MessageEvent"

    @pytest.mark.parametrize("page_id", ["-1", "1.5", "²", "9" * 19])
    def test_malformed_page_id_is_422(self, api, page_id):
        response = api.get("/api/v1/events/search", {"page_id": page_id})

        sentence = "page_id: Send the `next_page_id` of an earlier page."
        assert (response.status_code, response.json()["error"]) == (422, sentence)

    def test_foreign_events_are_not_counted_or_searched(self, running, charlie):
        ingest(running, make_frame(0))
        client = key_client(charlie)

        query = f"conversation_id__eq={running.pk}"
        assert client.get(f"/api/v1/events/count?{query}").json() == 0
        body = client.get(f"/api/v1/events/search?{query}").json()
        assert body == {"items": [], "next_page_id": None}


@pytest.mark.parametrize("sandbox_id", ["x", "01890000-0000-7000-8000-000000000000"])
def test_webhook_of_an_unknown_sandbox_is_401_with_a_sentence(client, db, sandbox_id):
    response = client.post(
        f"/api/v1/webhooks/{sandbox_id}/conversations", headers={"X-Session-API-Key": "k"}
    )

    assert response.status_code == 401
    assert response.json()["error"] == (
        "Send the session key of this sandbox in the header X-Session-API-Key."
    )

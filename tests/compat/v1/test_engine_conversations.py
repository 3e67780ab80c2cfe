"""The engine's routes for conversations and events, as the OpenHands SDK calls them."""

from uuid import uuid4

import pytest
from rest_framework.test import APIClient

from accounts import services as accounts
from conversations import services
from conversations.models import Conversation
from tests.conversations.conftest import ingest, make_frame, make_status_frame

pytestmark = pytest.mark.django_db
URL = "/api/conversations"
MESSAGE = {"role": "user", "content": [{"type": "text", "text": "Hi"}]}


@pytest.fixture
def sdk(alice):
    """A client with Alice's API key in the engine's header, like the SDK."""
    _, key = accounts.issue_api_key(user=alice, name="sdk")
    return APIClient(headers={"X-Session-API-Key": key})


@pytest.fixture
def logged(running):
    """A running conversation with three events: a message, an action and a state."""
    ingest(
        running,
        make_frame(0),
        make_frame(1, kind="ActionEvent", thought=[], action={"kind": "ThinkAction"}),
        make_status_frame(2, "running"),
    )
    return running


class TestCreate:
    def test_engine_request_creates_a_conversation_with_its_id_and_policy(self, sdk):
        conversation_id = uuid4()
        body = {
            "agent": {"kind": "Agent"},
            "conversation_id": str(conversation_id),
            "initial_message": MESSAGE,
            "confirmation_policy": {"kind": "AlwaysConfirm"},
        }

        response = sdk.post(URL, body, format="json")

        row = Conversation.objects.get(pk=conversation_id)
        assert response.status_code == 201
        assert (response.json()["id"], response.json()["title"]) == (str(conversation_id), "Hi")
        assert (row.confirmation_policy, row.trigger) == ("always", "openhands_api")
        assert row.events.get().payload == '{"text":"Hi"}'

    def test_repeated_engine_request_returns_the_conversation_unchanged(self, sdk):
        body = {"agent": {}, "conversation_id": str(uuid4()), "initial_message": MESSAGE}
        first = sdk.post(URL, body, format="json")

        repeated = sdk.post(URL, body, format="json")

        assert (first.status_code, repeated.status_code) == (201, 200)
        assert repeated.json()["id"] == first.json()["id"]
        assert Conversation.objects.get().events.count() == 1

    def test_id_of_another_users_conversation_is_409(self, sdk, charlie):
        foreign = services.create_conversation(user=charlie)
        body = {"agent": {}, "conversation_id": str(foreign.pk)}

        response = sdk.post(URL, body, format="json")

        assert response.status_code == 409
        assert [row.created_by for row in Conversation.objects.all()] == [charlie]

    def test_body_without_engine_fields_is_a_v0_request(self, sdk):
        response = sdk.post(URL, {"initial_user_msg": "Hi"}, format="json")

        row = Conversation.objects.get()
        assert response.json() == {
            "status": "ok",
            "conversation_id": row.pk.hex,
            "conversation_status": "STARTING",
            "message": None,
        }
        assert row.wire_version == "V0"


class TestRead:
    @pytest.mark.parametrize("path", ["x", "0" * 31, "{}", "01890000-0000-7000-8000-000000000000"])
    @pytest.mark.parametrize("rest", ["events/search", "events/count"])
    def test_unknown_or_malformed_id_is_404(self, sdk, path, rest):
        response = sdk.get(f"{URL}/{path}/{rest}")

        assert (response.status_code, response.json()["code"]) == (404, "not-found")

    def test_info_is_the_engines_record(self, sdk, running):
        body = sdk.get(f"{URL}/{running.pk}").json()

        assert (body["id"], body["execution_status"]) == (str(running.pk), "idle")
        assert body["workspace"] == {"kind": "LocalWorkspace", "working_dir": "/workspace/project"}
        assert body["agent"]["llm"] == {"model": "openai/demo", "usage_id": "agent", "stream": True}
        assert body["confirmation_policy"] == {"kind": "NeverConfirm"}

    @pytest.mark.parametrize(
        ("query", "count"),
        [
            ("", 3),
            ("kind=ActionEvent", 1),
            ("kind=openhands.sdk.event.ActionEvent", 1),
            ("kind=PauseEvent", 0),
            ("source=agent", 2),
            ("source=user", 0),
            ("source=environment&kind=ConversationStateUpdateEvent", 1),
            ("timestamp__gte=2000-01-01T00:00:00", 3),
            ("timestamp__lt=2000-01-01T00:00:00", 0),
        ],
    )
    def test_count_applies_the_filters(self, sdk, logged, query, count):
        assert sdk.get(f"{URL}/{logged.pk}/events/count?{query}").json() == count

    def test_search_pages_forward_and_backward(self, sdk, logged):
        def read(query):
            body = sdk.get(f"{URL}/{logged.pk}/events/search?limit=2&{query}").json()
            return [event["id"] for event in body["items"]], body["next_page_id"]

        first, page_id = read("")
        last, end = read(f"page_id={page_id}")

        assert (first, last, end) == (["event-0", "event-1"], ["event-2"], None)
        assert read("sort_order=TIMESTAMP_DESC")[0] == ["event-2", "event-1"]

    @pytest.mark.parametrize(
        "query", ["sort_order=RANDOM", "page_id=x", "limit=101", "kind=" + "k" * 81]
    )
    def test_invalid_search_is_422(self, sdk, logged, query):
        response = sdk.get(f"{URL}/{logged.pk}/events/search?{query}")

        assert response.status_code == 422
        assert response.json()["error"].startswith(query.partition("=")[0])

    def test_events_by_ids_keep_order_with_null_for_unknown_ids(self, sdk, logged):
        response = sdk.get(f"{URL}/{logged.pk}/events?id=event-1&id=none&id=event-0")

        assert [event and event["id"] for event in response.json()] == ["event-1", None, "event-0"]

    def test_more_than_100_ids_are_422(self, sdk, logged):
        response = sdk.get(f"{URL}/{logged.pk}/events?" + "&".join(["id=x"] * 101))

        assert response.status_code == 422
        assert response.json()["error"] == "Send a list of at most 100 ids."


class TestWrite:
    def test_message_without_run_is_stored_and_held(self, sdk, running):
        response = sdk.post(f"{URL}/{running.pk}/events", MESSAGE, format="json")

        assert (response.status_code, response.json()) == (200, {"success": True})
        assert running.events.get(kind="UserMessage").payload == '{"text":"Hi"}'
        assert services.send_held_messages(conversation_id=running.pk)

    @pytest.mark.parametrize(
        ("body", "cause"),
        [
            ({"role": "assistant", "content": []}, "role"),
            ({"role": "user"}, "content"),
            ({"role": "user", "content": [{"type": "video"}]}, "type"),
            ({"role": "user", "content": [{"type": "text", "text": "x"}] * 101}, "100 elements"),
        ],
    )
    def test_invalid_message_is_422_and_not_stored(self, sdk, running, body, cause):
        response = sdk.post(f"{URL}/{running.pk}/events", body, format="json")

        assert response.status_code == 422
        assert cause in response.json()["error"]
        assert not running.events.exists()

    def test_confirmation_without_a_question_is_409(self, sdk, running):
        url = f"{URL}/{running.pk}/events/respond_to_confirmation"

        response = sdk.post(url, {"accept": False, "reason": "no"}, format="json")

        assert (response.status_code, response.json()["code"]) == (409, "not-waiting")

"""V0 actions of clients: messages, images and changes of the agent's state."""

import json

import pytest

from compat.v0 import commands
from conversations.services.confirmations import NotWaiting
from tests.conversations.conftest import ingest, list_queued_jobs, make_status_frame

pytestmark = pytest.mark.django_db
PNG = "data:image/png;base64,AA"


def execute(conversation, action, **args):
    event = {"action": action, "args": args}
    commands.execute(conversation_id=conversation.pk, event=event, by=conversation.created_by)


def read_message(conversation):
    return json.loads(conversation.events.get(kind="UserMessage").payload)


class TestMessage:
    def test_image_without_text_is_a_message(self, conversation):
        execute(conversation, "message", content="", image_urls=[PNG])

        assert read_message(conversation) == {"text": "", "images": [PNG]}

    def test_misspelled_field_of_older_clients_holds_images(self, conversation):
        execute(conversation, "message", content="Look", images_urls=[PNG])

        assert read_message(conversation) == {"text": "Look", "images": [PNG]}

    def test_files_without_text_are_a_message(self, conversation):
        execute(conversation, "message", file_urls=["/w/a", "", 7, "/w/b"])

        assert read_message(conversation) == {"text": "Files in the workspace: /w/a, /w/b"}

    @pytest.mark.parametrize(
        "images", ["x", {"a": 1}, [None, "", 7]], ids=["text", "object", "other-items"]
    )
    def test_images_of_an_unexpected_type_are_ignored(self, conversation, images):
        execute(conversation, "message", content="Hi", image_urls=images)

        assert read_message(conversation) == {"text": "Hi"}

    @pytest.mark.parametrize(
        ("args", "sentence"),
        [
            ({"content": " \n"}, "A message needs text or an image."),
            ({"content": None}, "A message needs text or an image."),
            ({"content": "x" * 200_001}, "A message may have at most 200,000 characters."),
            ({"content": "x", "image_urls": [PNG] * 9}, "A message may have at most 8 images."),
        ],
    )
    def test_invalid_message_is_refused_with_a_sentence(self, conversation, args, sentence):
        with pytest.raises(commands.NotAnAction, match=sentence):
            execute(conversation, "message", **args)

        assert conversation.last_seq == 0
        assert not conversation.events.exists()

    @pytest.mark.parametrize(
        "url",
        [
            "http://example.com/a.png",
            "file:///etc/passwd",
            "data:text/html;base64,AA",
            "data:image/svg+xml;base64,AA",
            "https://example.com/a b",
            "https://example.com/\n",
            f"https://example.com/{'a' * 2_000_000}",
        ],
        ids=["http", "file", "html", "svg", "space", "newline", "too-long"],
    )
    def test_other_image_urls_are_refused(self, url):
        assert commands.validate_images(["https://example.com/a.png"])
        with pytest.raises(commands.NotAnAction, match="Each image must be"):
            commands.validate_images(["https://example.com/a.png", url])


class TestAgentState:
    @pytest.mark.parametrize("state", ["stopped", "paused"])
    def test_stopped_and_paused_interrupt_the_agent(self, running, state):
        execute(running, "change_agent_state", agent_state=state)

        assert len(list_queued_jobs("interrupt_agent")) == 1

    def test_running_resumes_a_paused_agent(self, running):
        ingest(running, make_status_frame(0, "running"), make_status_frame(1, "paused"))

        execute(running, "change_agent_state", agent_state="running")

        assert len(list_queued_jobs("run_agent")) == 1

    def test_rejection_keeps_the_thought_as_its_reason(self, running):
        ingest(running, make_status_frame(0, "waiting_for_confirmation"))

        execute(running, "change_agent_state", agent_state="user_rejected", thought="Too risky")

        payload = json.loads(running.events.get(kind="UserConfirmation").payload)
        assert (payload["accept"], payload["reason"]) == (False, "Too risky")

    def test_answer_to_an_earlier_question_is_refused(self, running):
        ingest(running, make_status_frame(0, "waiting_for_confirmation"))
        event = {"action": "change_agent_state", "args": {"agent_state": "user_confirmed"}}

        with pytest.raises(NotWaiting):
            commands.execute(
                conversation_id=running.pk, event=event, asked_seq=7_000, by=running.created_by
            )
        assert not running.events.filter(kind="UserConfirmation").exists()
        commands.execute(conversation_id=running.pk, event=event, by=running.created_by)
        assert running.events.filter(kind="UserConfirmation").exists()

    @pytest.mark.parametrize("state", ["finished", "", None, 7, ["running"]])
    def test_other_state_is_refused_with_the_allowed_states(self, running, state):
        with pytest.raises(commands.NotAnAction, match="Use `running`, `paused`, `stopped`"):
            execute(running, "change_agent_state", agent_state=state)


@pytest.mark.parametrize(
    "event", [None, [], "message", {}, {"action": "run"}, {"action": ["message"]}]
)
def test_other_event_is_refused(conversation, event):
    with pytest.raises(commands.NotAnAction, match="Only messages and changes"):
        commands.execute(conversation_id=conversation.pk, event=event, by=conversation.created_by)


def test_refused_action_over_rest_is_400_with_its_code(api, conversation):
    url = f"/api/conversations/{conversation.pk.hex}/events"

    response = api.post(url, {"action": "run", "args": {"command": "ls"}}, format="json")

    sentence = "Only messages and changes of the agent's state can be sent here."
    assert response.status_code == 400
    assert (response.json()["code"], response.json()["error"]) == ("not-an-action", sentence)

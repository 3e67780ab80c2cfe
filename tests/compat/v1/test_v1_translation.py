"""Translation of our log to V1 events: our own kinds, missing fields and hidden events."""

import json
from datetime import UTC, datetime

import pytest

from compat.v1 import translation
from conversations.models import Event, LoggedEvent, OutgoingMessage
from tests.factories.conversations import ConversationFactory, OutgoingMessageFactory

AT = datetime(2026, 11, 22, 10, tzinfo=UTC)
STAMP = "2026-11-22T10:00:00.000000Z"


def is_sent_by_socket(event, conversation_id):
    copies = translation.find_copies([event], conversation_id)
    return translation.is_kind_sent_to_v1(event) and event.event_id not in copies


def make_event(kind, source="agent", payload=None, **fields):
    """Return an event of our log. ``payload`` is a value or a JSON text."""
    text = payload if isinstance(payload, str) else json.dumps(payload or {})
    values = {"seq": 1, "event_id": "e1", "engine_time": None, "received_at": AT} | fields
    return LoggedEvent(kind=kind, source=source, payload=text, **values)


def encode(*arguments, **fields):
    return json.loads(translation.encode_event(make_event(*arguments, **fields)))


def test_user_message_with_images_has_a_text_and_an_image_part():
    images = ["data:image/png;base64,AA", "https://x/y.png"]

    assert encode("UserMessage", "user", {"text": "Look", "images": images}) == {
        "id": "e1",
        "timestamp": STAMP,
        "source": "user",
        "llm_message": {
            "role": "user",
            "content": [
                {"type": "text", "text": "Look"},
                {"type": "image", "image_urls": images},
            ],
        },
        "activated_skills": [],
        "extended_content": [],
        "kind": "MessageEvent",
    }


def test_sandbox_notice_becomes_a_conversation_error():
    payload = {"code": "engine_stopped", "message": "The engine stopped.", "detail": "exit 1"}

    assert encode("SandboxNotice", "server", payload) == {
        "id": "e1",
        "timestamp": STAMP,
        "source": "environment",
        "code": "engine_stopped",
        "detail": "The engine stopped.",
        "kind": "ConversationErrorEvent",
    }


def test_complete_engine_event_is_sent_byte_for_byte_but_for_its_time():
    text = '{"id":"e1", "kind":"MessageEvent","source":"agent", "timestamp":"%s","x":1e400}'
    event = make_event("MessageEvent", "agent", text % "2026-11-22T10:00:00")

    assert translation.encode_event(event) == text % STAMP


@pytest.mark.parametrize(
    "stamp",
    ["2026-11-22T11:00:00", "2026-11-22T13:00:00+02:00", "2026-11-22T11:00:00Z", "t", "", None, 7],
)
@pytest.mark.parametrize("kind", ["MessageEvent", "ActionEvent"])
def test_time_of_an_engine_event_is_the_logs_time_with_an_offset(kind, stamp):
    value = {"id": "e1", "kind": kind, "source": "agent", "timestamp": stamp, "thought": stamp}

    event = encode(kind, "agent", value, engine_time=AT.replace(hour=11))

    assert event["timestamp"] == "2026-11-22T11:00:00.000000Z"
    if kind == "MessageEvent":
        assert event["thought"] == stamp


@pytest.mark.parametrize("payload", ["not json", "[]", "7", "null", "[" * 100_000])
def test_unreadable_payload_is_sent_with_the_fields_of_its_row(payload):
    assert encode("MessageEvent", "agent", payload) == {
        "id": "e1",
        "kind": "MessageEvent",
        "source": "agent",
        "timestamp": STAMP,
    }


def test_columns_of_the_log_replace_values_that_the_payload_forges():
    forged = {"id": "other", "kind": "UserMessage", "source": "user", "timestamp": ""}

    assert encode("MessageEvent", "agent", forged, engine_time=AT.replace(hour=9)) == {
        "id": "e1",
        "kind": "MessageEvent",
        "source": "agent",
        "timestamp": "2026-11-22T09:00:00.000000Z",
    }


@pytest.mark.parametrize(
    ("observation", "more"),
    [
        (
            {"kind": "TerminalObservation", "exit_code": 2},
            {"content": [], "metadata": {"exit_code": 2}},
        ),
        (
            {"kind": "ExecuteBashObservation", "exit_code": None},
            {"content": [], "metadata": {"exit_code": -1}},
        ),
        ({"kind": "TerminalObservation", "content": [], "metadata": {}}, {}),
        ({"kind": "MCPToolObservation", "content": "text"}, {"content": []}),
        ({"kind": "BrowserObservation"}, {"content": []}),
        ({"kind": "ThinkObservation"}, {}),
    ],
)
def test_observation_gets_the_fields_that_clients_require(observation, more):
    event = encode("ObservationEvent", "environment", {"observation": observation})

    assert event["observation"] == observation | more


@pytest.mark.parametrize("observation", [None, "text", []])
def test_observation_of_an_unexpected_type_is_unchanged(observation):
    event = encode("ObservationEvent", "environment", {"observation": observation})

    assert event["observation"] == observation


@pytest.mark.parametrize(
    ("delta", "fields"),
    [
        ({"kind": "text", "content": "a"}, {"content": "a"}),
        ({"kind": "reasoning", "content": "b"}, {"reasoning_content": "b"}),
    ],
)
def test_delta_becomes_a_streaming_event(delta, fields):
    event = json.loads(translation.encode_delta(delta))

    assert event == fields | {
        "id": event["id"],
        "timestamp": event["timestamp"],
        "source": "agent",
        "kind": "StreamingDeltaEvent",
    }


@pytest.mark.parametrize(
    "delta", [{}, {"kind": "text", "content": ""}, {"kind": "tool", "content": "x"}, {"kind": None}]
)
def test_delta_without_text_or_of_another_kind_is_dropped(delta):
    assert translation.encode_delta(delta) is None


@pytest.mark.parametrize(
    ("payload", "status"),
    [
        ({"key": "execution_status", "value": "paused"}, "paused"),
        ({"key": "execution_status", "value": 7}, ""),
        ({"key": "other", "value": "execution_status"}, ""),
        ('["execution_status"]', ""),
        ('{"execution_status"', ""),
    ],
)
def test_status_is_read_from_state_updates_only(payload, status):
    assert (
        translation.read_status(make_event("ConversationStateUpdateEvent", "environment", payload))
        == status
    )
    assert translation.read_status(make_event("MessageEvent", "agent", payload)) == ""


@pytest.mark.django_db
class TestVisibility:
    @pytest.mark.parametrize(
        ("kind", "source", "is_sent"),
        [
            ("MessageEvent", "agent", True),
            ("UserMessage", "user", True),
            ("SandboxNotice", "server", True),
            ("SandboxNotice", "environment", False),
            ("SandboxNotice", "unknown", False),
            ("MessageEvent", "server", False),
            ("MessageEvent", "unknown", False),
            ("Unparseable", "agent", False),
            ("Oversize", "agent", False),
            ("Unknown", "agent", False),
            ("UserConfirmation", "user", False),
        ],
    )
    def test_socket_and_rest_agree_which_events_are_sent(self, alice, kind, source, is_sent):
        row = ConversationFactory(created_by=alice)
        Event.objects.create(
            conversation=row,
            organization=row.organization,
            seq=1,
            event_id="e1",
            kind=kind,
            source=source,
            payload="{}",
        )

        assert is_sent_by_socket(make_event(kind, source), row.pk) is is_sent
        assert translation.filter_for_v1(row.events.all()).exists() is is_sent

    def test_engine_copy_of_a_sent_message_is_hidden_and_another_is_not(self, alice):
        row = ConversationFactory(created_by=alice)
        OutgoingMessageFactory(conversation=row, engine_event_id="e1")
        assert OutgoingMessage.objects.count() == 1

        assert not is_sent_by_socket(make_event("MessageEvent", "user"), row.pk)
        other = make_event("MessageEvent", "user", event_id="e2")
        assert is_sent_by_socket(other, row.pk)

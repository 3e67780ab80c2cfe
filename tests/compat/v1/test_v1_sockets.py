"""The V1 socket ``/sockets/events/{id}``: credentials, resent events, messages and close codes."""

import asyncio
import json
from datetime import datetime
from uuid import uuid4

import pytest
from asgiref.sync import sync_to_async
from channels.testing import WebsocketCommunicator

from accounts import services as accounts
from compat.v1 import sockets
from conversations import services
from conversations.models import Lease
from openhands_site.asgi import application
from tests.conversations.conftest import ingest, make_frame, make_status_frame

pytestmark = [
    pytest.mark.django_db(transaction=True),
    pytest.mark.usefixtures("closed_connections"),
]
MESSAGE = {"role": "user", "content": [{"type": "text", "text": "Hi"}]}


@pytest.fixture
async def conversation(alice):
    """Alice's conversation with two events, ``event-0`` and ``event-1``."""
    conversation = await sync_to_async(services.create_conversation)(user=alice)
    await sync_to_async(Lease.objects.update)(generation=1)
    await append(conversation, make_frame(0), make_frame(1))
    return conversation


@sync_to_async
def append(conversation, *frames):
    ingest(conversation, *frames)


@sync_to_async
def create_key(conversation, user):
    return services.conversation_key(conversation=conversation, user=user)


def open_socket(pk, query="", **headers):
    pairs = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    return WebsocketCommunicator(application, f"/sockets/events/{pk}?{query}", headers=pairs)


async def join(conversation, user, query=""):
    """Open a socket with the user's conversation key, and read its first frame, the full state."""
    key = await create_key(conversation, user)
    socket = open_socket(conversation.pk, f"{query}&session_api_key={key}")
    assert (await socket.connect())[0]
    assert (await read(socket))["key"] == "full_state"
    return socket


async def read(socket):
    return json.loads(await socket.receive_from(10))


async def read_close_code(socket):
    while (message := await socket.receive_output(10))["type"] != "websocket.close":
        pass
    return message["code"]


class TestCredentials:
    async def test_first_frame_is_the_full_state(self, conversation, alice):
        key = await create_key(conversation, alice)
        socket = open_socket(conversation.pk, x_session_api_key=key)
        await socket.connect()

        state = await read(socket)

        assert {**state, "value": None, "id": "", "timestamp": ""} == {
            "id": "",
            "timestamp": "",
            "source": "environment",
            "key": "full_state",
            "value": None,
            "kind": "ConversationStateUpdateEvent",
        }
        assert state["value"]["id"] == str(conversation.pk)
        await socket.disconnect()

    @pytest.mark.parametrize("key", ["ocs_x.y", "oh_x.y", "x"])
    async def test_invalid_key_closes_with_4001(self, conversation, key):
        socket = open_socket(conversation.pk, f"session_api_key={key}")

        assert (await socket.connect())[0]
        assert await read_close_code(socket) == 4001

    async def test_key_of_another_conversation_closes_with_4004(self, conversation, alice):
        other = await sync_to_async(services.create_conversation)(user=alice)
        socket = open_socket(other.pk, f"session_api_key={await create_key(conversation, alice)}")

        await socket.connect()
        assert await read_close_code(socket) == 4004

    @pytest.mark.parametrize("conversation_id", [uuid4(), "x", "0" * 32])
    async def test_unknown_or_malformed_id_closes_with_4004(self, alice, conversation_id):
        _, key = await sync_to_async(accounts.issue_api_key)(user=alice, name="socket")
        socket = open_socket(conversation_id, f"session_api_key={key}")

        await socket.connect()
        assert await read_close_code(socket) == 4004

    @pytest.mark.parametrize("query", ["", "session_api_key=null", "session_api_key=undefined"])
    async def test_socket_without_a_key_is_admitted_by_its_first_frame(
        self, conversation, alice, query
    ):
        socket = open_socket(conversation.pk, query)
        await socket.connect()

        key = await create_key(conversation, alice)
        await socket.send_json_to({"type": "auth", "session_api_key": f" {key} "})

        assert (await read(socket))["key"] == "full_state"
        await socket.disconnect()

    @pytest.mark.parametrize(
        "text",
        [
            '{"type": "auth", "session_api_key": "ocs_x.y"}',
            '{"type": "auth", "session_api_key": 7}',
            '{"type": "auth"}',
            json.dumps(MESSAGE),
            "[]",
            "not json",
        ],
    )
    async def test_other_first_frame_closes_with_4001(self, conversation, text):
        socket = open_socket(conversation.pk)
        await socket.connect()

        await socket.send_to(text_data=text)

        assert await read_close_code(socket) == 4001

    async def test_missing_first_frame_closes_with_4001(self, conversation, monkeypatch):
        monkeypatch.setattr(sockets, "AUTH_SECONDS", 0.01)
        socket = open_socket(conversation.pk)

        await socket.connect()
        assert await read_close_code(socket) == 4001

    async def test_revoked_keys_close_open_sockets_with_4001(self, conversation, alice):
        socket = await join(conversation, alice)

        await sync_to_async(services.rotate_keys)(conversation_id=conversation.pk)

        assert await read_close_code(socket) == 4001


class TestEvents:
    @pytest.mark.parametrize(
        "query", ["", "resend_all=false", "resend_mode=since&after_timestamp=2999-01-01", "other=x"]
    )
    async def test_only_new_events_are_sent_by_default(self, conversation, alice, query):
        socket = await join(conversation, alice, query)

        await append(conversation, make_frame(2))

        assert (await read(socket))["id"] == "event-2"
        await socket.disconnect()

    @pytest.mark.parametrize(
        "query",
        [
            "resend_all=true",
            "resend_all=1",
            "resend_mode=all",
            "resend_mode=since&after_timestamp=2000-01-01T00:00:00",
            "resend_mode=since&after_timestamp=2000-01-01T00:00:00Z",
            # A plus that is not percent-encoded arrives as a space.
            "resend_mode=since&after_timestamp=2000-01-01T00:00:00+00:00",
            "after_timestamp=2000-01-01T00:00:00.123456+02:00",
            "after_timestamp=2000-01-01T00:00:00%2B00:00",
            "resend_mode=since&after_timestamp=2000-01-01",
            "resend_mode=since&after_timestamp=2000-01-01T00:00:00.5",
            "resend_all=false&resend_mode=all",
            "after_timestamp=2999-01-01&resend_all=Yes",
        ],
    )
    async def test_log_is_resent_from_the_requested_position(self, conversation, alice, query):
        socket = await join(conversation, alice, query)

        assert [(await read(socket))["id"] for _ in range(2)] == ["event-0", "event-1"]
        await socket.disconnect()

    @pytest.mark.parametrize(
        ("query", "name"),
        [
            ("after_timestamp=yesterday", "after_timestamp"),
            ("resend_mode=since&after_timestamp=x", "after_timestamp"),
            ("resend_mode=since&after_timestamp=", "after_timestamp"),
            ("resend_mode=since&after_timestamp=1764410400", "after_timestamp"),
            ("resend_mode=since&after_timestamp=2026-02-30T00:00:00Z", "after_timestamp"),
            ("resend_mode=since&after_timestamp=%ff", "after_timestamp"),
            ("resend_mode=since", "after_timestamp"),
            ("resend_all=true&after_timestamp=x", "after_timestamp"),
            ("resend_mode=none", "resend_mode"),
            ("resend_mode=ALL", "resend_mode"),
            ("resend_mode=", "resend_mode"),
            ("resend_all=perhaps", "resend_all"),
            ("resend_all=2", "resend_all"),
        ],
    )
    async def test_bad_parameter_is_answered_with_an_error(self, conversation, alice, query, name):
        key = await create_key(conversation, alice)
        socket = open_socket(conversation.pk, f"{query}&session_api_key={key}")
        await socket.connect()

        error = await read(socket)

        assert (error["kind"], error["code"]) == ("ServerErrorEvent", "unprocessable")
        assert error["detail"].startswith(f"{name}: ")
        assert await read_close_code(socket) == 1008

    async def test_bad_parameter_is_reported_after_a_later_sign_in_too(self, conversation, alice):
        socket = open_socket(conversation.pk, "resend_mode=none")
        await socket.connect()
        key = await create_key(conversation, alice)

        await socket.send_json_to({"type": "auth", "session_api_key": key})

        assert (await read(socket))["kind"] == "ServerErrorEvent"
        assert await read_close_code(socket) == 1008

    async def test_times_of_the_socket_have_an_offset(self, conversation, alice):
        naive = "2026-11-29T10:00:00.123456"
        await append(conversation, make_frame(2, timestamp=naive, nested={"timestamp": naive}))
        key = await create_key(conversation, alice)
        socket = open_socket(conversation.pk, f"resend_all=true&session_api_key={key}")
        await socket.connect()

        state, *events = [await read(socket) for _ in range(4)]

        assert events[2]["timestamp"] == f"{naive}Z"
        assert events[2]["nested"] == {"timestamp": naive}
        for text in (
            *(event["timestamp"] for event in (state, *events)),
            state["value"]["created_at"],
            state["value"]["updated_at"],
        ):
            assert datetime.fromisoformat(text).tzinfo is not None, text
        await socket.disconnect()

    async def test_end_of_a_run_sends_its_status_and_the_full_state(self, conversation, alice):
        socket = await join(conversation, alice)

        await append(
            conversation, make_status_frame(2, "running"), make_status_frame(3, "finished")
        )
        frames = [await read(socket) for _ in range(3)]

        assert [f["key"] for f in frames] == ["execution_status", "execution_status", "full_state"]
        assert [f["value"] for f in frames[:2]] == ["running", "finished"]
        assert frames[2]["value"]["execution_status"] == "finished"
        await socket.disconnect()

    async def test_past_run_is_resent_without_a_full_state(self, conversation, alice):
        await append(conversation, make_status_frame(2, "finished"), make_frame(3))
        socket = await join(conversation, alice, "resend_all=true")

        ids = [(await read(socket))["id"] for _ in range(4)]

        assert ids == ["event-0", "event-1", "event-2", "event-3"]
        await socket.disconnect()

    async def test_deleted_conversation_closes_with_4004(self, conversation, alice):
        socket = await join(conversation, alice)

        await sync_to_async(services.delete_conversation)(conversation_id=conversation.pk)

        # The deletion also ends access. The code depends on which of the two the socket notices first.
        assert await read_close_code(socket) in (4001, 4004)


class TestMessages:
    async def test_message_is_stored_and_sent_back(self, conversation, alice):
        socket = await join(conversation, alice)

        await socket.send_json_to(MESSAGE)
        event = await read(socket)

        assert (event["kind"], event["source"]) == ("MessageEvent", "user")
        assert event["llm_message"] == MESSAGE
        stored = await conversation.events.aget(kind="UserMessage")
        assert (stored.event_id, stored.payload) == (event["id"], '{"text":"Hi"}')
        await socket.disconnect()

    @pytest.mark.parametrize(
        "text",
        [
            *(
                "not json",
                "[]",
                "{}",
                '{"role":"assistant","content":[]}',
                '{"content":[{"type":"x"}]}',
            ),
            '{"content":[{"type":"image_url","text":"a"}]}',
            r'{"content":[{"type":"image_url","image_url":{"url":"\ud800"}}]}',
            r'{"content":[{"type":"image_url","image_url":{"url":"\u0000"}}]}',
        ],
    )
    async def test_malformed_message_gets_an_error_event(self, conversation, alice, text):
        socket = await join(conversation, alice)

        await socket.send_to(text_data=text)
        event = await read(socket)

        assert {**event, "id": "", "timestamp": ""} == {
            "id": "",
            "timestamp": "",
            "source": "environment",
            "code": "bad-frame",
            "detail": sockets.BadFrame.sentence,
            "kind": "ServerErrorEvent",
        }
        await socket.disconnect()

    async def test_later_auth_frame_is_ignored(self, conversation, alice):
        socket = await join(conversation, alice)

        await socket.send_json_to({"type": "auth", "session_api_key": "wrong"})
        await socket.send_json_to(MESSAGE)

        assert (await read(socket))["llm_message"] == MESSAGE
        await socket.disconnect()

    async def test_viewer_gets_an_error_event_and_the_message_is_not_stored(
        self, conversation, alice, bob
    ):
        await sync_to_async(services.set_sharing)(
            conversation_id=conversation.pk, by=alice, visibility="organization"
        )
        await sync_to_async(bob.memberships.update)(role="viewer")
        await conversation.arefresh_from_db()
        socket = await join(conversation, bob)

        await socket.send_json_to(MESSAGE)
        event = await read(socket)

        assert (event["kind"], event["detail"]) == ("ServerErrorEvent", sockets.NO_STEERING)
        assert not await conversation.events.filter(kind="UserMessage").aexists()
        await socket.disconnect()

    async def test_more_waiting_messages_than_the_limit_close_with_1013(
        self, conversation, alice, monkeypatch
    ):
        async def wait_forever(_):
            await asyncio.Event().wait()

        monkeypatch.setattr(sockets.V1EventsConsumer, "_process_inbox", wait_forever)
        monkeypatch.setattr(sockets, "INBOX_MAX", 1)
        socket = await join(conversation, alice)

        for _ in range(2):
            await socket.send_json_to(MESSAGE)

        assert await read_close_code(socket) == 1013

    async def test_internal_error_is_reported_without_its_text(
        self, conversation, alice, monkeypatch
    ):
        socket = await join(conversation, alice)

        def fail(**_):
            raise RuntimeError("SELECT secret")

        monkeypatch.setattr(services, "post_message", fail)
        await socket.send_json_to(MESSAGE)
        event = await read(socket)

        sentence = "The server could not post this message because of an error. Send it again."
        assert (event["code"], event["detail"]) == ("not-taken", sentence)
        await socket.disconnect()


async def test_changed_policy_and_analyzer_reach_the_sdk(conversation, alice):
    socket = await join(conversation, alice)

    await sync_to_async(services.set_confirmation)(
        conversation_id=conversation.pk,
        confirmation_policy="always",
        security_analyzer="pattern",
        by=alice,
    )

    updates = [await read(socket) for _ in range(2)]
    assert {update["key"]: update["value"]["kind"] for update in updates} == {
        "confirmation_policy": "AlwaysConfirm",
        "security_analyzer": "PatternSecurityAnalyzer",
    }
    await socket.disconnect()

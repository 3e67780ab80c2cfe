"""The V0 socket ``/socket.io``: replayed events, resume position, states, actions and the end of a socket."""

import asyncio
import json

import pytest
from asgiref.sync import sync_to_async
from channels.testing import WebsocketCommunicator

from compat.v0 import sockets
from conversations import services
from conversations.models import Lease
from openhands_site.asgi import application
from tests.conversations.conftest import ingest, make_frame, make_status_frame

pytestmark = [
    pytest.mark.django_db(transaction=True),
    pytest.mark.usefixtures("closed_connections"),
]
UPGRADE = [(b"connection", b"upgrade"), (b"upgrade", b"websocket")]


@pytest.fixture
async def conversation(alice):
    """Alice's conversation with two agent messages, which have the ids 1 and 2."""
    conversation = await sync_to_async(services.create_conversation)(user=alice, title="First")
    await sync_to_async(Lease.objects.update)(generation=1)
    await append(conversation, make_frame(0), make_frame(1))
    return conversation


@sync_to_async
def append(conversation, *frames):
    ingest(conversation, *frames)


async def join(conversation, user, **query):
    """Open a socket with the user's key, send the connect packet, and read its confirmation."""
    socket = await open_socket(conversation, user, **query)
    await socket.send_to(text_data="40")
    return socket, (await read_text(socket, "4"))[1:]


async def open_socket(conversation, user, **query):
    """Open a socket with the user's key, without the connect packet."""
    key = await sync_to_async(services.conversation_key)(conversation=conversation, user=user)
    values = {"conversation_id": conversation.pk.hex, "session_api_key": key} | query
    pairs = "&".join(f"{name}={value}" for name, value in values.items())
    path = f"/socket.io/?EIO=4&transport=websocket&{pairs}"
    socket = WebsocketCommunicator(application, path, headers=UPGRADE)
    assert (await socket.connect())[0]
    return socket


async def read_text(socket, prefix):
    """Return the next text frame with this prefix. Skip other frames, such as pings."""
    while not (text := (await socket.receive_output(10)).get("text") or "").startswith(prefix):
        pass
    return text


async def read_close(socket):
    """Skip frames until the server closes the socket; return its message."""
    while (message := await socket.receive_output(10))["type"] != "websocket.close":
        pass
    await socket.disconnect()
    return message


async def read(socket):
    """Return the next ``oh_event``."""
    name, event = json.loads((await read_text(socket, "42"))[2:])
    assert name == "oh_event"
    return event


async def read_until(socket, is_match):
    """Return the next ``oh_event`` for which ``is_match`` is true."""
    while not is_match(event := await read(socket)):
        pass
    return event


async def act(socket, action, name="oh_user_action", **args):
    await socket.send_to(text_data="42" + json.dumps([name, {"action": action, "args": args}]))


def read_state(event):
    return event.get("extras", {}).get("agent_state")


async def test_new_client_gets_the_log_and_then_the_state(conversation, alice):
    socket, _ = await join(conversation, alice, latest_event_id=-1)

    events = [await read(socket) for _ in range(3)]

    assert [event.get("id") for event in events] == [1, 2, None]
    assert events[2] == {
        "source": "environment",
        "message": "",
        "observation": "agent_state_changed",
        "content": "",
        "extras": {"agent_state": "loading", "reason": ""},
    }
    await socket.disconnect()


async def test_client_resumes_after_its_latest_event(conversation, alice):
    socket, _ = await join(conversation, alice, latest_event_id=1)

    assert (await read(socket))["id"] == 2
    await socket.disconnect()


async def test_new_event_is_sent_after_the_replay(conversation, alice):
    socket, _ = await join(conversation, alice, latest_event_id=2)
    assert read_state(await read(socket)) == "loading"

    await append(conversation, make_frame(2))
    event = await read_until(socket, lambda event: "timestamp" in event)

    assert (event["id"], event["source"]) == (3, "agent")
    await socket.disconnect()


async def test_replay_sends_the_last_of_the_past_states_only(conversation, alice):
    await append(
        conversation, make_status_frame(2, "running"), make_status_frame(3, "paused"), make_frame(4)
    )
    socket, _ = await join(conversation, alice, latest_event_id=2)

    first, second = await read(socket), await read(socket)

    assert (first["id"], read_state(first)) == (5, None)
    # Sent after event 5, the state carries no id. Else the client would resume from 4 and get event 5 again.
    assert ("id" in second, read_state(second)) == (False, "paused")
    await socket.disconnect()


async def test_renamed_conversation_sends_a_status_update_with_its_title(conversation, alice):
    socket, _ = await join(conversation, alice, latest_event_id=2)
    assert read_state(await read(socket)) == "loading"

    await sync_to_async(services.rename)(conversation_id=conversation.pk, title="Second")
    event = await read_until(socket, lambda event: "conversation_title" in event)

    assert event == {
        "status_update": True,
        "type": "info",
        "message": conversation.pk.hex,
        "conversation_title": "Second",
    }
    await socket.disconnect()


@pytest.mark.parametrize("name", ["oh_user_action", "oh_action"])
async def test_message_by_either_event_name_is_posted_and_sent_back(conversation, alice, name):
    socket, _ = await join(conversation, alice, latest_event_id=2)

    await act(socket, "message", name=name, content="Hi")
    event = await read_until(socket, lambda event: event.get("action") == "message")

    assert (event["id"], event["source"], event["args"]["content"]) == (3, "user", "Hi")
    await socket.disconnect()


async def test_refused_action_gets_an_error_and_the_socket_stays_open(conversation, alice):
    socket, _ = await join(conversation, alice, latest_event_id=2)

    await act(socket, "change_agent_state", agent_state="user_confirmed")
    refusal = await read_until(socket, lambda event: "error" in event)
    await act(socket, "message", content="Hi")
    event = await read_until(socket, lambda event: event.get("action") == "message")

    assert (refusal["error"], "no longer waiting" in refusal["message"]) == (True, True)
    assert event["args"]["content"] == "Hi"
    await socket.disconnect()


async def test_internal_error_of_an_action_is_reported_without_its_text(
    conversation, alice, monkeypatch
):
    socket, _ = await join(conversation, alice, latest_event_id=2)

    def fail(**_):
        raise RuntimeError("SELECT secret")

    monkeypatch.setattr(services, "post_message", fail)
    await act(socket, "message", content="Hi")
    event = await read_until(socket, lambda event: "error" in event)

    sentence = "The server could not execute this action because of an error. Try again."
    assert event == {"error": True, "message": sentence}
    await socket.disconnect()


async def test_refused_join_names_the_reason_and_closes(conversation, alice):
    socket, packet = await join(conversation, alice, session_api_key="ocs_x.y")

    assert packet == '4{"message":"invalid_session_api_key"}'
    await asyncio.wait_for(asyncio.shield(socket.future), 15)


@pytest.mark.parametrize("latest_event_id", ["x", "1.5", "9" * 30])
async def test_bad_resume_position_is_refused_with_an_error(conversation, alice, latest_event_id):
    socket, packet = await join(conversation, alice, latest_event_id=latest_event_id)

    assert packet.startswith('4{"message":"latest_event_id: Send ')
    await asyncio.wait_for(asyncio.shield(socket.future), 15)


async def test_socket_that_never_joins_is_closed(conversation, alice, monkeypatch):
    monkeypatch.setattr(sockets, "JOIN_SECONDS", 2)
    socket = await open_socket(conversation, alice)

    await asyncio.wait_for(asyncio.shield(socket.future), 15)


async def test_revoked_keys_disconnect_the_client_and_close_a_socket_that_it_leaves_open(
    conversation, alice, monkeypatch
):
    monkeypatch.setattr(sockets, "JOIN_SECONDS", 2)
    socket, _ = await join(conversation, alice, latest_event_id=2)
    assert read_state(await read(socket)) == "loading"

    await sync_to_async(services.rotate_keys)(conversation_id=conversation.pk)

    assert await read_text(socket, "41") == "41"
    await read_close(socket)


@pytest.mark.parametrize("packet", ["1", "10", "1e-999", "41"])
async def test_client_that_leaves_but_keeps_its_socket_is_closed(
    conversation, alice, monkeypatch, packet
):
    monkeypatch.setattr(sockets, "JOIN_SECONDS", 2)
    socket, _ = await join(conversation, alice, latest_event_id=2)

    await socket.send_to(text_data=packet)

    assert (await read_close(socket)).get("code", 1000) == 1000


async def test_client_may_join_again_after_it_left(conversation, alice, monkeypatch):
    monkeypatch.setattr(sockets, "JOIN_SECONDS", 1)
    socket, _ = await join(conversation, alice, latest_event_id=2)

    await socket.send_to(text_data="41")
    await socket.send_to(text_data="40")

    assert await read_text(socket, "40")
    await asyncio.sleep(2)
    while not socket.output_queue.empty():
        assert socket.output_queue.get_nowait()["type"] == "websocket.send"
    assert not socket.future.done()
    await socket.disconnect()


@pytest.mark.parametrize("packet", ["x", "4[1]", "42[", '42["disconnect"]', "40", "451-[]", "b!!!"])
async def test_malformed_packet_closes_the_socket_with_1008_and_a_reason(
    conversation, alice, caplog, packet
):
    socket, _ = await join(conversation, alice, latest_event_id=2)

    await socket.send_to(text_data=packet)
    while (message := await socket.receive_output(10))["type"] != "websocket.close":
        pass

    assert (message["code"], bool(message["reason"])) == (1008, True)
    assert not [record for record in caplog.records if record.exc_info]


async def test_binary_frame_closes_the_socket_with_1003(conversation, alice):
    socket, _ = await join(conversation, alice, latest_event_id=2)

    await socket.send_to(bytes_data=b"x")
    while (message := await socket.receive_output(10))["type"] != "websocket.close":
        pass

    assert message["code"] == 1003


async def test_http_request_with_an_upgrade_header_is_no_socket():
    sent = []

    async def receive():
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message):
        sent.append(message)

    scope = {
        "type": "http",
        "method": "GET",
        "path": "/socket.io/",
        "query_string": b"EIO=4&transport=websocket",
        "headers": [(b"upgrade", b"websocket"), (b"connection", b"close")],
    }
    await sockets.refuse_polling(scope, receive, send)
    assert sent[0]["status"] == 400

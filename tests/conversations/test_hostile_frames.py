"""Hostile frames on the sockets of OpenHands clients."""

import asyncio

import pytest
from asgiref.sync import sync_to_async
from channels.testing import WebsocketCommunicator
from django.conf import settings

from compat.v0 import sockets
from conversations import services
from openhands_site.asgi import application

pytestmark = [
    pytest.mark.django_db(transaction=True),
    pytest.mark.usefixtures("closed_connections"),
]


@pytest.fixture
async def joined_socket(alice):
    """Return a V0 socket that has joined a conversation."""
    conversation = await sync_to_async(services.create_conversation)(user=alice)
    key = services.conversation_key(conversation=conversation, user=alice)
    query = f"EIO=4&transport=websocket&conversation_id={conversation.pk}&session_api_key={key}"
    upgrade = [(b"connection", b"upgrade"), (b"upgrade", b"websocket")]
    socket = WebsocketCommunicator(application, f"/socket.io/?{query}", headers=upgrade)
    assert (await socket.connect())[0]
    await socket.send_to(text_data="40")
    await receive_until(socket, "40")
    yield socket
    await socket.disconnect()


async def receive_until(socket, text):
    """Receive messages until a message contains ``text``."""
    while text not in ((await socket.receive_output(timeout=20)).get("text") or ""):
        pass


async def receive_close_code(socket):
    while (message := await socket.receive_output(timeout=20))["type"] != "websocket.close":
        pass
    return message["code"]


async def test_binary_frames_end_the_socket_and_are_not_buffered(joined_socket):
    await joined_socket.send_to(
        text_data='459999999-["oh_user_action",{"_placeholder":true,"num":0}]'
    )
    await joined_socket.send_to(bytes_data=b"x" * 1_000)

    await asyncio.wait_for(asyncio.shield(joined_socket.future), 20)

    assert not sockets.server._binary_packet


async def test_client_cannot_trigger_the_connect_handler(joined_socket, caplog):
    followers = dict(sockets._followers)
    await joined_socket.send_to(text_data='42["connect",{"asgi.scope":{"headers":[]}}]')

    assert await receive_close_code(joined_socket) == 1008
    assert set(sockets._followers) <= set(followers)
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


async def test_oversized_frame_before_authentication_is_closed_with_1013(alice):
    conversation = await sync_to_async(services.create_conversation)(user=alice)
    socket = WebsocketCommunicator(application, f"/sockets/events/{conversation.pk}")
    assert (await socket.connect())[0]

    await socket.send_to(text_data="x" * (settings.BODY_MAX_BYTES + 1))

    assert await receive_close_code(socket) == 1013
    await socket.disconnect()

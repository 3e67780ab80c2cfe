import asyncio
import contextlib
import json
import socket
from uuid import uuid4

import pytest
import uvicorn
import websockets
from asgiref.sync import sync_to_async
from channels.testing import WebsocketCommunicator
from django.test import Client
from uvicorn.protocols.utils import ClientDisconnected

from accounts import services as accounts
from conversations import services
from conversations.models import Lease
from conversations.realtime.hub import get_hub
from conversations.realtime.socket import REASONS
from openhands_site.asgi import application
from openhands_site.serving.lean_socket import LeanWebSocket
from tests.conversations.conftest import make_frame
from tests.waiting import wait_until_async

pytestmark = [
    pytest.mark.django_db(transaction=True),
    pytest.mark.usefixtures("closed_connections"),
]


@pytest.fixture
async def conversation(alice):
    conversation = await sync_to_async(services.create_conversation)(user=alice)
    await sync_to_async(Lease.objects.update)(generation=1)
    return conversation


@sync_to_async
def create_key(user):
    return accounts.issue_api_key(user=user, name="socket")


@sync_to_async
def create_cookie(user):
    client = Client()
    client.force_login(user)
    return client.cookies["sessionid"].value


def build_socket(pk, query="", **headers):
    names = {name.replace("_", "-").encode(): value.encode() for name, value in headers.items()}
    path = f"/ws/v1/conversations/{pk}{query}"
    return WebsocketCommunicator(application, path, headers=list(names.items()))


async def append(conversation, *seqs, **fields):
    await sync_to_async(services.ingest_events)(
        conversation_id=conversation.pk,
        generation=1,
        frames=[make_frame(n, **fields) for n in seqs],
    )


async def receive_close_code(socket):
    connected, code = await socket.connect()
    if not connected:
        return code
    message = await socket.receive_output(5)
    assert message["type"] == "websocket.close", message
    return message["code"]


async def test_browser_gets_history_then_live_events_in_order(conversation, alice):
    await append(conversation, 0, 1)
    socket = build_socket(
        conversation.pk,
        "?after=1",
        cookie=f"sessionid={await create_cookie(alice)}",
        origin="http://testserver",
    )
    assert (await socket.connect())[0]
    assert json.loads(await socket.receive_from())["seq"] == 2
    status = json.loads(await socket.receive_from())
    assert (status["type"], status["conversation"]["last_seq"]) == ("status", 2)

    await append(conversation, 2)

    event = json.loads(await socket.receive_from(5))
    assert event["event"] | {"received_at": ""} == {
        "seq": 3,
        "event_id": "event-2",
        "kind": "MessageEvent",
        "source": "agent",
        "payload": {"id": "event-2", "kind": "MessageEvent", "source": "agent"},
        "engine_time": None,
        "received_at": "",
    }
    await socket.disconnect()


async def test_client_with_an_api_key_receives_the_status(conversation, alice):
    _, token = await create_key(alice)
    socket = build_socket(conversation.pk, authorization=f"Bearer {token}")

    assert (await socket.connect())[0]
    assert json.loads(await socket.receive_from())["type"] == "status"
    await socket.disconnect()


async def test_socket_of_a_stranger_is_closed_with_4404(conversation, charlie):
    _, token = await create_key(charlie)

    assert (
        await receive_close_code(build_socket(conversation.pk, authorization=f"Bearer {token}"))
        == 4404
    )
    assert await receive_close_code(build_socket(uuid4(), authorization=f"Bearer {token}")) == 4404


async def test_anonymous_socket_is_closed_with_4401(conversation):
    assert (
        await receive_close_code(build_socket(conversation.pk, origin="http://testserver")) == 4401
    )
    assert (
        await receive_close_code(build_socket(conversation.pk, authorization="Bearer oh_x.y"))
        == 4401
    )


@pytest.mark.parametrize(
    "origin",
    [
        "https://testserver",
        "http://testserver:8000",
        "http://testserver.evil.example",
        "http://evil.example",
        "http://TESTSERVER",
        "null",
        "",
        "http://testserver/",
        "file://",
    ],
)
async def test_cookie_from_another_origin_is_refused_with_4403(conversation, alice, origin):
    session = f"sessionid={await create_cookie(alice)}"
    socket = build_socket(conversation.pk, cookie=session, origin=origin)

    assert (await socket.connect()) == (False, 4403)


async def test_cookie_without_an_origin_is_refused_with_4403(conversation, alice):
    socket = build_socket(conversation.pk, cookie=f"sessionid={await create_cookie(alice)}")

    assert (await socket.connect()) == (False, 4403)


@pytest.mark.parametrize(
    "query",
    [
        "?after=x",
        "?after=-1",
        "?after=1.5",
        "?after=" + "9" * 19,
        "?epoch=x",
        "?after=%00",
        "?after=",
        "?after_seq=1",
        "?after=0&token=x",
    ],
)
async def test_socket_with_an_invalid_cursor_is_closed_with_4400(conversation, alice, query):
    _, token = await create_key(alice)
    socket = build_socket(conversation.pk, query, authorization=f"Bearer {token}")

    assert await receive_close_code(socket) == 4400


async def test_refused_socket_is_closed_with_a_reason(conversation, alice, charlie):
    _, token = await create_key(alice)
    _, foreign = await create_key(charlie)
    reasons = []
    for query, key in (("?after=x", token), ("", "oh_0.x"), ("", foreign)):
        socket = build_socket(conversation.pk, query, authorization=f"Bearer {key}")
        await socket.connect()
        reasons.append((await socket.receive_output(5))["reason"])

    assert "`after`" in reasons[0]
    assert "API key" in reasons[1]
    assert "does not exist" in reasons[2]
    assert all(len(reason.encode()) <= 123 for reason in REASONS.values())


@pytest.mark.parametrize(
    ("error", "is_logged"), [(ClientDisconnected, False), (RuntimeError, True)]
)
async def test_error_during_the_backlog_is_logged_unless_the_client_has_left(
    conversation, alice, caplog, error, is_logged
):
    _, key = await create_key(alice)
    await append(conversation, 0)
    scope = build_socket(conversation.pk, authorization=f"Bearer {key}").scope
    has_failed, sent = asyncio.Event(), []

    async def receive():
        if sent:
            await has_failed.wait()
            # The server closes the socket itself if the failure is not the client's.
            return await asyncio.Future() if is_logged else {"type": "websocket.disconnect"}
        return {"type": "websocket.connect"}

    async def send(message):
        sent.append(message["type"])
        if message["type"] == "websocket.send":
            has_failed.set()
            raise error

    async with asyncio.timeout(10):
        await application(scope, receive, send)
    assert sent[:2] == ["websocket.accept", "websocket.send"]
    assert bool([record for record in caplog.records if record.exc_info]) == is_logged
    assert not get_hub().feeds


async def test_messages_of_the_client_are_ignored(conversation, alice):
    _, token = await create_key(alice)
    socket = build_socket(conversation.pk, authorization=f"Bearer {token}")
    await socket.connect()
    await socket.receive_from()

    for text in ('{"type":"event"}', "\0", "[" * 10_000, "not json"):
        await socket.send_to(text_data=text)
    await socket.send_to(bytes_data=b"\xff\xfe")
    await append(conversation, 0)

    assert json.loads(await socket.receive_from(5))["seq"] == 1
    await socket.disconnect()


async def test_revoked_key_closes_the_open_socket_with_4403(conversation, alice, settings):
    settings.SOCKET_PING_SECONDS = 1
    row, token = await create_key(alice)
    socket = build_socket(conversation.pk, authorization=f"Bearer {token}")
    await socket.connect()
    await socket.receive_from()

    await sync_to_async(accounts.revoke_api_key)(key=row)

    while (message := await socket.receive_output(5))["type"] == "websocket.send":
        assert json.loads(message["text"]) == {"type": "ping"}
    assert message == {"type": "websocket.close", "code": 4403}


@contextlib.asynccontextmanager
async def serve_application():
    """Serve the application by uvicorn as in production, with small socket buffers; yield the port."""
    listener = socket.create_server(("127.0.0.1", 0))
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 16_384)
    config = uvicorn.Config(
        application, ws=LeanWebSocket, ws_per_message_deflate=False, lifespan="off", log_config=None
    )
    server = uvicorn.Server(config)
    task = asyncio.create_task(server.serve(sockets=[listener]))
    try:
        yield listener.getsockname()[1]
    finally:
        server.should_exit = True
        await task


@contextlib.asynccontextmanager
async def connect_client(port, conversation, token, after=0):
    link = socket.socket()
    link.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16_384)
    link.connect(("127.0.0.1", port))
    link.setblocking(False)
    address = f"ws://127.0.0.1/ws/v1/conversations/{conversation.pk}?after={after}"
    headers = {"Authorization": f"Bearer {token}"}
    async with websockets.connect(
        address, sock=link, additional_headers=headers, max_queue=1, ping_interval=None
    ) as client:
        yield client


async def receive_seqs(client, upto):
    """Return the seqs that arrive until ``upto`` arrives or the socket is closed."""
    seqs = []
    with contextlib.suppress(websockets.ConnectionClosed):
        async with asyncio.timeout(20):
            while upto not in seqs:
                seq = json.loads(await client.recv()).get("seq")
                seqs += [] if seq is None else [seq]
    return seqs


async def test_slow_client_is_closed_with_1013_and_resumes_after_its_last_event(
    conversation, alice, settings
):
    settings.SOCKET_BUFFER_BYTES = 4_096
    _, token = await create_key(alice)
    async with serve_application() as port:
        async with connect_client(port, conversation, token) as slow:
            await append(conversation, 0)
            assert await receive_seqs(slow, 1) == [1]
            (subscription,) = get_hub().feeds[conversation.pk].subscriptions
            for n in range(1, 41):
                await append(conversation, n, text="x" * 20_000)
            await wait_until_async(
                lambda: subscription.has_overflowed,
                "the subscription of the slow client to overflow",
            )
            received = await receive_seqs(slow, 41)
            assert slow.close_code == 1013
        assert received == list(range(2, 2 + len(received)))
        assert len(received) < 40

        async with connect_client(port, conversation, token, after=1 + len(received)) as again:
            assert await receive_seqs(again, 41) == list(range(2 + len(received), 42))

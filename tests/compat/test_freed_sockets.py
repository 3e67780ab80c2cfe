"""A closed socket leaves memory at once, in every protocol, without waiting for a garbage collection."""

import asyncio
import gc
import socket

import pytest
import uvicorn
import websockets
from asgiref.sync import sync_to_async

from accounts import services as accounts
from compat.v0.sockets import Follower
from compat.v1.sockets import V1EventsConsumer
from conversations import services
from conversations.models import Lease
from conversations.realtime.socket import ConversationConsumer
from conversations.realtime.subscription import Subscription
from openhands_site.asgi import application
from openhands_site.serving.guarded_http import GuardedHttp
from openhands_site.serving.lean_socket import LeanWebSocket
from tests.conversations.conftest import ingest, make_frame
from tests.waiting import wait_until_async

pytestmark = [
    pytest.mark.django_db(transaction=True),
    pytest.mark.usefixtures("closed_connections"),
]
OBJECTS = (
    GuardedHttp,
    LeanWebSocket,
    ConversationConsumer,
    V1EventsConsumer,
    Follower,
    Subscription,
)
PATHS = {
    "native": "/ws/v1/conversations/{}",
    "V0": "/socket.io/?EIO=4&transport=websocket&conversation_id={}&latest_event_id=-1",
    "V1": "/sockets/events/{}?resend_all=true",
}


@pytest.fixture
async def port():
    """Serve the application by uvicorn with the protocols of production; return the port."""
    listener = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(
        application,
        http=GuardedHttp,
        ws=LeanWebSocket,
        ws_per_message_deflate=False,
        lifespan="off",
        log_config=None,
    )
    server = uvicorn.Server(config)
    task = asyncio.create_task(server.serve(sockets=[listener]))
    yield listener.getsockname()[1]
    server.should_exit = True
    await task


@pytest.fixture
def uncollected():
    """Suspend the garbage collector."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@sync_to_async
def create_conversation(user):
    conversation = services.create_conversation(user=user)
    Lease.objects.update(generation=1)
    ingest(conversation, make_frame(0))
    return conversation.pk, accounts.issue_api_key(user=user, name="socket")[1]


def count_objects():
    return sum(type(each) in OBJECTS for each in gc.get_objects())


async def open_and_receive(port, path, key):
    """Open a socket and return it when an event has arrived."""
    client = await websockets.connect(
        f"ws://127.0.0.1:{port}{path}", additional_headers={"Authorization": f"Bearer {key}"}
    )
    if path.startswith("/socket.io"):
        await client.send("40")
    async with asyncio.timeout(20):
        while "event" not in await client.recv():
            pass
    return client


@pytest.mark.parametrize("protocol", PATHS)
@pytest.mark.parametrize("is_cut", [False, True], ids=["closed", "cut off"])
async def test_closed_socket_leaves_no_object(alice, port, uncollected, protocol, is_cut):
    pk, key = await create_conversation(alice)
    before = count_objects()

    client = await open_and_receive(port, PATHS[protocol].format(pk), key)
    assert count_objects() >= before + 3
    if is_cut:
        client.transport.abort()
    else:
        await client.close()
    del client

    await wait_until_async(lambda: count_objects() <= before, "the objects to be freed", seconds=15)

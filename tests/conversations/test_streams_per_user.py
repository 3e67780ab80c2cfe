"""``STREAMS_PER_USER`` and ``SOCKETS_PER_ADDRESS``: limits of open sockets and streams, over every protocol."""

import asyncio
import contextlib
import json

import httpx2
import pytest
import websockets
from asgiref.sync import sync_to_async
from django.db import connections

from accounts import services as accounts
from conversations import services
from conversations.models import Lease
from conversations.realtime import threads, watching
from lib import open_files
from lib.open_files import Room
from openhands_site import asgi
from tests.conversations.test_socket import serve_application
from tests.waiting import wait_until_async

pytestmark = pytest.mark.django_db(transaction=True)
SENTENCE = "You have 2 sockets and streams open at this server, which is the limit."


@pytest.fixture(autouse=True)
async def _close():
    yield
    asgi.in_threads._pool.submit(connections.close_all).result()
    await sync_to_async(connections.close_all)()
    threads.POOL._pool.submit(connections.close_all).result()


@pytest.fixture
async def conversation(alice):
    conversation = await sync_to_async(services.create_conversation)(user=alice)
    await sync_to_async(Lease.objects.update)(generation=1)
    return conversation


@pytest.fixture
async def key(alice):
    return (await sync_to_async(accounts.issue_api_key)(user=alice, name="streams"))[1]


def connect(port, path, key=""):
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    return websockets.connect(
        f"ws://127.0.0.1:{port}{path}", additional_headers=headers, ping_interval=None, proxy=None
    )


async def close_of(client):
    """Read a socket to its end; return the texts, the close code and the reason."""
    texts = []
    with contextlib.suppress(websockets.ConnectionClosed):
        async with asyncio.timeout(20):
            while True:
                texts.append(await client.recv())
    return texts, client.close_code, client.close_reason


@contextlib.asynccontextmanager
async def two_sockets(port, conversation, key):
    path = f"/ws/v1/conversations/{conversation.pk}?after=0"
    async with connect(port, path, key) as first, connect(port, path, key) as second:
        for client in (first, second):
            await asyncio.wait_for(client.recv(), 20)
        yield path


async def test_socket_beyond_the_limit_is_closed_with_4429_and_a_reason(
    conversation, key, settings
):
    settings.STREAMS_PER_USER = 2
    async with serve_application() as port:
        async with two_sockets(port, conversation, key) as path:
            async with connect(port, path, key) as third:
                _, code, reason = await close_of(third)
            assert code == 4429
            assert reason.startswith(SENTENCE)
        await wait_until_async(
            lambda: conversation.created_by_id not in watching._streams,
            "the sockets to be counted as closed",
        )
        async with connect(port, path, key) as again:
            assert json.loads(await asyncio.wait_for(again.recv(), 20))


async def test_v1_socket_beyond_the_limit_gets_an_error_and_is_closed(conversation, key, settings):
    settings.STREAMS_PER_USER = 2
    async with (
        serve_application() as port,
        two_sockets(port, conversation, key),
        connect(port, f"/sockets/events/{conversation.pk}?session_api_key={key}") as third,
    ):
        texts, code, reason = await close_of(third)
    assert code == 4029
    assert reason.startswith(SENTENCE)
    assert any(SENTENCE in text for text in texts)


async def test_v0_socket_beyond_the_limit_gets_an_error_and_a_disconnect(
    conversation, key, settings
):
    settings.STREAMS_PER_USER = 2
    query = f"EIO=4&transport=websocket&conversation_id={conversation.pk}&session_api_key={key}"
    async with (
        serve_application() as port,
        two_sockets(port, conversation, key),
        websockets.connect(
            f"ws://127.0.0.1:{port}/socket.io/?{query}",
            additional_headers={"Authorization": f"Bearer {key}"},
            proxy=None,
        ) as third,
    ):
        assert (await third.recv()).startswith("0")
        await third.send("40")
        texts = [await asyncio.wait_for(third.recv(), 20) for _ in range(3)]
    assert any(SENTENCE in text and '"error":true' in text for text in texts)
    assert texts[-1] == "41"


@pytest.mark.parametrize("query", ["events/stream", "events?after=0&wait=20"])
async def test_stream_and_long_poll_beyond_the_limit_get_429(conversation, key, settings, query):
    settings.STREAMS_PER_USER = 2
    async with (
        serve_application() as port,
        two_sockets(port, conversation, key),
        httpx2.AsyncClient(trust_env=False, timeout=30) as client,
    ):
        response = await client.get(
            f"http://127.0.0.1:{port}/api/v1/conversations/{conversation.pk}/{query}",
            headers={"Authorization": f"Bearer {key}"},
        )
    assert response.status_code == 429
    assert response.json()["code"] == "too-many-streams"
    assert response.json()["detail"].startswith(SENTENCE)
    assert response.headers["Retry-After"] == "5"


async def test_limit_counts_users_not_keys_and_0_means_no_limit(conversation, alice, key, settings):
    _, other = await sync_to_async(accounts.issue_api_key)(user=alice, name="other")
    settings.STREAMS_PER_USER = 2
    async with serve_application() as port, two_sockets(port, conversation, key) as path:
        async with connect(port, path, other) as third:
            assert (await close_of(third))[1] == 4429
        settings.STREAMS_PER_USER = 0
        async with connect(port, path, other) as third:
            assert json.loads(await asyncio.wait_for(third.recv(), 20))


async def test_sockets_that_have_not_signed_in_are_limited_by_address(conversation, key, settings):
    settings.SOCKETS_PER_ADDRESS = 2
    path = f"/sockets/events/{conversation.pk}"
    async with serve_application() as port, connect(port, path) as first, connect(port, path):
        async with connect(port, path) as third:
            _, code, reason = await close_of(third)
        assert code == 1013
        assert "2 sockets open that have not signed in" in reason
        # A socket that signs in no longer counts.
        await first.send(json.dumps({"type": "auth", "session_api_key": key}))
        await asyncio.wait_for(first.recv(), 20)
        async with connect(port, path) as again:
            await again.send(json.dumps({"type": "auth", "session_api_key": key}))
            assert json.loads(await asyncio.wait_for(again.recv(), 20))


@pytest.mark.parametrize(
    "path",
    [
        "/ws/v1/conversations/{}?after=0",
        "/sockets/events/{}",
        "/socket.io/?EIO=4&transport=websocket",
    ],
)
async def test_socket_in_the_reserve_of_open_files_is_closed_with_1013_and_a_reason(
    conversation, key, monkeypatch, path
):
    async with serve_application() as port:
        monkeypatch.setattr(open_files, "room", lambda *_: Room.SCARCE)
        async with connect(port, path.format(conversation.pk), key) as client:
            assert await close_of(client) == ([], 1013, open_files.REFUSAL)


@pytest.mark.parametrize("query", ["events/stream", "events?after=0&wait=20"])
async def test_stream_in_the_reserve_of_open_files_gets_503_and_a_request_is_served(
    conversation, key, monkeypatch, query
):
    monkeypatch.setattr(open_files, "room", lambda *_: Room.SCARCE)
    headers = {"Authorization": f"Bearer {key}"}
    async with (
        serve_application() as port,
        httpx2.AsyncClient(trust_env=False, timeout=30, headers=headers) as client,
    ):
        url = f"http://127.0.0.1:{port}/api/v1/conversations/{conversation.pk}"
        response = await client.get(f"{url}/{query}")
        assert (response.status_code, response.json()["code"]) == (503, "too-many-open-files")
        assert (await client.get(url)).status_code == 200

"""HTTP responses that stay open: server-sent events and long polling, fed by the hub of the sockets."""

import asyncio
import json
import threading

import pytest
from asgiref.sync import sync_to_async
from asgiref.testing import ApplicationCommunicator
from django.db import connections

from accounts import services as accounts
from conversations import services
from conversations.models import Conversation, Lease
from conversations.realtime import threads
from conversations.realtime.held import HeldResponses, parse_event_id
from conversations.realtime.hub import get_hub
from openhands_site import asgi
from tests.conversations.conftest import make_frame
from tests.waiting import wait_until_async

pytestmark = pytest.mark.django_db(transaction=True)


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


@sync_to_async
def create_key(user):
    return accounts.issue_api_key(user=user, name="stream")


async def append(conversation, *seqs):
    await sync_to_async(services.ingest_events)(
        conversation_id=conversation.pk, generation=1, frames=[make_frame(n) for n in seqs]
    )


class Request:
    """A GET request through the whole ASGI application."""

    def __init__(self, path, query="", **headers):
        names = {name.replace("_", "-"): value for name, value in headers.items()}
        scope = {
            "type": "http",
            "http_version": "1.1",
            "method": "GET",
            "scheme": "http",
            "path": path,
            "raw_path": path.encode(),
            "query_string": query.encode(),
            "root_path": "",
            "headers": [
                (b"host", b"testserver"),
                *((name.encode(), value.encode()) for name, value in names.items()),
            ],
            "client": ("127.0.0.1", 1234),
            "server": ("testserver", 80),
        }
        self.communicator = ApplicationCommunicator(asgi.application, scope)

    async def start(self):
        await self.communicator.send_input({"type": "http.request", "body": b""})
        message = await self.communicator.receive_output(10)
        assert message["type"] == "http.response.start", message
        self.headers = dict(message["headers"])
        return message["status"]

    async def receive_piece(self, seconds=10):
        return await self.communicator.receive_output(seconds)

    async def receive_events(self, count):
        """Return the next ``count`` messages of the stream as pairs of id and frame, without pings."""
        messages = []
        while len(messages) < count:
            lines = (await self.receive_piece())["body"].decode().split("\n")
            data = "\n".join(line[6:] for line in lines if line.startswith("data: "))
            ids = [line[4:] for line in lines if line.startswith("id: ")]
            if data:
                messages.append((ids[0] if ids else None, json.loads(data)))
        return messages

    async def disconnect(self):
        await self.communicator.send_input({"type": "http.disconnect"})
        await self.communicator.wait(10)


def build_stream_request(conversation, token, query="", **headers):
    path = f"/api/v1/conversations/{conversation.pk}/events/stream"
    return Request(
        path, query, authorization=f"Bearer {token}", accept="text/event-stream", **headers
    )


def build_page_request(conversation, token, query):
    path = f"/api/v1/conversations/{conversation.pk}/events"
    return Request(path, query, authorization=f"Bearer {token}")


async def test_stream_sends_history_then_new_events_with_ids(conversation, alice):
    _, token = await create_key(alice)
    await append(conversation, 0, 1)
    stream = build_stream_request(conversation, token, "after=1")

    assert await stream.start() == 200
    assert stream.headers[b"content-type"] == b"text/event-stream; charset=utf-8"
    assert b"x-held" not in stream.headers
    assert b"content-security-policy" in stream.headers
    [event, status] = await stream.receive_events(2)
    assert (event[0], event[1]["seq"], status[1]["type"]) == ("1-2", 2, "status")
    await append(conversation, 2)
    [(event_id, frame)] = await stream.receive_events(1)
    assert (event_id, frame["event"]["event_id"]) == ("1-3", "event-2")
    await stream.disconnect()


async def test_stream_continues_after_the_last_event_id(conversation, alice):
    _, token = await create_key(alice)
    await append(conversation, 0, 1, 2)
    stream = build_stream_request(conversation, token, last_event_id="1-2")
    await stream.start()

    assert [event_id for event_id, _ in await stream.receive_events(2)] == ["1-3", None]
    await stream.disconnect()


async def test_last_event_id_of_another_epoch_gets_a_reset(conversation, alice):
    _, token = await create_key(alice)
    await append(conversation, 0)
    await sync_to_async(Conversation.objects.update)(epoch=2)
    stream = build_stream_request(conversation, token, last_event_id="1-1")
    await stream.start()

    [(event_id, reset)] = await stream.receive_events(1)
    assert (event_id, reset) == ("2-1", {"type": "reset", "last_seq": 1, "epoch": 2})
    await stream.disconnect()


async def test_cursor_before_the_oldest_stored_event_gets_a_reset(conversation, alice):
    _, token = await create_key(alice)
    await append(conversation, 0, 1, 2)
    await sync_to_async(Conversation.objects.update)(pruned_seq=2)
    behind, within = (build_stream_request(conversation, token, f"after={n}") for n in (1, 2))
    await behind.start()
    await within.start()

    assert (await behind.receive_events(1))[0][1]["type"] == "reset"
    assert (await within.receive_events(1))[0][1]["seq"] == 3
    await behind.disconnect()
    await within.disconnect()


@pytest.mark.parametrize("last", ["x", "1", "1-", "-1", "1-x", "1-" + "9" * 19, "\xb9-1"])
async def test_malformed_last_event_id_is_refused(conversation, alice, last):
    assert parse_event_id(last) is None
    _, token = await create_key(alice)
    if last.isascii():
        assert await build_stream_request(conversation, token, last_event_id=last).start() == 400


async def test_stranger_gets_404_and_invalid_key_gets_401(conversation, alice, charlie):
    _, token = await create_key(charlie)

    assert await build_stream_request(conversation, token).start() == 404
    assert await build_stream_request(conversation, "oh_x.y").start() == 401


async def test_revoked_key_ends_the_stream(conversation, alice):
    row, token = await create_key(alice)
    stream = build_stream_request(conversation, token)
    await stream.start()
    await stream.receive_events(1)

    await sync_to_async(accounts.revoke_api_key)(key=row)

    while (last := await stream.receive_piece())["more_body"]:
        pass
    assert last["body"] == b""


async def test_idle_stream_sends_a_ping(conversation, alice, settings):
    settings.SOCKET_PING_SECONDS = 1
    _, token = await create_key(alice)
    stream = build_stream_request(conversation, token)
    await stream.start()
    await stream.receive_events(1)

    assert (await stream.receive_piece())["body"] == b": ping\n\n"
    await stream.disconnect()


async def test_empty_page_waits_for_its_first_event(conversation, alice):
    _, token = await create_key(alice)
    await append(conversation, 0)
    page = build_page_request(conversation, token, "after=1&wait=30")
    status = asyncio.create_task(page.start())
    await wait_until_async(
        lambda: any(feed.subscriptions for feed in get_hub().feeds.values()),
        "the page to subscribe to the hub",
    )
    await append(conversation, 1)

    assert await status == 200
    body = json.loads((await page.receive_piece())["body"])
    assert [item["event_id"] for item in body["items"]] == ["event-1"]
    assert (body["last_seq"], body["epoch"]) == (2, 1)


async def test_page_with_events_returns_immediately_and_an_empty_page_after_its_wait(
    conversation, alice
):
    _, token = await create_key(alice)
    await append(conversation, 0)
    full, empty = (build_page_request(conversation, token, f"after={n}&wait=1") for n in (0, 1))
    await full.start()
    await empty.start()

    assert len(json.loads((await full.receive_piece())["body"])["items"]) == 1
    assert json.loads((await empty.receive_piece())["body"]) == {
        "items": [],
        "last_seq": 1,
        "epoch": 1,
    }


async def test_many_open_streams_hold_no_thread_and_no_connection(conversation, alice):
    """Open more streams than the server has threads or connections; a plain request still succeeds."""
    _, token = await create_key(alice)
    streams = [build_stream_request(conversation, token) for _ in range(40)]
    for stream in streams:
        assert await stream.start() == 200
    thread_count = threading.active_count()
    plain = build_page_request(conversation, token, "after=0")

    assert await plain.start() == 200
    assert thread_count < 40
    assert len(get_hub().feeds) == 1
    for stream in streams:
        await stream.disconnect()
    assert get_hub().feeds == {}


def test_server_without_held_responses_refuses_a_stream_with_421(conversation, api):
    path = f"/api/v1/conversations/{conversation.pk}/events"

    refused = api.get(f"{path}/stream", headers={"Accept": "text/event-stream", "X-Held-By": "me"})

    assert (refused.status_code, refused.json()["code"]) == (421, "misdirected")
    assert api.get(f"{path}?wait=30").json()["items"] == []
    assert api.get(f"{path}?wait=30&kind=x").status_code == 400
    assert api.get(f"{path}?wait=31").status_code == 400


def test_head_of_a_stream_is_complete_and_shows_its_type(conversation, api):
    response = api.head(f"/api/v1/conversations/{conversation.pk}/events/stream")

    assert (response.status_code, response.content) == (200, b"")
    assert response.headers["Content-Type"] == "text/event-stream"


async def test_client_cannot_forge_the_header_of_held_responses(conversation, alice):
    """The server sets or removes the header itself and ignores the client's value."""
    held_by = []

    async def inner(scope, receive, send):
        held_by[:] = [value for name, value in scope["headers"] if name == b"x-held-by"]

    scope = {"method": "GET", "headers": [(b"x-held-by", b"me")]}
    await HeldResponses(inner)(scope, None, None)
    assert [value != b"me" for value in held_by] == [True]

    await HeldResponses(inner)(scope | {"method": "HEAD"}, None, None)
    assert held_by == []

"""Logs over plain HTTP that stays open: server-sent events and waiting pages, on the hub of the sockets."""

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
def key(user):
    return accounts.issue_api_key(user=user, name="stream")


async def append(conversation, *seqs):
    await sync_to_async(services.ingest_events)(
        conversation_id=conversation.pk, generation=1, frames=[make_frame(n) for n in seqs]
    )


class Request:
    """One GET, through the whole application."""

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

    async def piece(self, seconds=10):
        return await self.communicator.receive_output(seconds)

    async def events(self, count):
        """So many messages of a stream: their ids and frames."""
        found = []
        while len(found) < count:
            lines = (await self.piece())["body"].decode().split("\n")
            data = "\n".join(line[6:] for line in lines if line.startswith("data: "))
            ids = [line[4:] for line in lines if line.startswith("id: ")]
            if data:
                found.append((ids[0] if ids else None, json.loads(data)))
        return found

    async def leave(self):
        await self.communicator.send_input({"type": "http.disconnect"})
        await self.communicator.wait(10)


def stream_of(conversation, token, query="", **headers):
    path = f"/api/v1/conversations/{conversation.pk}/events/stream"
    return Request(
        path, query, authorization=f"Bearer {token}", accept="text/event-stream", **headers
    )


def page_of(conversation, token, query):
    path = f"/api/v1/conversations/{conversation.pk}/events"
    return Request(path, query, authorization=f"Bearer {token}")


async def test_stream_gives_history_then_news_with_ids(conversation, alice):
    _, token = await key(alice)
    await append(conversation, 0, 1)
    stream = stream_of(conversation, token, "after=1")

    assert await stream.start() == 200
    assert stream.headers[b"content-type"] == b"text/event-stream; charset=utf-8"
    assert b"x-held" not in stream.headers
    assert b"content-security-policy" in stream.headers
    [event, status] = await stream.events(2)
    assert (event[0], event[1]["seq"], status[1]["type"]) == ("1-2", 2, "status")
    await append(conversation, 2)
    [(place, news)] = await stream.events(1)
    assert (place, news["event"]["event_id"]) == ("1-3", "event-2")
    await stream.leave()


async def test_stream_goes_on_behind_the_last_id(conversation, alice):
    _, token = await key(alice)
    await append(conversation, 0, 1, 2)
    stream = stream_of(conversation, token, last_event_id="1-2")
    await stream.start()

    assert [place for place, _ in await stream.events(2)] == ["1-3", None]
    await stream.leave()


async def test_id_of_another_epoch_is_reset(conversation, alice):
    _, token = await key(alice)
    await append(conversation, 0)
    await sync_to_async(Conversation.objects.update)(epoch=2)
    stream = stream_of(conversation, token, last_event_id="1-1")
    await stream.start()

    [(place, reset)] = await stream.events(1)
    assert (place, reset) == ("2-1", {"type": "reset", "last_seq": 1, "epoch": 2})
    await stream.leave()


async def test_place_before_what_is_kept_is_reset(conversation, alice):
    _, token = await key(alice)
    await append(conversation, 0, 1, 2)
    await sync_to_async(Conversation.objects.update)(pruned_seq=2)
    behind, within = (stream_of(conversation, token, f"after={n}") for n in (1, 2))
    await behind.start()
    await within.start()

    assert (await behind.events(1))[0][1]["type"] == "reset"
    assert (await within.events(1))[0][1]["seq"] == 3
    await behind.leave()
    await within.leave()


@pytest.mark.parametrize("last", ["x", "1", "1-", "-1", "1-x", "1-" + "9" * 19, "\xb9-1"])
async def test_odd_id_is_refused(conversation, alice, last):
    assert parse_event_id(last) is None
    _, token = await key(alice)
    if last.isascii():
        assert await stream_of(conversation, token, last_event_id=last).start() == 400


async def test_stranger_and_nobody_get_no_stream(conversation, alice, charlie):
    _, token = await key(charlie)

    assert await stream_of(conversation, token).start() == 404
    assert await stream_of(conversation, "oh_x.y").start() == 401


async def test_revoked_key_ends_the_stream(conversation, alice):
    row, token = await key(alice)
    stream = stream_of(conversation, token)
    await stream.start()
    await stream.events(1)

    await sync_to_async(accounts.revoke_api_key)(key=row)

    while (piece := await stream.piece())["more_body"]:
        pass
    assert piece["body"] == b""


async def test_silent_stream_is_kept_alive(conversation, alice, settings):
    settings.SOCKET_PING_SECONDS = 1
    _, token = await key(alice)
    stream = stream_of(conversation, token)
    await stream.start()
    await stream.events(1)

    assert (await stream.piece())["body"] == b": ping\n\n"
    await stream.leave()


async def test_page_waits_for_its_first_event(conversation, alice):
    _, token = await key(alice)
    await append(conversation, 0)
    page = page_of(conversation, token, "after=1&wait=30")
    answer = asyncio.create_task(page.start())
    while not any(feed.subscriptions for feed in get_hub().feeds.values()):
        await asyncio.sleep(0.01)
    await append(conversation, 1)

    assert await answer == 200
    body = json.loads((await page.piece())["body"])
    assert [item["event_id"] for item in body["items"]] == ["event-1"]
    assert (body["last_seq"], body["epoch"]) == (2, 1)


async def test_page_with_events_does_not_wait_and_an_empty_one_not_for_ever(conversation, alice):
    _, token = await key(alice)
    await append(conversation, 0)
    full, empty = (page_of(conversation, token, f"after={n}&wait=1") for n in (0, 1))
    await full.start()
    await empty.start()

    assert len(json.loads((await full.piece())["body"])["items"]) == 1
    assert json.loads((await empty.piece())["body"]) == {"items": [], "last_seq": 1, "epoch": 1}


async def test_many_waiting_hold_no_thread_and_no_connection(conversation, alice):
    """More streams than the server has threads or pooled connections, and a plain request still goes through."""
    _, token = await key(alice)
    many = [stream_of(conversation, token) for _ in range(40)]
    for stream in many:
        assert await stream.start() == 200
    threads = threading.active_count()
    plain = page_of(conversation, token, "after=0")

    assert await plain.start() == 200
    assert threads < 40
    assert len(get_hub().feeds) == 1
    for stream in many:
        await stream.leave()
    assert get_hub().feeds == {}


def test_plain_server_says_that_it_cannot_hold(conversation, api):
    path = f"/api/v1/conversations/{conversation.pk}/events"

    refused = api.get(
        f"{path}/stream", headers={"Accept": "text/event-stream", "X-HeldResponses-By": "me"}
    )

    assert (refused.status_code, refused.json()["code"]) == (421, "misdirected")
    assert api.get(f"{path}?wait=30").json()["items"] == []
    assert api.get(f"{path}?wait=30&kind=x").status_code == 400
    assert api.get(f"{path}?wait=31").status_code == 400


async def test_caller_cannot_pass_for_the_holder(conversation, alice):
    """The header that says so is ours alone, whatever the client sends."""
    seen = {}

    async def inner(scope, receive, send):
        seen.update(headers=[pair for pair in scope["headers"] if pair[0] == b"x-held-by"])

    shown = {"method": "GET", "headers": [(b"x-held-by", b"me")]}
    await HeldResponses(inner)(shown, None, None)
    assert [value != b"me" for _, value in seen["headers"]] == [True]

    await HeldResponses(inner)(shown | {"method": "HEAD"}, None, None)
    assert seen["headers"] == []

"""Bodies while they arrive: who may send a large one, how many at once, how slowly, and what remains on the disk."""

import asyncio
import json

import pytest
from asgiref.sync import sync_to_async
from asgiref.testing import ApplicationCommunicator

from accounts import services as accounts
from billing import services as billing
from conversations import services
from openhands_site.serving.arriving_bodies import ArrivingBodies

pytestmark = pytest.mark.django_db(transaction=True)
UPLOAD = "/api/v1/conversations/0192d1f0-0000-7000-8000-000000000000/files/upload"
LARGE_ROUTES = [
    UPLOAD,
    "/api/v1/conversations/0192d1f0-0000-7000-8000-000000000000/files",
    "/api/conversations/0192d1f00000700080000000000000aa/upload-files",
    "/api/llm/v1/chat/completions",
    "/api/v1/conversations",
    "/sign-in",
    "/mcp",
    "/no/such/page",
]
LENGTH, CHUNKED = (b"content-length", b"200000"), (b"transfer-encoding", b"chunked")


class Client:
    """One request to the middleware. The application reads the whole body and responds with its size."""

    def __init__(self, middleware_, *headers, path=UPLOAD, address="192.0.2.1"):
        self.sent, self.pieces, self.reads = [], asyncio.Queue(), 0
        scope = {
            "type": "http",
            "method": "POST",
            "path": path,
            "headers": list(headers),
            "client": (address, 5),
        }
        self.task = asyncio.create_task(middleware_(scope, self._receive, self._send))

    def put(self, size, *, is_last=False):
        self.pieces.put_nowait(
            {"type": "http.request", "body": b"x" * size, "more_body": not is_last}
        )

    async def _receive(self):
        self.reads += 1
        return await self.pieces.get()

    async def _send(self, message):
        self.sent.append(message)

    async def response(self):
        await asyncio.wait_for(self.task, 20)
        return self.sent[0]["status"], json.loads(self.sent[1]["body"])


@pytest.fixture
def middleware():
    async def application(scope, receive, send):
        size, is_more = 0, True
        while is_more:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            size += len(message["body"])
            is_more = message["more_body"]
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": json.dumps({"read": size}).encode()})

    return ArrivingBodies(application)


@pytest.mark.parametrize("path", LARGE_ROUTES)
@pytest.mark.parametrize(
    "headers",
    [
        (),
        ((b"authorization", b"Bearer oh_invented.key"),),
        ((b"x-api-key", b"oh_invented.key"),),
        ((b"x-session-api-key", b"ocs_invented.00"),),
        ((b"authorization", b"Bearer a.b.c"),),
        ((b"cookie", b"sessionid=abcdefgh"),),
        ((b"authorization", b"Bearer " + b"\xff" * 9),),
    ],
    ids=["none", "key", "x-api-key", "conversation", "jwt", "session", "bytes"],
)
async def test_large_body_without_valid_credential_is_refused_before_it_is_read(
    middleware, path, headers
):
    client = Client(middleware, LENGTH, *headers, path=path)
    status, problem = await client.response()
    assert (status, problem["code"], client.reads) == (401, "not-authenticated", 0)
    assert "65536 bytes" in problem["detail"]
    assert not middleware._open
    assert not middleware._bytes


async def test_chunked_body_without_credential_is_refused_once_it_is_large(middleware):
    client = Client(middleware, CHUNKED)
    for _ in range(3):
        client.put(30_000)
    status, problem = await client.response()
    assert (status, problem["code"], client.reads) == (401, "not-authenticated", 3)


@pytest.mark.parametrize("header", [LENGTH, CHUNKED])
async def test_small_body_needs_no_credential(middleware, header):
    header = header if header is CHUNKED else (b"content-length", b"65536")
    client = Client(middleware, header, path="/sign-in")
    client.put(65_536, is_last=True)
    assert await client.response() == (200, {"read": 65_536})


@pytest.fixture
def credentials(alice):
    """Headers with each kind of credential, and the path for which it is valid."""
    _, key = accounts.issue_api_key(user=alice, name="bodies")
    conversation = services.create_conversation(user=alice, title="Bodies")
    conversation_key = services.conversation_key(conversation=conversation, user=alice)
    gateway = billing.issue_gateway_token(
        conversation_id=conversation.pk,
        organization_id=conversation.organization_id,
        user_id=alice.pk,
    )
    return {
        "key": (b"authorization", f"Bearer {key}".encode()),
        "x-api-key": (b"x-api-key", key.encode()),
        "key as session key": (b"x-session-api-key", key.encode()),
        "conversation key": (b"x-session-api-key", conversation_key.encode()),
        "conversation key as bearer": (b"authorization", f"Bearer {conversation_key}".encode()),
        "gateway": (b"authorization", f"Bearer {gateway}".encode()),
    }


@pytest.mark.parametrize(
    "kind",
    [
        "key",
        "x-api-key",
        "key as session key",
        "conversation key",
        "conversation key as bearer",
        "gateway",
    ],
)
async def test_large_body_with_a_valid_credential_is_read(middleware, credentials, kind):
    path = "/api/llm/v1/chat/completions" if kind == "gateway" else UPLOAD
    client = Client(middleware, LENGTH, credentials[kind], path=path)
    client.put(200_000, is_last=True)
    assert await client.response() == (200, {"read": 200_000})


async def test_body_that_arrives_too_slowly_ends_with_408(middleware, settings):
    settings.BODY_SECONDS, settings.BODY_BYTES_PER_SECOND = 1, 1_000
    client = Client(middleware, (b"content-length", b"1000"), path="/sign-in")

    async def drip():
        while not client.task.done():
            client.put(1)
            await asyncio.sleep(0.1)

    dripping = asyncio.create_task(drip())
    status, problem = await client.response()
    await dripping
    assert (status, problem["code"]) == (408, "request-timeout")
    assert "bytes of the body arrived" in problem["detail"]
    assert not middleware._open


async def test_time_in_which_the_application_does_not_read_is_not_counted(settings):
    settings.BODY_SECONDS = 1

    async def application(scope, receive, send):
        await asyncio.sleep(1.5)
        message = await receive()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b'{"read": %d}' % len(message["body"])})

    client = Client(ArrivingBodies(application), (b"content-length", b"3"), path="/sign-in")
    client.put(3, is_last=True)
    assert await client.response() == (200, {"read": 3})


async def test_unfinished_bodies_are_limited_by_address(middleware, settings):
    settings.OPEN_BODIES_PER_ADDRESS = 2
    header = (b"content-length", b"10")
    waiting = [Client(middleware, header, path="/sign-in") for _ in range(2)]
    await asyncio.sleep(0.05)
    status, problem = await Client(middleware, header, path="/sign-in").response()
    assert (status, problem["code"]) == (429, "too-many-bodies")
    other = Client(middleware, header, path="/sign-in", address="192.0.2.2")
    other.put(10, is_last=True)
    assert (await other.response())[0] == 200
    for client in waiting:
        client.put(10, is_last=True)
        assert (await client.response())[0] == 200
    again = Client(middleware, header, path="/sign-in")
    again.put(10, is_last=True)
    assert (await again.response())[0] == 200
    assert not middleware._open


@pytest.mark.parametrize("header", [b"content-length", b"transfer-encoding"])
async def test_temporary_files_are_bounded_by_process_and_by_address(
    middleware, settings, credentials, header
):
    settings.BODIES_DISK_MAX_BYTES = 8_000_000
    key = credentials["key"]

    def start(address):
        pair = (header, b"3000000" if header == b"content-length" else b"chunked")
        client = Client(middleware, pair, key, address=address)
        client.put(3_000_000)
        return client

    first = start("192.0.2.1")
    while not middleware._bytes:
        await asyncio.sleep(0.01)
    assert (await start("192.0.2.1").response())[0] == 503  # 6 MB of half of 8 MB
    second = start("192.0.2.2")
    while middleware._bytes.total() < 6_000_000:
        await asyncio.sleep(0.01)
    status, problem = await start("192.0.2.3").response()
    assert (status, problem["code"]) == (503, "too-many-bodies")
    for client in (first, second):
        client.put(0, is_last=True)
        assert (await client.response())[0] == 200
    assert not middleware._bytes


async def test_disconnected_client_leaves_nothing_counted(middleware, credentials):
    client = Client(middleware, (b"content-length", b"3000000"), credentials["key"])
    client.put(2_000_000)
    client.pieces.put_nowait({"type": "http.disconnect"})
    await asyncio.wait_for(client.task, 20)
    assert not client.sent
    assert not middleware._open
    assert not middleware._bytes


async def test_credential_cannot_be_checked_while_the_database_is_away(middleware, monkeypatch):
    from django.db import OperationalError

    from openhands_site.serving import arriving_bodies

    def fail(scope):
        raise OperationalError("connection refused")

    monkeypatch.setattr(arriving_bodies, "has_valid_credential", fail)
    status, problem = await Client(middleware, LENGTH).response()
    assert (status, problem["code"]) == (503, "unavailable")


async def test_session_cookie_is_a_valid_credential(middleware, alice, client, settings):
    form = {"email": alice.email, "password": "correct horse battery"}
    await sync_to_async(client.post)("/sign-in", form)
    name = settings.SESSION_COOKIE_NAME
    cookie = (b"cookie", f"{name}={client.cookies[name].value}".encode())
    request = Client(middleware, LENGTH, cookie)
    request.put(200_000, is_last=True)
    assert await request.response() == (200, {"read": 200_000})


@pytest.mark.parametrize("length", [b"99000000", b"100000"])
async def test_application_refuses_an_anonymous_upload_from_its_head(length):
    from openhands_site import asgi

    scope = {
        "type": "http",
        "method": "POST",
        "http_version": "1.1",
        "scheme": "http",
        "path": UPLOAD,
        "raw_path": UPLOAD.encode(),
        "root_path": "",
        "query_string": b"",
        "headers": [(b"host", b"testserver"), (b"content-length", length)],
        "client": ("192.0.2.1", 1),
        "server": ("testserver", 80),
    }
    communicator = ApplicationCommunicator(asgi.application, scope)
    start = await communicator.receive_output(timeout=30)  # without any message of the body
    assert start["status"] == 401
    assert (b"www-authenticate", b'Bearer realm="api"') in start["headers"]


@pytest.mark.parametrize("length", [b"1" + b"0" * 18, b"9" * 400, b"x", b"-1"])
async def test_length_that_never_fits_is_left_to_the_size_limit(middleware, length, settings):
    settings.BODIES_DISK_MAX_BYTES = 1_000_000
    client = Client(middleware, (b"content-length", length))
    client.put(1, is_last=True)

    # The application is the size limit (413). This middleware must not respond with 401 or 503 before it.
    assert (await client.response())[0] == 200

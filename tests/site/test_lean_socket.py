"""The lean WebSocket protocol: it behaves as uvicorn's own protocol, and it sends ready-made frames."""

import asyncio
import socket

import pytest
import uvicorn
import websockets
from uvicorn.protocols.utils import ClientDisconnected

from lib.framing import READY, encode_frame
from openhands_site.serving import lean_socket
from openhands_site.serving.lean_socket import Inbox, LeanEvent, LeanWebSocket


async def echo(scope, receive, send):
    await receive()
    await send({"type": "websocket.accept", "headers": [(b"x-greeting", b"hello")]})
    while (message := await receive())["type"] != "websocket.disconnect":
        await send({"type": "websocket.send", "text": message["text"] + scope["path"]})


class RemoteApplication:
    """An ASGI application whose messages are sent by the test, through ``send`` and ``send_ready``."""

    async def __call__(self, scope, receive, send):
        self.extensions, self.send = scope["extensions"], send
        await receive()
        await send({"type": "websocket.accept"})
        while (await receive())["type"] != "websocket.disconnect":
            pass

    async def send_ready(self, *texts):
        await self.send({"type": READY, "frames": [encode_frame(text.encode()) for text in texts]})


class Server:
    """A uvicorn server with the lean protocol. ``protocols`` has one entry per connection."""

    def __init__(self, application=echo, **options):
        self.protocols = []

        def create_protocol(*args, **kwargs):
            self.protocols.append(LeanWebSocket(*args, **kwargs))
            return self.protocols[-1]

        options = {"ws_per_message_deflate": False} | options
        config = uvicorn.Config(
            application, ws=create_protocol, lifespan="off", log_config=None, **options
        )
        self.server = uvicorn.Server(config)
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"ws://127.0.0.1:{self.listener.getsockname()[1]}/x"

    async def __aenter__(self):
        self.task = asyncio.create_task(self.server.serve(sockets=[self.listener]))
        return self

    async def __aexit__(self, *_):
        self.server.should_exit = True
        await self.task


async def test_messages_are_answered_in_order_and_the_handshake_is_freed():
    async with Server() as server, websockets.connect(server.address) as client:
        assert client.response.headers["x-greeting"] == "hello"
        for word in ("a", "b", "c"):
            await client.send(word)
        assert [await client.recv() for _ in range(3)] == ["a/x", "b/x", "c/x"]

        (protocol,) = server.protocols
        assert not protocol.request.headers
        assert not protocol.response.headers
        assert not hasattr(protocol, "scope")


async def test_open_socket_is_closed_with_1012_when_the_server_stops():
    async with Server() as server:
        client = await websockets.connect(server.address)
    with pytest.raises(websockets.ConnectionClosed) as closing:
        await client.recv()
    assert closing.value.rcvd.code == 1012


async def test_ready_frames_arrive_in_order_between_other_messages():
    texts = ["", "é" * 62 + "x", "x" * 126, "\u20ac" * 21_845, "x" * 65_536, "x" * 300_000]
    application = RemoteApplication()
    async with (
        Server(application) as server,
        websockets.connect(server.address, max_size=None) as client,
    ):
        await application.send({"type": "websocket.send", "text": "before"})
        await application.send_ready(*texts)
        await application.send({"type": "websocket.send", "text": "after"})
        await application.send_ready("last")
        await application.send({"type": "websocket.close", "code": 4403})

        assert [text async for text in receive_texts(client)] == ["before", *texts, "after", "last"]
        assert client.close_code == 4403


async def receive_texts(client):
    """Yield the messages that a client receives until its socket is closed."""
    try:
        while True:
            yield await client.recv()
    except websockets.ConnectionClosed:
        return


async def test_ready_frames_wait_while_writing_is_paused():
    application = RemoteApplication()
    async with Server(application) as server, websockets.connect(server.address) as client:
        (protocol,) = server.protocols
        protocol.pause_writing()
        sending = asyncio.create_task(application.send_ready("a", "b"))
        await asyncio.sleep(0.05)
        assert not sending.done()

        protocol.resume_writing()

        await sending
        assert [await client.recv(), await client.recv()] == ["a", "b"]


async def test_ready_frames_after_the_close_frame_raise_client_disconnected():
    application = RemoteApplication()
    async with Server(application) as server, websockets.connect(server.address) as client:
        await application.send({"type": "websocket.close", "code": 1013})

        with pytest.raises(ClientDisconnected):
            await application.send_ready("late")

        assert [text async for text in receive_texts(client)] == []
        assert client.close_code == 1013


async def test_ready_frames_are_offered_only_without_compression():
    application = RemoteApplication()
    async with Server(application, ws_per_message_deflate=True) as server:
        async with websockets.connect(server.address):
            assert READY not in application.extensions
        async with websockets.connect(server.address, compression=None):
            assert READY in application.extensions


async def test_lean_event_wakes_every_waiter_that_was_not_cancelled():
    event = LeanEvent()
    waiters = [asyncio.create_task(event.wait()) for _ in range(3)]
    await asyncio.sleep(0)
    waiters[0].cancel()
    await asyncio.sleep(0)
    assert not any(waiter.done() for waiter in waiters[1:])

    event.set()

    assert await asyncio.gather(*waiters[1:]) == [True, True]
    assert await event.wait()
    assert waiters[0].cancelled()


async def test_inbox_keeps_an_item_for_the_next_reader_if_a_reader_is_cancelled():
    inbox = Inbox()
    cancelled, remaining = asyncio.create_task(inbox.get()), asyncio.create_task(inbox.get())
    await asyncio.sleep(0)
    inbox.put_nowait(1)
    cancelled.cancel()

    assert await remaining == 1
    assert inbox.empty()
    inbox.put_nowait(2)
    inbox.put_nowait(3)
    assert [await inbox.get(), await inbox.get()] == [2, 3]


HEAD = (
    b"GET /x HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"
)


@pytest.mark.parametrize("frames", [[b"\xff"], [b"\xf0\x9f", b"\x98"], [b"", b"\xed\xa0\x80"]])
async def test_text_that_is_not_utf8_closes_with_1007_and_logs_nothing(caplog, frames):
    async with Server() as server, websockets.connect(server.address) as client:
        await client.send(frames if len(frames) > 1 else frames[0], text=True)
        with pytest.raises(websockets.ConnectionClosed) as closing:
            await client.recv()
    assert (closing.value.rcvd.code, closing.value.rcvd.reason) == (1007, "The text is not UTF-8.")
    assert not [record for record in caplog.records if record.exc_info]


@pytest.mark.parametrize(
    ("wrong", "code"),
    [(b"\x81\x81\0\0\0\0\xff", 1007), (b"\x83\x80\0\0\0\0", 1002)],
    ids=["not UTF-8", "unknown opcode"],
)
async def test_client_that_sends_on_after_an_error_receives_the_close_frame(wrong, code):
    ping, text = b"\x89\x80\0\0\0\0", b"\x81\xfe\xff\xff\0\0\0\0" + b"a" * 65_535
    async with Server() as server, asyncio.timeout(10):
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", server.listener.getsockname()[1]
        )
        writer.write(HEAD + b"\r\n")
        await reader.readuntil(b"\r\n\r\n")
        writer.write(wrong + ping)
        for _ in range(40):
            writer.write(text)
            await writer.drain()
            await asyncio.sleep(0.005)
        received = await reader.read()
        writer.close()
    _, _, close = received.rpartition(b"\x88")  # the last frame, after the answer to the ping
    assert close[1:3] == code.to_bytes(2)


async def send_forever(writer):
    while True:
        writer.write(b"a" * 1_000)
        await writer.drain()
        await asyncio.sleep(0.01)


async def test_client_that_never_ends_its_side_is_cut_off(monkeypatch):
    monkeypatch.setattr(lean_socket, "LINGER_SECONDS", 0.1)
    async with Server() as server, asyncio.timeout(10):
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", server.listener.getsockname()[1]
        )
        writer.write(HEAD + b"\r\n")
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"\x81\x81\0\0\0\0\xff")
        await reader.read()
        with pytest.raises(ConnectionError):
            await send_forever(writer)
        writer.close()


async def test_close_frame_right_after_text_that_is_not_utf8_is_answered(caplog):
    async with Server() as server, asyncio.timeout(10):
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", server.listener.getsockname()[1]
        )
        writer.write(HEAD + b"\r\n")
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"\x81\x81\0\0\0\0\xff" + b"\x88\x82\0\0\0\0" + (1000).to_bytes(2))
        assert await reader.read() == b"\x88\x02" + (1000).to_bytes(2)
        writer.close()
    assert not [record for record in caplog.records if record.exc_info]


async def test_text_split_inside_a_character_arrives_whole():
    async with Server() as server, websockets.connect(server.address) as client:
        await client.send([b"\xf0\x9f", b"\x98\x80"], text=True)
        assert await client.recv() == "\U0001f600/x"


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (HEAD + b"Cookie: " + b"a" * 9_000 + b"\r\n", 431),
        (HEAD.replace(b"/x", b"/" + b"x" * 9_000), 431),
        (HEAD + b"".join(b"X-%d: a\r\n" % n for n in range(150)), 431),
        (HEAD.replace(b"GET", b"PUT"), 405),
        (HEAD + b"Content-Length: 5\r\n", 400),
    ],
    ids=["cookie", "path", "headers", "method", "body"],
)
async def test_handshake_that_cannot_be_parsed_gets_a_response(head, status):
    async with Server() as server:
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", server.listener.getsockname()[1]
        )
        writer.write(head + b"\r\n")
        async with asyncio.timeout(10):
            response = await reader.read()
        writer.close()
    assert response.startswith(b"HTTP/1.1 %d " % status), response
    # `websockets` itself responds to a wrong method, in plain text.
    assert (b"application/problem+json" in response) == (status != 405)


async def test_http_response_to_a_handshake_logs_no_error(caplog):
    async def application(scope, receive, send):
        await receive()
        await send({"type": "websocket.http.response.start", "status": 404, "headers": []})
        await send({"type": "websocket.http.response.body", "body": b"none"})

    async with Server(application) as server:
        with pytest.raises(websockets.InvalidStatus) as refusal:
            await websockets.connect(server.address)
    assert (refusal.value.response.status_code, refusal.value.response.body) == (404, b"none")
    assert not [record for record in caplog.records if record.levelname == "ERROR"]

"""uvicorn's HTTP protocol of this server: slow heads, early responses and the last open files."""

import asyncio
import contextlib
import json
import socket

import pytest
import uvicorn

from lib import open_files
from lib.open_files import Room
from openhands_site.serving import guarded_http
from openhands_site.serving.arriving_bodies import ArrivingBodies
from openhands_site.serving.guarded_http import GuardedHttp
from openhands_site.serving.lean_socket import LeanWebSocket


async def application(scope, receive, send):
    """Read the body and respond with its size; respond to /early without reading it. Accept sockets."""
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.accept"})
        while (await receive())["type"] != "websocket.disconnect":
            pass
        return
    size, is_more = 0, scope["path"] != "/early"
    while is_more:
        message = await receive()
        if message["type"] == "http.disconnect":
            return
        size += len(message["body"])
        is_more = message["more_body"]
    body = json.dumps({"read": size}).encode()
    headers = [(b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


@contextlib.asynccontextmanager
async def serve(app=application):
    listener = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(
        app, http=GuardedHttp, ws=LeanWebSocket, lifespan="off", log_config=None
    )
    server = uvicorn.Server(config)
    task = asyncio.create_task(server.serve(sockets=[listener]))
    try:
        yield listener.getsockname()[1]
    finally:
        server.should_exit = server.force_exit = True
        await task


async def talk(port, *pieces, pause=0.2, seconds=15):
    """Send pieces with a pause after each; return all that the server sends until it closes the connection."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    async with asyncio.timeout(seconds):
        response = asyncio.create_task(reader.read())
        with contextlib.suppress(OSError):
            for piece in pieces:
                writer.write(piece)
                await writer.drain()
                await asyncio.sleep(pause)
                if response.done():
                    break
        try:
            return await response
        except ConnectionResetError:
            return b"reset"
        finally:
            writer.close()


HALF_HEADS = [
    (b"GET / HT",),
    (b"GET / HTTP/1.1\r\nHost: a\r\n",),
    (b"POST / HTTP/1.1\r\nHost: a\r\nX-A: ",),
    (b"GET / HTTP/1.1\r\n", *[b"X-A: b\r\n"] * 30),
    (b"\r\n", *[b"\r\n"] * 30),
    (b"G", b"E", b"T", b" ", b"/", *[b"a"] * 30),
]


@pytest.mark.parametrize(
    "pieces", HALF_HEADS, ids=["line", "head", "value", "headers", "crlf", "bytes"]
)
async def test_head_that_never_ends_gets_408_and_the_connection_is_closed(settings, pieces):
    settings.HEAD_SECONDS = 1
    async with serve() as port:
        response = await talk(port, *pieces)
    assert response.startswith(b"HTTP/1.1 408 Request Timeout\r\n")
    assert json.loads(response.partition(b"\r\n\r\n")[2])["code"] == "request-timeout"


async def test_connection_without_a_byte_is_closed_silently(settings):
    settings.HEAD_SECONDS = 1
    async with serve() as port:
        assert await talk(port) == b""


@pytest.mark.parametrize("start", [b"GET / HT", b"\r\n"])
async def test_slow_second_head_on_a_connection_is_ended_too(settings, start):
    settings.HEAD_SECONDS = 1
    first = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
    async with serve() as port:
        response = await talk(port, first, start, *[b""] * 9, pause=0.3)
    assert response.startswith(b"HTTP/1.1 200 OK\r\n")
    assert b"HTTP/1.1 408 " in response


async def test_slow_head_behind_a_running_request_does_not_lose_its_response(settings):
    settings.HEAD_SECONDS = 1

    async def slow(scope, receive, send):
        await asyncio.sleep(2)
        await application(scope, receive, send)

    async with serve(slow) as port:
        response = await talk(port, b"GET / HTTP/1.1\r\nHost: a\r\n\r\nGET / HT", *[b""] * 20)
    assert response.startswith(b"HTTP/1.1 200 OK\r\n")
    assert response.endswith(b'{"read": 0}')


async def test_slow_body_is_ended_with_408_whatever_its_encoding(settings):
    settings.BODY_SECONDS = 1
    chunked = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
    sized = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\n\r\n"
    async with serve(ArrivingBodies(application)) as port:
        responses = await asyncio.gather(
            talk(port, chunked, *[b"1\r\nx\r\n"] * 40),
            talk(port, sized, *[b"x"] * 40),
            talk(port, sized),
            talk(port, sized.replace(b"\r\n\r\n", b"\r\nExpect: 100-continue\r\n\r\n")),
        )
    for whole in responses:
        response = whole.removeprefix(b"HTTP/1.1 100 Continue\r\n\r\n")
        assert response.startswith(b"HTTP/1.1 408 Request Timeout\r\n"), response


async def test_rest_of_a_refused_body_is_discarded_but_not_forever(monkeypatch):
    monkeypatch.setattr(guarded_http, "LINGER_SECONDS", 1)
    head = b"POST /early HTTP/1.1\r\nHost: a\r\nContent-Length: 100000000\r\n\r\n"
    async with serve() as port:
        response = await talk(port, head, *[b"x" * 1_000] * 60, pause=0.1)
    assert response.startswith(b"HTTP/1.1 200 OK\r\n")


async def test_client_that_sends_its_whole_body_first_reads_the_early_response():
    body = b"x" * 20_000_000
    head = b"POST /early HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\nConnection: close\r\n\r\n"
    async with serve() as port:
        response = await talk(
            port,
            head.replace(b"Connection: close\r\n", b"") % len(body) + body,
            pause=0,
            seconds=30,
        )
    assert response.startswith(b"HTTP/1.1 200 OK\r\n")


async def test_socket_stays_open_longer_than_a_head_may_take(settings):
    settings.HEAD_SECONDS = 1
    head = (
        b"GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
    )
    async with serve() as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(head)
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 101 ")
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(2.5):
                await reader.read(1)
        writer.close()


async def test_one_of_the_last_open_files_is_answered_with_503_and_closed(monkeypatch):
    async with serve() as port:
        monkeypatch.setattr(open_files, "room", lambda *_: Room.NONE)
        response = await talk(port)
    assert response.startswith(b"HTTP/1.1 503 Service Unavailable\r\n")
    assert json.loads(response.partition(b"\r\n\r\n")[2])["detail"] == open_files.REFUSAL


async def test_connection_in_the_reserve_is_served_and_not_kept_open(monkeypatch):
    async with serve() as port:
        monkeypatch.setattr(open_files, "room", lambda *_: Room.SCARCE)
        response = await talk(port, b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", seconds=3)
    assert response.startswith(b"HTTP/1.1 200 OK\r\n")


async def test_client_that_leaves_during_pipelined_requests_causes_no_error(caplog):
    started, may_answer = asyncio.Event(), asyncio.Event()

    async def slow(scope, receive, send):
        started.set()
        await may_answer.wait()
        await application(scope, receive, send)

    async with serve(slow) as port:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n" * 3)
        await started.wait()
        writer.transport.abort()
        await asyncio.sleep(0.3)
        may_answer.set()
        await asyncio.sleep(0.3)
    assert not [record for record in caplog.records if record.exc_info]

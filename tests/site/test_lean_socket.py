"""uvicorn's WebSocket protocol without its ballast: it behaves the same, and what it leaves out is not missed."""

import asyncio
import socket

import pytest
import uvicorn
import websockets
from uvicorn.protocols.utils import ClientDisconnected

from lib.framing import READY, encode_frame
from openhands_site.serving.lean_socket import Inbox, LeanEvent, LeanWebSocket


async def echo(scope, receive, send):
    await receive()
    await send({"type": "websocket.accept", "headers": [(b"x-said", b"so")]})
    while (message := await receive())["type"] != "websocket.disconnect":
        await send({"type": "websocket.send", "text": message["text"] + scope["path"]})


class Told:
    """An application that sends what a test says, and keeps what became of it."""

    async def __call__(self, scope, receive, send):
        self.extensions, self.send = scope["extensions"], send
        await receive()
        await send({"type": "websocket.accept"})
        while (await receive())["type"] != "websocket.disconnect":
            pass

    async def send_ready(self, *texts):
        await self.send({"type": READY, "frames": [encode_frame(text.encode()) for text in texts]})


class Server:
    def __init__(self, application=echo, **options):
        self.protocols = []

        def protocol(*args, **kwargs):
            self.protocols.append(LeanWebSocket(*args, **kwargs))
            return self.protocols[-1]

        options = {"ws_per_message_deflate": False} | options
        config = uvicorn.Config(
            application, ws=protocol, lifespan="off", log_config=None, **options
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


async def test_answers_in_order_and_forgets_the_handshake():
    async with Server() as server, websockets.connect(server.address) as client:
        assert client.response.headers["x-said"] == "so"
        for word in ("a", "b", "c"):
            await client.send(word)
        assert [await client.recv() for _ in range(3)] == ["a/x", "b/x", "c/x"]

        (protocol,) = server.protocols
        assert not protocol.request.headers
        assert not protocol.response.headers
        assert not hasattr(protocol, "scope")


async def test_says_1012_when_the_server_stops():
    async with Server() as server:
        client = await websockets.connect(server.address)
    with pytest.raises(websockets.ConnectionClosed) as closed:
        await client.recv()
    assert closed.value.rcvd.code == 1012


async def test_ready_frames_are_messages_of_their_own_among_others():
    texts = ["", "é" * 62 + "x", "x" * 126, "\u20ac" * 21_845, "x" * 65_536, "x" * 300_000]
    told = Told()
    async with Server(told) as server, websockets.connect(server.address, max_size=None) as client:
        await told.send({"type": "websocket.send", "text": "before"})
        await told.send_ready(*texts)
        await told.send({"type": "websocket.send", "text": "after"})
        await told.send_ready("last")
        await told.send({"type": "websocket.close", "code": 4403})

        assert [text async for text in received(client)] == ["before", *texts, "after", "last"]
        assert client.close_code == 4403


async def received(client):
    try:
        while True:
            yield await client.recv()
    except websockets.ConnectionClosed:
        return


async def test_ready_frames_wait_while_the_client_takes_none():
    told = Told()
    async with Server(told) as server, websockets.connect(server.address) as client:
        (protocol,) = server.protocols
        protocol.pause_writing()
        sending = asyncio.create_task(told.send_ready("a", "b"))
        await asyncio.sleep(0.05)
        assert not sending.done()

        protocol.resume_writing()

        await sending
        assert [await client.recv(), await client.recv()] == ["a", "b"]


async def test_nothing_follows_the_goodbye():
    told = Told()
    async with Server(told) as server, websockets.connect(server.address) as client:
        await told.send({"type": "websocket.close", "code": 1013})

        with pytest.raises(ClientDisconnected):
            await told.send_ready("late")

        assert [text async for text in received(client)] == []
        assert client.close_code == 1013


async def test_ready_frames_are_not_offered_where_messages_are_compressed():
    told = Told()
    async with Server(told, ws_per_message_deflate=True) as server:
        async with websockets.connect(server.address):
            assert READY not in told.extensions
        async with websockets.connect(server.address, compression=None):
            assert READY in told.extensions


async def test_a_gate_lets_all_pass_and_forgets_who_gave_up():
    gate = LeanEvent()
    waiting = [asyncio.create_task(gate.wait()) for _ in range(3)]
    await asyncio.sleep(0)
    waiting[0].cancel()
    await asyncio.sleep(0)
    assert not any(one.done() for one in waiting[1:])

    gate.set()

    assert await asyncio.gather(*waiting[1:]) == [True, True]
    assert await gate.wait()
    assert waiting[0].cancelled()


async def test_an_inbox_loses_nothing_to_a_reader_that_gave_up():
    inbox = Inbox()
    gone, stays = asyncio.create_task(inbox.get()), asyncio.create_task(inbox.get())
    await asyncio.sleep(0)
    inbox.put_nowait(1)
    gone.cancel()

    assert await stays == 1
    assert inbox.empty()
    inbox.put_nowait(2)
    inbox.put_nowait(3)
    assert [await inbox.get(), await inbox.get()] == [2, 3]

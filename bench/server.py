"""The measured server in a separate process: this project's application and three references on the same uvicorn.

``/bare`` is a broadcaster in plain ASGI, ``/socket.io`` without a conversation is python-socketio that emits to a room,
and ``/consumer`` is a Channels consumer that receives events from the channel layer. uvicorn has the options of
``run_web``.
"""

import asyncio
import multiprocessing
import socket
import threading
import time
from typing import Any

import psutil

BURST = 1_000


class Server:
    """A server process that runs until ``close``."""

    def __init__(self) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=2_048)
        self.port = self._listener.getsockname()[1]
        self._process = context.Process(target=_serve, args=(self._listener, theirs), daemon=True)
        self._process.start()
        self.ask("wait")

    def ask(self, command: str, *arguments: Any, seconds: float = 120) -> Any:
        """Run a command in the server process and return its result.

        ``cpu`` returns the used CPU seconds, and ``memory`` the resident bytes. ``bare``, ``emit`` and ``group`` send
        events through one of the references. ``wait`` waits until the server has started.
        """
        self._pipe.send((command, arguments))
        if not self._pipe.poll(seconds):
            raise TimeoutError(f"the server did not finish the command {command} in {seconds} s")
        return self._pipe.recv()

    def close(self) -> None:
        self._process.terminate()
        self._process.join(20)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()
        self._listener.close()


class _Bare:
    """The minimal broadcaster: it passes one message to the ``send`` of each socket in turn."""

    def __init__(self) -> None:
        self.sends: list[Any] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        self.sends.append(send)
        while (await receive())["type"] != "websocket.disconnect":
            pass
        self.sends.remove(send)

    async def broadcast(self, text: str, events: int) -> None:
        message = {"type": "websocket.send", "text": text}
        sent = 0
        for _ in range(events):
            for send in list(self.sends):
                await send(message)
            sent += len(self.sends)
            if sent >= BURST:  # the hub yields to the event loop equally often
                sent = 0
                await asyncio.sleep(0)


def _serve(listener: socket.socket, pipe: Any) -> None:
    import django
    import uvicorn

    django.setup()
    import socketio
    from channels.generic.websocket import AsyncWebsocketConsumer
    from channels.layers import get_channel_layer

    from openhands_site.asgi import application
    from openhands_site.management.commands.run_web import SOCKET_MESSAGE_BYTES
    from openhands_site.serving.garbage import freeze_loaded
    from openhands_site.serving.guarded_http import GuardedHttp
    from openhands_site.serving.lean_socket import LeanWebSocket

    rooms = socketio.AsyncServer(async_mode="asgi", cors_allowed_origins="*", ping_interval=600)
    bare, peer = _Bare(), socketio.ASGIApp(rooms)

    @rooms.event
    async def connect(sid: str, environ: Any) -> None:
        await rooms.enter_room(sid, "room")

    async def emit(data: dict[str, Any], events: int) -> None:
        for _ in range(events):
            await rooms.emit("event", data, room="room")

    class Consumer(AsyncWebsocketConsumer):  # type: ignore[misc]
        """The consumer of Channels' tutorial: a group per conversation, one send per event."""

        async def connect(self) -> None:
            await self.channel_layer.group_add("bench", self.channel_name)
            await self.accept()

        async def disconnect(self, code: int) -> None:
            await self.channel_layer.group_discard("bench", self.channel_name)

        async def event(self, message: dict[str, Any]) -> None:
            await self.send(text_data=message["text"])

    consumer = Consumer.as_asgi()

    async def group(text: str, events: int) -> None:
        layer = get_channel_layer()
        for _ in range(events):
            await layer.group_send("bench", {"type": "event", "text": text})

    async def route(scope: Any, receive: Any, send: Any) -> None:
        path = scope.get("path", "")
        fixed = {"/bare": bare, "/consumer": consumer}
        # Only sockets of this project name a conversation.
        is_peer = path.startswith("/socket.io") and b"conversation_id" not in scope["query_string"]
        selected = fixed.get(path, peer if is_peer else application)
        await selected(scope, receive, send)

    async def run() -> None:
        loop = asyncio.get_running_loop()
        threading.Thread(
            target=_run_commands, args=(pipe, loop, bare, emit, group), daemon=True
        ).start()
        await uvicorn.Server(config).serve(sockets=[listener])

    config = uvicorn.Config(
        route,
        lifespan="off",
        log_config=None,
        access_log=False,
        http=GuardedHttp,
        ws=LeanWebSocket,
        ws_max_size=SOCKET_MESSAGE_BYTES,
        ws_per_message_deflate=False,
        ws_ping_interval=None,  # the clients of ``bench.sockets`` do not respond to pings
        timeout_graceful_shutdown=1,
    )
    freeze_loaded()  # as ``run_web`` does
    uvicorn_loop = config.get_loop_factory()
    with asyncio.Runner(loop_factory=uvicorn_loop) as runner:
        runner.run(run())


def _run_commands(
    pipe: Any, loop: asyncio.AbstractEventLoop, bare: _Bare, emit: Any, group: Any
) -> None:
    actions = {
        "wait": lambda: time.sleep(0.2),
        "cpu": time.process_time,
        "memory": lambda: psutil.Process().memory_info().rss,
        "bare": lambda *a: asyncio.run_coroutine_threadsafe(bare.broadcast(*a), loop).result(),
        "emit": lambda *a: asyncio.run_coroutine_threadsafe(emit(*a), loop).result(),
        "group": lambda *a: asyncio.run_coroutine_threadsafe(group(*a), loop).result(),
    }
    while True:
        try:
            command, arguments = pipe.recv()
        except EOFError:
            return
        pipe.send(actions[command](*arguments))

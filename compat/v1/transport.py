"""A WebSocket as plain ASGI: the base class of V1's socket.

A consumer of Channels starts a task for every message and calls a thread to close the thread's database connections,
which sockets do not use. That took a third of the event loop's time while many sockets opened.
"""

from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

Scope = dict[str, Any]
Message = dict[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Coroutine[Any, Any, None]]


class Transport:
    """A WebSocket of one client.

    Subclasses define ``connect``, ``receive_text`` and ``disconnect``, which are called one after the other.
    """

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.scope = scope
        self._receive, self.base_send = receive, send

    @classmethod
    def as_asgi(cls) -> Any:
        """Return an ASGI application that creates an instance for each socket."""

        def application(scope: Scope, receive: Receive, send: Send) -> Coroutine[Any, Any, None]:
            return cls(scope, receive, send).run()

        return application

    async def run(self) -> None:
        """Serve the socket from the handshake until it is closed."""
        await self._receive()  # the handshake
        try:
            await self.connect()
            while (message := await self._receive())["type"] != "websocket.disconnect":
                await self.receive_text(message.get("text") or "")
        finally:
            await self.disconnect()

    async def connect(self) -> None:
        """Accept or refuse the socket."""
        raise NotImplementedError

    async def receive_text(self, text: str) -> None:
        """Handle a frame of the client. The text of a binary frame is empty."""
        raise NotImplementedError

    async def disconnect(self) -> None:
        """Free everything that the socket uses, because it is closed."""
        raise NotImplementedError

    async def accept(self) -> None:
        """Accept the handshake. Raise an ``OSError`` if the client has left."""
        await self.base_send({"type": "websocket.accept"})

    async def send_text(self, text: str) -> None:
        """Send a text frame. Raise an ``OSError`` if the client has left."""
        await self.base_send({"type": "websocket.send", "text": text})

    async def close(self, code: int, reason: str = "") -> None:
        """Close the socket. A reason has at most 123 bytes. Raise an ``OSError`` if the client has left."""
        await self.base_send({"type": "websocket.close", "code": code, "reason": reason})

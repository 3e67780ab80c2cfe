"""uvicorn's WebSocket protocol, without what an open socket no longer needs.

Of uvicorn's 18 KB for an idle socket 4 are the empty queues of things nobody waits for, and another 4 are the
handshake: both sides' headers in two forms. An open socket lives for hours (docs/adr/0031).
"""

import asyncio
from collections.abc import Coroutine, Sequence
from typing import Any

from uvicorn.protocols.utils import ClientDisconnected
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.protocol import State

from lib import framing


class LeanWebSocket(WebSocketsSansIOProtocol):
    """uvicorn's protocol that drops handshakes once they are done, and has no queues while nobody waits."""

    # ``Inbox`` and ``LeanEvent`` do what uvicorn needs of asyncio's classes without inheriting from them.
    queue: Any
    writable: Any

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.queue = Inbox()
        self.writable = LeanEvent()
        self.writable.set()

    def run_asgi(self) -> Coroutine[Any, Any, None]:
        """Run the application, which may send ready frames if no extension would change them."""
        if not self.conn.extensions:
            self.scope["extensions"][framing.READY] = {}
        return super().run_asgi()

    def send(self, message: Any) -> Coroutine[Any, Any, None]:
        """Send a message, or many ready frames (``lib.framing``) by one write."""
        if message["type"] == framing.READY:
            return self._send_ready(message["frames"])
        return super().send(message)

    async def _send_ready(self, frames: Sequence[bytes]) -> None:
        await self.writable.wait()
        if self.disconnected or self.conn.state is not State.OPEN:
            raise ClientDisconnected
        self.transport.writelines(frames)

    def start_keepalive(self) -> None:
        """Uvicorn calls this when it has answered the handshake, whatever the interval is."""
        super().start_keepalive()
        # ``websockets`` keeps the request in its parser, so it is emptied.
        self.request.headers.clear()
        self.response.headers.clear()
        del self.scope  # the application has it, as long as it wants


class LeanEvent:
    """An ``asyncio.Event`` that keeps no queue while nobody waits."""

    __slots__ = ("_is_open", "_waiting")

    def __init__(self) -> None:
        self._is_open = False
        self._waiting: list[asyncio.Future[None]] | None = None

    def set(self) -> None:
        self._is_open = True
        waiting, self._waiting = self._waiting, None
        for one in waiting or ():
            if not one.done():
                one.set_result(None)

    def clear(self) -> None:
        self._is_open = False

    def is_set(self) -> bool:
        return self._is_open

    async def wait(self) -> bool:
        """Wait until it is open; like the original, who is woken goes on even if it closed again."""
        if self._is_open:
            return True
        future = asyncio.get_running_loop().create_future()
        if self._waiting is None:
            self._waiting = []
        self._waiting.append(future)
        try:
            await future
        finally:
            if self._waiting and future in self._waiting:  # cancelled
                self._waiting.remove(future)
        return True


class Inbox:
    """An ``asyncio.Queue`` that keeps no queue while it is empty."""

    __slots__ = ("_has_some", "_messages")

    def __init__(self) -> None:
        self._messages: list[Any] = []
        self._has_some = LeanEvent()

    def empty(self) -> bool:
        return not self._messages

    def put_nowait(self, message: Any) -> None:
        self._messages.append(message)
        self._has_some.set()

    async def get(self) -> Any:
        """The next message. uvicorn reads on only when it was taken, so there are never more than a few."""
        while not self._messages:
            self._has_some.clear()
            await self._has_some.wait()
        return self._messages.pop(0)

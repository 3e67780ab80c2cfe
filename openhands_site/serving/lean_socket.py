"""uvicorn's WebSocket protocol with less memory per open socket.

An idle socket of uvicorn uses 18 KB: among others 4 KB for empty queues of asyncio objects and 4 KB for the headers of
the handshake. Sockets stay open for hours, so this module drops both (ADR 12).
"""

import asyncio
from collections.abc import Coroutine, Sequence
from typing import Any

from uvicorn.protocols.utils import ClientDisconnected
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.exceptions import SecurityError
from websockets.protocol import State

from lib import framing
from openhands_site.serving.guarded_http import build_response

LINGER_SECONDS = 2.0
"""Seconds for which a client's data is discarded after a close that the client did not begin or expect.

If the connection were closed while data is unread, the client's system could drop the close frame.
"""


class LeanWebSocket(WebSocketsSansIOProtocol):
    """A WebSocket protocol for uvicorn that drops the handshake's headers and allocates queues only when needed."""

    # ``Inbox`` and ``LeanEvent`` have the methods of asyncio's classes that uvicorn uses, without inheriting.
    queue: Any
    writable: Any
    _is_lingering = False
    """Whether everything that the client still sends is discarded."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.queue = Inbox()
        self.writable = LeanEvent()
        self.writable.set()

    def run_asgi(self) -> Coroutine[Any, Any, None]:
        """Run the application. If the socket uses no WebSocket extension, let the application send complete frames."""
        if not self.conn.extensions:
            self.scope["extensions"][framing.READY] = {}
        return super().run_asgi()

    def data_received(self, data: bytes) -> None:
        """Read data. If it is a handshake that ``websockets`` cannot parse, respond with 431 or 400.

        uvicorn 0.54 does not notice it: the client would wait for a response until its own time limit. ``websockets``
        reads lines of at most 8 KB and at most 128 headers.
        """
        if self._is_lingering:
            return
        super().data_received(data)
        error = self.conn.handshake_exc
        if error is None or self.handshake_initiated or self.transport.is_closing():
            return
        if isinstance(error, SecurityError):
            sentence = "A WebSocket handshake may have at most 128 headers, and each line at most 8192 bytes."
            self.transport.write(build_response(431, "headers-too-large", sentence))
        else:
            sentence = "This is not a WebSocket handshake as in RFC 6455, section 4.1."
            self.transport.write(build_response(400, "bad-handshake", sentence))
        self.transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        """End the parser too, because its generator and ``conn`` refer to each other until it ends."""
        super().connection_lost(exc)
        self.conn.parser.close()

    def send(self, message: Any) -> Coroutine[Any, Any, None]:
        """Send one message, or several complete frames (``lib.framing``) in one write."""
        if message["type"] == framing.READY:
            return self._send_ready(message["frames"])
        if message["type"] == "websocket.http.response.body":
            return self._send_refusal(message)
        return super().send(message)

    async def _send_refusal(self, message: Any) -> None:
        """Send the body of an HTTP response to the handshake."""
        await super().send(message)
        if not message.get("more_body", False):
            # uvicorn 0.54 does not set it, and then logs that the application has not completed the handshake.
            self.handshake_complete = True

    async def _send_ready(self, frames: Sequence[bytes]) -> None:
        await self.writable.wait()
        if self.disconnected or self.conn.state is not State.OPEN:
            raise ClientDisconnected
        self.transport.writelines(frames)

    def send_receive_event_to_app(self) -> None:
        """Pass a message on, or close the socket with 1007 if it is text that is not UTF-8 (RFC 6455, section 8.1).

        uvicorn 0.54 writes a traceback to the log for such a message.
        """
        if self.curr_msg_data_type == "text" and not self.close_sent:
            try:
                b"".join(self.frames).decode()
            except UnicodeDecodeError:
                self.frames = []
                # The client may have sent its own close frame right after the text.
                if self.conn.state is State.OPEN:
                    self.conn.send_close(1007, "The text is not UTF-8.")
                    self.handle_parser_exception()
                return
        super().send_receive_event_to_app()

    def handle_parser_exception(self) -> None:
        """Send the close frame for an error in the client's data, and end our side of the connection.

        uvicorn 0.54 closes the connection at once. This method leaves the client ``LINGER_SECONDS`` to read the close
        frame and to end its side.
        """
        if self.close_sent or self.conn.close_sent is None:
            super().handle_parser_exception()
            return
        code, reason = self.conn.close_sent.code, self.conn.close_sent.reason
        self.queue.put_nowait({"type": "websocket.disconnect", "code": code, "reason": reason})
        self.transport.write(b"".join(self.conn.data_to_send()))
        self.close_sent = self._is_lingering = True
        if self.transport.can_write_eof():
            self.transport.write_eof()
        if self.read_paused:
            self.read_paused = False
            self.transport.resume_reading()
        self.close_timer = self.loop.call_later(LINGER_SECONDS, self.transport.close)

    def handle_ping(self) -> None:
        if not self._is_lingering:
            super().handle_ping()

    def start_keepalive(self) -> None:
        """Drop the handshake's headers. uvicorn calls this method after the handshake, even if pings are disabled."""
        super().start_keepalive()
        # The parser of ``websockets`` keeps a reference to the request, so its headers are emptied in place.
        self.request.headers.clear()
        self.response.headers.clear()
        del self.scope  # the application still holds a reference while it needs the scope


class LeanEvent:
    """A replacement of ``asyncio.Event`` that allocates its queue only while a coroutine waits."""

    __slots__ = ("_is_open", "_waiting")

    def __init__(self) -> None:
        self._is_open = False
        self._waiting: list[asyncio.Future[None]] | None = None

    def set(self) -> None:
        self._is_open = True
        waiting, self._waiting = self._waiting, None
        for future in waiting or ():
            if not future.done():
                future.set_result(None)

    def clear(self) -> None:
        self._is_open = False

    def is_set(self) -> bool:
        return self._is_open

    async def wait(self) -> bool:
        """Wait until the event is set. As in asyncio, a waiter then continues even if the event is cleared again."""
        if self._is_open:
            return True
        future = asyncio.get_running_loop().create_future()
        if self._waiting is None:
            self._waiting = []
        self._waiting.append(future)
        try:
            await future
        finally:
            # Only if the wait was cancelled: ``set`` removes the whole list.
            if self._waiting and future in self._waiting:
                self._waiting.remove(future)
        return True


class Inbox:
    """A replacement of ``asyncio.Queue`` with less memory per instance."""

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
        """Wait for the next message and return it. uvicorn pauses reading, so the list stays short."""
        while not self._messages:
            self._has_some.clear()
            await self._has_some.wait()
        return self._messages.pop(0)

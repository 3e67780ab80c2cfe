"""uvicorn's HTTP protocol with time limits for the head of a request, and a response when open files run out.

uvicorn 0.54 has only a time limit between two requests. A client that sends half a head, or the rest of a body that was
refused, could keep its connection open forever.
"""

from asyncio import BaseTransport, TimerHandle
from http import HTTPStatus
from typing import Any

from django.conf import settings
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from lib import open_files
from lib.api import dumps
from lib.open_files import Room
from lib.problems import problem_body

SCARCE_SECONDS = 2.0
"""Seconds in which a head must arrive while only the reserve of open files is left."""
LINGER_SECONDS = 5.0
"""Seconds for which the rest of a body is discarded after an early response, so that the client can read it.

If the connection were closed immediately, the client's system could drop the response (RFC 9112, section 9.6).
"""


class GuardedHttp(HttpToolsProtocol):
    """The HTTP protocol of ``run_web`` and ``run_realtime``.

    A head must arrive within ``HEAD_SECONDS``; otherwise the response is 408, or the connection is closed if nothing
    arrived. A connection that takes one of the last open files gets 503 and is closed.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._timer: TimerHandle | None = None
        self._is_head_open = True
        """Whether the head of the next request has not arrived completely."""
        self._has_bytes = False
        """Whether a part of that head has arrived."""
        self._is_upgraded = False
        """Whether the connection is a WebSocket now, so that this object receives no more data."""
        self._is_body_open = False
        """Whether the body of the newest request has not arrived completely."""
        self._unanswered: list[RequestResponseCycle] = []
        """The requests without a complete response. A client may send the next ones early (pipelining)."""

    def connection_made(self, transport: BaseTransport) -> None:
        super().connection_made(transport)  # type: ignore[arg-type]
        if connection := transport.get_extra_info("socket"):
            self.app_state = self.app_state | {open_files.FILE: connection.fileno()}
        room = open_files.room()
        if room is Room.NONE:
            open_files.report_refusal("a connection")
            self._end_with(503, "too-many-open-files", open_files.REFUSAL)
            return
        self._wait_for_head(SCARCE_SECONDS if room is Room.SCARCE else settings.HEAD_SECONDS)

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timer()
        # uvicorn 0.54 tells only the newest request that the client has disconnected. An earlier one would write to the
        # closed connection, and its error would be logged with a traceback.
        for cycle in self._unanswered:
            cycle.disconnected = True
            cycle.message_event.set()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self.transport.is_closing():
            return
        super().data_received(data)
        if self._is_upgraded:
            return
        # ``data`` may also be a blank line before a request, for which the parser reports nothing.
        if self._is_head_open and not self.transport.is_closing():
            self._has_bytes = True
            if self._timer is None:
                self._wait_for_head(settings.HEAD_SECONDS)

    def handle_websocket_upgrade(self) -> None:
        self._is_upgraded = True
        self._stop_timer()
        super().handle_websocket_upgrade()
        # This object and its parser refer to each other, so both would stay until the next garbage collection.
        self.parser = None  # type: ignore[assignment]

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._is_head_open = self._has_bytes = True

    def on_headers_complete(self) -> None:
        self._is_head_open = self._has_bytes = False
        self._is_body_open = True
        self._stop_timer()
        super().on_headers_complete()
        if self.cycle is not None:
            self._unanswered.append(self.cycle)

    def on_message_complete(self) -> None:
        was_answered = self.cycle is not None and self.cycle.response_complete
        self._is_body_open, self._is_head_open = False, True
        super().on_message_complete()
        if was_answered and not self._is_upgraded:
            # The body ended after its response, and its bytes have stopped uvicorn's own timer.
            self._wait_for_head(self.timeout_keep_alive)

    def on_response_complete(self) -> None:
        self._unanswered = [cycle for cycle in self._unanswered if not cycle.response_complete]
        super().on_response_complete()
        if self._is_body_open and not self.transport.is_closing():
            self._stop_timer()
            self._timer = self.loop.call_later(LINGER_SECONDS, self._stop_lingering)
        elif open_files.room() is not Room.PLENTY:
            # An idle connection would keep one of the last files.
            self.transport.close()

    def _wait_for_head(self, seconds: float) -> None:
        self._stop_timer()
        self._timer = self.loop.call_later(seconds, self._end_slow_head)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _end_slow_head(self) -> None:
        self._timer = None
        if not self._is_head_open or self.transport.is_closing():
            return
        if self.cycle is not None and not self.cycle.response_complete:
            # The client sends its next request too slowly while it still waits for this response.
            self.cycle.keep_alive = False
        elif self._has_bytes:
            sentence = f"The URL and headers did not arrive within {settings.HEAD_SECONDS} seconds."
            self._end_with(408, "request-timeout", sentence)
        else:
            self.transport.close()

    def _stop_lingering(self) -> None:
        self._timer = None
        if self._is_body_open and not self.transport.is_closing():
            self.transport.close()

    def _end_with(self, status: int, code: str, sentence: str) -> None:
        """Send a response without reading a request, and close the connection."""
        self.transport.write(build_response(status, code, sentence, b"retry-after: 5\r\n"))
        self.transport.close()


def build_response(status: int, code: str, sentence: str, headers: bytes = b"") -> bytes:
    """Return the bytes of an HTTP response with problem details, after which the connection must be closed."""
    body = dumps(problem_body(status=status, code=code, detail=sentence))
    return (
        b"HTTP/1.1 %d %s\r\ncontent-type: application/problem+json\r\ncontent-length: %d\r\n"
        b"cache-control: no-store\r\n%sconnection: close\r\n\r\n%s"
        % (status, HTTPStatus(status).phrase.encode(), len(body), headers, body)
    )

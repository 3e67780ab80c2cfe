"""Refusals of sockets and streams that this process has no room for, before their application runs."""

import logging
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

from django.conf import settings

from conversations.realtime.socket import SIGNED_IN
from lib import open_files
from lib.api import dumps
from lib.logs import once_a_minute
from lib.open_files import Room
from lib.problems import problem_body

log = logging.getLogger(__name__)
Scope = dict[str, Any]
Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]
CLOSE_TRY_LATER = 1013
"""WebSocket close code "try again later" (IANA's registry of close codes)."""


class RoomForSockets:
    """ASGI middleware that closes a socket with 1013 and a reason if only the reserve of open files is left.

    It also limits the sockets of a network address that have not signed in (``SOCKETS_PER_ADDRESS``). It accepts the
    socket first, because browsers cannot read the reason of a refused handshake.
    """

    def __init__(self, application: Any) -> None:
        self.application = application
        self._anonymous: Counter[str] = Counter()
        """The number of sockets that have not signed in, by address."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if _room(scope) is not Room.PLENTY:
            open_files.report_refusal("a socket")
            await _close(receive, send, open_files.REFUSAL)
            return
        address = (scope.get("client") or ("",))[0]
        if (
            settings.SOCKETS_PER_ADDRESS
            and self._anonymous[address] >= settings.SOCKETS_PER_ADDRESS
        ):
            sentence = (
                f"Your network address has {settings.SOCKETS_PER_ADDRESS} sockets open that have not signed in. "
                "Close some of them."
            )
            once_a_minute(
                log, logging.WARNING, "address", f"refused a socket of {address}: {sentence}"
            )
            await _close(receive, send, sentence)
            return
        anonymous = _AnonymousSocket(self._anonymous, address, scope)
        # In place: a copy would be kept as long as the socket is open.
        scope[SIGNED_IN] = anonymous.sign_in
        try:
            await self.application(scope, receive, send)
        finally:
            anonymous.stop_counting()


class _AnonymousSocket:
    """A socket that counts for its network address until its client has signed in."""

    __slots__ = ("_address", "_counter", "_scope")

    def __init__(self, counter: Counter[str], address: str, scope: Scope) -> None:
        self._address, self._scope = address, scope
        self._counter: Counter[str] | None = counter
        counter[address] += 1

    def stop_counting(self) -> None:
        """Stop counting the socket. Safe to repeat."""
        if (counter := self._counter) is not None:
            self._counter = None
            counter[self._address] -= 1
            if not counter[self._address]:
                del counter[self._address]

    def sign_in(self) -> None:
        """Stop counting the socket, and drop its handshake: the socket stays open for hours without needing it."""
        self.stop_counting()
        self._scope.clear()


class RoomForStreams:
    """ASGI middleware for HTTP requests whose response may stay open: 503 if only the reserve of open files is left."""

    def __init__(self, application: Any) -> None:
        self.application = application

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if _room(scope) is Room.PLENTY:
            await self.application(scope, receive, send)
            return
        open_files.report_refusal("a stream")
        body = dumps(
            problem_body(status=503, code="too-many-open-files", detail=open_files.REFUSAL)
        )
        headers = [
            (b"content-type", b"application/problem+json"),
            (b"content-length", str(len(body)).encode()),
            (b"cache-control", b"no-store"),
            (b"retry-after", b"5"),
            (b"connection", b"close"),
        ]
        await send({"type": "http.response.start", "status": 503, "headers": headers})
        await send({"type": "http.response.body", "body": body})


def _room(scope: Scope) -> Room:
    return open_files.room(scope.get("state", {}).get(open_files.FILE, -1))


async def _close(receive: Receive, send: Send, sentence: str) -> None:
    await receive()  # the handshake
    await send({"type": "websocket.accept"})
    # A close frame has room for 123 bytes of reason (RFC 6455, section 5.5).
    await send({"type": "websocket.close", "code": CLOSE_TRY_LATER, "reason": sentence[:123]})

"""Sockets: accept or refuse, then have the hub send what the browser lacks. News only; commands go by REST.

Written straight on ASGI: a consumer class with its layers costs more per frame than the server's own sending
(docs/adr/0031).
"""

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any
from urllib.parse import parse_qs
from uuid import UUID

from conversations.realtime import access
from conversations.realtime.access import Credentials, Refusal, Watcher
from conversations.realtime.frames import Frame
from conversations.realtime.hub import get_hub
from conversations.realtime.subscription import Subscription
from lib import framing

log = logging.getLogger(__name__)
CLOSE_OVERFLOW = 1013
CLOSE_BAD_REQUEST = 4400
CLOSE_UNAUTHENTICATED = 4401
CLOSE_GONE = 4403
CLOSE_NOT_FOUND = 4404
CLOSES = {
    Refusal.UNAUTHENTICATED: CLOSE_UNAUTHENTICATED,
    Refusal.NOT_PERMITTED: CLOSE_NOT_FOUND,
    Refusal.NOT_VISIBLE: CLOSE_NOT_FOUND,
}
CLOSE_SECONDS = 5.0
MAX_DIGITS = 18
Scope = dict[str, Any]
Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Coroutine[Any, Any, None]]


class ConversationConsumer:
    """Send one conversation's log to one browser, in order, from where it left off.

    ``/ws/v1/conversations/{id}?after=<seq>[&epoch=<epoch>]``. Close codes: 1013 too slow, resume from the
    last seq; 4400 bad query; 4401 not signed in; 4403 access ended or conversation deleted; 4404 unknown.
    """

    permission = "conversations.view"
    __slots__ = (
        "_code",
        "_opening",
        "_receive",
        "_send",
        "_subscription",
        "_until_over",
        "_watcher",
        "conversation_id",
        "scope",
    )

    @classmethod
    def as_asgi(cls) -> Any:
        async def application(scope: Scope, receive: Receive, send: Send) -> None:
            consumer = cls(scope, receive, send)
            del (
                scope
            )  # a socket lives for hours: whatever is held by a frame below it is held so long
            await consumer.run()

        return application

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.scope: Scope | None = scope
        self._receive, self._send = receive, send
        self.conversation_id: UUID = scope["url_route"]["kwargs"]["conversation_id"]
        self._code: int | None = None
        self._opening: asyncio.Task[None] | None = None
        self._subscription: Subscription | None = None
        self._watcher: Watcher | None = None

    async def run(self) -> None:
        """From the handshake to the end of the socket.

        An idle socket is the server's one task, waiting for what the client says (which is ignored: commands go
        by REST). A second opens it and ends; what is over after that breaks off the waiting.
        """
        await self._receive()
        await self._send({"type": "websocket.accept"})
        self._opening = asyncio.create_task(self._open())
        try:
            async with asyncio.timeout(None) as self._until_over:
                while (await self._receive())["type"] != "websocket.disconnect":
                    pass
        except TimeoutError:
            pass
        finally:
            code, self._code = (
                self._code,
                CLOSE_GONE,
            )  # what is over from here on breaks off nothing
            await self._leave()
        if code is not None:
            await self._close(code)

    async def _open(self) -> None:
        try:
            code = await self._go_live()
        except Exception:
            log.exception("a socket's feed failed; the client resumes")
            code = CLOSE_OVERFLOW
        finally:
            self._opening = self.scope = None
        if code is not None:
            self._end(code)

    async def _go_live(self) -> int | None:
        """Send what the client lacks, and have the hub go on; the code to close with if that cannot be."""
        assert self.scope is not None
        query = read_cursor(self.scope)
        if query is None:
            return CLOSE_BAD_REQUEST
        credentials = Credentials.of_scope(self.scope)
        watcher = Watcher(credentials, self.conversation_id, self.permission)
        if refusal := await watcher.look():
            return CLOSES[refusal]
        after, epoch = query
        hub = get_hub()
        self._subscription = await hub.join(self.conversation_id, after=after, epoch=epoch)
        access.begin(watcher, self._subscription)
        self._watcher = watcher
        takes_ready = framing.READY in self.scope.get("extensions", ())
        push = self._push if takes_ready else self._push_each
        await self._subscription.go_live(push, self._over)
        return None

    def _over(self) -> None:
        assert self._subscription is not None
        is_refused = self._watcher is not None and self._watcher.refusal is not None
        is_gone = is_refused or self._subscription.feed.is_gone
        self._end(CLOSE_GONE if is_gone else CLOSE_OVERFLOW)

    def _end(self, code: int) -> None:
        if self._code is None:
            self._code = code
            self._until_over.reschedule(asyncio.get_running_loop().time())

    async def _leave(self) -> None:
        if (opening := self._opening) is not None:
            opening.cancel()
            await asyncio.gather(opening, return_exceptions=True)
        if self._watcher is not None:
            await access.end(self._watcher)
        if self._subscription is not None:
            await get_hub().leave(self._subscription)

    def _push(self, frames: Sequence[Frame]) -> Coroutine[Any, Any, None]:
        ready = [frame.wire or frame.encode() for frame in frames]
        return self._send({"type": framing.READY, "frames": ready})

    async def _push_each(self, frames: Sequence[Frame]) -> None:
        """The same for servers that frame messages themselves."""
        for frame in frames:
            await self._send({"type": "websocket.send", "text": frame.text})

    async def _close(self, code: int) -> None:
        """Say goodbye; who does not take even that in time is cut off by the server."""
        with contextlib.suppress(Exception):
            async with asyncio.timeout(CLOSE_SECONDS):
                await self._send({"type": "websocket.close", "code": code})


def read_cursor(scope: Scope) -> tuple[int, int | None] | None:
    """``after`` and ``epoch`` of a socket's query, or None when they are not whole numbers."""
    query = parse_qs(scope.get("query_string", b"").decode("ascii", "replace"))
    numbers = []
    for name in ("after", "epoch"):
        value = query.get(name, [""])[-1]
        if value and not (value.isascii() and value.isdigit() and len(value) <= MAX_DIGITS):
            return None
        numbers.append(int(value) if value else None)
    return numbers[0] or 0, numbers[1]

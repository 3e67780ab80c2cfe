"""Sockets: accept or refuse, then have the hub send what the browser lacks. News only; commands go by REST.

Written straight on ASGI: a consumer class with its layers costs more per frame than the server's own sending
(docs/adr/0031).
"""

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import parse_qs
from uuid import UUID

from asgiref.sync import sync_to_async
from django.db import connections

from conversations import streams
from conversations.reading import Frame
from conversations.watching import Watcher, watching

log = logging.getLogger(__name__)
CLOSE_OVERFLOW = 1013
CLOSE_BAD_REQUEST = 4400
CLOSE_UNAUTHENTICATED = 4401
CLOSE_GONE = 4403
CLOSE_NOT_FOUND = 4404
CLOSES = {401: CLOSE_UNAUTHENTICATED, 404: CLOSE_NOT_FOUND}
CLOSE_SECONDS = 5.0
MAX_DIGITS = 18
PING = Frame('{"type":"ping"}')
Scope = dict[str, Any]
Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]


class ConversationConsumer:
    """Send one conversation's log to one browser, in order, from where it left off.

    ``/ws/v1/conversations/{id}?after=<seq>[&epoch=<epoch>]``. Close codes: 1013 too slow, resume from the
    last seq; 4400 bad query; 4401 not signed in; 4403 access ended or conversation deleted; 4404 unknown.
    """

    permission = "conversations.view"

    @classmethod
    def as_asgi(cls) -> Any:
        async def application(scope: Scope, receive: Receive, send: Send) -> None:
            await cls(scope, receive, send).run()

        return application

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.scope, self._receive, self._send = scope, receive, send
        self.conversation_id: UUID = scope["url_route"]["kwargs"]["conversation_id"]

    async def run(self) -> None:
        """From the handshake to the end of the socket."""
        await self._receive()
        await self._send({"type": "websocket.accept"})
        listening = asyncio.create_task(self._until_left())
        sending = asyncio.create_task(self._serve())
        try:
            await asyncio.wait({listening, sending}, return_when=asyncio.FIRST_COMPLETED)
            if not listening.done():
                await self._close(sending.result())
        finally:
            for task in (listening, sending):
                task.cancel()
            await asyncio.gather(listening, sending, return_exceptions=True)

    async def _until_left(self) -> None:
        """Whatever a client says here is ignored: commands go by REST."""
        while (await self._receive())["type"] != "websocket.disconnect":
            pass

    async def _serve(self) -> int:
        """Send until something ends it; the code to close with."""
        query = read_cursor(self.scope)
        if query is None:
            return CLOSE_BAD_REQUEST
        watcher = Watcher(self.scope, self.conversation_id, self.permission)
        try:
            if refusal := await watcher.look():
                return CLOSES[refusal]
            after, epoch = query
            hub = streams.hub()
            async with (
                hub.subscribe(self.conversation_id, after=after, epoch=epoch) as subscription,
                watching(watcher, subscription, PING),
            ):
                await subscription.feed_to(self._push)
            if watcher.is_refused or subscription.feed.is_gone:
                return CLOSE_GONE
        except Exception:
            log.exception("a socket's feed failed; the client resumes")
        return CLOSE_OVERFLOW

    async def _push(self, frame: Frame) -> None:
        await self._send(frame.message)

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


async def in_thread(function: Any, *args: Any) -> Any:
    """Run a look at the database in a thread of its own, not in the one that all consumers share."""

    def run() -> Any:
        try:
            return function(*args)
        finally:
            connections.close_all()

    return await sync_to_async(run, thread_sensitive=False)()

"""WebSockets that send one conversation's log to a client. Clients send commands over REST.

This module is plain ASGI, because the layers of a Channels consumer cost more time per frame than sending the frame
(ADR 12).
"""

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any
from urllib.parse import parse_qs
from uuid import UUID

from conversations.realtime import watching
from conversations.realtime.access import Credentials, Refusal, Watcher
from conversations.realtime.frames import Frame
from conversations.realtime.hub import get_hub
from conversations.realtime.subscription import Subscription
from lib import framing

log = logging.getLogger(__name__)
# 1013 is "try again later" in IANA's registry of close codes. The codes 44xx are this server's own.
CLOSE_OVERFLOW = 1013
CLOSE_BAD_REQUEST = 4400
CLOSE_UNAUTHENTICATED = 4401
CLOSE_GONE = 4403
CLOSE_NOT_FOUND = 4404
CLOSE_TOO_MANY = 4429
CLOSES = {
    Refusal.UNAUTHENTICATED: CLOSE_UNAUTHENTICATED,
    # A conversation whose log the caller may not read must look like an unknown conversation.
    Refusal.NOT_PERMITTED: CLOSE_NOT_FOUND,
    Refusal.NOT_VISIBLE: CLOSE_NOT_FOUND,
}
REASONS = {
    CLOSE_BAD_REQUEST: "Send only `after` and `epoch` in the query string. Both are whole numbers.",
    CLOSE_UNAUTHENTICATED: "Sign in, or send a valid API key.",
    CLOSE_NOT_FOUND: "This conversation does not exist, or you have no access to it.",
}
"""The reasons that refused clients receive. A close frame has room for 123 bytes (RFC 6455, section 5.5)."""
CLOSE_SECONDS = 5.0
SIGNED_IN = "openhands.signed_in"
"""The key of an ASGI scope whose value is called when the client of a socket has signed in."""
MAX_DIGITS = 18
"""The most digits of a number in the query string. A number of 18 digits always fits into a bigint."""
Scope = dict[str, Any]
Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Coroutine[Any, Any, None]]


class ConversationConsumer:
    """A WebSocket that sends one conversation's log to one client, in order, from the client's cursor on.

    The URL is ``/ws/v1/conversations/{id}?after=<seq>[&epoch=<epoch>]``. Close codes:

    - 1013: the client read too slowly, or the server failed. Reconnect with the last received seq as ``after``.
    - 4400: the query string is not valid.
    - 4401: the client is not signed in.
    - 4403: access was lost, or the conversation was deleted.
    - 4404: the conversation does not exist, or the client may not read it.
    - 4429: the user has too many open sockets and streams (``STREAMS_PER_USER``). The reason says so.
    """

    permission = "conversations.view"
    __slots__ = (
        "_code",
        "_opening",
        "_reason",
        "_receive",
        "_receiving",
        "_send",
        "_subscription",
        "_watcher",
        "conversation_id",
        "scope",
    )

    @classmethod
    def as_asgi(cls) -> Any:
        async def application(scope: Scope, receive: Receive, send: Send) -> None:
            consumer = cls(scope, receive, send)
            # A socket lives for hours, and a local variable would keep the scope alive as long.
            del scope
            await consumer.run()

        return application

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.scope: Scope | None = scope
        self._receive, self._send = receive, send
        self.conversation_id: UUID = scope["url_route"]["kwargs"]["conversation_id"]
        self._code: int | None = None
        self._reason = ""
        self._opening: asyncio.Task[None] | None = None
        self._subscription: Subscription | None = None
        self._watcher: Watcher | None = None

    async def run(self) -> None:
        """Serve the socket from the handshake until it is closed.

        This task only waits for the client to disconnect; other messages are ignored. A second task checks access and
        sends the backlog, and ends when the subscription is live, so an idle socket costs one task. ``_end`` stops the
        waiting by letting its timeout expire.
        """
        await self._receive()
        # Accept before the checks: browsers cannot read the close code of a refused handshake.
        await self._send({"type": "websocket.accept"})
        self._opening = asyncio.create_task(self._open())
        try:
            async with asyncio.timeout(None) as self._receiving:
                while (await self._receive())["type"] != "websocket.disconnect":
                    pass
        except TimeoutError:
            pass
        finally:
            # Once a code is set, `_end` does nothing: no task waits any more.
            code, self._code = self._code, CLOSE_GONE
            await self._leave()
        if code is not None:
            await self._close(code)

    async def _open(self) -> None:
        try:
            code = await self._go_live()
        except watching.TooManyStreams as refusal:
            code, self._reason = CLOSE_TOO_MANY, refusal.detail
        except OSError:
            code = CLOSE_OVERFLOW  # the client has left, so it does not receive the code
        except Exception:
            log.exception("opening a socket failed; the client is asked to reconnect")
            code = CLOSE_OVERFLOW
        finally:
            # Free the scope, because the socket may stay open for hours.
            self._opening = self.scope = None
        if code is not None:
            self._end(code)

    async def _go_live(self) -> int | None:
        """Check access, send the frames that the client lacks, and let the feed push new frames.

        Return None when the subscription is live, or the close code if the socket is refused.
        """
        assert self.scope is not None
        cursor = read_cursor(self.scope)
        if cursor is None:
            return CLOSE_BAD_REQUEST
        credentials = Credentials.from_scope(self.scope)
        watcher = Watcher(credentials, self.conversation_id, self.permission)
        if refusal := await watcher.check_access():
            return CLOSES[refusal]
        supports_ready_frames = framing.READY in self.scope.get("extensions", ())
        signed_in(self.scope)
        after, epoch = cursor
        hub = get_hub()
        self._subscription = await hub.join(self.conversation_id, after=after, epoch=epoch)
        watching.start_watching(watcher, self._subscription)
        self._watcher = watcher
        push = self._push if supports_ready_frames else self._push_each
        await self._subscription.go_live(push, self._handle_over)
        return None

    def _handle_over(self) -> None:
        assert self._subscription is not None
        is_refused = self._watcher is not None and self._watcher.refusal is not None
        is_gone = is_refused or self._subscription.feed.is_gone
        self._end(CLOSE_GONE if is_gone else CLOSE_OVERFLOW)

    def _end(self, code: int) -> None:
        """Make ``run`` close the socket with this code. Only the first call has an effect."""
        if self._code is None:
            self._code = code
            self._receiving.reschedule(asyncio.get_running_loop().time())

    async def _leave(self) -> None:
        if (opening := self._opening) is not None:
            opening.cancel()
            await asyncio.gather(opening, return_exceptions=True)
        if self._watcher is not None:
            watching.stop_watching(self._watcher)
        if self._subscription is not None:
            await get_hub().leave(self._subscription)

    def _push(self, frames: Sequence[Frame]) -> Coroutine[Any, Any, None]:
        # Not `async`: a coroutine around the server's own coroutine would only cost time.
        ready = [frame.wire or frame.encode() for frame in frames]
        return self._send({"type": framing.READY, "frames": ready})

    async def _push_each(self, frames: Sequence[Frame]) -> None:
        """Send frames as ordinary messages, for servers that do not support the ready-frames extension."""
        for frame in frames:
            await self._send({"type": "websocket.send", "text": frame.text})

    async def _close(self, code: int) -> None:
        """Send the close code. If the client does not accept it in time, the server drops the connection."""
        with contextlib.suppress(Exception):
            async with asyncio.timeout(CLOSE_SECONDS):
                message: dict[str, Any] = {"type": "websocket.close", "code": code}
                if reason := self._reason or REASONS.get(code, ""):
                    message["reason"] = reason[:123]
                await self._send(message)


def signed_in(scope: Scope) -> None:
    """Report that the client of a socket has signed in, so that it no longer counts for its network address.

    ``openhands_site.serving.open_streams`` puts the function that is called into the scope. The scope may be empty
    afterwards.
    """
    if report := scope.get(SIGNED_IN):
        report()


def read_cursor(scope: Scope) -> tuple[int, int | None] | None:
    """Return ``after`` and ``epoch`` from a socket's query string, or None for a bad value or an unknown parameter.

    The values are whole numbers. A missing ``after`` is 0, and a missing ``epoch`` is None.
    """
    text = scope.get("query_string", b"").decode("ascii", "replace")
    query = parse_qs(text, keep_blank_values=True)
    # REST refuses unknown parameters too. A client that misspells `after` would get the whole log again.
    if query.keys() - {"after", "epoch"}:
        return None
    numbers: list[int | None] = []
    for name in ("after", "epoch"):
        value = query[name][-1] if name in query else None
        if value is None:
            numbers.append(None)
            continue
        if not (value.isascii() and value.isdigit() and len(value) <= MAX_DIGITS):
            return None
        numbers.append(int(value))
    return numbers[0] or 0, numbers[1]

"""Sockets: accept or refuse, then send what the browser lacks. News only; commands go by REST."""

import asyncio
import contextlib
import logging
from typing import Any
from urllib.parse import parse_qs
from uuid import UUID

from asgiref.sync import sync_to_async
from channels.generic.websocket import AsyncWebsocketConsumer
from django.conf import settings
from django.db import connections

from accounts.authentication import user_of_scope
from accounts.permissions import permissions_in
from conversations import streams
from conversations.models import Conversation

log = logging.getLogger(__name__)
CLOSE_OVERFLOW = 1013
CLOSE_BAD_REQUEST = 4400
CLOSE_UNAUTHENTICATED = 4401
CLOSE_GONE = 4403
CLOSE_NOT_FOUND = 4404
MAX_DIGITS = 18


class ConversationConsumer(AsyncWebsocketConsumer):
    """Send one conversation's log to one browser, in order, from where it left off.

    ``/ws/v1/conversations/{id}?after=<seq>[&epoch=<epoch>]``. Close codes: 1013 too slow, resume from the
    last seq; 4400 bad query; 4401 not signed in; 4403 access ended or conversation deleted; 4404 unknown.
    """

    channel_layer_alias = (
        ""  # the hub listens for all sockets of the process: none listens for itself
    )
    permission = "conversations.view"

    async def connect(self) -> None:
        self.sending: asyncio.Task | None = None
        self.conversation_id: UUID = self.scope["url_route"]["kwargs"]["conversation_id"]
        await self.accept()
        query = read_cursor(self.scope)
        refusal = CLOSE_BAD_REQUEST if query is None else await in_thread(self._refusal)
        if refusal or query is None:
            await self.close(refusal)
            return
        self.sending = asyncio.create_task(self._send_news(*query))

    def _refusal(self) -> int | None:
        """The code to close with, or None for somebody who may watch this conversation now."""
        user = user_of_scope(self.scope)
        if not user.is_authenticated:
            return CLOSE_UNAUTHENTICATED
        self.user_id = user.pk
        found = Conversation.objects.visible_to(user).filter(pk=self.conversation_id).first()
        if found is None or self.permission not in permissions_in(user, found.organization_id):
            return CLOSE_NOT_FOUND
        return None

    async def _send_news(self, after: int, epoch: int | None) -> None:
        keeper = asyncio.create_task(self._keep())
        code = CLOSE_OVERFLOW
        try:
            async with streams.hub().subscribe(
                self.conversation_id, after=after, epoch=epoch
            ) as subscription:
                async for frame in subscription.frames():
                    await self.send(text_data=frame.text)
                if subscription.feed.is_gone:
                    code = CLOSE_GONE
        except asyncio.CancelledError:
            raise
        except Exception:
            log.exception("a socket's feed failed; the client resumes")
        finally:
            keeper.cancel()
        await self.close(code)

    async def _keep(self) -> None:
        """Ping, and look again whether this person may still watch: now and then, and at once when told."""
        pause = min(settings.SOCKET_PING_SECONDS, settings.SOCKET_RECHECK_SECONDS)
        async with streams.hub().watch_access(self.user_id) as woken:
            woken.set()  # listening began after the first look: what changed in between was not heard
            while True:
                try:
                    async with asyncio.timeout(pause):
                        await woken.wait()
                except TimeoutError:
                    await self.send(text_data='{"type":"ping"}')
                woken.clear()
                with contextlib.suppress(
                    Exception
                ):  # the database away: ask again in the next round
                    if await in_thread(self._refusal):
                        if self.sending:
                            self.sending.cancel()
                        await self.close(CLOSE_GONE)
                        return

    async def receive(self, text_data: str | None = None, bytes_data: bytes | None = None) -> None:
        """Whatever a client says here is ignored: commands go by REST."""

    async def disconnect(self, code: int) -> None:
        if self.sending:
            self.sending.cancel()


def read_cursor(scope: dict[str, Any]) -> tuple[int, int | None] | None:
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

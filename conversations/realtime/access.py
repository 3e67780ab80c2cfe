"""Whether who watches a conversation still may: looked up now and then, and at once when something changed.

Sockets with the same credential on the same conversation share one look, however many they are.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID

from django.conf import settings

from accounts.permissions import permissions_in
from accounts.sign_in.authentication import user_of_scope
from conversations.models import Conversation
from conversations.realtime.frames import Frame
from conversations.realtime.hub import get_hub
from conversations.realtime.subscription import Subscription
from conversations.realtime.threads import run_in_thread

log = logging.getLogger(__name__)
CREDENTIALS = frozenset({b"authorization", b"x-api-key", b"cookie"})
Key = tuple[Any, ...]


class Watcher:
    """One credential that watches one conversation. Of the handshake it keeps what the next look needs."""

    __slots__ = ("conversation_id", "is_refused", "permission", "scope", "user_id")

    def __init__(self, scope: dict[str, Any], conversation_id: UUID, permission: str) -> None:
        shown = sorted(pair for pair in scope["headers"] if pair[0] in CREDENTIALS)
        self.scope = {"headers": shown, "client": ((scope.get("client") or ("",))[0], 0)}
        self.conversation_id = conversation_id
        self.permission = permission
        self.user_id: UUID | None = None
        self.is_refused = False

    @property
    def key(self) -> Key:
        address = self.scope["client"][0]
        return self.conversation_id, self.permission, address, *self.scope["headers"]

    async def look(self) -> int | None:
        """None for somebody who may watch now; else 401 or 404."""
        return await run_in_thread(self._refusal)

    def _refusal(self) -> int | None:
        user = user_of_scope(self.scope)
        if not user.is_authenticated:
            return 401
        self.user_id = user.pk
        found = Conversation.objects.visible_to(user).filter(pk=self.conversation_id).first()
        if found is None or self.permission not in permissions_in(user, found.organization_id):
            return 404
        return None


class _Group:
    """Watchers with one credential: one task pings for all of them and looks for all of them."""

    def __init__(self, watcher: Watcher) -> None:
        self.watcher = watcher
        self.members: dict[Watcher, tuple[Subscription, Frame]] = {}
        self.task: asyncio.Task | None = None

    async def keep(self) -> None:
        assert self.watcher.user_id is not None
        async with get_hub().watch_access(self.watcher.user_id) as woken:
            woken.set()  # listening began after the first look: what changed in between was not heard
            looked_at = 0.0
            while True:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(self._pause()):
                        await woken.wait()
                if not woken.is_set():
                    for subscription, ping in list(self.members.values()):
                        subscription.offer([ping])
                if (
                    not woken.is_set()
                    and time.monotonic() - looked_at < settings.SOCKET_RECHECK_SECONDS
                ):
                    continue
                woken.clear()
                looked_at = time.monotonic()
                # The database away: ask again in the next round.
                with contextlib.suppress(Exception):
                    if await self.watcher.look():
                        self._refuse()

    def _pause(self) -> float:
        return float(min(settings.SOCKET_PING_SECONDS, settings.SOCKET_RECHECK_SECONDS))

    def _refuse(self) -> None:
        for watcher, (subscription, _) in self.members.items():
            watcher.is_refused = True
            subscription.end()


_groups: dict[tuple[int, Key], _Group] = {}


@contextlib.asynccontextmanager
async def watching(
    watcher: Watcher, subscription: Subscription, ping: Frame
) -> AsyncIterator[None]:
    """Keep a subscription alive by pings, and end it once its watcher may no longer watch.

    The watcher has been looked at: ``user_id`` is known.
    """
    begin(watcher, subscription, ping)
    try:
        yield
    finally:
        await end(watcher)


def begin(watcher: Watcher, subscription: Subscription, ping: Frame) -> None:
    """The same without a block: whoever begins must ``end``."""
    key = (id(get_hub()), watcher.key)
    group = _groups.get(key)
    if group is None:
        group = _groups[key] = _Group(watcher)
        group.task = asyncio.create_task(group.keep())
    watcher.scope = group.watcher.scope  # equal to its own: one is enough
    group.members[watcher] = (subscription, ping)


async def end(watcher: Watcher) -> None:
    """Watch no longer."""
    key = (id(get_hub()), watcher.key)
    group = _groups.get(key)
    if group is None or group.members.pop(watcher, None) is None:
        return
    if not group.members and group.task is not None:
        del _groups[key]
        group.task.cancel()
        await asyncio.gather(group.task, return_exceptions=True)

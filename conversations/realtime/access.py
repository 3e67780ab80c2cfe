"""Who opened a stream, whether they may still watch, and whom the commands that arrive by it count for.

All protocols (WebSocket, server-sent events, V0, V1, gRPC) ask here, and translate the answer into their own codes.
Streams with the same credentials on the same conversation share one check, however many they are.
"""

import asyncio
import contextlib
import enum
import logging
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol
from uuid import UUID

from django.conf import settings
from django.http import HttpRequest

from accounts import services as accounts
from accounts.models import ApiKey, User
from accounts.permissions import permissions_in
from accounts.services.audit import Actor, acting
from accounts.sign_in.authentication import user_of_scope
from conversations import services
from conversations.models import Conversation
from conversations.realtime.frames import PING, Frame
from conversations.realtime.hub import get_hub
from conversations.realtime.threads import run_in_thread
from lib import limits
from lib.problems import Problem

log = logging.getLogger(__name__)
CREDENTIALS = frozenset({b"authorization", b"x-api-key", b"cookie"})
VIEW, STEER = "conversations.view", "conversations.steer"


class Refusal(enum.IntEnum):
    """Why a stream may not be opened, or goes on no longer, as a status of HTTP."""

    UNAUTHENTICATED = 401
    NOT_PERMITTED = 403
    """The conversation is visible, but its log is not readable."""
    NOT_VISIBLE = 404


class MayNotSteer(Problem):
    """The caller may watch this conversation and not steer it."""

    status = 403
    code = "missing-permission"
    sentence = "You may watch this conversation, not steer it."


class TooManyCommands(Problem):
    """The caller exceeded the ``spend`` rate limit by commands over a socket, or they could not be counted."""

    status = 429
    code = "too-many-requests"
    sentence = "The server cannot count messages for a moment. Try again."


# --- Who it is ----------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Credentials:
    """What somebody showed when they opened a stream: enough to find their user again while it is open.

    ``keys`` are API keys and conversation keys, tried in order before the headers: an API key, an access token, or the
    session cookie.
    """

    headers: tuple[tuple[bytes, bytes], ...] = ()
    keys: tuple[str, ...] = ()
    address: str = ""

    @classmethod
    def of_scope(cls, scope: dict[str, Any], *, keys: Sequence[str] = ()) -> "Credentials":
        """Return the credentials in a handshake, of which nothing else is kept."""
        shown = sorted(pair for pair in scope["headers"] if pair[0] in CREDENTIALS)
        address = (scope.get("client") or ("",))[0]
        return cls(tuple((name, value) for name, value in shown), tuple(keys), address)

    def user(self) -> User | None:
        """Return the user as of now: a revoked key, an ended session and a changed password count."""
        for key in self.keys:
            if key.startswith("oh_"):
                with contextlib.suppress(accounts.InvalidKey):
                    return accounts.authenticate_api_key(key, address=self.address).user
            elif found := services.authenticate_conversation_key(key, address=self.address):
                return found[0]
        if not self.headers:
            return None
        user = user_of_scope({"headers": self.headers, "client": (self.address, 0)})
        return user if isinstance(user, User) and user.is_active else None


def actor_of(user: User, address: str) -> Actor:
    """Return who acts, for the audit log, when a command arrives by a stream that this user opened."""
    key, address = user.came_by, address[:45]
    if isinstance(key, ApiKey):
        kind = "service_account" if user.is_service_account else "key"
        return Actor(kind, id=str(key.pk), name=f"{key.prefix} of {user}"[:254], address=address)
    if user.bound_conversation_id:
        name = f"a conversation key of {user}"[:254]
        return Actor("key", id=str(user.bound_conversation_id), name=name, address=address)
    return Actor("person", id=str(user.pk), name=str(user)[:254], address=address)


# --- Whether they may ---------------------------------------------------------------


class Watcher:
    """Credentials that watch one conversation."""

    __slots__ = ("_group", "conversation_id", "credentials", "permission", "refusal", "user_id")

    def __init__(
        self,
        credentials: Credentials,
        conversation_id: UUID,
        permission: str = VIEW,
        *,
        user_id: UUID | None = None,
    ) -> None:
        self.credentials = credentials
        self.conversation_id = conversation_id
        self.permission = permission
        self.user_id = user_id
        self.refusal: Refusal | None = None
        """Why the stream was ended, once it was."""
        self._group: _Group | None = None

    async def look(self) -> Refusal | None:
        """Return None if the conversation may be watched now, else why not; learn whose credentials they are."""
        return await run_in_thread(self.look_now)

    def look_now(self) -> Refusal | None:
        """Look in the calling thread."""
        user = self.credentials.user()
        if user is None:
            return Refusal.UNAUTHENTICATED
        self.user_id = user.pk
        return self._refusal_of(user, self.permission)

    @contextlib.contextmanager
    def commanding(self) -> Iterator[None]:
        """Let the caller act for the length of the block, if they may steer, and count it as a command.

        Raise ``MayNotSteer`` with the ``refusal``, and ``TooManyCommands``.
        """
        user = self.credentials.user()
        refusal = self._refusal_of(user, STEER) if user else Refusal.UNAUTHENTICATED
        if user is None or refusal is not None:
            raise MayNotSteer(refusal=refusal)
        count_command(user)
        with acting(lambda: actor_of(user, self.credentials.address)):
            yield

    def _refusal_of(self, user: User, permission: str) -> Refusal | None:
        found = Conversation.objects.visible_to(user).filter(pk=self.conversation_id).first()
        if found is None:
            return Refusal.NOT_VISIBLE
        if permission not in permissions_in(user, found.organization_id):
            return Refusal.NOT_PERMITTED
        return None


def count_command(user: User) -> None:
    """Count a command that arrives by a socket against the ``spend`` rate, like those over REST."""
    rate = (settings.RATE_LIMITS or {}).get("spend")
    if rate is None:
        return
    request = HttpRequest()
    try:
        usage = limits.count(request, group="spend|", value=f"user {user.pk}", rate=rate)
    except limits.NotCounted as error:
        raise TooManyCommands from error
    if usage.is_over:
        raise TooManyCommands(f"Too many messages. Try again in {usage.reset} seconds.")


# --- While it is open ---------------------------------------------------------------


class Stream(Protocol):
    """What is kept alive while its watcher may watch (a ``Subscription``), and ended after that."""

    def offer(self, frames: Sequence[Frame]) -> None: ...

    def end(self) -> object: ...


class Unpinged:
    """A stream that keeps itself alive; ``end`` is called once its watcher may no longer watch."""

    __slots__ = ("end",)

    def __init__(self, end: Callable[[], object]) -> None:
        self.end = end

    def offer(self, frames: Sequence[Frame]) -> None:
        """Ignore pings."""


class _Group:
    """Watchers with the same credentials: one task pings for all of them and looks for all of them."""

    def __init__(self, key: tuple[Any, ...], watcher: Watcher) -> None:
        self.key = key
        self.watcher = watcher
        self.members: dict[Watcher, Stream] = {}
        self.task = asyncio.create_task(self.keep())

    async def keep(self) -> None:
        """Ping, and look now and then, and at once when told; return when access has ended."""
        assert self.watcher.user_id is not None
        async with get_hub().watch_access(self.watcher.user_id) as woken:
            woken.set()  # changes between the first look and now were not heard
            looked_at = 0.0
            while True:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(self._pause()):
                        await woken.wait()
                if not woken.is_set():
                    for stream in list(self.members.values()):
                        stream.offer([PING])
                    if time.monotonic() - looked_at < settings.SOCKET_RECHECK_SECONDS:
                        continue
                woken.clear()
                looked_at = time.monotonic()
                # The database away: ask again in the next round.
                with contextlib.suppress(Exception):
                    if refusal := await self.watcher.look():
                        self._refuse(refusal)
                        return

    def _pause(self) -> float:
        return float(min(settings.SOCKET_PING_SECONDS, settings.SOCKET_RECHECK_SECONDS))

    def _refuse(self, refusal: Refusal) -> None:
        self.forget()  # later watchers with these credentials are looked at anew
        for watcher, stream in list(self.members.items()):
            watcher.refusal = refusal
            stream.end()

    def forget(self) -> None:
        if _groups.get(self.key) is self:
            del _groups[self.key]


_groups: dict[tuple[Any, ...], _Group] = {}


@contextlib.asynccontextmanager
async def watching(watcher: Watcher, stream: Stream) -> AsyncIterator[None]:
    """Keep a stream alive by pings, and end it once its watcher may no longer watch.

    The watcher has looked: its ``user_id`` is known.
    """
    begin(watcher, stream)
    try:
        yield
    finally:
        await end(watcher)


def begin(watcher: Watcher, stream: Stream) -> None:
    """Begin what ``watching`` does; the caller must ``end`` it."""
    key = (id(get_hub()), watcher.conversation_id, watcher.permission, watcher.credentials)
    group = _groups.get(key)
    if group is None:
        group = _groups[key] = _Group(key, watcher)
    watcher.credentials = group.watcher.credentials  # equal to its own: one copy is enough
    watcher._group = group  # noqa: SLF001 - the two belong together
    group.members[watcher] = stream


async def end(watcher: Watcher) -> None:
    """Stop watching; safe to repeat, and for one that never began."""
    group, watcher._group = watcher._group, None  # noqa: SLF001
    if group is None:
        return
    group.members.pop(watcher, None)
    if not group.members:
        group.forget()
        group.task.cancel()
        await asyncio.gather(group.task, return_exceptions=True)

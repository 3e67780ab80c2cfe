"""Access control for open streams: credentials, repeated access checks, and the audit log's actor for commands.

All protocols use this module: the WebSocket, server-sent events, gRPC, and OpenHands' own protocols V0 (Socket.IO) and
V1 (WebSocket). Each protocol translates a ``Refusal`` into its own error codes. Streams with equal credentials on one
conversation share one recurring check.
"""

import asyncio
import contextlib
import enum
import logging
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol
from uuid import UUID

from django.conf import settings
from django.http import HttpRequest

from accounts import services as accounts
from accounts.limits import caller_name
from accounts.models import ApiKey, User
from accounts.permissions import permissions_on
from accounts.services.audit import Actor, acting
from accounts.sign_in.authentication import authenticate_scope
from conversations import services
from conversations.models import Conversation
from conversations.realtime.frames import PING, Frame
from conversations.realtime.hub import get_hub
from conversations.realtime.threads import run_in_thread
from lib import limits
from lib.logs import once_a_minute
from lib.problems import Problem

log = logging.getLogger(__name__)
CREDENTIAL_HEADERS = frozenset({b"authorization", b"x-api-key", b"cookie"})
VIEW, STEER = "conversations.view", "conversations.steer"


class Refusal(enum.IntEnum):
    """The reason why a stream is refused or revoked. The value is the matching HTTP status."""

    UNAUTHENTICATED = 401
    NOT_PERMITTED = 403
    """The caller may see the conversation but lacks the permission that the stream requires."""
    NOT_VISIBLE = 404


class MayNotSteer(Problem):
    """The caller may watch this conversation but may not send commands to it."""

    status = 403
    code = "missing-permission"
    sentence = "You may watch this conversation, but you may not send messages or commands to it."


class TooManyStreams(Problem):
    """The user has as many open sockets and streams in this process as ``STREAMS_PER_USER`` allows."""

    status = 429
    code = "too-many-streams"
    sentence = "You have too many open sockets and streams. Close some of them, then try again."


class TooManyCommands(Problem):
    """Commands over a socket exceeded the ``spend`` rate limit, or the limit could not be checked."""

    status = 429
    code = "too-many-requests"
    sentence = "The server cannot check the message rate limit right now. Try again in a moment."


# --- Credentials --------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Credentials:
    """The credentials with which a client opened a stream. They are kept to check access again later.

    ``keys`` are API keys and conversation keys, which are tried in order. If no key is valid, the headers are tried;
    they may contain an API key, an access token or the session cookie. ``address`` is the client's IP address.
    """

    headers: tuple[tuple[bytes, bytes], ...] = ()
    keys: tuple[str, ...] = ()
    address: str = ""

    @classmethod
    def from_scope(cls, scope: dict[str, Any], *, keys: Sequence[str] = ()) -> "Credentials":
        """Return credentials with ``keys``, and with the credential headers and the client address of an ASGI scope."""
        # Sorted, so that credentials with the same headers in another order compare equal.
        headers = sorted(pair for pair in scope["headers"] if pair[0] in CREDENTIAL_HEADERS)
        address = (scope.get("client") or ("",))[0]
        return cls(tuple((name, value) for name, value in headers), tuple(keys), address)

    def user(self) -> User | None:
        """Return the user of the credentials, or None if no credential is valid any more.

        Each call checks the database again, so a revoked key, an ended session or a changed password takes effect at
        the next call.
        """
        for key in self.keys:
            # API keys start with `oh_`. All other keys are conversation keys.
            if key.startswith("oh_"):
                with contextlib.suppress(accounts.InvalidKey):
                    return accounts.authenticate_api_key(key, address=self.address).user
            elif pair := services.authenticate_conversation_key(key, address=self.address):
                user, _conversation = pair
                return user
        if not self.headers:
            return None
        caller = authenticate_scope({"headers": self.headers, "client": (self.address, 0)})
        return caller if isinstance(caller, User) and caller.is_active else None


def build_actor(user: User, address: str) -> Actor:
    """Return the actor that the audit log shows for a user's commands. ``address`` is the client's IP address."""
    # Names and addresses are cut to the lengths of the audit log's columns.
    credential, address = user.credential, address[:45]
    if isinstance(credential, ApiKey):
        kind = "service_account" if user.is_service_account else "key"
        name = f"{credential.prefix} of {user}"[:254]
        return Actor(kind, id=str(credential.pk), name=name, address=address)
    if user.bound_conversation_id:
        name = f"a conversation key of {user}"[:254]
        return Actor("key", id=str(user.bound_conversation_id), name=name, address=address)
    return Actor("person", id=str(user.pk), name=str(user)[:254], address=address)


# --- Checking access ----------------------------------------------------------------


class Watcher:
    """The client behind one stream: its credentials, the conversation, and the permission that the stream requires.

    Access is checked before the stream opens (``check_access``) and again while it is open (``watching``).
    """

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
        """The reason why access was lost; None while the client has access."""
        self._group: _WatchGroup | None = None

    async def check_access(self) -> Refusal | None:
        """Return the reason to refuse the stream, or None if the client has access.

        Set ``user_id`` if the credentials are valid.
        """
        return await run_in_thread(self.check_access_now)

    def check_access_now(self) -> Refusal | None:
        """Do what ``check_access`` does, but in the calling thread, which blocks on database queries."""
        user = self.credentials.user()
        if user is None:
            return Refusal.UNAUTHENTICATED
        self.user_id = user.pk
        return self._find_refusal(user, self.permission)

    @contextlib.contextmanager
    def authorized_command(self, permission: str = STEER) -> Iterator[User]:
        """Check that the client may send a command, count the command, and run the block as the audit log's actor.

        Yield the user. ``permission`` is the one that the command needs on the conversation.

        Raise ``MayNotSteer`` if the client may not steer the conversation (``refusal`` is the reason), and
        ``TooManyCommands`` if the rate limit is exceeded or cannot be checked.
        """
        user = self.credentials.user()
        refusal = self._find_refusal(user, permission) if user else Refusal.UNAUTHENTICATED
        if user is None or refusal is not None:
            raise MayNotSteer(refusal=refusal)
        count_command(user)
        with acting(lambda: build_actor(user, self.credentials.address)):
            yield user

    def _find_refusal(self, user: User, permission: str) -> Refusal | None:
        conversation = Conversation.objects.visible_to(user).filter(pk=self.conversation_id).first()
        if conversation is None:
            return Refusal.NOT_VISIBLE
        if permission not in permissions_on(user, conversation):
            return Refusal.NOT_PERMITTED
        return None


def count_command(user: User) -> None:
    """Count a command over a socket against the caller's ``spend`` rate limit. REST requests count against it too.

    Raise ``TooManyCommands`` if the limit is exceeded or cannot be checked.
    """
    rate = (settings.RATE_LIMITS or {}).get("spend")
    if rate is None:
        return
    # A command over a socket has no request. `count` only stores the usage on it, for response headers.
    request = HttpRequest()
    try:
        usage = limits.count(request, group="spend|", value=caller_name(user), rate=rate)
    except limits.NotCounted as error:
        raise TooManyCommands from error
    if usage.is_over:
        raise TooManyCommands(f"Too many messages. Try again in {usage.reset} seconds.")


# --- Checking access again while a stream is open -----------------------------------


class Stream(Protocol):
    """An open stream, such as a ``Subscription``. It is pinged while its watcher has access, then revoked."""

    def offer(self, frames: Sequence[Frame]) -> None: ...

    def revoke(self) -> object: ...


class UnpingedStream:
    """A stream whose protocol has its own keep-alive. ``revoke`` is called when the stream's watcher loses access."""

    __slots__ = ("revoke",)

    def __init__(self, revoke: Callable[[], object]) -> None:
        self.revoke = revoke

    def offer(self, frames: Sequence[Frame]) -> None:
        """Ignore pings."""


class _WatchGroup:
    """The watchers with equal credentials on one conversation. One task pings all streams and checks access for all."""

    def __init__(self, key: tuple[Any, ...], watcher: Watcher) -> None:
        self.key = key
        self.watcher = watcher
        self.members: dict[Watcher, Stream] = {}
        self.task = asyncio.create_task(self._run())

    async def _run(self) -> None:
        """Ping the streams, and check access again periodically and after each change; return when access is lost."""
        assert self.watcher.user_id is not None
        async with get_hub().watch_access(self.watcher.user_id) as woken:
            # Check now: a change between the caller's own check and this subscription was missed.
            woken.set()
            checked_at = 0.0
            while True:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(self._pause()):
                        await woken.wait()
                # The pause ended without a change of access. Pings may be more frequent than checks.
                if not woken.is_set():
                    for stream in list(self.members.values()):
                        stream.offer([PING])
                    if time.monotonic() - checked_at < settings.SOCKET_RECHECK_SECONDS:
                        continue
                woken.clear()
                checked_at = time.monotonic()
                # If the database is unreachable, keep the streams and retry in the next round.
                with contextlib.suppress(Exception):
                    if refusal := await self.watcher.check_access():
                        self._refuse(refusal)
                        return

    def _pause(self) -> float:
        return float(min(settings.SOCKET_PING_SECONDS, settings.SOCKET_RECHECK_SECONDS))

    def _refuse(self, refusal: Refusal) -> None:
        # Unregister first: a watcher that starts from here on gets a new group, which checks access again.
        self.unregister()
        for watcher, stream in list(self.members.items()):
            watcher.refusal = refusal
            stream.revoke()

    def unregister(self) -> None:
        if _groups.get(self.key) is self:
            del _groups[self.key]


_groups: dict[tuple[Any, ...], _WatchGroup] = {}
_streams: Counter[UUID] = Counter()
"""The number of open sockets and streams by user. Users without one are not in it."""


@contextlib.asynccontextmanager
async def watching(watcher: Watcher, stream: Stream) -> AsyncIterator[None]:
    """While the block runs, ping a stream and check its watcher's access; revoke the stream when access is lost.

    The watcher's ``user_id`` must be set, for example by ``check_access``. Raise ``TooManyStreams`` if the user has too
    many open streams.
    """
    start_watching(watcher, stream)
    try:
        yield
    finally:
        await stop_watching(watcher)


def start_watching(watcher: Watcher, stream: Stream) -> None:
    """Start to ping a stream and to check its watcher's access. The caller must call ``stop_watching`` later.

    Raise ``TooManyStreams`` if the user has as many open streams as ``STREAMS_PER_USER`` allows.
    """
    assert watcher.user_id is not None
    most = settings.STREAMS_PER_USER
    if most and _streams[watcher.user_id] >= most:
        once_a_minute(
            log,
            logging.WARNING,
            "streams",
            f"refused a stream of user {watcher.user_id}, who has {most} open (STREAMS_PER_USER)",
        )
        raise TooManyStreams(
            f"You have {most} sockets and streams open at this server, which is the limit. Close some of them, "
            "then try again."
        )
    _streams[watcher.user_id] += 1
    # The hub's id separates event loops: a task of one loop must not serve another loop's streams.
    key = (id(get_hub()), watcher.conversation_id, watcher.permission, watcher.credentials)
    group = _groups.get(key)
    if group is None:
        group = _groups[key] = _WatchGroup(key, watcher)
    watcher.credentials = group.watcher.credentials  # equal credentials: share one copy
    watcher._group = group  # noqa: SLF001 - both are private to this module
    group.members[watcher] = stream


async def stop_watching(watcher: Watcher) -> None:
    """Stop pinging a watcher's stream and checking its access. Safe to repeat, and safe if watching never started."""
    group, watcher._group = watcher._group, None  # noqa: SLF001
    if group is None:
        return
    assert watcher.user_id is not None
    _streams[watcher.user_id] -= 1
    if not _streams[watcher.user_id]:
        del _streams[watcher.user_id]
    group.members.pop(watcher, None)
    if not group.members:
        group.unregister()
        group.task.cancel()
        await asyncio.gather(group.task, return_exceptions=True)

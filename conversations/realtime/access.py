"""Access control for streams: credentials, access checks, and the audit log's actor for commands.

All protocols use this module: the WebSocket, server-sent events, gRPC, and OpenHands' own protocols V0 (Socket.IO) and
V1 (WebSocket). Each protocol translates a ``Refusal`` into its own error codes. ``watching`` checks access again while
a stream is open.
"""

import contextlib
import enum
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple
from uuid import UUID

from django.conf import settings
from django.http import HttpRequest

from accounts import services as accounts
from accounts.limits import caller_name
from accounts.models import ApiKey, User
from accounts.permissions import permissions_on_each
from accounts.services.audit import Actor, acting
from accounts.sign_in.authentication import authenticate_scope
from conversations import services
from conversations.models import Conversation
from conversations.realtime.threads import run_in_thread
from lib import limits
from lib.batches import Batches
from lib.compiled import ids_in
from lib.problems import Problem

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

    __slots__ = ("conversation_id", "credentials", "group", "permission", "refusal", "user_id")

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
        self.group: Any = None
        """The group in which ``watching`` checks this watcher's access again, or None."""

    @property
    def question(self) -> "Question":
        """The question whose answer decides whether the client has access."""
        return Question(self.credentials, self.conversation_id, self.permission)

    async def check_access(self) -> Refusal | None:
        """Return the reason to refuse the stream, or None if the client has access.

        Set ``user_id`` if the credentials are valid. Clients that connect at the same time share database queries.
        """
        self.user_id, refusal = await _checks.ask(self.question)
        return refusal

    def check_access_now(self) -> Refusal | None:
        """Do what ``check_access`` does, but in the calling thread, which blocks on database queries."""
        answer = check_each([self.question])[self.question]
        if isinstance(answer, Exception):
            raise answer
        self.user_id, refusal = answer
        return refusal

    @contextlib.contextmanager
    def authorized_command(self, permission: str = STEER) -> Iterator[User]:
        """Check that the client may send a command, count the command, and run the block as the audit log's actor.

        Yield the user. ``permission`` is the one that the command needs on the conversation.

        Raise ``MayNotSteer`` if the client may not steer the conversation (``refusal`` is the reason), and
        ``TooManyCommands`` if the rate limit is exceeded or cannot be checked.
        """
        user = self.credentials.user()
        refusal: Refusal | None = Refusal.UNAUTHENTICATED
        if user is not None:
            question = self.question._replace(permission=permission)
            refusal = _find_refusals(user, [question])[question]
        if user is None or refusal is not None:
            raise MayNotSteer(refusal=refusal)
        count_command(user)
        with acting(lambda: build_actor(user, self.credentials.address)):
            yield user


class Question(NamedTuple):
    """The question whether the client with these credentials has a permission on a conversation."""

    credentials: Credentials
    conversation_id: UUID
    permission: str


Answer = tuple[UUID | None, Refusal | None]
"""The id of the credentials' user (None if they are not valid), and the reason to refuse the stream (None if not)."""


def check_each(questions: Sequence[Question]) -> dict[Question, Answer | Exception]:
    """Return the answer to each question. If credentials cannot be checked, the answers are the exception.

    The questions with equal credentials share all database queries: those for the user, one for the conversations, and
    one for the permissions in each organization.
    """
    answers: dict[Question, Answer | Exception] = {}
    by_credentials: dict[Credentials, list[Question]] = {}
    for question in questions:
        by_credentials.setdefault(question.credentials, []).append(question)
    for credentials, group in by_credentials.items():
        try:
            user = credentials.user()
            if user is None:
                answers |= dict.fromkeys(group, (None, Refusal.UNAUTHENTICATED))
            else:
                refusals = _find_refusals(user, group)
                # Both may have been lost since the credentials were checked, for example if an organization was
                # suspended. Then the reason is the credentials.
                if any(refusals.values()) and credentials.user() is None:
                    answers |= dict.fromkeys(group, (None, Refusal.UNAUTHENTICATED))
                    continue
                answers |= {question: (user.pk, refusals[question]) for question in group}
        except Exception as error:  # noqa: BLE001 - raised where the question was asked
            answers |= dict.fromkeys(group, error)
    return answers


def _find_refusals(user: User, questions: Sequence[Question]) -> dict[Question, Refusal | None]:
    """Return for each question the reason to refuse this user, or None."""
    ids = {question.conversation_id for question in questions}
    rows = list(Conversation.objects.visible_to(user).filter(pk__in=ids_in(ids)))
    permissions = dict(zip((row.pk for row in rows), permissions_on_each(user, rows), strict=True))
    refusals: dict[Question, Refusal | None] = {}
    for question in questions:
        names = permissions.get(question.conversation_id)
        if names is None:
            refusals[question] = Refusal.NOT_VISIBLE
        else:
            refusals[question] = None if question.permission in names else Refusal.NOT_PERMITTED
    return refusals


async def _check_in_thread(questions: list[Question]) -> dict[Question, Answer | Exception]:
    return await run_in_thread(check_each, questions)


_checks = Batches(_check_in_thread)


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

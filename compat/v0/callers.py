"""Who opened a V0 socket, and what they may do, as of now."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final
from urllib.parse import parse_qs
from uuid import UUID

from django.conf import settings
from django.contrib.auth.models import AnonymousUser
from django.http import HttpRequest
from socketio.exceptions import ConnectionRefusedError as Refusal

from accounts.models import ApiKey, User
from accounts.permissions import permissions_in
from accounts.services.audit import Actor, acting
from accounts.sign_in.authentication import user_of_scope
from conversations import services
from conversations.models import Conversation
from lib import limits
from lib.problems import Problem

Scope = dict[str, Any]
NO_TEXT: Final = ("", "null", "undefined", "None")
"""What existing clients put into the query for a key that they do not have."""


class NotAllowed(Problem):
    """The caller may watch this conversation and not steer it."""

    status = 403
    code = "missing-permission"
    sentence = "You may watch this conversation, not steer it."


class TooMany(Problem):
    """More than the rate of what spends money."""

    status = 429
    code = "too-many-requests"
    sentence = "Too many messages. Wait a little."


def query_of(scope: Scope) -> dict[str, str]:
    """The last value of each parameter of the handshake."""
    query = parse_qs(scope.get("query_string", b"").decode("utf-8", "replace"))
    return {name: values[-1] for name, values in query.items()}


def conversation_key_of(scope: Scope) -> str:
    """The key in the header ``X-Session-API-Key`` or in the query, or nothing."""
    headers = dict(scope["headers"])
    key = headers.get(b"x-session-api-key", b"").decode("latin-1").strip()
    key = key or query_of(scope).get("session_api_key", "").strip()
    return "" if key in NO_TEXT else key


def user_of(scope: Scope) -> User | AnonymousUser:
    """By a key to one conversation, by an API key wherever one is sent, else by the session cookie."""
    key = conversation_key_of(scope)
    if key.startswith("oh_"):
        kept = [pair for pair in scope["headers"] if pair[0] != b"authorization"]
        scope = scope | {
            "headers": [*kept, (b"authorization", f"Bearer {key}".encode("latin-1", "replace"))]
        }
    elif key:
        address = (scope.get("client") or ("", 0))[0]
        if found := services.holder_of_key(key, address=address):
            return found[0]
    return user_of_scope(scope)


def admit(scope: Scope) -> tuple[User, UUID]:
    """The caller and the conversation that they may watch now. Raises ``Refusal``."""
    wanted = query_of(scope).get("conversation_id", "")
    if not wanted:
        raise Refusal("No conversation_id in query params")
    user = user_of(scope)
    if not isinstance(user, User) or not user.is_active:
        if conversation_key_of(scope):
            raise Refusal("invalid_session_api_key")
        raise Refusal("No keycloak_auth cookie or valid Authorization header")
    conversation = find(user, wanted)
    if conversation is None:
        raise Refusal(f"User {user.pk} is not allowed to join conversation {wanted[:100]}")
    return user, conversation.pk


def find(user: User, wanted: str, permission: str = "conversations.view") -> Conversation | None:
    """The conversation of that id (32 hexadecimal digits, dashed or not), if the user may do this with it."""
    try:
        pk = UUID(wanted)
    except ValueError:
        return None
    found = Conversation.objects.visible_to(user).filter(pk=pk).first()
    if found is None or permission not in permissions_in(user, found.organization_id):
        return None
    return found


@contextmanager
def steering(scope: Scope, conversation_id: UUID) -> Iterator[None]:
    """For the length of the block, the caller acts, if they may still steer and have not done so too often.

    Raises ``NotAllowed`` and ``TooMany``.
    """
    user = user_of(scope)
    if not isinstance(user, User) or not find(user, conversation_id.hex, "conversations.steer"):
        raise NotAllowed
    _count(user)
    address = (scope.get("client") or ("", 0))[0]
    with acting(lambda: actor_of(user, address)):
        yield


def _count(user: User) -> None:
    rate = (settings.RATE_LIMITS or {}).get("spend")
    if rate is None:
        return
    request = HttpRequest()
    request.method = "POST"
    try:
        usage = limits.count(request, group="spend|", value=f"user {user.pk}", rate=rate)
    except limits.NotCounted as error:
        raise TooMany("The server cannot count messages for a moment. Try again.") from error
    if usage.is_over:
        raise TooMany(f"Too many messages. Try again in {usage.reset} seconds.")


def actor_of(user: User, address: str) -> Actor:
    """Who acts through a socket, for the audit log."""
    key = user.came_by
    if isinstance(key, ApiKey):
        kind = "service_account" if getattr(user, "is_service_account", False) else "key"
        name = f"{key.prefix} of {user}"[:254]
        return Actor(kind, id=str(key.pk), name=name, address=address[:45])
    if user.bound_conversation_id:
        name = f"a conversation key of {user}"[:254]
        return Actor("key", id=str(user.bound_conversation_id), name=name, address=address[:45])
    return Actor("person", id=str(user.pk), name=str(user)[:254], address=address[:45])

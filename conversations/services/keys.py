"""Conversation keys, with which existing clients use a single conversation. Keys are derived and never stored.

A key is ``ocs_<head>.<mac>``. The head contains the conversation and the credential with which the user requested the
key: a session, an API key, or only the user for an identity provider's token. The MAC covers the head, the
conversation's key generation and, except for API keys, a hash of the user's password. So a key becomes invalid
when its session or API key does, when the key generation is raised or, except for API keys, when the password changes.
A key never permits more than the credential in its head.
"""

import base64
import binascii
import hmac
from collections.abc import Iterable
from typing import Any, Protocol
from uuid import UUID

from django.db import transaction
from django.db.models import F

from accounts import services as accounts
from accounts.models import ApiKey, Membership, User, UserSession
from accounts.services import audit, provider_sessions, sessions
from conversations.models import Conversation
from lib import crypto

PREFIX = "ocs_"
PURPOSE = "conversation-key"
SCOPES = frozenset({"conversations.view", "conversations.steer", "files.view", "files.edit"})
"""The most that a key permits. The permissions of its user and API key limit it further."""
HEAD_BYTES = 33
"""One byte for the kind of credential, and the UUIDs of the conversation and of the credential."""
BY_SESSION, BY_API_KEY, BY_USER = b"s", b"k", b"u"


class Lockable(Protocol):
    """A conversation, or another object with its id and key generation."""

    @property
    def pk(self) -> Any: ...

    @property
    def key_generation(self) -> int: ...


def conversation_key(*, conversation: Lockable, user: User) -> str:
    """Return the user's key to a conversation. Runs no database query.

    The key is the same on every call until the session, API key, password or key generation changes.
    """
    return conversation_keys(conversations=[conversation], user=user)[0]


def conversation_keys(*, conversations: Iterable[Lockable], user: User) -> list[str]:
    """Return the user's keys to several conversations, in order. See ``conversation_key``."""
    credential = user.credential
    if isinstance(credential, ApiKey):
        kind, pk, password_hash = BY_API_KEY, credential.pk, ""
    elif isinstance(credential, UserSession):
        kind, pk, password_hash = BY_SESSION, credential.pk, user.get_session_auth_hash()
    else:
        kind, pk, password_hash = BY_USER, user.pk, user.get_session_auth_hash()
    keys = []
    for conversation in conversations:
        head = base64.urlsafe_b64encode(kind + conversation.pk.bytes + pk.bytes).decode()
        _, mac = crypto.digest(_signed_text(head, conversation, password_hash), purpose=PURPOSE)
        keys.append(f"{PREFIX}{head}.{mac}")
    return keys


def authenticate_conversation_key(
    token: str, *, address: str = ""
) -> tuple[User, Conversation] | None:
    """Return the user and the conversation of a key, or None if the key is not valid.

    The returned user is limited to this conversation and to ``SCOPES``; the caller still checks permissions.
    ``address`` is the client's IP address, for API keys that are limited to some networks.
    """
    parts = _parse(token)
    if parts is None:
        return None
    kind, conversation_id, pk, head, mac = parts
    conversation = Conversation.objects.filter(pk=conversation_id).first()
    if conversation is None:
        return None
    session = None
    user: User | None = None
    password_hash = ""
    if kind == BY_SESSION:
        session = UserSession.objects.filter(pk=pk).select_related("user").first()
        user = session.user if session else None
    elif kind == BY_USER:
        user = User.objects.filter(pk=pk).first()
    # The MAC of a key that was made with an API key contains no password hash: API keys survive a new password.
    if kind != BY_API_KEY:
        if user is None:
            return None
        password_hash = user.get_session_auth_hash()
    # `crypto.digests` returns a digest for each accepted pepper, so keys stay valid when peppers are rotated.
    digests = crypto.digests(_signed_text(head, conversation, password_hash), purpose=PURPOSE)
    if not any(hmac.compare_digest(mac, digest) for digest in digests):
        return None
    # Use the credential only after the MAC is verified: using a session may refresh it at its identity provider.
    if kind == BY_API_KEY:
        user = _load_api_key_user(pk, address)
    elif kind == BY_SESSION and user is not None:
        user = _load_session_user(user, pk)
    if (
        user is None
        or not Conversation.objects.visible_to(user).filter(pk=conversation.pk).exists()
    ):
        return None
    user.bound_organization_id = conversation.organization_id
    user.bound_conversation_id = conversation.pk
    user.key_scopes = SCOPES if user.key_scopes is None else SCOPES & user.key_scopes
    return user, conversation


@transaction.atomic
def rotate_keys(*, conversation_id: UUID) -> Conversation:
    """Revoke all keys to a conversation and return the conversation. A repeated call also revokes newer keys."""
    conversation = Conversation.objects.select_for_update().get(pk=conversation_id)
    revoke_keys(conversation)
    audit.record(
        action="conversation.keys_ended",
        organization_id=conversation.organization_id,
        subject=conversation,
    )
    return conversation


def revoke_keys(conversation: Conversation) -> None:
    """Revoke all keys to a conversation and make its open sockets check their access again.

    The caller holds the row's lock.
    """
    Conversation.objects.filter(pk=conversation.pk).update(key_generation=F("key_generation") + 1)
    conversation.refresh_from_db(fields=["key_generation"])
    members = Membership.objects.filter(organization_id=conversation.organization_id)
    for user_id in members.values_list("user_id", flat=True):
        sessions.announce_access_change(user_id=user_id)


def _signed_text(head: str, conversation: Lockable, password_hash: str) -> str:
    return f"{head} {conversation.key_generation} {password_hash}"


def _parse(token: str) -> tuple[bytes, UUID, UUID, str, str] | None:
    """Return the kind, conversation id, credential id, head and MAC of a token, or None if it is malformed."""
    head, _, mac = token.removeprefix(PREFIX).partition(".")
    if not (token.startswith(PREFIX) and token.isascii()):
        return None
    # `validate`, because base64 otherwise ignores invalid characters, and several texts would be the same key.
    try:
        raw = base64.b64decode(head.encode(), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        return None
    if len(raw) != HEAD_BYTES:
        return None
    return raw[:1], UUID(bytes=raw[1:17]), UUID(bytes=raw[17:]), head, mac


def _load_api_key_user(pk: UUID, address: str) -> User | None:
    try:
        return accounts.load_api_key(pk, address=address).user
    except accounts.InvalidKey:
        return None


def _load_session_user(user: User, session_id: UUID) -> User | None:
    session = sessions.find_live_session(user=user, session_id=str(session_id))
    if session is None:
        return None
    if (
        provider_sessions.check_provider_session(session=session)
        is not provider_sessions.ProviderSessionState.VALID
    ):
        return None
    user.credential = session
    return user

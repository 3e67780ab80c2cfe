"""Keys to one conversation, which existing clients carry: derived, never stored, so every list row can show one.

A key is ``ocs_<head>.<mac>``. The head names the conversation and how its user was known when the key was
shown: a sign-in, an API key, or a provider's token (the user alone). The MAC binds the head to the conversation's key
generation and, for people, to their password. So a key ends with the sign-in or API key behind it, with a
new password, and for everybody when the generation is raised. It never opens more than what it came from.
"""

import base64
import binascii
import hmac
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
"""All that a key may open, and less where its user, or the API key behind it, may do less."""
HEAD_BYTES = 33
BY_SESSION, BY_API_KEY, BY_USER = b"s", b"k", b"u"


def conversation_key(*, conversation: Conversation, user: User) -> str:
    """The key of this user to this conversation. No query; the same every time until something ends it."""
    credential = user.credential
    if isinstance(credential, ApiKey):
        kind, pk, stamp = BY_API_KEY, credential.pk, ""
    elif isinstance(credential, UserSession):
        kind, pk, stamp = BY_SESSION, credential.pk, user.get_session_auth_hash()
    else:
        kind, pk, stamp = BY_USER, user.pk, user.get_session_auth_hash()
    head = base64.urlsafe_b64encode(kind + conversation.pk.bytes + pk.bytes).decode()
    _, mac = crypto.digest(_signed(head, conversation, stamp), purpose=PURPOSE)
    return f"{PREFIX}{head}.{mac}"


def holder_of_key(token: str, *, address: str = "") -> tuple[User, Conversation] | None:
    """Whose key this is and to what, as of now, or None where it opens nothing.

    The user is limited to that conversation and to ``SCOPES``; what they may do in it is still asked by the
    edges. ``address`` is where the caller is, for API keys that work from some networks only.
    """
    named = _read(token)
    if named is None:
        return None
    kind, conversation_id, pk, head, mac = named
    conversation = Conversation.objects.filter(pk=conversation_id).first()
    if conversation is None:
        return None
    session = None
    user: User | None = None
    stamp = ""
    if kind == BY_SESSION:
        session = UserSession.objects.filter(pk=pk).select_related("user").first()
        user = session.user if session else None
    elif kind == BY_USER:
        user = User.objects.filter(pk=pk).first()
    if kind != BY_API_KEY:
        if user is None:
            return None
        stamp = user.get_session_auth_hash()
    expected = crypto.digests(_signed(head, conversation, stamp), purpose=PURPOSE)
    if not any(hmac.compare_digest(mac, one) for one in expected):
        return None
    if kind == BY_API_KEY:
        user = _of_api_key(pk, address)
    elif kind == BY_SESSION and user is not None:
        user = _of_session(user, pk)
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
    """End every key to this conversation that was ever shown. Each call does so anew."""
    conversation = Conversation.objects.select_for_update().get(pk=conversation_id)
    end_keys(conversation)
    audit.record(
        action="conversation.keys_ended",
        organization_id=conversation.organization_id,
        subject=conversation,
    )
    return conversation


def end_keys(conversation: Conversation) -> None:
    """End every key to a conversation whose row the caller has locked; open sockets check their access at once."""
    Conversation.objects.filter(pk=conversation.pk).update(key_generation=F("key_generation") + 1)
    conversation.refresh_from_db(fields=["key_generation"])
    members = Membership.objects.filter(organization_id=conversation.organization_id)
    for user_id in members.values_list("user_id", flat=True):
        sessions.announce_access_change(user_id=user_id)


def _signed(head: str, conversation: Conversation, stamp: str) -> str:
    return f"{head} {conversation.key_generation} {stamp}"


def _read(token: str) -> tuple[bytes, UUID, UUID, str, str] | None:
    """Kind, conversation, holder, head and MAC of a token of the right shape."""
    head, _, mac = token.removeprefix(PREFIX).partition(".")
    if not (token.startswith(PREFIX) and token.isascii()):
        return None
    try:
        raw = base64.b64decode(head.encode(), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        return None
    if len(raw) != HEAD_BYTES:
        return None
    return raw[:1], UUID(bytes=raw[1:17]), UUID(bytes=raw[17:]), head, mac


def _of_api_key(pk: UUID, address: str) -> User | None:
    try:
        return accounts.load_api_key(pk, address=address).user
    except accounts.InvalidKey:
        return None


def _of_session(user: User, session_id: UUID) -> User | None:
    live = sessions.find_live_session(user=user, session_id=str(session_id))
    if live is None:
        return None
    if (
        provider_sessions.check_provider_session(session=live)
        is not provider_sessions.ProviderSessionState.VALID
    ):
        return None
    user.credential = live
    return user

"""Public links to conversations: functions that manage links, and functions that read what a link shows."""

import ipaddress
import secrets
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from django.conf import settings
from django.db import transaction
from django.db.models import F, QuerySet
from django.utils import timezone

from accounts.models import User
from accounts.services import audit
from conversations.log.story import STORY_KINDS
from conversations.models import Conversation, Event, ShareLink, ShareView
from conversations.services.exports import build_redactor, describe_conversation, redact_event
from lib import crypto
from lib.addresses import parse_address
from lib.problems import Problem

PURPOSE = "share-link"
TOKEN_BYTES = 32
MAX_LINKS = 100
MAX_VIEWS = 1_000
MAX_LIFETIME = timedelta(days=366)


class SharingForbidden(Problem):
    """Public links are disabled in the settings of this server."""

    status = 403
    code = "sharing-forbidden"
    sentence = "Public links are disabled on this server."


class CannotShare(Problem):
    """A value for a new link is not valid, or the conversation has too many links. The detail says why."""

    code = "cannot-share"


class NoSuchShare(Problem):
    """The link does not exist, has expired or was revoked. The response does not say which."""

    status = 404
    code = "no-such-share"
    sentence = "This link does not exist, or it has expired."


class NotTheCreator(Problem):
    """Only the creator of the conversation may carry out the operation."""

    status = 403
    code = "not-yours"
    sentence = "Only the creator of this conversation can create public links to it."


@dataclass(frozen=True, slots=True)
class OpenedShare:
    """A valid public link and its conversation."""

    share: ShareLink
    conversation: Conversation

    @property
    def last_seq(self) -> int:
        """The ``seq`` of the last event that may be shown."""
        return min(self.share.through_seq, self.conversation.last_seq)


@transaction.atomic
def create_share(
    *,
    user: User,
    conversation: Conversation,
    expires_at: datetime,
    through_seq: int | None = None,
) -> tuple[ShareLink, str]:
    """Create a public link and return it with its token, which is not stored and must be shown now.

    The link shows the log up to ``through_seq`` (default: the newest event) and never any later event. Each call
    creates another link. Raise ``SharingForbidden``, ``NotTheCreator``, or ``CannotShare`` if a value is not valid or
    the conversation has too many links.
    """
    if not settings.PUBLIC_LINKS:
        raise SharingForbidden
    # Lock the row, so that concurrent calls cannot exceed the maximum number of links.
    conversation = Conversation.objects.select_for_update().get(pk=conversation.pk)
    if conversation.created_by_id != user.pk:
        raise NotTheCreator
    now = timezone.now()
    if not now < expires_at <= now + MAX_LIFETIME:
        raise CannotShare("Choose an expiry time in the future, at most one year from now.")
    last = conversation.last_seq if through_seq is None else through_seq
    if not 1 <= last <= conversation.last_seq:
        raise CannotShare("This conversation has no event with the seq `through_seq`.")
    if list_shares(conversation=conversation).filter(revoked_at=None).count() >= MAX_LINKS:
        raise CannotShare(
            f"A conversation can have at most {MAX_LINKS} public links. Revoke a link, then try again."
        )
    token = secrets.token_urlsafe(TOKEN_BYTES)
    pepper_id, digest = crypto.digest(token, purpose=PURPOSE)
    share = ShareLink.objects.create(
        organization_id=conversation.organization_id,
        conversation=conversation,
        created_by=user,
        pepper_id=pepper_id,
        digest=digest,
        through_seq=last,
        expires_at=expires_at,
    )
    audit.record(
        action="conversation.link_created",
        organization_id=conversation.organization_id,
        subject=conversation,
        after={"share": str(share.pk), "through_seq": last, "expires_at": expires_at.isoformat()},
    )
    return share, token


def list_shares(*, conversation: Conversation) -> QuerySet[ShareLink]:
    """Return a conversation's public links, newest first, including those that expired or were revoked."""
    return ShareLink.objects.filter(conversation=conversation).order_by("-created_at", "-pk")


@transaction.atomic
def revoke_share(*, conversation: Conversation, share_id: UUID) -> ShareLink:
    """Revoke a public link and return the link. Safe to repeat. Raise ``NoSuchShare`` if the link does not exist."""
    share = list_shares(conversation=conversation).select_for_update().filter(pk=share_id).first()
    if share is None:
        raise NoSuchShare
    if share.revoked_at is None:
        share.revoked_at = timezone.now()
        share.save(update_fields=["revoked_at"])
        audit.record(
            action="conversation.link_revoked",
            organization_id=conversation.organization_id,
            subject=conversation,
            after={"share": str(share.pk)},
        )
    return share


def list_share_views(*, conversation: Conversation, share_id: UUID) -> list[ShareView]:
    """Return the newest hundred views of a public link. Raise ``NoSuchShare`` if the link does not exist."""
    if not list_shares(conversation=conversation).filter(pk=share_id).exists():
        raise NoSuchShare
    rows = ShareView.objects.filter(share_id=share_id, share__conversation=conversation)
    return list(rows.order_by("-viewed_at", "-pk")[:100])


# --- Access with a token, without an account -------------------------------------------


def open_share(*, token: str) -> OpenedShare:
    """Return the public link with this token, and the link's conversation.

    Raise ``NoSuchShare`` if public links are disabled, if the link is unknown, expired or revoked, if its conversation
    was deleted, if the organization is suspended, or if the link's creator is no longer an active member.
    """
    if not settings.PUBLIC_LINKS or not token.isascii() or len(token) > 100:
        raise NoSuchShare
    share = (
        ShareLink.objects.select_related("conversation")
        .filter(
            digest__in=crypto.digests(token, purpose=PURPOSE),
            revoked_at=None,
            expires_at__gt=timezone.now(),
            conversation__deleted_at=None,
            organization__suspended_at=None,
            created_by__is_active=True,
            organization__memberships__user_id=F("created_by_id"),
        )
        .first()
    )
    if share is None:
        raise NoSuchShare
    return OpenedShare(share, share.conversation)


def count_view(*, share: ShareLink, address: str) -> None:
    """Count a view of a public link, and store the time of the view and the viewer's network.

    The times and networks of the newest 1,000 views of a link are kept. ``address`` is the viewer's IP address.
    """
    ShareLink.objects.filter(pk=share.pk).update(view_count=F("view_count") + 1)
    ShareView.objects.create(
        organization_id=share.organization_id, share=share, network=mask_address(address)
    )
    # Remove old views only at every hundredth view, because removing costs more than recording.
    if share.view_count and share.view_count % 100 == 0:
        newest = ShareView.objects.filter(share=share).order_by("-viewed_at")[:MAX_VIEWS]
        ShareView.objects.filter(share=share).exclude(pk__in=newest.values("pk")).delete()


def mask_address(address: str) -> str:
    """Return the network of an IP address (/24 for IPv4, /48 for IPv6), or "" for an invalid address."""
    # A network of this size does not identify a person.
    ip = parse_address(address.partition("%")[0])
    if ip is None:
        return ""
    bits = 24 if ip.version == 4 else 48
    return str(ipaddress.ip_network(f"{ip}/{bits}", strict=False))


def build_shared_record(opened: OpenedShare) -> dict[str, Any]:
    """Return what a public link shows of its conversation apart from the events, without secrets in the title.

    The result contains no user, no organization and no cost.
    """
    facts = describe_conversation(opened.conversation, build_redactor(opened.conversation))
    return {name: facts[name] for name in ("title", "model", "repository", "created_at")} | {
        "last_seq": opened.last_seq,
        "expires_at": opened.share.expires_at,
    }


def list_shared_events(*, opened: OpenedShare, after: int, limit: int) -> list[dict[str, Any]]:
    """Return up to ``limit`` events after the seq ``after`` that a public link shows, without secrets."""
    redactor = build_redactor(opened.conversation)
    # The engine's internal events are left out: they contain addresses and settings of this server.
    rows = Event.objects.filter(
        conversation=opened.conversation, seq__gt=after, kind__in=STORY_KINDS
    )
    rows = rows.filter(seq__lte=opened.last_seq).order_by("seq")[:limit]
    return [redact_event(event, redactor) for event in rows]

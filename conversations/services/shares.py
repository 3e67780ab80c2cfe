"""Public links: made and revoked by people, opened by anybody who has the token, until they end."""

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
from conversations.services.exports import described, redacted_wire, redactor_of
from lib import crypto
from lib.addresses import parse_address
from lib.problems import Problem

PURPOSE = "share-link"
TOKEN_BYTES = 32
MOST_LINKS = 100
KEPT_VIEWS = 1_000
LONGEST = timedelta(days=366)


class SharingForbidden(Problem):
    """Whoever runs the server does not want public links."""

    status = 403
    code = "sharing-forbidden"
    sentence = "Public links are switched off on this server."


class CannotShare(Problem):
    """The link that was asked for makes no sense; the sentence says why."""

    code = "cannot-share"


class NoSuchShare(Problem):
    """There is no such link, or no more. Which of the two is not told."""

    status = 404
    code = "no-such-share"
    sentence = "There is nothing here. The link may have ended."


class NotTheCreator(Problem):
    """Something that only the conversation's creator may do."""

    status = 403
    code = "not-yours"
    sentence = "Only who started this conversation may make public links to it."


@dataclass(frozen=True, slots=True)
class Opened:
    """A link that holds, with the conversation it shows."""

    share: ShareLink
    conversation: Conversation

    @property
    def last_seq(self) -> int:
        """The last event that may be shown."""
        return min(self.share.through_seq, self.conversation.last_seq)


@transaction.atomic
def create_share(
    *,
    user: User,
    conversation: Conversation,
    expires_at: datetime,
    through_seq: int | None = None,
) -> tuple[ShareLink, str]:
    """Make a public link up to ``through_seq`` (by default the newest event), and its token, shown once.

    What comes later in the log is never shown by it. Each call makes another. Raises ``SharingForbidden``,
    ``NotTheCreator``, ``CannotShare``.
    """
    if not settings.PUBLIC_LINKS:
        raise SharingForbidden
    conversation = Conversation.objects.select_for_update().get(pk=conversation.pk)
    if conversation.created_by_id != user.pk:
        raise NotTheCreator
    now = timezone.now()
    if not now < expires_at <= now + LONGEST:
        raise CannotShare("A link must end in the future, within a year.")
    last = conversation.last_seq if through_seq is None else through_seq
    if not 1 <= last <= conversation.last_seq:
        raise CannotShare("There is no such event to show up to.")
    if links_of(conversation=conversation).filter(revoked_at=None).count() >= MOST_LINKS:
        raise CannotShare(f"A conversation has at most {MOST_LINKS} links; revoke some first.")
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


def links_of(*, conversation: Conversation) -> QuerySet[ShareLink]:
    """A conversation's links, ended ones included, newest first."""
    return ShareLink.objects.filter(conversation=conversation).order_by("-created_at", "-pk")


@transaction.atomic
def revoke_share(*, conversation: Conversation, share_id: UUID) -> ShareLink:
    """End a link now. Safe to repeat. Raises ``NoSuchShare``."""
    share = links_of(conversation=conversation).select_for_update().filter(pk=share_id).first()
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


def views_of(*, conversation: Conversation, share_id: UUID) -> list[ShareView]:
    """The newest hundred openings of a link. Raises ``NoSuchShare``."""
    if not links_of(conversation=conversation).filter(pk=share_id).exists():
        raise NoSuchShare
    rows = ShareView.objects.filter(share_id=share_id, share__conversation=conversation)
    return list(rows.order_by("-viewed_at", "-pk")[:100])


# --- Opened by anybody --------------------------------------------------------------


def open_share(*, token: str) -> Opened:
    """The link of a token. Raises ``NoSuchShare`` for one that is unknown, over, revoked or orphaned."""
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
    return Opened(share, share.conversation)


def count_view(*, share: ShareLink, address: str) -> None:
    """Note that a link was opened: when, and from which network. The newest thousand are kept."""
    ShareLink.objects.filter(pk=share.pk).update(view_count=F("view_count") + 1)
    ShareView.objects.create(
        organization_id=share.organization_id, share=share, network=network_of(address)
    )
    if share.view_count and share.view_count % 100 == 0:
        kept = ShareView.objects.filter(share=share).order_by("-viewed_at")[:KEPT_VIEWS]
        ShareView.objects.filter(share=share).exclude(pk__in=kept.values("pk")).delete()


def network_of(address: str) -> str:
    """The network of an address, which names no person: /24 of IPv4, /48 of IPv6; empty if it is none."""
    found = parse_address(address.partition("%")[0])
    if found is None:
        return ""
    bits = 24 if found.version == 4 else 48
    return str(ipaddress.ip_network(f"{found}/{bits}", strict=False))


def shared_record(opened: Opened) -> dict[str, Any]:
    """What a link tells of its conversation, secrets taken out: no person, no organization, no cost."""
    told = described(opened.conversation, redactor_of(opened.conversation))
    return {name: told[name] for name in ("title", "model", "repository", "created_at")} | {
        "last_seq": opened.last_seq,
        "expires_at": opened.share.expires_at,
    }


def shared_events(*, opened: Opened, after: int, limit: int) -> list[dict[str, Any]]:
    """A page of the log behind ``after``, never beyond the pinned event, secrets taken out.

    Only what is told to readers: the engine's housekeeping names addresses and settings of this server.
    """
    redactor = redactor_of(opened.conversation)
    rows = Event.objects.filter(
        conversation=opened.conversation, seq__gt=after, kind__in=STORY_KINDS
    )
    rows = rows.filter(seq__lte=opened.last_seq).order_by("seq")[:limit]
    return [redacted_wire(event, redactor) for event in rows]

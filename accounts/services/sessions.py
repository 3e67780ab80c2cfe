"""Sessions: begin, find and end them, and wake the open sockets of a user whose access changed."""

import logging
from datetime import timedelta
from typing import Any
from uuid import UUID

from django.conf import settings
from django.db import transaction
from django.utils import timezone

from accounts.models import Identity, Organization, ProviderSession, User, UserSession
from accounts.oidc.tokens import TokenSet
from accounts.services.audit import record
from lib.bus import AccessChanged, publisher

log = logging.getLogger(__name__)
SESSION_KEY = "sign_in"
"""Where a browser's session names its ``UserSession``."""
SEEN_EVERY = timedelta(minutes=1)


@transaction.atomic
def begin_session(*, user: User, address: str | None, user_agent: str) -> UserSession:
    """Begin a session of a user who signed in. Each call begins another session."""
    expires_at = timezone.now() + timedelta(seconds=settings.SESSION_COOKIE_AGE)
    session = UserSession.objects.create(
        user=user, address=address, user_agent=user_agent[:300], expires_at=expires_at
    )
    record_sign_in(action="sign_in.succeeded", user=user)
    return session


def record_sign_in(*, action: str, user: User | None, email: str | None = None) -> None:
    """Record a sign-in, an attempt or a sign-out in the chain of the user's own organization.

    ``email`` is the address that was tried, if it differs from the user's.
    """
    home = Organization.objects.filter(personal_of=user).first() if user else None
    name = user.email if user and email is None else email
    record(
        action=action,
        organization_id=home.pk if home else None,
        subject=user,
        subject_name=name,
    )


def hold_provider_session(
    *, session: UserSession, identity: Identity, found: TokenSet
) -> ProviderSession:
    """Store the provider's tokens of a session that just began, encrypted."""
    held = ProviderSession(
        session=session,
        identity=identity,
        sid=str(found.claims.get("sid") or "")[:255],
        access_expires_at=timezone.now() + timedelta(seconds=found.expires_in),
    )
    held.access_token, held.id_token = found.access_token, found.id_token
    held.refresh_token = found.refresh_token
    held.save()
    return held


def find_live_session(*, user: User, session_id: str | None) -> UserSession | None:
    """The session that a browser names, if it is this user's and has not ended; notes that it was seen."""
    if not session_id:
        return None
    found = UserSession.objects.live().filter(pk=session_id, user_id=user.pk)
    session = found.select_related("provider_session").first()
    if session and timezone.now() - session.last_seen_at > SEEN_EVERY:
        UserSession.objects.filter(pk=session.pk).update(last_seen_at=timezone.now())
    return session


def end_session(*, session: UserSession, reason: str) -> bool:
    """End one session now, with its sockets; False when it had ended already."""
    return bool(_end(UserSession.objects.filter(pk=session.pk), reason))


def end_sessions(*, user: User, reason: str, keep: Any = None) -> int:
    """End a user's sessions now, but ``keep`` (a session's id); gives how many. Safe to repeat."""
    found = UserSession.objects.filter(user_id=user.pk)
    return _end(found.exclude(pk=keep) if keep else found, reason)


@transaction.atomic
def _end(found: Any, reason: str) -> int:
    open_ones = list(found.filter(ended_at=None).select_for_update().values_list("pk", "user_id"))
    UserSession.objects.filter(pk__in=[pk for pk, _ in open_ones]).update(
        ended_at=timezone.now(), end_reason=reason
    )
    for user_id in {user_id for _, user_id in open_ones}:
        announce_access_change(user_id=user_id)
    for user in User.objects.filter(pk__in={user_id for _, user_id in open_ones}):
        count = sum(user_id == user.pk for _, user_id in open_ones)
        record(action="sessions.ended", subject=user, after={"sessions": count}, reason=reason)
    return len(open_ones)


def announce_access_change(*, user_id: UUID) -> None:
    """Wake this user's open sockets in every process, once it is committed, to ask whether they may go on.

    A wake-up that is lost costs ``SOCKET_RECHECK_SECONDS``. Safe to repeat.
    """
    wakeup = AccessChanged(user_id)
    transaction.on_commit(lambda: publisher.nudge(access_group(user_id), wakeup), robust=True)


def access_group(user_id: UUID) -> str:
    """The channel-layer group of one user's sockets."""
    return f"user.{user_id.hex}"

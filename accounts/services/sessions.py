"""Services for sessions: begin, find and end them, and make a user's open sockets check their access again."""

import logging
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from django.conf import settings
from django.db import transaction
from django.utils import timezone

from accounts.models import Identity, Organization, ProviderSession, User, UserSession
from accounts.oidc.tokens import TokenSet
from accounts.services.audit import record
from lib.bus import AccessChanged, publisher
from lib.compiled import Compiled, Rows

log = logging.getLogger(__name__)
SESSION_KEY = "sign_in"
"""The key under which a browser's Django session stores the id of its ``UserSession`` row."""
LAST_SEEN_INTERVAL = timedelta(minutes=1)
"""The minimum time between two updates of ``last_seen_at``, so that not every request writes."""


@transaction.atomic
def begin_session(*, user: User, address: str | None, user_agent: str) -> UserSession:
    """Create a session for a user who has signed in. Not safe to repeat: each call creates a session."""
    expires_at = timezone.now() + timedelta(seconds=settings.SESSION_COOKIE_AGE)
    session = UserSession.objects.create(
        user=user, address=address, user_agent=user_agent[:300], expires_at=expires_at
    )
    record_sign_in(action="sign_in.succeeded", user=user)
    return session


def record_sign_in(*, action: str, user: User | None, email: str | None = None) -> None:
    """Record a sign-in, a failed attempt or a sign-out in the audit chain of the user's personal organization.

    ``email`` is the address that the person entered; by default the user's address.
    """
    personal = Organization.objects.filter(personal_of=user).first() if user else None
    name = user.email if user and email is None else email
    record(
        action=action,
        organization_id=personal.pk if personal else None,
        subject=user,
        subject_name=name,
    )


def store_provider_session(
    *, session: UserSession, identity: Identity, token_set: TokenSet
) -> ProviderSession:
    """Store the tokens that an identity provider sent for a new session. The tokens are encrypted."""
    provider_session = ProviderSession(
        session=session,
        identity=identity,
        sid=str(token_set.claims.get("sid") or "")[:255],
        access_expires_at=timezone.now() + timedelta(seconds=token_set.expires_in),
    )
    provider_session.access_token = token_set.access_token
    provider_session.id_token = token_set.id_token
    provider_session.refresh_token = token_set.refresh_token
    provider_session.save()
    return provider_session


def find_live_session(*, user: User, session_id: str | None) -> UserSession | None:
    """Return the user's live session with an id, and update ``last_seen_at``; None if there is no such session."""
    if not session_id:
        return None
    now = timezone.now()
    rows = _LIVE_SESSION.rows(session_id=UUID(session_id), user_id=user.pk, now=now)
    if not rows:
        return None
    session: UserSession
    session, provider_session = _SESSIONS.instances(rows[0])
    _PROVIDER_SESSION.set_cached_value(session, provider_session)
    if provider_session is not None:
        _SESSION_OF_PROVIDER.set_cached_value(provider_session, session)
    if now - session.last_seen_at > LAST_SEEN_INTERVAL:
        UserSession.objects.filter(pk=session.pk).update(last_seen_at=now)
    return session


# Every request with a session cookie runs these two queries, so their SQL is compiled only once.
_SESSIONS = Rows(UserSession, provider_session=ProviderSession)
_PROVIDER_SESSION: Any = UserSession._meta.get_field("provider_session")  # noqa: SLF001 - Django documents _meta
_SESSION_OF_PROVIDER: Any = ProviderSession._meta.get_field("session")  # noqa: SLF001
_LIVE_SESSION = Compiled(
    lambda session_id, user_id, now: (
        UserSession.objects.live(now=now)
        .filter(pk=session_id, user_id=user_id)
        .values_list(*_SESSIONS.columns)
    ),
    session_id=UUID(int=1),
    user_id=UUID(int=2),
    now=datetime(2000, 1, 1, tzinfo=UTC),
)
_USERS = Rows(User)
_USER = Compiled(
    lambda user_id: User.objects.filter(pk=user_id).values_list(*_USERS.columns),
    user_id=UUID(int=1),
)


def find_session_user(user_id: UUID) -> User | None:
    """Return the user whose id a session contains, or None if there is no such user or the user is suspended."""
    rows = _USER.rows(user_id=user_id)
    user: User | None = _USERS.instances(rows[0])[0] if rows else None
    return user if user is not None and user.is_active else None


def end_session(*, session: UserSession, reason: str) -> bool:
    """End a session and close its sockets. Return False if the session had already ended."""
    return bool(_end(UserSession.objects.filter(pk=session.pk), reason))


def end_sessions(*, user: User, reason: str, keep: Any = None) -> int:
    """End the user's sessions, except the session with the id ``keep``; return their number. Safe to repeat."""
    rows = UserSession.objects.filter(user_id=user.pk)
    return _end(rows.exclude(pk=keep) if keep else rows, reason)


@transaction.atomic
def _end(rows: Any, reason: str) -> int:
    # Lock the rows, so that concurrent calls count and record each session once.
    live = list(rows.filter(ended_at=None).select_for_update().values_list("pk", "user_id"))
    UserSession.objects.filter(pk__in=[pk for pk, _ in live]).update(
        ended_at=timezone.now(), end_reason=reason
    )
    for user_id in {user_id for _, user_id in live}:
        announce_access_change(user_id=user_id)
    for user in User.objects.filter(pk__in={user_id for _, user_id in live}):
        count = sum(user_id == user.pk for _, user_id in live)  # True counts as 1
        record(action="sessions.ended", subject=user, after={"sessions": count}, reason=reason)
    return len(live)


def announce_access_change(*, user_id: UUID) -> None:
    """Make the user's open sockets, in every process, check their access again after the commit.

    If the notification is lost, a socket checks its access after ``SOCKET_RECHECK_SECONDS``. Safe to repeat.
    """
    wakeup = AccessChanged(user_id)
    # robust: a failed notification must not fail the request, because sockets also check regularly.
    transaction.on_commit(lambda: publisher.nudge(access_group(user_id), wakeup), robust=True)


def access_group(user_id: UUID) -> str:
    """Return the name of the channel-layer group to which all sockets of a user belong."""
    return f"user.{user_id.hex}"

"""Who a browser's session belongs to: asked of the database at every request and by every open socket.

Django's own check (user active, password unchanged) comes first. Then the ``UserSession`` that the session
names must not have ended, and a session that an identity provider vouched for must still be vouched for.
"""

import ipaddress
from functools import partial
from typing import Any

from asgiref.sync import sync_to_async
from django.contrib.auth import BACKEND_SESSION_KEY, get_user
from django.contrib.auth.middleware import AuthenticationMiddleware
from django.contrib.auth.models import AnonymousUser
from django.contrib.auth.signals import user_logged_in, user_logged_out
from django.db.models.signals import post_save
from django.dispatch import receiver
from django.http import HttpRequest
from django.utils.functional import SimpleLazyObject

from accounts.models import User, UserSession
from accounts.services import identity, sessions

MOVED_BACKENDS = {
    "accounts.authentication.EmailBackend": "accounts.sign_in.authentication.EmailBackend",
    "accounts.oidc.backend.ProviderBackend": "accounts.sign_in.backend.ProviderBackend",
}
"""Earlier paths of our authentication backends: a session keeps the path from the time it began."""


def user_of(request: HttpRequest) -> User | AnonymousUser:
    """The user of a request's session, or nobody. A session that has ended is emptied."""
    if moved := MOVED_BACKENDS.get(request.session.get(BACKEND_SESSION_KEY, "")):
        request.session[BACKEND_SESSION_KEY] = moved
    user = get_user(request)
    if not isinstance(user, User):
        return AnonymousUser()
    named = request.session.get(sessions.SESSION_KEY)
    session = sessions.find_live_session(user=user, session_id=named)
    if session is None:
        request.session.flush()
        return AnonymousUser()
    state = identity.keep_vouched_for(session=session)
    if state is not identity.Vouching.GOOD:
        if state is identity.Vouching.ENDED:
            request.session.flush()
        return AnonymousUser()
    request.user_session = session  # type: ignore[attr-defined]
    user.came_by = session
    return user


def _cached_user(request: HttpRequest) -> Any:
    if not hasattr(request, "_session_user"):
        request._session_user = user_of(request)  # type: ignore[attr-defined]  # noqa: SLF001
    return request._session_user  # type: ignore[attr-defined]  # noqa: SLF001


_cached_user_from_async = sync_to_async(_cached_user)


class SessionUserMiddleware(AuthenticationMiddleware):
    """``request.user`` as ``user_of`` has it, looked up when it is first asked for."""

    def process_request(self, request: HttpRequest) -> None:
        request.user = SimpleLazyObject(lambda: _cached_user(request))  # type: ignore[assignment]
        request.auser = partial(_cached_user_from_async, request)


@receiver(user_logged_in)
def begin(sender: Any, request: HttpRequest, user: Any, **kwargs: Any) -> None:
    """Every sign-in, by whichever door, gets its row; the one this browser had before ends."""
    if _end_named(request, "signed in again"):
        request.session.cycle_key()  # Django keeps the id where the same person signs in anew
    session = sessions.begin_session(
        user=user,
        address=_address(request),
        user_agent=request.META.get("HTTP_USER_AGENT", "").replace("\0", ""),
    )
    request.session[sessions.SESSION_KEY] = str(session.pk)
    request.user_session = session  # type: ignore[attr-defined]


@receiver(user_logged_out)
def end(sender: Any, request: HttpRequest, user: Any, **kwargs: Any) -> None:
    """Signing out ends the row, and with it a copy of the cookie and the sockets."""
    _end_named(request, "signed out")


@receiver(post_save, sender=User)
def wake_on_new_password(sender: Any, instance: User, created: bool, **kwargs: Any) -> None:  # noqa: FBT001
    """Whose password changes is signed out elsewhere, by Django's own check; sockets are made to ask at once."""
    if not created and getattr(instance, "_password", None) is not None:  # set until save() returns
        sessions.announce_access_change(user_id=instance.pk)


def _end_named(request: HttpRequest, reason: str) -> bool:
    named = request.session.get(sessions.SESSION_KEY) if hasattr(request, "session") else None
    session = UserSession.objects.filter(pk=named).first() if named else None
    return sessions.end_session(session=session, reason=reason) if session else False


def _address(request: HttpRequest) -> str | None:
    try:
        return str(ipaddress.ip_address(request.META.get("REMOTE_ADDR", "")))
    except ValueError:
        return None

"""The gate of browser sessions: the user of each request and socket, and the beginning and end of sessions.

Django's own check (user active, password unchanged) comes first. Then the ``UserSession`` that the session
names must not have ended, and a session that an identity provider vouched for must still be vouched for.
The database is asked at every request and by every open socket.
"""

import ipaddress
from collections.abc import Callable
from functools import partial
from typing import Any, cast

from asgiref.sync import sync_to_async
from django.conf import settings
from django.contrib.auth import BACKEND_SESSION_KEY, get_user
from django.contrib.auth.middleware import AuthenticationMiddleware
from django.contrib.auth.models import AnonymousUser
from django.contrib.auth.signals import user_logged_in, user_logged_out
from django.db.models.signals import post_save
from django.dispatch import receiver
from django.http import HttpRequest, HttpResponse
from django.urls import reverse
from django.utils.functional import SimpleLazyObject
from django.utils.http import urlencode

from accounts import limits
from accounts.models import User, UserSession
from accounts.requests import SessionRequest
from accounts.services import provider_sessions, sessions, terms
from accounts.services.audit import Actor, acting

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
    state = provider_sessions.check_provider_session(session=session)
    if state is not provider_sessions.ProviderSessionState.VALID:
        if state is provider_sessions.ProviderSessionState.ENDED:
            request.session.flush()
        return AnonymousUser()
    cast("SessionRequest", request).user_session = session
    user.credential = session
    return user


def _cached_user(request: HttpRequest) -> User | AnonymousUser:
    found = cast("SessionRequest", request)
    if not hasattr(found, "session_user"):
        found.session_user = user_of(found)
    return found.session_user


_cached_user_from_async = sync_to_async(_cached_user)


class SessionUserMiddleware(AuthenticationMiddleware):
    """``request.user`` as ``user_of`` has it, looked up when it is first asked for."""

    def process_request(self, request: HttpRequest) -> None:
        request.user = cast("User", SimpleLazyObject(partial(_cached_user, request)))
        request.auser = partial(_cached_user_from_async, request)


class Acting:
    """Middleware that names the audit log's actor for the length of a request."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        address = limits.client_address(request)[:45]
        with acting(partial(_actor_of, request, address)):
            return self.get_response(request)


def _actor_of(request: HttpRequest, address: str) -> Actor:
    """Return the person, key or service account that a request was authenticated as by now.

    DRF puts the user and the key that it finds on Django's request too.
    """
    user: Any = getattr(request, "user", None)
    if user is None or not user.is_authenticated:
        return Actor("anonymous", address=address)
    key = getattr(request, "auth", None)
    if prefix := getattr(key, "prefix", ""):
        kind = "service_account" if getattr(user, "is_service_account", False) else "key"
        name = f"{prefix} of {user}"[:254]
        return Actor(kind, id=str(getattr(key, "pk", "")), name=name, address=address)
    return Actor("person", id=str(user.pk), name=user.email[:254], address=address)


def target_after_sign_in(user: User, target: str) -> str:
    """Return the path to go to after a sign-in: the terms first, if there are any that are not accepted."""
    if not settings.TERMS_VERSION or terms.has_accepted_terms(user=user):
        return target
    return f"{reverse('accept-tos')}?{urlencode({'redirect_url': target})}"


@receiver(user_logged_in)
def begin(sender: Any, request: HttpRequest, user: Any, **kwargs: Any) -> None:
    """Begin the row of every sign-in, and end the one that this browser had before."""
    if _end_named(request, "signed in again"):
        request.session.cycle_key()  # Django keeps the id where the same person signs in anew
    session = sessions.begin_session(
        user=user,
        address=_address(request),
        user_agent=request.META.get("HTTP_USER_AGENT", "").replace("\0", ""),
    )
    request.session[sessions.SESSION_KEY] = str(session.pk)
    cast("SessionRequest", request).user_session = session


@receiver(user_logged_out)
def end(sender: Any, request: HttpRequest, user: Any, **kwargs: Any) -> None:
    """End the row of a session that is signed out, and with it copies of the cookie and the sockets."""
    _end_named(request, "signed out")
    if isinstance(user, User):
        sessions.record_sign_in(action="sign_in.ended", user=user)


@receiver(post_save, sender=User)
def wake_on_new_password(sender: Any, instance: User, created: bool, **kwargs: Any) -> None:  # noqa: FBT001
    """Wake the sockets of a user whose password changed; Django's own check ends the other sessions."""
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

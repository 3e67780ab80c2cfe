"""Browser sessions: the user of each request and socket, the start and end of sessions, and the audit actor.

A session is valid if Django's own checks pass (active user, unchanged password), if its ``UserSession`` row has
not ended, and, if it began at an identity provider, if the provider still confirms it. These checks read the
database on every request and on every recheck of an open socket.
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
"""The new import path for each former path of our authentication backends.

A session stores the path that was valid when the session began.
"""


def get_session_user(request: HttpRequest) -> User | AnonymousUser:
    """Return the user of a request's session, or an anonymous user.

    Clear the session if it has ended here or at its identity provider.
    """
    if moved := MOVED_BACKENDS.get(request.session.get(BACKEND_SESSION_KEY, "")):
        request.session[BACKEND_SESSION_KEY] = moved
    user = get_user(request)
    if not isinstance(user, User):
        return AnonymousUser()
    session_id = request.session.get(sessions.SESSION_KEY)
    session = sessions.find_live_session(user=user, session_id=session_id)
    if session is None:
        request.session.flush()
        return AnonymousUser()
    # While the provider does not respond, refuse the request but keep the session for later.
    state = provider_sessions.check_provider_session(session=session)
    if state is not provider_sessions.ProviderSessionState.VALID:
        if state is provider_sessions.ProviderSessionState.ENDED:
            request.session.flush()
        return AnonymousUser()
    cast("SessionRequest", request).user_session = session
    user.credential = session
    return user


def _get_cached_user(request: HttpRequest) -> User | AnonymousUser:
    session_request = cast("SessionRequest", request)
    if not hasattr(session_request, "session_user"):
        session_request.session_user = get_session_user(session_request)
    return session_request.session_user


_aget_cached_user = sync_to_async(_get_cached_user)


class SessionUserMiddleware(AuthenticationMiddleware):
    """Middleware that sets ``request.user`` to the result of ``get_session_user``, evaluated at first use."""

    def process_request(self, request: HttpRequest) -> None:
        request.user = cast("User", SimpleLazyObject(partial(_get_cached_user, request)))
        request.auser = partial(_aget_cached_user, request)


class AuditActorMiddleware:
    """Middleware that makes the caller of a request the actor of its audit entries."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        with acting(partial(_build_actor, request)):
            return self.get_response(request)


def _build_actor(request: HttpRequest) -> Actor:
    """Return the actor of a request: a person, an API key or a service account, or ``anonymous``."""
    # Called late, when an entry is written: DRF authenticates after the middleware, and then sets the user and
    # the key on Django's request too.
    address = limits.client_address(request)[:45]
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
    """Return the path to open after a sign-in: the terms page if the user must accept the terms, else ``target``."""
    if not settings.TERMS_VERSION or terms.has_accepted_terms(user=user):
        return target
    return f"{reverse('accept-tos')}?{urlencode({'redirect_url': target})}"


@receiver(user_logged_in)
def begin_user_session(sender: Any, request: HttpRequest, user: Any, **kwargs: Any) -> None:
    """Create a ``UserSession`` after a sign-in, and end the browser's previous ``UserSession``."""
    if _end_user_session(request, "signed in again"):
        request.session.cycle_key()  # Django itself keeps the session id if the same user signs in again
    session = sessions.begin_session(
        user=user,
        address=_address(request),
        user_agent=request.META.get("HTTP_USER_AGENT", "").replace("\0", ""),
    )
    request.session[sessions.SESSION_KEY] = str(session.pk)
    cast("SessionRequest", request).user_session = session


@receiver(user_logged_out)
def end_user_session(sender: Any, request: HttpRequest, user: Any, **kwargs: Any) -> None:
    """End the browser's ``UserSession`` at a sign-out: its sockets close, and copies of its cookie stop working."""
    _end_user_session(request, "signed out")
    if isinstance(user, User):
        sessions.record_sign_in(action="sign_in.ended", user=user)


@receiver(post_save, sender=User)
def recheck_sockets(sender: Any, instance: User, created: bool, **kwargs: Any) -> None:  # noqa: FBT001
    """Make a user's open sockets check their access again after the user's password has changed.

    Django's own check ends the user's other sessions.
    """
    if not created and getattr(instance, "_password", None) is not None:  # set until save() returns
        sessions.announce_access_change(user_id=instance.pk)


def _end_user_session(request: HttpRequest, reason: str) -> bool:
    """End the ``UserSession`` of this browser; return False if the browser has none or it had already ended."""
    session_id = request.session.get(sessions.SESSION_KEY) if hasattr(request, "session") else None
    session = UserSession.objects.filter(pk=session_id).first() if session_id else None
    return sessions.end_session(session=session, reason=reason) if session else False


def _address(request: HttpRequest) -> str | None:
    try:
        return str(ipaddress.ip_address(request.META.get("REMOTE_ADDR", "")))
    except ValueError:
        return None

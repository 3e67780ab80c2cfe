"""The second step of a sign-in by password: the check of a second factor's code.

A sign-in is pending after the password and before the code. Sessions store whether their user has entered a code.
"""

import time
from typing import Any

from django.conf import settings
from django.contrib.auth import login
from django.http import HttpRequest
from django.utils.crypto import constant_time_compare

from accounts import limits
from accounts.models import ProviderSession, User
from accounts.services import second_factor, sessions

BACKEND = settings.AUTHENTICATION_BACKENDS[0]
PENDING_KEY = "second_step"
"""The session key of a pending sign-in: the password was correct, but the user is not signed in yet."""
USED_KEY = "second_factor_used"
"""The session key for the id of the ``UserSession`` in which the user has entered a code."""
PENDING_SECONDS = 300


def is_needed(user: Any) -> bool:
    """Return whether this user needs a code in addition to the password."""
    return isinstance(user, User) and second_factor.has_second_factor(user=user)


def begin(request: HttpRequest, user: Any, *, target: str) -> None:
    """Store a pending sign-in for five minutes, after the user sent the correct password.

    ``target`` is the path to open after the second step.
    """
    request.session.cycle_key()  # against session fixation, as Django's login() does
    request.session[PENDING_KEY] = {
        "user": str(user.pk),
        "password": user.get_session_auth_hash(),
        "target": target,
        "at": time.time(),
    }


def find_pending(request: HttpRequest) -> tuple[User, str] | None:
    """Return the user and the target of this browser's pending sign-in.

    Return None if there is no pending sign-in, if the pending sign-in has expired, or if the user has been suspended or
    has a new password since it began.
    """
    pending = request.session.get(PENDING_KEY)
    if not pending or not 0 <= time.time() - pending["at"] <= PENDING_SECONDS:
        return None
    user = User.objects.filter(pk=pending["user"], is_active=True).first()
    if user is None or not constant_time_compare(pending["password"], user.get_session_auth_hash()):
        return None
    return user, pending["target"]


def check_code(request: HttpRequest, user: User, code: str) -> None:
    """Count an attempt to enter a code, then verify the code. Raise ``TooManyAttempts`` or ``WrongCode``."""
    count_attempt(request, user, code)
    second_factor.verify_second_factor(user=user, code=code)


def count_attempt(request: HttpRequest, user: User, code: str) -> None:
    """Count an attempt to enter a code. Raise ``TooManyAttempts`` above the limit."""
    address = limits.client_address(request)
    # Sessions store REMOTE_ADDR. Behind a proxy this is the proxy's address, which all clients share.
    is_direct = address == request.META.get("REMOTE_ADDR")
    is_trusted = second_factor.is_recovery_code(code) or (
        is_direct
        and limits.client_network(request) != "unknown"
        and second_factor.is_from_known_address(user=user, address=address)
    )
    limits.check_code(request, str(user.pk), is_trusted=is_trusted)


def sign_in(request: HttpRequest, user: User, *, code: str) -> None:
    """Complete a sign-in after the password check; verify the second factor if the user has one.

    Raise ``WrongCode`` or ``TooManyAttempts``. Raise ``SecondFactorNeeded`` if the code is missing.
    """
    needs_code = is_needed(user)
    if needs_code:
        if not code.strip():
            raise second_factor.SecondFactorNeeded
        check_code(request, user, code)
    request.session.pop(PENDING_KEY, None)
    login(request, user, backend=BACKEND)
    if needs_code:
        mark_used(request)


def mark_used(request: HttpRequest) -> None:
    """Record in the session of this request that the second factor was used."""
    request.session[USED_KEY] = request.session[sessions.SESSION_KEY]


def was_used(request: HttpRequest) -> bool:
    """Return whether the second factor was used in the session of this request."""
    session_id = request.session.get(sessions.SESSION_KEY)
    return bool(session_id) and request.session.get(USED_KEY) == session_id


def allows_admin_site(request: HttpRequest) -> bool:
    """Return whether this session meets the admin site's requirement of a second factor.

    The user's permissions are not checked here.
    """
    if not settings.STAFF_SECOND_FACTOR:
        return True
    session = getattr(request, "user_session", None)
    # Sessions of an identity provider are exempt: the provider decides whether to require a second factor.
    if session and ProviderSession.objects.filter(session=session).exists():
        return True
    # A second factor that was reset after this sign-in no longer counts.
    return was_used(request) and is_needed(request.user)

"""The second step of a sign-in by password, at the edge: who waits for it, and which sessions took it."""

import time
from typing import Any

from django.conf import settings
from django.contrib.auth import login
from django.http import HttpRequest
from django.utils.crypto import constant_time_compare

from accounts import limits
from accounts.models import ProviderSession, User
from accounts.services import second_factor as verbs
from accounts.services import sessions

BACKEND = settings.AUTHENTICATION_BACKENDS[0]
WAITING_KEY = "second_step"
"""Where a browser's session says whose password was right; nobody is signed in by it."""
USED_KEY = "second_factor_used"
"""Where a browser's session names the ``UserSession`` in which a second factor was used."""
WAITING_SECONDS = 300


def is_needed(user: Any) -> bool:
    """Whether a right password alone does not sign this user in."""
    return isinstance(user, User) and verbs.has_second_factor(user=user)


def wait(request: HttpRequest, user: Any, *, target: str) -> None:
    """Remember that the password was right, for ``WAITING_SECONDS``, under a new session id."""
    request.session.cycle_key()
    request.session[WAITING_KEY] = {
        "user": str(user.pk),
        "password": user.get_session_auth_hash(),
        "target": target,
        "at": time.time(),
    }


def waiting(request: HttpRequest) -> tuple[User, str] | None:
    """Who waits in this browser, and where to go on to; None when it took too long or the password changed."""
    kept = request.session.get(WAITING_KEY)
    if not kept or not 0 <= time.time() - kept["at"] <= WAITING_SECONDS:
        return None
    user = User.objects.filter(pk=kept["user"], is_active=True).first()
    if user is None or not constant_time_compare(kept["password"], user.get_session_auth_hash()):
        return None
    return user, kept["target"]


def check(request: HttpRequest, user: User, code: str) -> None:
    """Count an attempt, then take the code. Raises ``TooManyAttempts`` and ``WrongCode``."""
    count(request, user, code)
    verbs.verify_second_factor(user=user, code=code)


def count(request: HttpRequest, user: User, code: str) -> None:
    """Count an attempt at a code. Raises ``TooManyAttempts``."""
    address = limits.client_address(request)
    # Sessions note REMOTE_ADDR: where that is a proxy, it says nothing about who is behind it.
    is_telling = address == request.META.get("REMOTE_ADDR")
    is_trusted = verbs.is_recovery_code(code) or (
        is_telling
        and limits.client_network(request) != "unknown"
        and verbs.is_from_known_address(user=user, address=address)
    )
    limits.check_code(request, str(user.pk), is_trusted=is_trusted)


def sign_in(request: HttpRequest, user: User, *, code: str) -> None:
    """Sign in whose password was right, by a code where one is needed.

    Raises ``SecondFactorNeeded``, ``WrongCode`` and ``TooManyAttempts``.
    """
    is_asked = is_needed(user)
    if is_asked:
        if not code.strip():
            raise verbs.SecondFactorNeeded
        check(request, user, code)
    request.session.pop(WAITING_KEY, None)
    login(request, user, backend=BACKEND)
    if is_asked:
        mark_used(request)


def mark_used(request: HttpRequest) -> None:
    """Note that the second factor was used in the session of this request."""
    request.session[USED_KEY] = request.session[sessions.SESSION_KEY]


def was_used(request: HttpRequest) -> bool:
    """Whether the second factor was used in the session of this request."""
    named = request.session.get(sessions.SESSION_KEY)
    return bool(named) and request.session.get(USED_KEY) == named


def opens_desk(request: HttpRequest) -> bool:
    """Whether this session may open the admin desk as far as second factors go.

    It may when none is asked for, when one was used in it, or when an identity provider vouched for it, whose
    duty the second factor is then. One that was reset since does not count.
    """
    if not settings.STAFF_SECOND_FACTOR:
        return True
    session = getattr(request, "user_session", None)
    if session and ProviderSession.objects.filter(session=session).exists():
        return True
    return was_used(request) and is_needed(request.user)

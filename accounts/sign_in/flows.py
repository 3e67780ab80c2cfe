"""A sign-in under way: what the browser's session remembers between leaving for the provider and coming back.

State, nonce and PKCE verifier are mozilla-django-oidc's, kept in the session of the browser that started, so
an answer that reaches another browser finds nothing. A state counts once, in whatever process it arrives.
"""

import time
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode, urlsplit

from django.conf import settings
from django.http import HttpRequest
from django.shortcuts import resolve_url
from django.utils.crypto import get_random_string
from django.utils.http import url_has_allowed_host_and_scheme
from mozilla_django_oidc.utils import (
    add_state_and_verifier_and_nonce_to_session,
    generate_code_challenge,
)

from accounts.models import IdentityProvider
from accounts.oidc import providers
from accounts.services import identity as identities

STATES_KEY = "oidc_states"
FLOW_SECONDS = 600
VERIFIER_LENGTH = 64
COMPAT_SLUG = "keycloak"
COMPAT_CALLBACK = "/oauth/keycloak/callback"
"""Where existing installations have registered their Keycloak client to come back."""
COMPAT_OFFLINE_CALLBACK = "/oauth/keycloak/offline/callback"


@dataclass(frozen=True, slots=True)
class Flow:
    """What was asked for when the browser left."""

    purpose: str
    """``sign-in``, ``link`` or ``offline``."""
    next: str
    nonce: str
    code_verifier: str
    redirect_path: str
    started_at: float
    user_id: str = ""


def callback_path(provider: IdentityProvider, purpose: str = "sign-in") -> str:
    """The path that a provider sends browsers back to."""
    if provider.slug == COMPAT_SLUG:
        return COMPAT_OFFLINE_CALLBACK if purpose == "offline" else COMPAT_CALLBACK
    return f"/oidc/{provider.slug}/callback"


def begin(request: HttpRequest, provider: IdentityProvider, *, purpose: str, target: str) -> str:
    """Remember a new flow in the browser's session; gives the provider's address to go to.

    Linking asks the provider to let the person sign in anew, so that it is their doing. Raises
    ``ProviderUnavailable``.
    """
    endpoint = providers.metadata(provider).authorization_endpoint
    state, verifier = get_random_string(43), get_random_string(VERIFIER_LENGTH)
    scopes = provider.scopes + (" offline_access" if purpose == "offline" else "")
    path = callback_path(provider, purpose)
    params = {
        "response_type": "code",
        "client_id": provider.client_id,
        "redirect_uri": settings.PUBLIC_URL + path,
        "scope": scopes,
        "state": state,
        "nonce": get_random_string(43),
        "code_challenge": generate_code_challenge(verifier, "S256"),
        "code_challenge_method": "S256",
    }
    if purpose == "link":
        params |= {"prompt": "login", "max_age": "0"}
    add_state_and_verifier_and_nonce_to_session(request, state, params, verifier)
    request.session[STATES_KEY][state] |= {
        "provider": provider.slug,
        "purpose": purpose,
        "next": target,
        "redirect_path": path,
        "started_at": time.time(),
        "user_id": str(request.user.pk or ""),
    }
    request.session.modified = True
    return endpoint + ("&" if "?" in endpoint else "?") + urlencode(params)


def take(request: HttpRequest, provider: IdentityProvider, state: str) -> Flow | None:
    """The flow of a state, which is used up; None for one that this browser did not start, or not now."""
    states: dict[str, Any] = request.session.get(STATES_KEY, {})
    kept = states.pop(state, None)
    if kept is None:
        return None
    request.session.modified = True
    request.session.save()
    is_ours = kept.get("provider") == provider.slug and kept.get("redirect_path") == request.path
    is_fresh = time.time() - kept.get("started_at", 0) <= FLOW_SECONDS
    if not (is_ours and is_fresh and identities.spend(what=f"state {state}", seconds=FLOW_SECONDS)):
        return None
    return Flow(
        purpose=kept["purpose"],
        next=kept["next"],
        nonce=kept["nonce"],
        code_verifier=kept["code_verifier"],
        redirect_path=kept["redirect_path"],
        started_at=kept["started_at"],
        user_id=kept["user_id"],
    )


def confined(wanted: Any, *, otherwise: str | None = None) -> str:
    """A path of this site for whatever a caller named as where to go; home where it names another site."""
    home = otherwise or resolve_url(settings.LOGIN_REDIRECT_URL)
    if not isinstance(wanted, str) or not wanted or len(wanted) > 2_000 or not wanted.isprintable():
        return home
    site = urlsplit(settings.PUBLIC_URL)
    if not url_has_allowed_host_and_scheme(
        wanted, allowed_hosts={site.netloc}, require_https=site.scheme == "https"
    ):
        return home
    parts = urlsplit(wanted)
    path = parts.path + (f"?{parts.query}" if parts.query else "")
    is_path = path.startswith("/") and not path.startswith(("//", "/\\"))
    return path if is_path and "\\" not in path and "://" not in parts.path else home

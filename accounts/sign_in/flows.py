"""Sign-in with an identity provider: the redirect to the provider, and the callback that completes the flow.

A flow is one sign-in, or one link of an account, from the redirect to the callback. mozilla-django-oidc stores its
state, nonce and PKCE verifier in the browser's session, so a callback works only in the browser where the flow began.
Each state works only once, even if two processes receive the same callback.
"""

import logging
import time
from dataclasses import dataclass
from typing import Any, cast
from urllib.parse import urlencode, urlsplit

from django.conf import settings
from django.contrib import auth, messages
from django.db import transaction
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import redirect, render, resolve_url
from django.urls import reverse
from django.utils.crypto import get_random_string
from django.utils.http import url_has_allowed_host_and_scheme
from django.views.decorators.cache import never_cache
from django.views.decorators.debug import sensitive_variables
from django.views.decorators.http import require_GET
from mozilla_django_oidc.utils import (
    add_state_and_verifier_and_nonce_to_session,
    generate_code_challenge,
)

from accounts.models import IdentityProvider, User
from accounts.oidc import providers, tokens
from accounts.requests import SessionRequest
from accounts.services import identities, identity_providers, sessions
from accounts.sign_in import backend, browser_sessions
from lib.problems import Problem
from lib.routes import RouteFacts

log = logging.getLogger(__name__)
STATES_KEY = "oidc_states"
"""The session key under which mozilla-django-oidc stores the flows by state."""
ENDED_KEY = "oidc_ended"
"""The session key of the flows that are over, by state."""
ENDED_MAX = 10
FLOW_SECONDS = 600
VERIFIER_LENGTH = 64
COMPAT_SLUG = "keycloak"
COMPAT_CALLBACK = "/oauth/keycloak/callback"
"""The redirect URI that existing OpenHands installations have registered for their Keycloak client."""
PURPOSES = ("sign-in", "link")
UNREACHABLE = "{name} is not responding. Try again in a few minutes."
MISCONFIGURED = (
    "{name} and this server are not configured for each other, so nobody can sign in with it. Contact your "
    "administrator: the reason is in the server's log, and “Check the connection” on the admin site shows it."
)
STALE = (
    "This sign-in cannot be completed: it was started in another browser, took more than 10 minutes, or was "
    "already completed. Start again."
)
SIGNED_IN_ALREADY = "You are already signed in."
LINK_NOT_COMPLETED = (
    "The account was not connected: this took more than 10 minutes or was already completed. If it is not in the list "
    "below, connect it again."
)
UNTRUSTED = (
    "The response from {name} failed a security check, so you were not signed in. Start again. If the problem "
    "continues, contact your administrator."
)
ERRORS = {
    "access_denied": (403, "{name} denied access, or you cancelled the sign-in there."),
    "login_required": (
        403,
        "{name} requires you to sign in there first. Sign in there, then start again.",
    ),
    "consent_required": (
        403,
        "{name} requires your consent. Start again and give your consent there.",
    ),
    "interaction_required": (
        403,
        "{name} requires another step from you. Start again and complete it there.",
    ),
    "temporarily_unavailable": (503, UNREACHABLE),
    "server_error": (503, UNREACHABLE),
}
REFUSED = (
    400,
    "{name} rejected this sign-in. Start again. If the problem continues, contact your administrator.",
)


@dataclass(frozen=True, slots=True)
class Flow:
    """A sign-in or account link that began in a browser, as stored in the browser's session."""

    purpose: str
    """One of ``PURPOSES``."""
    next: str
    """Path to open afterwards."""
    nonce: str
    code_verifier: str
    redirect_path: str
    started_at: float
    """Seconds since 1970."""
    user_id: str = ""
    """The signed-in user who links an account; empty for a sign-in."""


@RouteFacts(streams=True)
@never_cache
@require_GET
def sign_in(request: HttpRequest, slug: str) -> HttpResponse:
    """Redirect the browser to a provider; redirect a user who is already signed in to ``next``."""
    provider = provider_or_404(slug)
    target = confine_to_site(request.GET.get("next"))
    if request.user.is_authenticated:
        return redirect(target)
    try:
        return redirect(begin_flow(request, provider, purpose="sign-in", target=target))
    except providers.ProviderUnavailable as error:
        return render_unavailable(request, provider, error)


@RouteFacts(streams=True)
@never_cache
@require_GET
@sensitive_variables()
def callback(request: HttpRequest, slug: str) -> HttpResponse:
    """Complete a flow when a provider redirects the browser back to this server. Show a page for expected errors."""
    provider = provider_or_404(slug)
    state = request.GET.get("state", "")
    flow = take_flow(request, provider, state)
    if flow is None:
        if slug == COMPAT_SLUG and (response := _answer_existing_client(request, provider, state)):
            return response
        if request.user.is_authenticated:
            return _answer_stale_flow(request, state)
        return render_failure(request, provider, 400, STALE, "unknown state")
    if code := request.GET.get("error"):
        status, sentence = ERRORS.get(code, REFUSED)
        return render_failure(request, provider, status, sentence, code[:80])
    if not request.GET.get("code"):
        return render_failure(request, provider, *REFUSED, "no code")
    try:
        return _complete_flow(request, provider, flow)
    except providers.ProviderUnavailable as error:
        return render_unavailable(request, provider, error)
    except providers.ProviderRefused as error:
        return render_failure(request, provider, *REFUSED, error.code)
    except tokens.BadToken as error:
        return render_failure(request, provider, 400, UNTRUSTED, error)
    except Problem as error:
        return render_failure(request, provider, error.status, error.detail, error.code)


def _answer_stale_flow(request: HttpRequest, state: str) -> HttpResponse:
    """Redirect a signed-in user whose flow is over: the callback is opened again, too late or from another tab.

    The user gets nothing from the flow, so the state needs no proof. The session remembers the flows that it began.
    """
    ended: dict[str, str] = request.session.get(ENDED_KEY, {}).get(state) or {}
    if ended.get("purpose") == "link":
        messages.warning(request, LINK_NOT_COMPLETED)
    else:
        messages.info(request, SIGNED_IN_ALREADY)
    return redirect(confine_to_site(ended.get("next")))


def _remember_ended(request: HttpRequest, state: str, data: dict[str, Any]) -> None:
    """Store the purpose and target of a flow that is over, for a later request with its state. Keep the newest ten."""
    ended = request.session.get(ENDED_KEY, {})
    ended[state] = {"purpose": data.get("purpose", ""), "next": data.get("next", "")}
    request.session[ENDED_KEY] = dict(list(ended.items())[-ENDED_MAX:])


def _require_linking_user(request: HttpRequest, flow: Flow) -> User:
    """Return the user who started this account link. Raise ``SignInRefused`` if another user is signed in."""
    user = request.user
    if user.is_authenticated and str(user.pk) == flow.user_id:
        return user
    raise identities.SignInRefused(
        "You are no longer signed in as the user who started this. Sign in to the account that you want to connect, "
        "then start again."
    )


def _complete_flow(request: HttpRequest, provider: IdentityProvider, flow: Flow) -> HttpResponse:
    linking_user = _require_linking_user(request, flow) if flow.purpose == "link" else None
    token_set = tokens.exchange(
        provider,
        code=request.GET["code"],
        code_verifier=flow.code_verifier,
        nonce=flow.nonce,
        redirect_uri=settings.PUBLIC_URL + flow.redirect_path,
        authenticated_after=flow.started_at if linking_user else None,
    )
    if linking_user:
        identities.link_identity(user=linking_user, provider=provider, claims=token_set.claims)
        messages.success(request, f"{provider.name} is connected. You can now sign in with it.")
        return redirect(flow.next)
    identity = identities.sign_in_identity(provider=provider, claims=token_set.claims)
    # Both or neither: a session without its provider's tokens would count as a local session, which the provider
    # cannot end. The code exchange above is a network call and cannot be rolled back, so it stays outside.
    with transaction.atomic():
        auth.login(request, identity.user, backend=backend.PATH)
        # The receiver of user_logged_in has set the attribute.
        session = cast("SessionRequest", request).user_session
        sessions.store_provider_session(session=session, identity=identity, token_set=token_set)
    return redirect(browser_sessions.target_after_sign_in(identity.user, flow.next))


def _answer_existing_client(
    request: HttpRequest, provider: IdentityProvider, state: str
) -> HttpResponse | None:
    """Respond to a callback of a flow that an OpenHands front end has started directly at Keycloak.

    These front ends use the URL of a page as the state. Return None for any other state.
    """
    # Nothing proves that this browser started the flow, so ignore the code and start our own flow with state, nonce
    # and PKCE. Keycloak already has a session with the browser, so the user only sees one more redirect.
    if not state.startswith(("http://", "https://", "/")):
        return None
    target = confine_to_site(state)
    if request.GET.get("error"):
        is_expired = request.GET.get("error_description") == "authentication_expired"
        if request.GET["error"] == "temporarily_unavailable" and is_expired:
            return redirect(target)
        return None
    if not request.GET.get("code") or request.user.is_authenticated:
        return redirect(target)
    return redirect(
        f"{reverse('oidc-sign-in', args=[provider.slug])}?{urlencode({'next': target})}"
    )


def provider_or_404(slug: str) -> IdentityProvider:
    """Return the enabled provider with a slug. Raise ``Http404`` if there is no such provider."""
    try:
        return identity_providers.find_provider(slug=slug)
    except identity_providers.UnknownProvider as error:
        raise Http404 from error


def render_failure(
    request: HttpRequest, provider: IdentityProvider, status: int, sentence: str, reason: object
) -> HttpResponse:
    """Log the reason of a failed sign-in, and render a page that shows ``sentence``."""
    log.warning("a sign-in with %s failed: %s", provider.slug, reason)
    context = {"sentence": sentence.format(name=provider.name), "provider": provider}
    response = render(request, "accounts/sign_in_failed.html", context, status=status)
    if status == 503:
        response.headers["Retry-After"] = "10"
    return response


def render_unavailable(
    request: HttpRequest, provider: IdentityProvider, error: providers.ProviderUnavailable
) -> HttpResponse:
    """Render the page for a provider with which nobody can sign in now, and say whether waiting helps."""
    is_misconfigured = isinstance(error, providers.ProviderMisconfigured)
    sentence = MISCONFIGURED if is_misconfigured else UNREACHABLE
    return render_failure(request, provider, 503, sentence, error)


def begin_flow(
    request: HttpRequest, provider: IdentityProvider, *, purpose: str, target: str
) -> str:
    """Store a new flow in the browser's session; return the URL of the provider's sign-in page for this flow.

    ``purpose`` is one of ``PURPOSES``; ``target`` is the path to open afterwards. Raise ``ProviderUnavailable``.
    """
    endpoint = providers.get_metadata(provider).authorization_endpoint
    state, verifier = get_random_string(43), get_random_string(VERIFIER_LENGTH)
    is_compat = provider.slug == COMPAT_SLUG
    path = COMPAT_CALLBACK if is_compat else f"/oidc/{provider.slug}/callback"
    params = {
        "response_type": "code",
        "client_id": provider.client_id,
        "redirect_uri": settings.PUBLIC_URL + path,
        "scope": provider.scopes,
        "state": state,
        "nonce": get_random_string(43),
        "code_challenge": generate_code_challenge(verifier, "S256"),
        "code_challenge_method": "S256",
    }
    if purpose == "link":
        # Require a new sign-in at the provider, so that a link needs the person's consent there.
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


def take_flow(request: HttpRequest, provider: IdentityProvider, state: str) -> Flow | None:
    """Return the flow that began with ``state``, and mark ``state`` as used.

    Return None if the flow began in another browser or for another provider, has expired, or was used before.
    """
    states: dict[str, Any] = request.session.get(STATES_KEY, {})
    data = states.pop(state, None)
    if data is None:
        return None
    _remember_ended(request, state, data)
    request.session.save()
    is_match = data.get("provider") == provider.slug and data.get("redirect_path") == request.path
    is_match = is_match and data.get("purpose") in PURPOSES
    is_fresh = time.time() - data.get("started_at", 0) <= FLOW_SECONDS
    # The session alone is not enough: of two concurrent requests, both can read the state before one removes it.
    if not (is_match and is_fresh and tokens.spend(value=f"state {state}", seconds=FLOW_SECONDS)):
        return None
    return Flow(
        purpose=data["purpose"],
        next=data["next"],
        nonce=data["nonce"],
        code_verifier=data["code_verifier"],
        redirect_path=data["redirect_path"],
        started_at=data["started_at"],
        user_id=data["user_id"],
    )


def confine_to_site(url: Any) -> str:
    """Return the path and query string of a URL on this site.

    For a URL on another site and for invalid input, return the home page.
    """
    home: str = resolve_url(settings.LOGIN_REDIRECT_URL)
    is_text = isinstance(url, str) and 0 < len(url) <= 2_000 and url.isprintable()
    if not is_text:
        return home
    site = urlsplit(settings.PUBLIC_URL)
    if not url_has_allowed_host_and_scheme(
        url, allowed_hosts={site.netloc}, require_https=site.scheme == "https"
    ):
        return home
    parts = urlsplit(url)
    path = parts.path + (f"?{parts.query}" if parts.query else "")
    # Browsers treat "//host", "/\host" and backslashes as the start of another host.
    is_path = path.startswith("/") and not path.startswith(("//", "/\\"))
    return path if is_path and "\\" not in path and "://" not in parts.path else home

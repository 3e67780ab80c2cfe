"""The sign-in with a provider: the page that leaves for it, the callback, and the flow that connects the two.

State, nonce and PKCE verifier are mozilla-django-oidc's, kept in the session of the browser that started, so
an answer that reaches another browser finds nothing. A state counts once, in whatever process it arrives.
"""

import logging
import time
from dataclasses import dataclass
from typing import Any, cast
from urllib.parse import urlencode, urlsplit

from django.conf import settings
from django.contrib import auth, messages
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
from accounts.sign_in import backend, session_gate
from lib.problems import Problem
from lib.routes import RouteFacts

log = logging.getLogger(__name__)
STATES_KEY = "oidc_states"
FLOW_SECONDS = 600
VERIFIER_LENGTH = 64
COMPAT_SLUG = "keycloak"
COMPAT_CALLBACK = "/oauth/keycloak/callback"
"""Where existing installations have registered their Keycloak client to come back."""
PURPOSES = ("sign-in", "link")
AWAY = (
    "{name} does not answer at the moment. Try again soon. People who are signed in stay signed in."
)
STALE = "This sign-in was begun in another browser, took too long, or was finished already. Begin again."
NOT_BELIEVED = "{name} gave an answer that cannot be trusted, so nobody was signed in. Begin again."
ERRORS = {
    "access_denied": (403, "{name} did not let you in, or you turned it down there."),
    "login_required": (403, "{name} wants you to sign in there first."),
    "consent_required": (403, "{name} wants your consent first."),
    "interaction_required": (403, "{name} wants something from you first. Begin again."),
    "temporarily_unavailable": (503, AWAY),
    "server_error": (503, AWAY),
}
REFUSED = (400, "{name} refused this sign-in. Begin again; if it stays so, tell an administrator.")


@dataclass(frozen=True, slots=True)
class Flow:
    """What was asked for when the browser left."""

    purpose: str
    """One of ``PURPOSES``."""
    next: str
    nonce: str
    code_verifier: str
    redirect_path: str
    started_at: float
    user_id: str = ""


@RouteFacts(streams=True)
@never_cache
@require_GET
def sign_in(request: HttpRequest, slug: str) -> HttpResponse:
    """Send the browser to a provider; if its user is signed in already, send it to ``next``."""
    provider = provider_or_404(slug)
    target = confined(request.GET.get("next"))
    if request.user.is_authenticated:
        return redirect(target)
    try:
        return redirect(begin(request, provider, purpose="sign-in", target=target))
    except providers.ProviderUnavailable as error:
        return failed_page(request, provider, 503, AWAY, error)


@RouteFacts(streams=True)
@never_cache
@require_GET
@sensitive_variables()
def callback(request: HttpRequest, slug: str) -> HttpResponse:
    """Finish a sign-in when the browser comes back from a provider. A fault becomes a page, never a 500."""
    provider = provider_or_404(slug)
    state = request.GET.get("state", "")
    flow = take(request, provider, state)
    if flow is None:
        if slug == COMPAT_SLUG and (answer := _existing_client(request, provider, state)):
            return answer
        return failed_page(request, provider, 400, STALE, "unknown state")
    if error := request.GET.get("error"):
        status, sentence = ERRORS.get(error, REFUSED)
        return failed_page(request, provider, status, sentence, error[:80])
    if not request.GET.get("code"):
        return failed_page(request, provider, *REFUSED, "no code")
    try:
        return _finish(request, provider, flow)
    except providers.ProviderUnavailable as error:
        return failed_page(request, provider, 503, AWAY, error)
    except providers.ProviderRefused as error:
        return failed_page(request, provider, *REFUSED, error.code)
    except tokens.BadToken as error:
        return failed_page(request, provider, 400, NOT_BELIEVED, error)
    except Problem as error:
        return failed_page(request, provider, error.status, error.detail, error.code)


def _linking_user(request: HttpRequest, flow: Flow) -> User:
    """Return the user who began to connect the provider; raise ``SignInRefused`` for anybody else."""
    user = request.user
    if user.is_authenticated and str(user.pk) == flow.user_id:
        return user
    raise identities.SignInRefused(
        "Sign in to the account that you want to connect, then begin again."
    )


def _finish(request: HttpRequest, provider: IdentityProvider, flow: Flow) -> HttpResponse:
    linking = _linking_user(request, flow) if flow.purpose == "link" else None
    found = tokens.exchange(
        provider,
        code=request.GET["code"],
        code_verifier=flow.code_verifier,
        nonce=flow.nonce,
        redirect_uri=settings.PUBLIC_URL + flow.redirect_path,
        authenticated_after=flow.started_at if linking else None,
    )
    if linking:
        identities.link_identity(user=linking, provider=provider, claims=found.claims)
        messages.success(request, f"{provider.name} is connected: you can sign in with it.")
        return redirect(flow.next)
    identity = identities.sign_in_identity(provider=provider, claims=found.claims)
    auth.login(request, identity.user, backend=backend.PATH)
    session = cast("SessionRequest", request).user_session  # set by session_gate.begin
    sessions.store_provider_session(session=session, identity=identity, token_set=found)
    return redirect(session_gate.target_after_sign_in(identity.user, flow.next))


def _existing_client(
    request: HttpRequest, provider: IdentityProvider, state: str
) -> HttpResponse | None:
    """Respond to a front end that sent the browser to Keycloak itself, with a return address as state.

    Nothing ties such an answer to this browser, so its code is not used: the sign-in begins anew with state,
    nonce and PKCE. Keycloak knows the browser by now and asks nothing, so people see one more redirect.
    """
    if not state.startswith(("http://", "https://", "/")):
        return None
    target = confined(state)
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
    """Return the enabled provider of a name, or raise ``Http404``."""
    try:
        return identity_providers.find_provider(slug=slug)
    except identity_providers.UnknownProvider as error:
        raise Http404 from error


def failed_page(
    request: HttpRequest, provider: IdentityProvider, status: int, sentence: str, why: object
) -> HttpResponse:
    """Render the page of a sign-in that failed, and log ``why``."""
    log.warning("a sign-in with %s failed: %s", provider.slug, why)
    context = {"sentence": sentence.format(name=provider.name), "provider": provider}
    response = render(request, "accounts/sign_in_failed.html", context, status=status)
    if status == 503:
        response.headers["Retry-After"] = "10"
    return response


def begin(request: HttpRequest, provider: IdentityProvider, *, purpose: str, target: str) -> str:
    """Store a new flow in the browser's session; return the address of the provider to go to.

    Linking asks the provider for a new sign-in, so that the person agrees to it. Raises
    ``ProviderUnavailable``.
    """
    endpoint = providers.metadata(provider).authorization_endpoint
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
    """Return the flow of a state and spend the state; None if this browser did not start it, or too long ago."""
    states: dict[str, Any] = request.session.get(STATES_KEY, {})
    kept = states.pop(state, None)
    if kept is None:
        return None
    request.session.modified = True
    request.session.save()
    is_ours = kept.get("provider") == provider.slug and kept.get("redirect_path") == request.path
    is_ours = is_ours and kept.get("purpose") in PURPOSES
    is_fresh = time.time() - kept.get("started_at", 0) <= FLOW_SECONDS
    if not (is_ours and is_fresh and tokens.spend(what=f"state {state}", seconds=FLOW_SECONDS)):
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
    """Return the path of an address on this site; ``otherwise`` or home for any other."""
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

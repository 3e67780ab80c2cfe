"""The pages of signing in with a provider: leaving for it, coming back, connecting it to an account."""

import logging
from urllib.parse import urlencode

from django.conf import settings
from django.contrib import auth, messages
from django.contrib.auth.decorators import login_required
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.urls import reverse
from django.utils.http import urlencode as quoted
from django.views.decorators.cache import never_cache
from django.views.decorators.debug import sensitive_variables
from django.views.decorators.http import require_GET, require_POST

from accounts.models import Identity, IdentityProvider, ProviderSession, User, UserSession
from accounts.oidc import providers, tokens
from accounts.services import identity as identities
from accounts.services import sessions, terms
from accounts.sign_in import backend, flows
from lib.problems import Problem
from lib.routes import RouteFacts

log = logging.getLogger(__name__)
SETTINGS_PAGE = "/settings/sign-in"
AWAY = "{name} does not answer at the moment. Try again soon; whoever is signed in stays signed in."
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


@RouteFacts(streams=True)
@never_cache
@require_GET
def sign_in(request: HttpRequest, slug: str) -> HttpResponse:
    """Send the browser to a provider; one who is signed in already goes on to ``next``."""
    provider = _provider(slug)
    target = flows.confined(request.GET.get("next"))
    if request.user.is_authenticated:
        return redirect(target)
    try:
        return redirect(flows.begin(request, provider, purpose="sign-in", target=target))
    except providers.ProviderUnavailable as error:
        return _failed(request, provider, 503, AWAY, error)


@RouteFacts(streams=True)
@never_cache
@require_GET
@sensitive_variables()
def callback(request: HttpRequest, slug: str) -> HttpResponse:
    """The way back from a provider. Whatever is wrong becomes a page with a sentence, never a 500."""
    provider = _provider(slug)
    state = request.GET.get("state", "")
    flow = flows.take(request, provider, state)
    if flow is None:
        if slug == flows.COMPAT_SLUG and (answer := _existing_client(request, provider, state)):
            return answer
        return _failed(request, provider, 400, STALE, "unknown state")
    if error := request.GET.get("error"):
        status, sentence = ERRORS.get(error, REFUSED)
        return _failed(request, provider, status, sentence, error[:80])
    if not request.GET.get("code"):
        return _failed(request, provider, *REFUSED, "no code")
    try:
        return _finish(request, provider, flow)
    except providers.ProviderUnavailable as error:
        return _failed(request, provider, 503, AWAY, error)
    except providers.ProviderRefused as error:
        return _failed(request, provider, *REFUSED, error.code)
    except tokens.BadToken as error:
        return _failed(request, provider, 400, NOT_BELIEVED, error)
    except Problem as error:
        return _failed(request, provider, error.status, error.detail, error.code)


def _finish(request: HttpRequest, provider: IdentityProvider, flow: flows.Flow) -> HttpResponse:
    asked = {
        "code": request.GET["code"],
        "code_verifier": flow.code_verifier,
        "nonce": flow.nonce,
        "redirect_uri": settings.PUBLIC_URL + flow.redirect_path,
    }
    if flow.purpose == "sign-in":
        user = auth.authenticate(request, provider=provider, **asked)
        if not isinstance(user, User):
            raise identities.SignInRefused
        identity, found = user.vouched_for_by  # type: ignore[attr-defined]
        auth.login(request, user, backend=backend.PATH)
        session = request.user_session  # type: ignore[attr-defined]
        identities.hold_provider_session(session=session, identity=identity, found=found)
        return redirect(terms.target_after_sign_in(user=user, target=flow.next))
    if not request.user.is_authenticated or str(request.user.pk) != flow.user_id:
        raise identities.SignInRefused(
            "Sign in to the account that you want to connect, then begin again."
        )
    if flow.purpose == "link":
        found = backend.exchange(provider, authenticated_after=flow.started_at, **asked)
        identities.link_identity(user=request.user, provider=provider, claims=found.claims)
        messages.success(request, f"{provider.name} is connected: you can sign in with it.")
        return redirect(flow.next)
    found = backend.exchange(provider, **asked)
    identity = request.user.identities.filter(
        issuer=provider.issuer, sub=found.claims["sub"]
    ).first()
    if identity is None or not found.refresh_token:
        raise identities.SignInRefused("That is not the account that is connected here.")
    identities.keep_offline_token(identity=identity, token=found.refresh_token)
    messages.success(request, "Your agents may now work on while you are away.")
    return redirect(flow.next)


def _existing_client(
    request: HttpRequest, provider: IdentityProvider, state: str
) -> HttpResponse | None:
    """The answer to a front end that sent the browser to Keycloak itself, with a return address as state.

    Nothing ties such an answer to this browser, so its code is not used: the sign-in begins anew with state,
    nonce and PKCE. Keycloak knows the browser by now and asks nothing, so people see one more redirect.
    """
    if not state.startswith(("http://", "https://", "/")):
        return None
    target = flows.confined(state)
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


@login_required
@never_cache
@require_GET
def connections(request: HttpRequest) -> HttpResponse:
    """Where one is signed in, and with which providers one may be."""
    mine = {row.provider_id: row for row in Identity.objects.visible_to(request.user)}
    offered = [(row, mine.get(row.pk)) for row in identities.enabled_providers()]
    live = UserSession.objects.visible_to(request.user).live().order_by("-last_seen_at")[:100]
    context = {
        "offered": offered,
        "sessions": live,
        "this_session": getattr(request, "user_session", None),
    }
    return render(request, "accounts/connections.html", context)


@login_required
@never_cache
@require_POST
def connect(request: HttpRequest, slug: str) -> HttpResponse:
    """Leave for a provider: to connect it to the account here, or for an offline token."""
    provider = _provider(slug)
    purpose = "offline" if request.POST.get("purpose") == "offline" else "link"
    try:
        url = flows.begin(request, provider, purpose=purpose, target=SETTINGS_PAGE)
    except providers.ProviderUnavailable as error:
        return _failed(request, provider, 503, AWAY, error)
    return onward(request, url, provider)


@login_required
@require_POST
def disconnect(request: HttpRequest, slug: str) -> HttpResponse:
    """Take a provider off the account."""
    identity = get_object_or_404(Identity.objects.visible_to(request.user), provider__slug=slug)
    try:
        identities.unlink_identity(identity=identity)
    except Problem as refusal:
        messages.error(request, refusal.detail)
    return redirect(SETTINGS_PAGE)


@login_required
@require_POST
def end_session(request: HttpRequest, session_id: str) -> HttpResponse:
    """Sign one's other browsers out, one of them or (``all``) everywhere."""
    mine = UserSession.objects.visible_to(request.user)
    session = get_object_or_404(mine, pk=session_id)
    if request.POST.get("everywhere"):
        sessions.end_sessions(user=request.user, reason="signed out everywhere", keep=session.pk)
    else:
        sessions.end_session(session=session, reason="signed out elsewhere")
    return redirect(SETTINGS_PAGE)


def onward(request: HttpRequest, url: str, provider: IdentityProvider) -> HttpResponse:
    """A page that goes on to a provider by itself.

    Not a redirect: browsers hold redirects after a form to the form-action of the content policy.
    """
    return render(request, "accounts/onward.html", {"url": url, "provider": provider})


def sign_out(request: HttpRequest) -> HttpResponse:
    """End the session here, then at the provider that vouched for it (RP-Initiated Logout 1.0)."""
    session = getattr(request, "user_session", None) if request.user.is_authenticated else None
    held = ProviderSession.objects.filter(session=session).first() if session else None
    auth.logout(request)
    url = _end_session_url(held) if held else ""
    return onward(request, url, held.identity.provider) if held and url else redirect("sign-in")


def _end_session_url(held: ProviderSession) -> str:
    provider = held.identity.provider
    try:
        endpoint = providers.metadata(provider).end_session_endpoint
    except providers.ProviderUnavailable:
        return ""
    if not endpoint:
        return ""
    query = {
        "id_token_hint": held.id_token,
        "client_id": provider.client_id,
        "post_logout_redirect_uri": settings.PUBLIC_URL + reverse("sign-in"),
    }
    return f"{endpoint}?{quoted(query)}"


def _provider(slug: str) -> IdentityProvider:
    try:
        return identities.find_provider(slug=slug)
    except identities.UnknownProvider as error:
        raise Http404 from error


def _failed(
    request: HttpRequest, provider: IdentityProvider, status: int, sentence: str, why: object
) -> HttpResponse:
    log.warning("a sign-in with %s failed: %s", provider.slug, why)
    context = {"sentence": sentence.format(name=provider.name), "provider": provider}
    response = render(request, "accounts/sign_in_failed.html", context, status=status)
    if status == 503:
        response.headers["Retry-After"] = "10"
    return response

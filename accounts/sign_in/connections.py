"""The settings page for sign-in (connected providers, open sessions), and the sign-out at a provider."""

from django.conf import settings
from django.contrib import auth, messages
from django.contrib.auth.decorators import login_required
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.urls import reverse
from django.utils.http import urlencode
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_GET, require_POST

from accounts.models import Identity, IdentityProvider, ProviderSession, UserSession
from accounts.oidc import providers
from accounts.requests import AuthenticatedRequest
from accounts.services import identities, identity_providers, sessions
from accounts.sign_in import flows
from accounts.sign_in.forms import EndSessionForm
from lib.problems import Problem

SETTINGS_PAGE = "/settings/sign-in"


@login_required
@never_cache
@require_GET
def connections(request: AuthenticatedRequest) -> HttpResponse:
    """Show the user's open sessions, and the providers, each with the account that the user has connected."""
    linked = {row.provider_id: row for row in Identity.objects.visible_to(request.user)}
    offered = [(row, linked.get(row.pk)) for row in identity_providers.enabled_providers()]
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
def connect(request: AuthenticatedRequest, slug: str) -> HttpResponse:
    """Forward the browser to a provider, to link an account there to the user of this server."""
    provider = flows.provider_or_404(slug)
    try:
        url = flows.begin_flow(request, provider, purpose="link", target=SETTINGS_PAGE)
    except providers.ProviderUnavailable as error:
        return flows.render_unavailable(request, provider, error)
    return render_forward(request, url, provider)


@login_required
@require_POST
def disconnect(request: AuthenticatedRequest, slug: str) -> HttpResponse:
    """Disconnect a provider from the user's account."""
    identity = get_object_or_404(Identity.objects.visible_to(request.user), provider__slug=slug)
    try:
        kept = identities.unlink_identity(identity=identity)
    except Problem as refusal:
        messages.error(request, refusal.detail)
        return redirect(SETTINGS_PAGE)
    for organization in kept:
        messages.warning(
            request,
            f"You are still an owner of “{organization.name}”, because it has no other owner. To leave it, make "
            "another member an owner first.",
        )
    return redirect(SETTINGS_PAGE)


@login_required
@require_POST
def end_session(request: AuthenticatedRequest, session_id: str) -> HttpResponse:
    """End a session, so that its browser is signed out. With ``everywhere``, end all other sessions instead."""
    own_sessions = UserSession.objects.visible_to(request.user)
    session = get_object_or_404(own_sessions, pk=session_id)
    form = EndSessionForm(request.POST)
    if form.is_valid() and form.cleaned_data["everywhere"]:
        sessions.end_sessions(user=request.user, reason="signed out everywhere", keep=session.pk)
    else:
        sessions.end_session(session=session, reason="signed out elsewhere")
    return redirect(SETTINGS_PAGE)


def render_forward(request: HttpRequest, url: str, provider: IdentityProvider) -> HttpResponse:
    """Render a page that forwards the browser to a provider."""
    # A redirect would be blocked: browsers apply the form-action directive of our Content Security Policy to
    # redirects after a form was submitted, too.
    return render(request, "accounts/forward.html", {"url": url, "provider": provider})


def sign_out(request: HttpRequest) -> HttpResponse:
    """End the session here, then at the identity provider where it began (RP-Initiated Logout 1.0)."""
    session = getattr(request, "user_session", None) if request.user.is_authenticated else None
    provider_session = ProviderSession.objects.filter(session=session).first() if session else None
    auth.logout(request)
    url = _end_session_url(provider_session) if provider_session else ""
    if provider_session and url:
        return render_forward(request, url, provider_session.identity.provider)
    return redirect("sign-in")


def _end_session_url(session: ProviderSession) -> str:
    """Return the URL at the provider that ends the session there; empty if the provider has no such endpoint."""
    provider = session.identity.provider
    try:
        endpoint = providers.get_metadata(provider).end_session_endpoint
    except providers.ProviderUnavailable:
        return ""
    if not endpoint:
        return ""
    # OpenID Connect RP-Initiated Logout 1.0 recommends the hint, but does not require it.
    hint = {"id_token_hint": session.id_token} if session.is_readable else {}
    query = hint | {
        "client_id": provider.client_id,
        "post_logout_redirect_uri": settings.PUBLIC_URL + reverse("sign-in"),
    }
    return f"{endpoint}?{urlencode(query)}"

"""The endpoint for sign-outs at an identity provider (OpenID Connect Back-Channel Logout 1.0)."""

import logging

from django.http import Http404, HttpRequest, JsonResponse
from django.views.decorators.cache import never_cache
from django.views.decorators.csrf import csrf_exempt
from django.views.decorators.debug import sensitive_post_parameters
from django.views.decorators.http import require_POST

from accounts.oidc import providers, tokens
from accounts.services import identity_providers, provider_sessions
from accounts.sign_in.forms import LogoutTokenForm
from lib.routes import RouteFacts

log = logging.getLogger(__name__)


@RouteFacts(streams=True)
@sensitive_post_parameters("logout_token")
@csrf_exempt  # the provider sends a signed token; there is no browser and no cookie
@never_cache
@require_POST
def back_channel_logout(request: HttpRequest, slug: str) -> JsonResponse:
    """End the sessions that a logout token names.

    Respond 200 even if the token names no session (section 2.8), 400 if the token is invalid, 404 if the provider is
    unknown, and 503 if the provider's keys cannot be fetched.
    """
    try:
        provider = identity_providers.find_provider(slug=slug)
    except identity_providers.UnknownProvider as error:
        raise Http404 from error
    form = LogoutTokenForm(request.POST)
    token = form.cleaned_data["logout_token"] if form.is_valid() else ""
    try:
        ended = provider_sessions.end_by_logout_token(provider=provider, token=token)
    except tokens.BadToken as error:
        log.warning("rejected a logout token of %s: %s", slug, error)
        body = {"error": "invalid_request", "error_description": "The logout token is not valid."}
        return JsonResponse(body, status=400)
    except providers.ProviderUnavailable as error:
        log.warning("cannot check a logout token of %s: %s", slug, error)
        return JsonResponse({"error": "temporarily_unavailable"}, status=503)
    log.info("a logout token of %s ended %s sessions", slug, ended)
    return JsonResponse({}, status=200)

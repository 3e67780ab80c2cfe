"""``/oauth/keycloak/…``, ``/api/authenticate``, ``/api/logout``, ``/api/accept_tos`` and ``/api/email``.

OpenHands' own server has these faults, which this module avoids: it redirects to URLs of other sites, uses an e-mail
address before the user has verified it, stores Keycloak's tokens in the cookie, and responds with 500 when a user
accepts the terms.
"""

from typing import Any

from django.contrib import auth, messages
from django.contrib.auth.decorators import login_required
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_GET, require_http_methods
from drf_spectacular.utils import extend_schema, inline_serializer
from rest_framework import serializers
from rest_framework.generics import GenericAPIView
from rest_framework.request import Request
from rest_framework.response import Response

from accounts import limits
from accounts.api.permissions import PUBLIC
from accounts.models import ProviderSession, User
from accounts.requests import AuthenticatedRequest
from accounts.services import email, provider_sessions, terms
from accounts.sign_in import flows
from accounts.sign_in.authentication import SessionAuthentication
from compat.accounts.forms import TermsForm
from lib.problems import Problem
from lib.routes import NOTHING, RouteFacts

MESSAGE = inline_serializer("Message", {"message": serializers.CharField()})
REFUSAL = inline_serializer("PlainRefusal", {"error": serializers.CharField()})


def _user(request: HttpRequest | Request) -> User:
    """Return the caller. The view's permission or ``login_required`` ensures that the caller is a user."""
    assert isinstance(request.user, User)
    return request.user


@RouteFacts(streams=True)
@never_cache
@require_GET
def keycloak_callback(request: HttpRequest) -> HttpResponse:
    """Complete a sign-in at Keycloak. Existing Keycloak clients contain this URL as redirect URI."""
    return flows.callback(request, flows.COMPAT_SLUG)


@RouteFacts(streams=True)
@never_cache
@require_GET
def github_callback(request: HttpRequest) -> HttpResponse:
    """Redirect to the home page.

    Existing GitHub apps have this URL as callback URL, but this server does not use it.
    """
    return redirect("home")


class WithoutCsrf(SessionAuthentication):
    """Session authentication without the CSRF check, for a request that changes nothing.

    The web client may send that request before it has a CSRF token.
    """

    def enforce_csrf(self, request: Request) -> None:
        return


@RouteFacts(replaced_by="/api/v1/users/me")
class AuthenticateView(GenericAPIView[Any]):
    """Whether the caller is signed in."""

    permission = PUBLIC
    serializer_class = None

    def get_authenticators(self) -> list[Any]:
        others = [
            a for a in super().get_authenticators() if not isinstance(a, SessionAuthentication)
        ]
        return [*others, WithoutCsrf()]

    @extend_schema(
        operation_id="compat_authenticate",
        tags=["compat"],
        request=None,
        responses={200: MESSAGE, 401: REFUSAL},
    )
    def post(self, request: Request) -> Response:
        """Respond with 200 if the caller is signed in and has accepted the terms, else with 401.

        The web client shows its login dialog only for 401. Any other error makes its page unusable.
        """
        if not request.user.is_authenticated:
            return Response({"error": "User is not authenticated"}, status=401)
        if not terms.has_accepted_terms(user=_user(request)):
            return Response({"error": "The terms of service are not accepted"}, status=401)
        return Response({"message": "User authenticated"})


@RouteFacts(replaced_by="/api/v1/auth/sign-out")
class LogoutView(GenericAPIView[Any]):
    """Sign-out from this server and from the identity provider."""

    permission = PUBLIC
    serializer_class = None

    @extend_schema(operation_id="compat_logout", tags=["compat"], request=None, responses=MESSAGE)
    def post(self, request: Request) -> Response:
        """End the session that the cookie names, and the session at the identity provider if the provider allows it.

        Safe to repeat.
        """
        session = getattr(request._request, "user_session", None)  # noqa: SLF001 - the pages' request
        if request.auth is None and session is not None:
            provider_session = ProviderSession.objects.filter(session=session).first()
            auth.logout(request._request)  # noqa: SLF001
            # Otherwise, the provider would sign the user in again without asking for a password.
            if provider_session:
                provider_sessions.end_at_provider(provider_session=provider_session)
        return Response({"message": "User logged out"})


class RedirectUrlSerializer(serializers.Serializer[Any]):
    """The page to show next."""

    redirect_url = serializers.CharField(required=False, allow_blank=True, allow_null=True)


@RouteFacts(replaced_by=NOTHING)
class AcceptTermsView(GenericAPIView[Any]):
    """Acceptance of the terms of service in force."""

    permission = "account.edit"
    serializer_class = RedirectUrlSerializer

    @extend_schema(operation_id="compat_accept_tos", tags=["compat"])
    def post(self, request: Request) -> Response:
        """Accept the terms. Return `redirect_url`, or the home page if that URL is on another site.

        Safe to repeat.
        """
        body = self.get_serializer(data=request.data)
        body.is_valid(raise_exception=True)
        terms.accept_terms(user=_user(request), address=request.META.get("REMOTE_ADDR") or None)
        # The web client follows an absolute URL without a check, so return only a URL of this site.
        target = flows.confine_to_site(body.validated_data.get("redirect_url"))
        return Response({"redirect_url": target})


class EmailSerializer(serializers.Serializer[Any]):
    """A new e-mail address."""

    email = serializers.EmailField(max_length=254)


@RouteFacts(replaced_by=NOTHING)
class EmailView(GenericAPIView[Any]):
    """The caller's e-mail address."""

    permission = "account.edit"
    serializer_class = EmailSerializer

    @extend_schema(operation_id="compat_email_change", tags=["compat"], responses=MESSAGE)
    def post(self, request: Request) -> Response:
        """Send a verification e-mail to a new address.

        The new address replaces the current address when the user opens the link in that e-mail.
        """
        body = self.get_serializer(data=request.data)
        body.is_valid(raise_exception=True)
        user, address = _user(request), body.validated_data["email"]
        limits.check_mail(request._request, recipient=address, sender=str(user.pk))  # noqa: SLF001
        email.change_email(user=user, email=address)
        return Response({"message": "A verification mail was sent"})


@RouteFacts(replaced_by=NOTHING)
class EmailVerificationView(GenericAPIView[Any]):
    """The route that sends the e-mail with the verification link again."""

    permission = "account.edit"
    serializer_class = None

    @extend_schema(
        operation_id="compat_email_verify", tags=["compat"], request=None, responses=MESSAGE
    )
    def put(self, request: Request) -> Response:
        """Send the verification e-mail again. The link in the earlier e-mail stops working."""
        user = _user(request)
        if address := email.unverified_address(user=user):
            limits.check_mail(request._request, recipient=address, sender=str(user.pk))  # noqa: SLF001
        email.resend_verification(user=user)
        return Response({"message": "A verification mail was sent"})


@login_required
@never_cache
@require_GET
def verify_email(request: AuthenticatedRequest, link: str) -> HttpResponse:
    """Verify a new e-mail address when the user opens the link in the e-mail."""
    try:
        user = email.verify_email(user=request.user, token=link)
    except Problem as refusal:
        messages.error(request, refusal.detail)
    else:
        messages.success(request, f"Your e-mail address is now {user.email}.")
    return redirect("settings")


@never_cache
@require_GET
def email_verified(request: HttpRequest) -> HttpResponse:
    """Redirect to the settings page. Links in the e-mails of OpenHands' own server open this URL."""
    return redirect("settings")


@login_required
@never_cache
@require_http_methods(["GET", "HEAD", "POST"])
def accept_tos(request: AuthenticatedRequest) -> HttpResponse:
    """Show the terms of service, or accept them and redirect to the next page."""
    form = TermsForm(request.POST if request.method == "POST" else request.GET)
    target = flows.confine_to_site(form["redirect_url"].value())
    if request.method == "POST":
        terms.accept_terms(user=request.user, address=request.META.get("REMOTE_ADDR") or None)
        return redirect(target)
    return render(request, "accounts/accept_tos.html", {"target": target})

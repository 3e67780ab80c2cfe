"""``/oauth/keycloak/…``, ``/api/authenticate``, ``/api/logout``, ``/api/accept_tos`` and ``/api/email``.

Their faults are mended on the way: return addresses stay on this site, an address counts only once it is
verified, tokens never reach the browser, and accepting the terms answers after it is written.
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
    """The caller, whom a permission or ``login_required`` has made sure of."""
    assert isinstance(request.user, User)
    return request.user


@RouteFacts(streams=True)
@never_cache
@require_GET
def keycloak_callback(request: HttpRequest) -> HttpResponse:
    """Where existing installations have registered their Keycloak client to come back."""
    return flows.callback(request, flows.COMPAT_SLUG)


@RouteFacts(streams=True)
@never_cache
@require_GET
def github_callback(request: HttpRequest) -> HttpResponse:
    """An address that existing GitHub apps name; nothing happens there."""
    return redirect("home")


class WithoutCsrf(SessionAuthentication):
    """For a call that changes nothing, which existing clients make before they have a token."""

    def enforce_csrf(self, request: Request) -> None:
        return


@RouteFacts(replaced_by="/api/v1/users/me")
class AuthenticateView(GenericAPIView[Any]):
    """Whether the caller is signed in."""

    permission = PUBLIC
    serializer_class = None

    def get_authenticators(self) -> list[Any]:
        own = [a for a in super().get_authenticators() if not isinstance(a, SessionAuthentication)]
        return [*own, WithoutCsrf()]

    @extend_schema(
        operation_id="compat_authenticate",
        tags=["compat"],
        request=None,
        responses={200: MESSAGE, 401: REFUSAL},
    )
    def post(self, request: Request) -> Response:
        """200 for somebody who is signed in, else 401, exactly."""
        if not request.user.is_authenticated:
            return Response({"error": "User is not authenticated"}, status=401)
        if not terms.has_accepted_terms(user=_user(request)):
            return Response({"error": "The terms of service are not accepted"}, status=401)
        return Response({"message": "User authenticated"})


@RouteFacts(replaced_by="/api/v1/auth/sign-out")
class LogoutView(GenericAPIView[Any]):
    """The end of a session, here and at the provider."""

    permission = PUBLIC
    serializer_class = None

    @extend_schema(operation_id="compat_logout", tags=["compat"], request=None, responses=MESSAGE)
    def post(self, request: Request) -> Response:
        """End the session of the cookie, and the provider's with it where it can be told. Safe to repeat."""
        session = getattr(request._request, "user_session", None)  # noqa: SLF001 - the pages' request
        if request.auth is None and session is not None:
            held = ProviderSession.objects.filter(session=session).first()
            auth.logout(request._request)  # noqa: SLF001
            if held:
                provider_sessions.end_at_provider(provider_session=held)
        return Response({"message": "User logged out"})


class RedirectUrlSerializer(serializers.Serializer[Any]):
    """Where to go on to."""

    redirect_url = serializers.CharField(required=False, allow_blank=True, allow_null=True)


@RouteFacts(replaced_by=NOTHING)
class AcceptTermsView(GenericAPIView[Any]):
    """Acceptance of the terms of service in force."""

    permission = "account.view"
    serializer_class = RedirectUrlSerializer

    @extend_schema(operation_id="compat_accept_tos", tags=["compat"])
    def post(self, request: Request) -> Response:
        """Accept the terms; `redirect_url` comes back confined to this site. Safe to repeat."""
        wanted = self.get_serializer(data=request.data)
        wanted.is_valid(raise_exception=True)
        terms.accept_terms(user=_user(request), address=request.META.get("REMOTE_ADDR") or None)
        target = flows.confined(wanted.validated_data.get("redirect_url"))
        return Response({"redirect_url": target})


class EmailSerializer(serializers.Serializer[Any]):
    """A new address."""

    email = serializers.EmailField(max_length=254)


@RouteFacts(replaced_by=NOTHING)
class EmailView(GenericAPIView[Any]):
    """The caller's e-mail address."""

    permission = "account.view"
    serializer_class = EmailSerializer

    @extend_schema(operation_id="compat_email_change", tags=["compat"], responses=MESSAGE)
    def post(self, request: Request) -> Response:
        """Ask for a new address; it counts when the link in the mail is opened."""
        wanted = self.get_serializer(data=request.data)
        wanted.is_valid(raise_exception=True)
        email.change_email(user=_user(request), email=wanted.validated_data["email"])
        return Response({"message": "A verification mail was sent"})


@RouteFacts(replaced_by=NOTHING)
class EmailVerificationView(GenericAPIView[Any]):
    """The mail with the link."""

    permission = "account.view"
    serializer_class = None

    @extend_schema(
        operation_id="compat_email_verify", tags=["compat"], request=None, responses=MESSAGE
    )
    def put(self, request: Request) -> Response:
        """Send the mail again; the earlier link stops."""
        email.resend_verification(user=_user(request))
        return Response({"message": "A verification mail was sent"})


@login_required
@never_cache
@require_GET
def verify_email(request: AuthenticatedRequest, link: str) -> HttpResponse:
    """The link in the mail."""
    try:
        user = email.verify_email(user=request.user, token=link)
    except Problem as refusal:
        messages.error(request, refusal.detail)
    else:
        messages.success(request, f"Your e-mail address is {user.email} now.")
    return redirect("settings")


@never_cache
@require_GET
def email_verified(request: HttpRequest) -> HttpResponse:
    """Where existing clients send people after the link in the mail."""
    return redirect("settings")


@login_required
@never_cache
@require_http_methods(["GET", "HEAD", "POST"])
def accept_tos(request: AuthenticatedRequest) -> HttpResponse:
    """The terms of service, to be accepted before anything else."""
    form = TermsForm(request.POST if request.method == "POST" else request.GET)
    target = flows.confined(form["redirect_url"].value())
    if request.method == "POST":
        terms.accept_terms(user=request.user, address=request.META.get("REMOTE_ADDR") or None)
        return redirect(target)
    return render(request, "accounts/accept_tos.html", {"target": target})

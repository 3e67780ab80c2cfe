"""The pages of accounts: signing in and out, setting up the first administrator, the account, API keys."""

from typing import Any

from django.conf import settings
from django.contrib import messages
from django.contrib.auth import authenticate, login, update_session_auth_hash
from django.contrib.auth.decorators import login_required
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render, resolve_url
from django.utils.http import url_has_allowed_host_and_scheme
from django.views.decorators.cache import never_cache
from django.views.decorators.debug import sensitive_post_parameters
from django.views.decorators.http import require_http_methods, require_POST

from accounts import limits, permissions, services
from accounts.active import active_organization
from accounts.models import ApiKey, User
from accounts.requests import AuthenticatedRequest
from accounts.services import passwords
from accounts.sign_in import connections as oidc_pages
from accounts.sign_in import second_step, session_gate
from accounts.web.forms.api_keys import KeyForm
from accounts.web.forms.people import WRONG_PAIR, NextForm, PasswordForm, SetupForm, SignInForm
from lib.forms import render_form
from lib.problems import Problem
from lib.routes import RouteFacts

BACKEND = settings.AUTHENTICATION_BACKENDS[0]
SCOPE_WORDS = {
    "account.view": "See who you are",
    "api_keys.view": "List API keys",
    "api_keys.edit": "Make and revoke API keys",
    "conversations.view": "Read conversations",
    "conversations.create": "Start conversations",
    "conversations.steer": "Send messages, stop, approve",
    "conversations.delete": "Delete conversations",
    "conversations.share": "Make public links to conversations",
    "events.publish": "Publish runs of other programs",
    "files.view": "Read files of workspaces",
    "files.edit": "Change files of workspaces",
    "model_access.view": "See the model settings",
    "model_access.edit": "Change the model settings",
    "integrations.view": "See your repositories at Git hosts",
    "integrations.edit": "Connect and disconnect Git hosts",
    "pull_requests.create": "Open pull requests",
    "usage.view": "See tokens and cost",
    "usage.view_all": "See the tokens and cost of every member",
    "settings.view": "See how your agents work",
    "settings.edit": "Change how your agents work",
    "secrets.view": "List secrets, without their values",
    "secrets.edit": "Save and delete your secrets",
    "organization_settings.view": "See how the organization's agents work",
    "organization_settings.edit": "Change how the organization's agents work",
    "organization_secrets.edit": "Save and delete the organization's secrets",
    "sessions.view": "See where you are signed in",
    "sessions.edit": "Sign your browsers out",
    "organization.view": "See your organizations",
    "organization.create": "Make organizations",
    "organization.edit": "Rename the organization",
    "organization.transfer": "Hand the organization over",
    "organization.join": "Accept invitations",
    "organization.leave": "Leave the organization",
    "members.view": "See members",
    "members.edit": "Change roles, remove members",
    "invitations.view": "See invitations",
    "invitations.edit": "Invite, take invitations back",
    "service_accounts.view": "See service accounts",
    "service_accounts.edit": "Make and revoke service accounts",
    "audit.view": "Read the audit log",
}


def safe_next(request: HttpRequest, form: NextForm | None = None) -> str:
    """Return the page to go on to: ``next`` of the form or the address if it is on this site, else home."""
    wanted = (form and form["next"].value()) or NextForm(request.GET)["next"].value()
    # Without a slash, ``redirect`` would look for a view of this name.
    is_ours = "/" in wanted and url_has_allowed_host_and_scheme(
        wanted, allowed_hosts={request.get_host()}, require_https=request.is_secure()
    )
    return wanted if is_ours else resolve_url(settings.LOGIN_REDIRECT_URL)


@RouteFacts(open_in_maintenance=True)
@sensitive_post_parameters("password")
@never_cache
@require_http_methods(["GET", "HEAD", "POST"])
def sign_in(request: HttpRequest) -> HttpResponse:
    """Sign in by e-mail address and password; the session gets a new id."""
    form = SignInForm(request.POST if request.method == "POST" else None)
    target = safe_next(request, form)
    if not form.is_bound:
        if request.user.is_authenticated:
            return redirect(target)
        context = {
            "next": target,
            "nobody_yet": not services.has_administrator(),
            "is_invited": "/invitations/" in target,
        }
        return render_form(request, "accounts/sign_in.html", form, context)
    user = _authenticated(request, form)
    if user is None:
        return render_form(request, "accounts/sign_in.html", form, {"next": target})
    if second_step.is_needed(user):
        second_step.wait(request, user, target=target)
        return redirect("sign-in-second-factor")
    login(request, user)
    return redirect(session_gate.target_after_sign_in(user, target))


def _authenticated(request: HttpRequest, form: SignInForm) -> User | None:
    """Return the user whose password this is; otherwise add the reason to the form."""
    if not form.is_valid():
        return None
    email, password = form.cleaned_data["email"], form.cleaned_data["password"]
    try:
        limits.check_sign_in(request, email)
    except limits.TooManyAttempts as refusal:
        form.refuse(refusal)
        return None
    user = authenticate(request, username=email, password=password)
    if isinstance(user, User):
        return user
    form.add_error(None, WRONG_PAIR)
    return None


@RouteFacts(open_in_maintenance=True)
@require_POST
def sign_out(request: HttpRequest) -> HttpResponse:
    """End the session, and the one at the provider that vouched for it."""
    return oidc_pages.sign_out(request)


@sensitive_post_parameters("password")
@never_cache
@require_http_methods(["GET", "HEAD", "POST"])
def setup(request: HttpRequest, token: str) -> HttpResponse:
    """The one-time link by which the first administrator makes an account and is signed in."""
    try:
        link = services.find_setup_link(token)
        form = SetupForm(
            request.POST if request.method == "POST" else None, initial={"email": link.email}
        )
        if form.is_valid():
            limits.check_sign_in(request, f"setup {link.pk}")
            user = services.use_setup_link(token=token, **form.cleaned_data)
            login(request, user, backend=BACKEND)
            return redirect("home")
    except services.InvalidSetupLink as refusal:
        return render(request, "accounts/setup_used.html", {"sentence": refusal.detail}, status=404)
    except Problem as refusal:
        form.refuse(refusal)
    return render_form(request, "accounts/setup.html", form)


@sensitive_post_parameters("current", "new")
@login_required
@never_cache
@require_http_methods(["GET", "HEAD", "POST"])
def account(request: AuthenticatedRequest) -> HttpResponse:
    """Who is signed in, how the pages look, and a new password."""
    form = PasswordForm(request.POST if request.method == "POST" else None)
    if form.is_valid():
        try:
            _change_password(request, **form.cleaned_data)
            return redirect("settings")
        except Problem as refusal:
            form.refuse(refusal)
    memberships = request.user.memberships.select_related("organization").order_by("created_at")
    return render_form(request, "accounts/account.html", form, {"memberships": memberships})


def _change_password(request: AuthenticatedRequest, *, current: str, new: str) -> None:
    limits.check_sign_in(request, request.user.email)
    keep = getattr(getattr(request, "user_session", None), "pk", None)
    passwords.change_password(user=request.user, current=current, new=new, keep=keep)
    update_session_auth_hash(request, request.user)
    messages.success(request, "Your password is changed. Your other browsers are signed out.")


@RouteFacts(cost="keys")
@login_required
@never_cache
@require_http_methods(["GET", "HEAD", "POST"])
def api_keys(request: AuthenticatedRequest) -> HttpResponse:
    """The user's keys; the page that answers the form is the only one that shows a new key."""
    organization = active_organization(request)
    allowed = permissions.permissions_in(request.user, organization.pk)
    permissions.require(request.user, organization.pk, "api_keys.view")
    scopes = [(name, SCOPE_WORDS.get(name, name)) for name in sorted(allowed)]
    form = KeyForm(request.POST if request.method == "POST" else None, scopes=scopes)
    context: dict[str, Any] = {}
    status = 200
    if form.is_bound:
        try:
            permissions.require(request.user, organization.pk, "api_keys.edit")
            if form.is_valid():
                context["new_key"], context["plain"] = services.issue_api_key(
                    user=request.user,
                    organization=organization,
                    name=form.cleaned_data["name"],
                    days=form.cleaned_data["days"],
                    scopes=form.wanted_scopes(),
                )
                form, status = KeyForm(scopes=scopes), 201
        except Problem as refusal:
            form.refuse(refusal)
    keys = ApiKey.objects.visible_to(request.user).select_related("organization")
    context |= {"keys": keys.order_by("-created_at")[:200], "public_url": settings.PUBLIC_URL}
    return render_form(request, "accounts/api_keys.html", form, context, status=status)


@login_required
@require_POST
def revoke_api_key(request: AuthenticatedRequest, key_id: str) -> HttpResponse:
    """End one of the user's keys."""
    key = get_object_or_404(ApiKey.objects.visible_to(request.user), pk=key_id)
    permissions.require(request.user, key.organization_id, "api_keys.edit")
    services.revoke_api_key(key=key)
    messages.success(request, f"The key “{key.name}” is revoked: it opens nothing any more.")
    return redirect("api-keys")

"""Pages for sign-in and sign-out, setup of the first administrator, the user's account, and API keys."""

from typing import Any

from django.conf import settings
from django.contrib import messages
from django.contrib.auth import authenticate, login, update_session_auth_hash
from django.contrib.auth.decorators import login_required
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.views.decorators.cache import never_cache
from django.views.decorators.debug import sensitive_post_parameters
from django.views.decorators.http import require_http_methods, require_POST

from accounts import limits, permissions, services
from accounts.active import active_organization
from accounts.models import ApiKey, User
from accounts.requests import AuthenticatedRequest
from accounts.services import passwords
from accounts.sign_in import browser_sessions, flows, second_step
from accounts.sign_in import connections as provider_pages
from accounts.sign_in.authentication import count_sign_in
from accounts.web.forms.api_keys import KeyForm, RevokeForm
from accounts.web.forms.people import (
    WRONG_CREDENTIALS,
    NextForm,
    PasswordForm,
    SetupForm,
    SignInForm,
)
from lib.forms import render_form
from lib.problems import Problem
from lib.routes import RouteFacts

BACKEND = settings.AUTHENTICATION_BACKENDS[0]
SCOPE_LABELS = {
    "account.view": "View your account",
    "account.edit": "Change your e-mail address and accept the terms of service",
    "api_keys.view": "List API keys",
    "api_keys.edit": "Create and revoke API keys",
    "conversations.view": "Read conversations",
    "conversations.create": "Start conversations",
    "conversations.steer": "Send messages, stop agents, approve actions",
    "conversations.delete": "Delete conversations",
    "conversations.administer": "Stop and delete conversations that other members share",
    "conversations.share": "Create public links to conversations",
    "events.publish": "Publish events of agents that run elsewhere",
    "files.view": "Read files in workspaces",
    "files.edit": "Change files in workspaces",
    "model_access.view": "View the model settings",
    "model_access.edit": "Change the model settings",
    "integrations.view": "List your repositories on Git hosts",
    "integrations.edit": "Connect and disconnect Git hosts",
    "pull_requests.create": "Open pull requests",
    "usage.view": "View token usage and cost",
    "usage.view_all": "View the token usage and cost of every member",
    "settings.view": "View your agent settings",
    "settings.edit": "Change your agent settings",
    "secrets.view": "List secrets, without their values",
    "secrets.edit": "Create, change and delete your secrets",
    "organization_settings.view": "View the organization's agent settings",
    "organization_settings.edit": "Change the organization's agent settings",
    "organization_secrets.edit": "Create, change and delete the organization's secrets",
    "sessions.view": "List the browsers where you are signed in",
    "sessions.edit": "Sign out your browsers",
    "organization.view": "List your organizations",
    "organization.create": "Create organizations",
    "organization.edit": "Rename the organization",
    "organization.transfer": "Transfer ownership of the organization",
    "organization.join": "Accept invitations",
    "organization.leave": "Leave the organization",
    "members.view": "List members",
    "members.edit": "Change roles and remove members",
    "invitations.view": "List invitations",
    "invitations.edit": "Create and revoke invitations",
    "service_accounts.view": "List service accounts",
    "service_accounts.edit": "Create and revoke service accounts",
    "audit.view": "Read the audit log",
    "egress.edit": "Choose the network profile of agents, and allow or refuse hosts",
}


def safe_next(request: HttpRequest, form: NextForm | None = None) -> str:
    """Return the URL to open next: the field ``next`` of the form or else of the query string.

    If the field is empty or contains a URL of another site, return the home page.
    """
    return flows.confine_to_site(
        (form and form["next"].value()) or NextForm(request.GET)["next"].value()
    )


@RouteFacts(open_in_maintenance=True)
@sensitive_post_parameters("password")
@never_cache
@require_http_methods(["GET", "HEAD", "POST"])
def sign_in(request: HttpRequest) -> HttpResponse:
    """Show the sign-in page, and sign a user in by e-mail address and password."""
    form = SignInForm(request.POST if request.method == "POST" else None)
    target = safe_next(request, form)
    if not form.is_bound:
        if request.user.is_authenticated:
            return redirect(target)
        context = {
            "next": target,
            "needs_setup": not services.has_administrator(),
            "is_invited": "/invitations/" in target,
        }
        return render_form(request, "accounts/sign_in.html", form, context)
    user = _authenticate(request, form)
    if user is None:
        return render_form(request, "accounts/sign_in.html", form, {"next": target})
    if second_step.is_needed(user):
        second_step.begin(request, user, target=target)
        return redirect("sign-in-second-factor")
    login(request, user)
    return redirect(browser_sessions.target_after_sign_in(user, target))


def _authenticate(request: HttpRequest, form: SignInForm) -> User | None:
    """Return the user with the submitted e-mail address and password, or add an error to the form."""
    if not form.is_valid():
        return None
    email, password = form.cleaned_data["email"], form.cleaned_data["password"]
    try:
        count_sign_in(request, email)
    except limits.TooManyAttempts as refusal:
        form.refuse(refusal)
        return None
    user = authenticate(request, username=email, password=password)
    if isinstance(user, User):
        return user
    form.add_error(None, WRONG_CREDENTIALS)
    return None


@RouteFacts(open_in_maintenance=True)
@require_POST
def sign_out(request: HttpRequest) -> HttpResponse:
    """End the session. If the session began at an identity provider, end it there too."""
    return provider_pages.sign_out(request)


@sensitive_post_parameters("password")
@never_cache
@require_http_methods(["GET", "HEAD", "POST"])
def setup(request: HttpRequest, token: str) -> HttpResponse:
    """Create an administrator's account by a one-time setup link, and sign the administrator in."""
    try:
        link = services.find_setup_link(token)
        form = SetupForm(
            request.POST if request.method == "POST" else None, initial={"email": link.email}
        )
        if form.is_valid():
            # There is no account yet, so count the attempt for the link.
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
    """Show the user's account and the theme of the pages, and change the password."""
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
    limits.check_sign_in(request, str(request.user.pk))
    keep = getattr(getattr(request, "user_session", None), "pk", None)
    passwords.change_password(user=request.user, current=current, new=new, keep=keep)
    update_session_auth_hash(request, request.user)
    messages.success(request, "Your password was changed, and your other browsers were signed out.")


@RouteFacts(cost="keys")
@login_required
@never_cache
@require_http_methods(["GET", "HEAD", "POST"])
def api_keys(request: AuthenticatedRequest) -> HttpResponse:
    """List the user's API keys and create a key.

    Only the response to the form shows the new key.
    """
    organization = active_organization(request)
    allowed = permissions.permissions_in(request.user, organization.pk)
    permissions.require(request.user, organization.pk, "api_keys.view")
    scopes = [(name, SCOPE_LABELS.get(name, name)) for name in sorted(allowed)]
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
                    scopes=form.selected_scopes(),
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
    """Revoke an API key of the user. Then offer to revoke the keys that were created with it and still work."""
    key = get_object_or_404(ApiKey.objects.visible_to(request.user), pk=key_id)
    permissions.require(request.user, key.organization_id, "api_keys.edit")
    form = RevokeForm(request.POST)
    with_children = form.is_valid() and form.cleaned_data["children"]
    left = services.revoke_api_key(key=key, with_children=with_children)
    if left:
        return render(request, "accounts/api_key_children.html", {"key": key, "children": left})
    if with_children:
        messages.success(request, f"The keys that were created with “{key.name}” were revoked.")
    else:
        messages.success(request, f"The key “{key.name}” was revoked and no longer works.")
    return redirect("api-keys")

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
from accounts.models import ApiKey
from accounts.roles import READING
from accounts.services import passwords, terms
from accounts.sign_in import provider_pages as oidc_pages
from accounts.sign_in import second_step
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


def safe_next(request: HttpRequest) -> str:
    """Where to go after signing in: the ``next`` that was asked for if it is on this site, else home."""
    wanted = request.POST.get("next", request.GET.get("next", ""))
    is_ours = url_has_allowed_host_and_scheme(
        wanted, allowed_hosts={request.get_host()}, require_https=request.is_secure()
    )
    return wanted if is_ours else resolve_url(settings.LOGIN_REDIRECT_URL)


@RouteFacts(open_in_maintenance=True)
@sensitive_post_parameters("password")
@never_cache
@require_http_methods(["GET", "HEAD", "POST"])
def sign_in(request: HttpRequest) -> HttpResponse:
    """E-mail and password; a session gets a new id when somebody signs in."""
    target = safe_next(request)
    if request.method != "POST":
        if request.user.is_authenticated:
            return redirect(target)
        has_administrator = services.has_administrator()
        return render(
            request,
            "accounts/sign_in.html",
            {
                "next": target,
                "nobody_yet": not has_administrator,
                "is_invited": "/invitations/" in target,
            },
        )
    email = request.POST.get("email", "").strip()
    try:
        limits.check_sign_in(request, email)
    except limits.TooManyAttempts as refusal:
        return _sign_in_again(request, target, email, refusal.detail, refusal)
    user = authenticate(request, username=email, password=request.POST.get("password", ""))
    if user is None:
        sentence = "This e-mail address and password do not belong together."
        return _sign_in_again(request, target, email, sentence)
    if second_step.is_needed(user):
        second_step.wait(request, user, target=target)
        return redirect("sign-in-second-factor")
    login(request, user)
    return redirect(terms.target_after_sign_in(user=user, target=target))


def _sign_in_again(
    request: HttpRequest,
    target: str,
    email: str,
    sentence: str,
    refusal: Problem | None = None,
) -> HttpResponse:
    context = {"next": target, "email": email, "error": sentence}
    status = refusal.status if refusal else 422
    response = render(request, "accounts/sign_in.html", context, status=status)
    if refusal and "retry_after" in refusal.extra:
        response.headers["Retry-After"] = str(refusal.extra["retry_after"])
    return response


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
        if request.method != "POST":
            return render(request, "accounts/setup.html", {"email": link.email})
        limits.check_sign_in(request, f"setup {link.pk}")
        user = services.use_setup_link(
            token=token,
            email=request.POST.get("email", ""),
            password=request.POST.get("password", ""),
            name=request.POST.get("name", "").strip()[:120],
        )
    except services.InvalidSetupLink as refusal:
        return render(request, "accounts/setup_used.html", {"sentence": refusal.detail}, status=404)
    except Problem as refusal:
        context = {
            "email": request.POST.get("email", ""),
            "name": request.POST.get("name", ""),
            "error": refusal.detail,
        }
        return render(request, "accounts/setup.html", context, status=refusal.status)
    login(request, user, backend=BACKEND)
    return redirect("home")


@sensitive_post_parameters("current", "new")
@login_required
@never_cache
@require_http_methods(["GET", "HEAD", "POST"])
def account(request: HttpRequest) -> HttpResponse:
    """Who is signed in, how the pages look, and a new password."""
    context: dict[str, Any] = {}
    status = 200
    if request.method == "POST":
        try:
            _change_password(request)
            return redirect("settings")
        except Problem as refusal:
            context["error"], status = refusal.detail, refusal.status
    memberships = request.user.memberships.select_related("organization").order_by("created_at")
    context["memberships"] = memberships
    return render(request, "accounts/account.html", context, status=status)


def _change_password(request: HttpRequest) -> None:
    user: Any = request.user
    limits.check_sign_in(request, user.email)
    passwords.change_password(
        user=user,
        current=request.POST.get("current", ""),
        new=request.POST.get("new", ""),
        keep=getattr(getattr(request, "user_session", None), "pk", None),
    )
    update_session_auth_hash(request, user)
    messages.success(request, "Your password is changed. Your other browsers are signed out.")


@RouteFacts(cost="keys")
@login_required
@never_cache
@require_http_methods(["GET", "HEAD", "POST"])
def api_keys(request: HttpRequest) -> HttpResponse:
    """The user's keys; a new one is in the answer to the form and nowhere else."""
    organization = active_organization(request)
    allowed = permissions.permissions_in(request.user, organization.pk)
    permissions.require(request.user, organization.pk, "api_keys.view")
    context: dict[str, Any] = {"days": 90, "access": "full"}
    status = 200
    if request.method == "POST":
        context |= {name: request.POST.get(name, "") for name in ("name", "days", "access")}
        context["chosen"] = request.POST.getlist("scope")
        try:
            permissions.require(request.user, organization.pk, "api_keys.edit")
            wanted = _wanted_key(context, allowed)
            key, plain = services.issue_api_key(
                user=request.user, organization=organization, **wanted
            )
            context = {"days": 90, "access": "full", "new_key": key, "plain": plain}
            status = 201
        except Problem as refusal:
            context["error"], status = refusal.detail, refusal.status
    keys = ApiKey.objects.visible_to(request.user).select_related("organization")
    scopes = [(name, SCOPE_WORDS.get(name, name)) for name in sorted(allowed)]
    context |= {
        "keys": keys.order_by("-created_at")[:200],
        "scopes": scopes,
        "max_days": settings.API_KEY_MAX_DAYS,
        "public_url": settings.PUBLIC_URL,
    }
    return render(request, "accounts/api_keys.html", context, status=status)


class IncompleteKey(Problem):
    """The form for a key lacks something; ``detail`` says what."""

    status = 422
    code = "incomplete-key"


def _wanted_key(form: dict[str, Any], allowed: frozenset[str]) -> dict[str, Any]:
    name = form["name"].strip()
    if not name or len(name) > 80 or not name.isprintable():
        raise IncompleteKey(
            "Give the key a name of up to 80 characters, so that you know it again."
        )
    days = form["days"]
    if (
        not days.isascii()
        or not days.isdigit()
        or not 1 <= int(days[:6]) <= settings.API_KEY_MAX_DAYS
    ):
        raise IncompleteKey(f"A key lives 1 to {settings.API_KEY_MAX_DAYS} days.")
    scopes: set[str] = set()
    if form["access"] == "read":
        scopes = READING & allowed
    elif form["access"] == "custom":
        scopes = set(form["chosen"]) & allowed
        if not scopes:
            raise IncompleteKey("Choose at least one thing that the key may do.")
    return {"name": name, "days": int(days), "scopes": sorted(scopes)}


@login_required
@require_POST
def revoke_api_key(request: HttpRequest, key_id: str) -> HttpResponse:
    """End one of the user's keys."""
    key = get_object_or_404(ApiKey.objects.visible_to(request.user), pk=key_id)
    permissions.require(request.user, key.organization_id, "api_keys.edit")
    services.revoke_api_key(key=key)
    messages.success(request, f"The key “{key.name}” is revoked: it opens nothing any more.")
    return redirect("api-keys")

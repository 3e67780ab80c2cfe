"""The pages of settings and secrets."""

from typing import Any

from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.views.decorators.cache import never_cache
from django.views.decorators.debug import sensitive_post_parameters
from django.views.decorators.http import require_http_methods

from accounts import permissions
from accounts.active import active_organization
from accounts.models import CustomSecret
from accounts.services import custom_secrets, user_settings
from lib.problems import Problem

TEXTS = ("git_user_name", "git_user_email")
NUMBERS = ("max_iterations", "condenser_max_size")
TICKS = ("confirmation_mode", "enable_default_condenser")
CHOICES = ("security_analyzer",)


@sensitive_post_parameters("search_api_key")
@login_required
@never_cache
@require_http_methods(["GET", "HEAD", "POST"])
def agent_settings(request: HttpRequest) -> HttpResponse:
    """How agents work for the user; what the organization enforces is shown and cannot be changed."""
    user: Any = request.user
    organization = active_organization(request)
    permissions.require(user, organization.pk, "settings.view")
    status, error = 200, ""
    if request.method == "POST":
        try:
            permissions.require(user, organization.pk, "settings.edit")
            user_settings.change_settings(
                user=user, organization=organization, values=_wanted(request.POST), only_news=True
            )
            messages.success(request, "Saved. New conversations follow it.")
            return redirect("settings-agent")
        except Problem as refusal:
            status, error = refusal.status, refusal.detail
    found = user_settings.effective_settings(user_id=user.pk, organization_id=organization.pk)
    values = found.shown()
    if error:
        values |= {name: request.POST.get(name, values[name]) for name in (*TEXTS, *NUMBERS)}
    locked = [name for name, who in found.set_by.items() if who == user_settings.ENFORCED]
    context = {"values": values, "locked": locked, "error": error, "set_by": found.set_by}
    return render(request, "accounts/agent_settings.html", context, status=status)


def _wanted(posted: Any) -> dict[str, Any]:
    """The values that the form holds; fields that are locked are not in it."""
    held = set(posted.getlist("field"))
    values: dict[str, Any] = {}
    for name in (*TEXTS, *CHOICES):
        if name in held:
            values[name] = posted.get(name, "").strip()
    for name in NUMBERS:
        if name in held:
            text = posted.get(name, "").strip()
            values[name] = int(text) if text.isascii() and text.isdigit() else text or None
    for name in TICKS:
        if name in held:
            values[name] = bool(posted.get(name))
    if posted.get("remove_search_api_key"):
        values["search_api_key"] = None
    elif key := posted.get("search_api_key", "").strip():
        values["search_api_key"] = key
    return values


@sensitive_post_parameters("value")
@login_required
@never_cache
@require_http_methods(["GET", "HEAD", "POST"])
def secrets(request: HttpRequest) -> HttpResponse:
    """What agents may use by name: one's own secrets and the organization's."""
    user: Any = request.user
    organization = active_organization(request)
    permissions.require(user, organization.pk, "secrets.view")
    rows = CustomSecret.objects.visible_to(user).filter(organization=organization)
    allowed = permissions.permissions_in(user, organization.pk)
    context: dict[str, Any] = {}
    status = 200
    if request.method == "POST":
        try:
            return _act(request, organization, rows)
        except Problem as refusal:
            context = {"error": refusal.detail, "form": request.POST.dict() | {"value": ""}}
            status = refusal.status
    context |= {
        "secrets": rows.order_by("name", "user_id"),
        "may_edit": "secrets.edit" in allowed,
        "may_share": "organization_secrets.edit" in allowed,
    }
    return render(request, "accounts/secrets.html", context, status=status)


def _act(request: HttpRequest, organization: Any, rows: Any) -> HttpResponse:
    user: Any = request.user
    permissions.require(user, organization.pk, "secrets.edit")
    if key := request.POST.get("secret"):
        found = get_object_or_404(rows, pk=key)
        if found.user_id is None:
            permissions.require(user, organization.pk, "organization_secrets.edit")
        custom_secrets.delete_secret(secret=found)
        messages.success(request, f"{found.name} is gone; agents get it no more.")
        return redirect("secrets")
    is_shared = request.POST.get("scope") == "organization"
    if is_shared:
        permissions.require(user, organization.pk, "organization_secrets.edit")
    made = custom_secrets.create_secret(
        organization=organization,
        by=user,
        name=request.POST.get("name", ""),
        value=request.POST.get("value", ""),
        description=request.POST.get("description", ""),
        is_shared=is_shared,
    )
    messages.success(request, f"{made.name} is kept. Conversations that start now may use it.")
    return redirect("secrets")

"""The pages of settings and secrets."""

from uuid import UUID

from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.db.models import QuerySet
from django.http import HttpResponse
from django.shortcuts import get_object_or_404, redirect
from django.views.decorators.cache import never_cache
from django.views.decorators.debug import sensitive_post_parameters
from django.views.decorators.http import require_http_methods

from accounts import permissions
from accounts.active import active_organization
from accounts.models import CustomSecret, Organization
from accounts.requests import AuthenticatedRequest
from accounts.services import custom_secrets, user_settings
from accounts.web.forms.settings import AgentSettingsForm, SecretForm, SecretIdForm
from lib.forms import render_form
from lib.problems import Problem


@sensitive_post_parameters("search_api_key")
@login_required
@never_cache
@require_http_methods(["GET", "HEAD", "POST"])
def agent_settings(request: AuthenticatedRequest) -> HttpResponse:
    """How agents work for the user; what the organization enforces is shown and cannot be changed."""
    user, organization = request.user, active_organization(request)
    permissions.require(user, organization.pk, "settings.view")
    found = user_settings.effective_settings(user_id=user.pk, organization_id=organization.pk)
    values = found.masked_values()
    locked = [name for name, who in found.set_by.items() if who == user_settings.ENFORCED]
    form = AgentSettingsForm(
        request.POST if request.method == "POST" else None, initial=values, locked=locked
    )
    if form.is_bound:
        try:
            permissions.require(user, organization.pk, "settings.edit")
            if form.is_valid():
                user_settings.change_settings(
                    user=user, organization=organization, values=form.values(), skip_effective=True
                )
                messages.success(request, "Saved. New conversations follow it.")
                return redirect("settings-agent")
        except Problem as refusal:
            form.refuse(refusal)
    context = {"values": values, "locked": locked, "set_by": found.set_by}
    return render_form(request, "accounts/agent_settings.html", form, context)


@sensitive_post_parameters("value")
@login_required
@never_cache
@require_http_methods(["GET", "HEAD", "POST"])
def secrets(request: AuthenticatedRequest) -> HttpResponse:
    """What agents may use by name: one's own secrets and the organization's."""
    user, organization = request.user, active_organization(request)
    permissions.require(user, organization.pk, "secrets.view")
    rows = CustomSecret.objects.visible_to(user).filter(organization=organization)
    allowed = permissions.permissions_in(user, organization.pk)
    form = SecretForm(request.POST if request.method == "POST" else None)
    if form.is_bound:
        try:
            permissions.require(user, organization.pk, "secrets.edit")
            chosen = SecretIdForm(request.POST)
            if chosen.is_valid():
                _delete(request, organization, rows, chosen.cleaned_data["secret"])
                return redirect("secrets")
            if form.is_valid():
                _create(request, organization, **form.cleaned_data)
                return redirect("secrets")
        except Problem as refusal:
            form.refuse(refusal)
    context = {
        "secrets": rows.order_by("name", "user_id"),
        "may_edit": "secrets.edit" in allowed,
        "may_share": "organization_secrets.edit" in allowed,
    }
    return render_form(request, "accounts/secrets.html", form, context)


def _delete(
    request: AuthenticatedRequest,
    organization: Organization,
    rows: QuerySet[CustomSecret],
    secret_id: UUID,
) -> None:
    found = get_object_or_404(rows, pk=secret_id)
    if found.user_id is None:
        permissions.require(request.user, organization.pk, "organization_secrets.edit")
    custom_secrets.delete_secret(secret=found)
    messages.success(request, f"{found.name} is gone; agents get it no more.")


def _create(
    request: AuthenticatedRequest, organization: Organization, *, scope: str, **wanted: str
) -> None:
    if scope:
        permissions.require(request.user, organization.pk, "organization_secrets.edit")
    made = custom_secrets.create_secret(
        organization=organization, by=request.user, is_shared=bool(scope), **wanted
    )
    messages.success(request, f"{made.name} is kept. Conversations that start now may use it.")

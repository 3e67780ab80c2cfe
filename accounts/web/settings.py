"""The pages of a user's agent settings and secrets."""

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
    """Show and save the user's agent settings. Settings that the organization enforces are read-only."""
    user, organization = request.user, active_organization(request)
    permissions.require(user, organization.pk, "settings.view")
    effective = user_settings.effective_settings(user_id=user.pk, organization_id=organization.pk)
    values = effective.masked_values()
    locked = [name for name, source in effective.set_by.items() if source == user_settings.ENFORCED]
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
                messages.success(request, "Saved. New conversations use these settings.")
                return redirect("settings-agent")
        except Problem as refusal:
            form.refuse(refusal)
    unreadable = user_settings.describe_unreadable(user_id=user.pk, organization_id=organization.pk)
    context = {
        "values": values,
        "locked": locked,
        "set_by": effective.set_by,
        "unreadable": unreadable,
    }
    return render_form(request, "accounts/agent_settings.html", form, context)


@sensitive_post_parameters("value")
@login_required
@never_cache
@require_http_methods(["GET", "HEAD", "POST"])
def secrets(request: AuthenticatedRequest) -> HttpResponse:
    """List, create and delete the secrets of the user and of the organization. Values are never shown."""
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
    secret = get_object_or_404(rows, pk=secret_id)
    if secret.user_id is None:  # a secret of the organization
        permissions.require(request.user, organization.pk, "organization_secrets.edit")
    custom_secrets.delete_secret(secret=secret)
    messages.success(request, f"The secret {secret.name} was deleted. Agents can no longer use it.")


def _create(
    request: AuthenticatedRequest, organization: Organization, *, scope: str, **values: str
) -> None:
    if scope:
        permissions.require(request.user, organization.pk, "organization_secrets.edit")
    secret = custom_secrets.create_secret(
        organization=organization, by=request.user, is_shared=bool(scope), **values
    )
    messages.success(request, f"The secret {secret.name} was saved. New conversations can use it.")

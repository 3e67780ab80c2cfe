"""The page of the agent settings that an organization sets or enforces for its members."""

from typing import Any
from uuid import UUID

from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.http import HttpResponse
from django.shortcuts import get_object_or_404, redirect
from django.views.decorators.cache import never_cache
from django.views.decorators.debug import sensitive_post_parameters
from django.views.decorators.http import require_http_methods

from accounts.models import Organization, OrganizationSettings
from accounts.permissions import permissions_in, require
from accounts.requests import AuthenticatedRequest
from accounts.services import user_settings
from accounts.settings.fields import FIELDS
from accounts.web.forms.organizations import AgentDefaultsForm
from lib.forms import render_form
from lib.problems import Problem

SECRET = AgentDefaultsForm.SECRET


@sensitive_post_parameters(SECRET)
@login_required
@never_cache
@require_http_methods(["GET", "HEAD", "POST"])
def defaults(request: AuthenticatedRequest, organization_id: UUID) -> HttpResponse:
    """Show and save an organization's agent settings, which apply to members without their own value.

    Enforced settings apply to all members.
    """
    visible = Organization.objects.visible_to(request.user)
    organization = get_object_or_404(visible, pk=organization_id)
    require(request.user, organization.pk, "organization_settings.view")
    row = user_settings.organization_settings(organization_id=organization.pk)
    values = {
        name: _format_value(value) for name, value in user_settings.masked_values(row).items()
    }
    initial = values | {"enforced": row.enforced}
    form = AgentDefaultsForm(request.POST if request.method == "POST" else None, initial=initial)
    if form.is_bound:
        try:
            require(request.user, organization.pk, "organization_settings.edit")
            if form.is_valid():
                _save(form, row, organization)
                messages.success(
                    request, "Saved. New conversations of all members use these settings."
                )
                return redirect("organization-agents", organization_id=organization.pk)
        except Problem as refusal:
            form.refuse(refusal)
    context = {
        "organization": organization,
        "version": row.version,
        "may_edit": "organization_settings.edit" in permissions_in(request.user, organization.pk),
        "choices": [(form[name], _options(form, name)) for name in form.CHOICES],
        "numbers": [(form[name], f"Not set: {FIELDS[name].default}") for name in form.NUMBERS],
        "enforced": form["enforced"].value() or (),
        "has_search_key": bool(values[SECRET]),
        "unreadable": user_settings.describe_unreadable(
            user_id=None, organization_id=organization.pk
        ),
    }
    return render_form(request, "accounts/organization_agents.html", form, context)


def _options(form: AgentDefaultsForm, name: str) -> list[tuple[str, str]]:
    """Return the options of a setting. The first is no value, and names the default that applies then."""
    default = _format_value(FIELDS[name].default)
    labels: dict[str, str] = dict(form.CHOICES[name])
    return [("", f"Not set: {labels.get(default, default).lower()}"), *form.CHOICES[name]]


def _format_value(value: Any) -> str:
    """Return the text of a value in the form: "yes" or "no" for a boolean, empty for None."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "" if value is None else str(value)


def _save(form: AgentDefaultsForm, row: OrganizationSettings, organization: Organization) -> None:
    # The page does not show all settings: keep the enforcement of the others.
    api_only = [name for name in row.enforced if name not in form.ON_PAGE]
    version = form.cleaned_data["version"]
    user_settings.change_organization_settings(
        organization=organization,
        values=form.values(),
        enforced=[*api_only, *form.cleaned_data["enforced"]],
        # -1 matches no row: a form without its version must not overwrite newer settings.
        version=-1 if version is None else version,
    )

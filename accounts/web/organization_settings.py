"""The page of what an organization sets for its members' agents, and what of it they may not change."""

from typing import Any
from uuid import UUID

from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.views.decorators.cache import never_cache
from django.views.decorators.debug import sensitive_post_parameters
from django.views.decorators.http import require_http_methods

from accounts.models import Organization
from accounts.permissions import permissions_in, require
from accounts.services import user_settings
from accounts.settings.choices import SecurityAnalyzer
from accounts.settings.fields import FIELDS
from lib.problems import Problem

YES_NO = (("yes", "Yes"), ("no", "No"))
CHOICES: dict[str, tuple[str, tuple[tuple[str, str], ...]]] = {
    "confirmation_mode": ("Ask before what is risky", YES_NO),
    "security_analyzer": ("Who judges the risk", tuple(SecurityAnalyzer.choices)),
    "enable_default_condenser": ("Summarize long histories", YES_NO),
}
NUMBERS = {
    "max_iterations": "Steps before it stops",
    "condenser_max_size": "Events before history is summarized",
}
SECRET = "search_api_key"  # noqa: S105 - the name of a setting
ON_PAGE = (*CHOICES, *NUMBERS, SECRET)
"""Other settings, such as MCP servers, are left as they are: the API sets them."""


@sensitive_post_parameters(SECRET)
@login_required
@never_cache
@require_http_methods(["GET", "HEAD", "POST"])
def defaults(request: HttpRequest, organization_id: UUID) -> HttpResponse:
    """Values for members who chose none; what is enforced counts for all. Admins change it."""
    visible = Organization.objects.visible_to(request.user)
    organization = get_object_or_404(visible, pk=organization_id)
    require(request.user, organization.pk, "organization_settings.view")
    status, error = 200, ""
    if request.method == "POST":
        try:
            require(request.user, organization.pk, "organization_settings.edit")
            _save(request.POST, organization)
            messages.success(request, "Saved. New conversations of all members follow it.")
            return redirect("organization-agents", organization_id=organization.pk)
        except Problem as refusal:
            status, error = refusal.status, refusal.detail
    row = user_settings.organization_settings(organization_id=organization.pk)
    shown = {name: _text(value) for name, value in user_settings.shown_values(row).items()}
    enforced = set(row.enforced)
    if error:
        shown |= {name: request.POST.get(name, "") for name in (*CHOICES, *NUMBERS)}
        enforced = set(request.POST.getlist("enforced"))
    context = {
        "organization": organization,
        "error": error,
        "version": row.version,
        "may_edit": "organization_settings.edit" in permissions_in(request.user, organization.pk),
        "choices": [
            {**_field(name, label, shown, enforced), "options": options}
            for name, (label, options) in CHOICES.items()
        ],
        "numbers": [_field(name, label, shown, enforced) for name, label in NUMBERS.items()],
        "has_search_key": bool(shown[SECRET]),
        "is_search_key_enforced": SECRET in enforced,
    }
    return render(request, "accounts/organization_agents.html", context, status=status)


def _field(name: str, label: str, shown: dict[str, str], enforced: set[str]) -> dict[str, Any]:
    """One field of the form."""
    default = _text(FIELDS[name].default)
    named = dict(CHOICES[name][1]).get(default, default) if name in CHOICES else default
    schema = FIELDS[name].schema
    return {
        "name": name,
        "label": label,
        "value": shown[name],
        "default": named,
        "is_enforced": name in enforced,
        "low": schema.get("minimum"),
        "high": schema.get("maximum"),
    }


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "" if value is None else str(value)


def _save(posted: Any, organization: Organization) -> None:
    values: dict[str, Any] = {}
    for name, (_, options) in CHOICES.items():
        chosen: Any = posted.get(name, "") or None
        if options is YES_NO and chosen in ("yes", "no"):
            chosen = chosen == "yes"
        values[name] = chosen
    for name in NUMBERS:
        text = posted.get(name, "").strip()
        is_number = text.isascii() and text.isdigit() and len(text) < 10
        values[name] = int(text) if is_number else text or None
    if posted.get("remove_search_api_key"):
        values[SECRET] = None
    elif key := posted.get(SECRET, "").strip():
        values[SECRET] = key
    before = user_settings.organization_settings(organization_id=organization.pk)
    elsewhere = [name for name in before.enforced if name not in ON_PAGE]
    version = posted.get("version", "")
    user_settings.change_organization_settings(
        organization=organization,
        values=values,
        enforced=[*elsewhere, *(n for n in posted.getlist("enforced") if n in ON_PAGE)],
        version=int(version) if version.isascii() and version.isdigit() else -1,
    )

"""The page on which a user approves or denies a device that requests an API key (RFC 8628)."""

from typing import Any

from django.contrib.auth.decorators import login_required
from django.http import HttpResponse
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_http_methods

from accounts import limits
from accounts.active import active_organization
from accounts.models import DeviceGrant, Organization
from accounts.permissions import permissions_in
from accounts.requests import AuthenticatedRequest
from accounts.services import devices
from accounts.web.forms.people import DeviceForm, UserCodeForm
from accounts.web.pages import SCOPE_LABELS
from lib.forms import render_form
from lib.problems import Problem


@login_required
@never_cache
@require_http_methods(["GET", "HEAD", "POST"])
def device(request: AuthenticatedRequest) -> HttpResponse:
    """Show a form for a device's code, then show the device's request, and approve or deny the request.

    Only a POST approves a request. A URL that contains a code only shows the request.
    """
    form: UserCodeForm
    if request.method == "POST":
        form = DeviceForm(request.POST)
    else:
        form = UserCodeForm(request.GET if "user_code" in request.GET else None)
    context: dict[str, Any] = {}
    if form.is_valid():
        try:
            _decide(request, form.cleaned_data, context)
        except Problem as refusal:
            form.refuse(refusal)
    return render_form(request, "accounts/device.html", form, context)


def _decide(request: AuthenticatedRequest, data: dict[str, Any], context: dict[str, Any]) -> None:
    """Approve or deny the request, and add the result to the template context.

    Without a decision, and if the approval fails, the context describes the device's request.
    """
    code, decision = data["user_code"], data.get("decision")
    limits.check_user_code(request, str(request.user.pk))
    if decision == "deny":
        context["denied"] = devices.deny_device(user_code=code, user=request.user)
        return
    context |= _describe_request(request, devices.find_device_grant(code), code)
    if decision == "approve":
        organization = active_organization(request, data["organization"])
        context["approved"] = devices.approve_device(
            user_code=code, user=request.user, organization=organization
        )


def _describe_request(
    request: AuthenticatedRequest, grant: DeviceGrant, code: str
) -> dict[str, Any]:
    """Return the context of a device's request, with the organizations in which the user may approve it."""
    visible = Organization.objects.visible_to(request.user).filter(suspended_at=None)
    choices = [
        row
        for row in visible.order_by("created_at")
        if devices.PERMISSION in permissions_in(request.user, row.pk)
    ]
    return {
        "grant": grant,
        "code": code,
        "organizations": choices,
        "chosen": active_organization(request),
        "scopes": [(name, SCOPE_LABELS.get(name, name)) for name in grant.scopes],
        "days": devices.KEY_DAYS,
    }

"""The page on which a person approves or denies a program that asks for a key."""

from typing import Any

from django.contrib.auth.decorators import login_required
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_http_methods

from accounts import limits
from accounts.active import active_organization
from accounts.models import DeviceGrant, Organization
from accounts.permissions import permissions_in
from accounts.services import devices
from accounts.web.pages import SCOPE_WORDS
from lib.problems import Problem


@login_required
@never_cache
@require_http_methods(["GET", "HEAD", "POST"])
def device(request: HttpRequest) -> HttpResponse:
    """Enter a code, see who asks for what, approve or deny by a button; opening the page approves nothing."""
    user: Any = request.user
    form = request.POST if request.method == "POST" else request.GET
    code = form.get("user_code", "").strip()[:40]
    if not code:
        return render(request, "accounts/device.html")
    decision = request.POST.get("decision", "")
    try:
        limits.check_user_code(request, str(user.pk))
        if decision == "deny":
            grant = devices.deny_device(user_code=code, user=user)
            return render(request, "accounts/device.html", {"denied": grant})
        grant = devices.find_device_grant(code)
    except Problem as refusal:
        context = {"error": refusal.detail, "code": code}
        return _answer(request, context, refusal)
    if decision != "approve":
        return _answer(request, _question(request, grant, code))
    try:
        organization = active_organization(request, request.POST.get("organization"))
        grant = devices.approve_device(user_code=code, user=user, organization=organization)
    except Problem as refusal:
        context = _question(request, grant, code) | {"error": refusal.detail}
        return _answer(request, context, refusal)
    return render(request, "accounts/device.html", {"approved": grant})


def _question(request: HttpRequest, grant: DeviceGrant, code: str) -> dict[str, Any]:
    """What is asked, and in which organizations the person may say yes."""
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
        "scopes": [(name, SCOPE_WORDS.get(name, name)) for name in grant.scopes],
        "days": devices.KEY_DAYS,
    }


def _answer(
    request: HttpRequest, context: dict[str, Any], refusal: Problem | None = None
) -> HttpResponse:
    status = refusal.status if refusal else 200
    response = render(request, "accounts/device.html", context, status=status)
    if refusal and "retry_after" in refusal.extra:
        response.headers["Retry-After"] = str(refusal.extra["retry_after"])
    return response

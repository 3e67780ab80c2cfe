"""The pages of second factors: setting one up under the settings, and the second step of signing in."""

from typing import Any

import segno
from django.conf import settings
from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.contrib.auth.signals import user_login_failed
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.utils.safestring import mark_safe
from django.views.decorators.cache import never_cache
from django.views.decorators.debug import sensitive_post_parameters
from django.views.decorators.http import require_http_methods

from accounts import limits
from accounts.models import SecondFactor, User
from accounts.services import second_factor as verbs
from accounts.services import terms
from accounts.sign_in import second_step as steps
from accounts.web.pages import safe_next
from lib.problems import Problem
from lib.routes import RouteFacts


@RouteFacts(open_in_maintenance=True)
@sensitive_post_parameters("code")
@never_cache
@require_http_methods(["GET", "HEAD", "POST"])
def second_step(request: HttpRequest) -> HttpResponse:
    """The code after a right password; or, in a session without one, before the admin desk."""
    held = steps.waiting(request)
    if held:
        user, target = held
    elif steps.is_needed(request.user):
        user, target = _user(request), safe_next(request)
    else:
        return redirect(safe_next(request) if request.user.is_authenticated else "sign-in")
    context: dict[str, Any] = {"next": target, "email": user.email}
    if request.method != "POST":
        return render(request, "accounts/second_step.html", context)
    code = request.POST.get("code", "")
    try:
        if held:
            steps.sign_in(request, user, code=code or "-")
        else:
            steps.check(request, user, code)
            steps.mark_used(request)
    except Problem as refusal:
        if held and isinstance(refusal, verbs.WrongCode):
            user_login_failed.send(__name__, credentials={"username": user.email}, request=request)
        return _refused(request, "accounts/second_step.html", context, refusal)
    return redirect(terms.target_after_sign_in(user=user, target=target))


@sensitive_post_parameters("password", "code")
@login_required
@never_cache
@require_http_methods(["GET", "HEAD", "POST"])
def second_factor(request: HttpRequest) -> HttpResponse:
    """Set up a second factor, or take it away; the recovery codes are in one answer and nowhere else."""
    user, act = _user(request), request.POST.get("act", "")
    try:
        if act == "begin":
            limits.check_sign_in(request, user.email)
            verbs.begin_second_factor(user=user, password=request.POST.get("password", ""))
        elif act == "confirm":
            steps.count(request, user, "")
            codes = verbs.confirm_second_factor(user=user, code=request.POST.get("code", ""))
            steps.mark_used(request)
            return _shown(request, user, codes=codes)
        elif act == "remove":
            code = request.POST.get("code", "")
            steps.count(request, user, code)
            verbs.remove_second_factor(user=user, code=code)
            messages.success(request, "Your second factor is off: the password alone signs you in.")
        if act:
            return redirect(f"{request.path}?{request.GET.urlencode()}".rstrip("?"))
    except Problem as refusal:
        return _refused(request, "accounts/second_factor.html", _context(request, user), refusal)
    return _shown(request, user)


def _shown(request: HttpRequest, user: User, **more: Any) -> HttpResponse:
    return render(request, "accounts/second_factor.html", _context(request, user) | more)


def _context(request: HttpRequest, user: User) -> dict[str, Any]:
    factor = SecondFactor.objects.filter(user=user).first()
    is_on = bool(factor and factor.confirmed_at)
    context = {
        "is_on": is_on,
        "is_required": settings.STAFF_SECOND_FACTOR and user.is_staff and not is_on,
        "codes_left": verbs.recovery_codes_left(user=user),
        "has_password": user.has_usable_password(),
        "next": safe_next(request) if request.GET.get("next") else "",
    }
    if factor and not is_on:
        uri = verbs.enrolment_uri(factor=factor, account=user.email)
        picture = segno.make(uri, error="m").svg_inline(scale=4, border=4, light="#fff")
        # segno draws modules as numbers: nothing of the address or the secret is text in it.
        context |= {"qr": mark_safe(picture), "secret": factor.secret}  # noqa: S308
    return context


def _refused(
    request: HttpRequest, template: str, context: dict[str, Any], refusal: Problem
) -> HttpResponse:
    status = 422 if refusal.status == 401 else refusal.status
    answer = render(request, template, context | {"error": refusal.detail}, status=status)
    if "retry_after" in refusal.extra:
        answer.headers["Retry-After"] = str(refusal.extra["retry_after"])
    return answer


def _user(request: HttpRequest) -> User:
    assert isinstance(request.user, User)
    return request.user

"""The pages of second factors: setting one up under the settings, and the second step of signing in."""

from typing import Any

import segno
from django.conf import settings
from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.contrib.auth.signals import user_login_failed
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.utils.safestring import mark_safe
from django.views.decorators.cache import never_cache
from django.views.decorators.debug import sensitive_post_parameters
from django.views.decorators.http import require_http_methods

from accounts import limits
from accounts.models import SecondFactor, User
from accounts.requests import AuthenticatedRequest
from accounts.services import second_factor as verbs
from accounts.sign_in import second_step as steps
from accounts.sign_in import session_gate
from accounts.web.forms.people import NextForm, SecondFactorForm, SecondStepForm
from accounts.web.pages import safe_next
from lib.forms import render_form
from lib.problems import Problem
from lib.routes import RouteFacts


@RouteFacts(open_in_maintenance=True)
@sensitive_post_parameters("code")
@never_cache
@require_http_methods(["GET", "HEAD", "POST"])
def second_step(request: HttpRequest) -> HttpResponse:
    """The code after a right password; or, in a session without one, before the admin desk."""
    form = SecondStepForm(request.POST if request.method == "POST" else None)
    held = steps.waiting(request)
    if held:
        user, target = held
    elif steps.is_needed(request.user):
        user, target = _user(request), safe_next(request, form)
    else:
        return redirect(safe_next(request, form) if request.user.is_authenticated else "sign-in")
    if form.is_valid():
        try:
            _check(request, user, form.cleaned_data["code"], is_waiting=bool(held))
            return redirect(session_gate.target_after_sign_in(user, target))
        except Problem as refusal:
            form.refuse(refusal)
    context = {"next": target, "email": user.email}
    return render_form(request, "accounts/second_step.html", form, context)


def _check(request: HttpRequest, user: User, code: str, *, is_waiting: bool) -> None:
    """Take the code: to sign in a user who waits for it, or to mark the session of one who is signed in."""
    if not is_waiting:
        steps.check(request, user, code)
        steps.mark_used(request)
        return
    try:
        steps.sign_in(request, user, code=code or "-")
    except verbs.WrongCode:
        user_login_failed.send(__name__, credentials={"username": user.email}, request=request)
        raise


@sensitive_post_parameters("password", "code")
@login_required
@never_cache
@require_http_methods(["GET", "HEAD", "POST"])
def second_factor(request: AuthenticatedRequest) -> HttpResponse:
    """Set up a second factor, or take it away; only the page after turning it on shows the recovery codes."""
    form = SecondFactorForm(request.POST if request.method == "POST" else None)
    if form.is_valid():
        try:
            codes = _act(request, **form.cleaned_data)
        except Problem as refusal:
            form.refuse(refusal)
        else:
            if codes is None:
                return redirect(f"{request.path}?{request.GET.urlencode()}".rstrip("?"))
            form, context = SecondFactorForm(), _context(request)
            return render_form(
                request, "accounts/second_factor.html", form, context | {"codes": codes}
            )
    return render_form(request, "accounts/second_factor.html", form, _context(request))


def _act(request: AuthenticatedRequest, *, act: str, password: str, code: str) -> list[str] | None:
    """Carry out one step; return the recovery codes of a second factor that is turned on."""
    user = request.user
    if act == "begin":
        limits.check_sign_in(request, user.email)
        verbs.begin_second_factor(user=user, password=password)
    elif act == "confirm":
        steps.count(request, user, "")
        codes = verbs.confirm_second_factor(user=user, code=code)
        steps.mark_used(request)
        return codes
    else:
        steps.count(request, user, code)
        verbs.remove_second_factor(user=user, code=code)
        messages.success(request, "Your second factor is off: the password alone signs you in.")
    return None


def _context(request: AuthenticatedRequest) -> dict[str, Any]:
    user = request.user
    factor = SecondFactor.objects.filter(user=user).first()
    is_on = bool(factor and factor.confirmed_at)
    context = {
        "is_on": is_on,
        "is_required": settings.STAFF_SECOND_FACTOR and user.is_staff and not is_on,
        "codes_left": verbs.recovery_codes_left(user=user),
        "has_password": user.has_usable_password(),
        "next": safe_next(request) if NextForm(request.GET)["next"].value() else "",
    }
    if factor and not is_on:
        uri = verbs.enrolment_uri(factor=factor, account=user.email)
        picture = segno.make(uri, error="m").svg_inline(scale=4, border=4, light="#fff")
        # segno draws modules as numbers: nothing of the address or the secret is text in it.
        context |= {"qr": mark_safe(picture), "secret": factor.secret}  # noqa: S308
    return context


def _user(request: HttpRequest) -> User:
    assert isinstance(request.user, User)
    return request.user

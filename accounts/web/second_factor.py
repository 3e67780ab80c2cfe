"""Pages of second factors: setup in the settings, and the second step of a sign-in."""

from typing import Any

import segno
from django.conf import settings
from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.contrib.auth.signals import user_login_failed
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.utils.safestring import mark_safe
from django.views.decorators.cache import cache_control, never_cache
from django.views.decorators.debug import sensitive_post_parameters
from django.views.decorators.http import require_http_methods

from accounts import limits
from accounts.models import SecondFactor, User
from accounts.requests import AuthenticatedRequest
from accounts.services import second_factor as services
from accounts.sign_in import browser_sessions
from accounts.sign_in import second_step as steps
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
    """Ask for the code of a second factor.

    A correct code completes a pending sign-in by password. In a session that began without a code, a correct code gives
    access to the admin site.
    """
    form = SecondStepForm(request.POST if request.method == "POST" else None)
    pending = steps.find_pending(request)
    if pending:
        user, target = pending
    elif steps.is_needed(request.user):
        user, target = _user(request), safe_next(request, form)
    else:
        return redirect(safe_next(request, form) if request.user.is_authenticated else "sign-in")
    if form.is_valid():
        try:
            _check(request, user, form.cleaned_data["code"], is_pending=bool(pending))
            return redirect(browser_sessions.target_after_sign_in(user, target))
        except Problem as refusal:
            form.refuse(refusal)
    context = {"next": target, "email": user.email}
    return render_form(request, "accounts/second_step.html", form, context)


def _check(request: HttpRequest, user: User, code: str, *, is_pending: bool) -> None:
    """Verify the code, then complete a pending sign-in or mark the session of a signed-in user."""
    if not is_pending:
        steps.check_code(request, user, code)
        steps.mark_used(request)
        return
    try:
        steps.sign_in(request, user, code=code or "-")  # an empty code counts as a wrong one
    except services.WrongCode:
        user_login_failed.send(__name__, credentials={"username": user.email}, request=request)
        raise


@sensitive_post_parameters("password", "code")
@login_required
@cache_control(no_transform=True)  # the page shows the secret, so it is not compressed
@never_cache
@require_http_methods(["GET", "HEAD", "POST"])
def second_factor(request: AuthenticatedRequest) -> HttpResponse:
    """Set up, confirm or remove the user's second factor.

    Only the response to the confirmation shows the recovery codes.
    """
    form = SecondFactorForm(request.POST if request.method == "POST" else None)
    if form.is_valid():
        try:
            codes = _carry_out(request, **form.cleaned_data)
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


def _carry_out(
    request: AuthenticatedRequest, *, act: str, password: str, code: str
) -> list[str] | None:
    """Carry out the action ``act``; return the recovery codes if it turned the second factor on."""
    user = request.user
    if act == "begin":
        limits.check_sign_in(request, str(user.pk))
        services.begin_second_factor(user=user, password=password)
    elif act == "confirm":
        steps.count_attempt(
            request, user, ""
        )  # counts as a code of the app: no recovery codes exist yet
        codes = services.confirm_second_factor(user=user, code=code)
        steps.mark_used(request)
        return codes
    else:
        steps.count_attempt(request, user, code)
        services.remove_second_factor(user=user, code=code)
        messages.success(
            request, "Your second factor is off. You can now sign in with your password alone."
        )
    return None


def _context(request: AuthenticatedRequest) -> dict[str, Any]:
    user = request.user
    factor = SecondFactor.objects.filter(user=user).first()
    is_on = bool(factor and factor.confirmed_at)
    context = {
        "is_on": is_on,
        "is_required": settings.STAFF_SECOND_FACTOR and user.is_staff and not is_on,
        "codes_left": services.recovery_codes_left(user=user),
        "has_password": user.has_usable_password(),
        "next": safe_next(request) if NextForm(request.GET)["next"].value() else "",
    }
    # A secret that cannot be decrypted is replaced by beginning again.
    if factor and not is_on and factor.is_readable:
        uri = services.enrolment_uri(factor=factor, account=user.email)
        picture = segno.make(uri, error="m").svg_inline(scale=4, border=4, light="#fff")
        # Safe: segno writes the QR code as numbers, so the image contains no text of the account or the secret.
        context |= {"qr": mark_safe(picture), "secret": factor.secret}  # noqa: S308
    return context


def _user(request: HttpRequest) -> User:
    assert isinstance(request.user, User)
    return request.user

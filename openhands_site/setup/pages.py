"""The page "Setup" of administrators, and the card with the same checklist on the home page.

The card is part of the home page, which does not wait for the checks of ``doctor``. If their results are not cached,
``setup.js`` requests the card again with ``?part=card``. Everything works without JavaScript too: the page waits.
"""

from django import forms
from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.http import Http404, HttpResponse
from django.shortcuts import redirect, render
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_http_methods

from accounts.permissions import is_administrator
from accounts.requests import AuthenticatedRequest
from accounts.services import setup_marks
from lib.forms import PageForm
from openhands_site.doctor import latest
from openhands_site.setup.steps import build_checklist, find_open_checklist

DONE = {
    "hide": "The checklist is hidden. You find it under Settings, Setup.",
    "show": "The home page shows the checklist until every step is done.",
    "confirm": "Noted. The step opens again when the server gets a new key.",
    "withdraw": "The step is open again.",
    "check": "The checks have run again.",
}
"""By the name of an action: the message that follows."""


class SetupForm(PageForm):
    """A button of the checklist. ``back`` is the page with the button."""

    act = forms.ChoiceField(choices=[(name, name) for name in DONE])
    back = forms.ChoiceField(choices=[("home", "home"), ("setup", "setup")], required=False)


@login_required
@never_cache
@require_http_methods(["GET", "HEAD", "POST"])
def setup(request: AuthenticatedRequest) -> HttpResponse:
    """Show the checklist, or carry out one of its buttons. For all but administrators the page does not exist."""
    if not is_administrator(request.user):
        raise Http404
    if request.method == "POST":
        return _act(request, SetupForm(request.POST))
    report = latest.current_report()
    if request.GET.get("part") == "card":
        card = {"checklist": find_open_checklist(request.user, report), "back": "home"}
        return render(request, "site/_setup_card.html", card)
    page = {"checklist": build_checklist(request.user, report), "back": "setup"}
    return render(request, "site/setup.html", page)


def _act(request: AuthenticatedRequest, form: SetupForm) -> HttpResponse:
    if not form.is_valid():
        for sentence in form.sentences:
            messages.error(request, sentence)
        return redirect("setup-checklist")
    act, user = form.cleaned_data["act"], request.user
    if act in ("hide", "show"):
        setup_marks.set_hidden(user=user, is_hidden=act == "hide")
    elif act == "confirm":
        setup_marks.confirm_key_copy(user=user)
    elif act == "withdraw":
        setup_marks.withdraw_key_copies(user=user)
    else:
        latest.forget_report()
    messages.success(request, DONE[act])
    is_home = act == "hide" or form.cleaned_data["back"] == "home"
    return redirect("home" if is_home else "setup-checklist")

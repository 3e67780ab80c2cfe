"""The admin page of second factors: who has one, and its reset for a reason."""

from typing import Any

from django import forms
from django.contrib import admin, messages
from django.contrib.admin.helpers import ActionForm
from django.db.models import QuerySet
from django.http import HttpRequest

from accounts.models import SecondFactor
from accounts.services import second_factor
from lib.admin import ReadOnlyAdmin
from lib.problems import Problem


class ReasonForm(forms.Form):
    """Why an action is done."""

    reason = forms.CharField(required=False, max_length=300, label="Reason: ")


class ReasonActionForm(ReasonForm, ActionForm):
    """The choice of an action, with why it is done."""


@admin.register(SecondFactor)
class SecondFactorAdmin(ReadOnlyAdmin):
    """Who has a second factor; secrets and codes are nowhere. Only a superuser resets a superuser's."""

    list_display = ("user", "created_at", "confirmed_at")
    list_select_related = ("user",)
    list_filter = (("confirmed_at", admin.EmptyFieldListFilter),)
    search_fields = ("user__email",)
    ordering = ("-created_at",)
    fields = ("user", "created_at", "confirmed_at")
    action_form = ReasonActionForm
    actions = ("reset",)

    def has_reset_permission(self, request: HttpRequest) -> bool:
        return request.user.has_perm("accounts.delete_secondfactor")

    @admin.action(description="Reset, and sign out everywhere", permissions=["reset"])
    def reset(self, request: HttpRequest, factors: QuerySet[SecondFactor]) -> None:
        done = 0
        for factor in factors.select_related("user"):
            if factor.user.is_superuser and not request.user.is_superuser:
                self.message_user(request, "Only a superuser resets a superuser.", messages.ERROR)
                continue
            try:
                self._reset(request, factor)
                done += 1
            except Problem as refusal:
                self.message_user(request, refusal.detail, messages.ERROR)
        self.message_user(request, f"Reset {done}.", messages.SUCCESS)

    def _reset(self, request: HttpRequest, factor: Any) -> None:
        form = ReasonForm(request.POST)
        if not form.is_valid():  # the admin has checked the same field before it calls an action
            raise second_factor.ReasonNeeded
        reason = form.cleaned_data["reason"]
        second_factor.reset_second_factor(user=factor.user, reason=reason)
        self.log_change(request, factor, "Reset")

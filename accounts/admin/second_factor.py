"""The admin page of second factors. Staff must enter a reason to reset a second factor."""

from typing import Any

from django import forms
from django.contrib import admin, messages
from django.contrib.admin.helpers import ActionForm
from django.db.models import QuerySet
from django.http import HttpRequest
from django.template.defaultfilters import pluralize

from accounts.models import SecondFactor
from accounts.services import second_factor
from lib.admin import ReadOnlyAdmin
from lib.problems import Problem


class ReasonForm(forms.Form):
    """The reason for an admin action. The audit log stores the reason."""

    reason = forms.CharField(required=False, max_length=300, label="Reason: ")


class ReasonActionForm(ReasonForm, ActionForm):
    """The admin site's form for selecting an action, with a field for the reason."""


@admin.register(SecondFactor)
class SecondFactorAdmin(ReadOnlyAdmin):
    """Users with a second factor. Secrets and recovery codes are not shown.

    Only superusers can reset the second factor of a superuser.
    """

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

    @admin.action(
        description="Reset second factors and sign the users out everywhere", permissions=["reset"]
    )
    def reset(self, request: HttpRequest, factors: QuerySet[SecondFactor]) -> None:
        reset_count = 0
        for factor in factors.select_related("user"):
            if factor.user.is_superuser and not request.user.is_superuser:
                message = (
                    f"The second factor of {factor.user} was not reset: only a superuser can reset the second "
                    "factor of a superuser."
                )
                self.message_user(request, message, messages.ERROR)
                continue
            try:
                self._reset(request, factor)
                reset_count += 1
            except Problem as refusal:
                self.message_user(request, refusal.detail, messages.ERROR)
        self.message_user(
            request, f"Reset {reset_count} second factor{pluralize(reset_count)}.", messages.SUCCESS
        )

    def _reset(self, request: HttpRequest, factor: Any) -> None:
        form = ReasonForm(request.POST)
        if not form.is_valid():  # the admin site has validated this field before it calls an action
            raise second_factor.ReasonNeeded
        reason = form.cleaned_data["reason"]
        second_factor.reset_second_factor(user=factor.user, reason=reason)
        self.log_change(request, factor, "Reset")

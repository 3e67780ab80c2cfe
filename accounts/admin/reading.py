"""Admin pages of rows with private content: staff enter a reason first, and each opening is recorded."""

import time
from typing import Any

from django import forms
from django.conf import settings
from django.contrib.admin.utils import unquote
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.template.response import TemplateResponse

from accounts.services.staff_reading import REASON_MAX, PrivateScope, record_reading
from lib.admin import ReadOnlyAdmin

SESSION_KEY = "reading_reasons"
"""The key in a session of the reasons by scope: ``{scope: [reason, Unix time until which it is valid]}``."""
SCOPES_MAX = 100
"""The maximum number of reasons in one session. A new reason replaces the oldest."""


class ReadingReasonForm(forms.Form):
    """The reason for reading private content."""

    reading_reason = forms.CharField(
        max_length=REASON_MAX,
        label="Reason",
        widget=forms.TextInput(attrs={"class": "vTextField", "autofocus": True}),
        error_messages={"required": "Enter a reason, such as the number of the support request."},
    )


class PrivateAdmin(ReadOnlyAdmin):
    """Read-only admin pages of rows with private content of users.

    The page and the history of a row open after staff entered a reason. The reason stays valid in this session, for
    everything in the same scope, for ``STAFF_REASON_SECONDS``. Lists must not show the columns in ``private_fields``.
    """

    def find_scope(self, row: Any) -> PrivateScope:
        """Return what a reason for this row opens: by default, the row alone."""
        return PrivateScope(
            kind=self.opts.model_name or "",
            id=str(row.pk),
            organization_id=row.organization_id,
            subject=row,
        )

    def changeform_view(
        self,
        request: HttpRequest,
        object_id: str | None = None,
        form_url: str = "",
        extra_context: Any = None,
    ) -> Any:
        gate = self._ask_for_reason(request, object_id) if object_id else None
        return gate or super().changeform_view(request, object_id, form_url, extra_context)

    def history_view(
        self, request: HttpRequest, object_id: str, extra_context: Any = None
    ) -> HttpResponse:
        gate = self._ask_for_reason(request, object_id)
        return gate or super().history_view(request, object_id, extra_context)

    def _ask_for_reason(self, request: HttpRequest, object_id: str) -> HttpResponse | None:
        """Return the page that asks for a reason; None if there is a valid reason, after recording the reading."""
        row = self.get_object(request, unquote(object_id))
        if row is None:
            return None  # Django's view answers that the row does not exist
        if not self.has_view_permission(request, row):
            raise PermissionDenied
        scope = self.find_scope(row)
        is_form = request.method == "POST" and "reading_reason" in request.POST
        if request.method == "POST" and not is_form:
            return None  # Django's view refuses to write
        form = ReadingReasonForm(request.POST if is_form else None)
        if form.is_valid():
            _store_reason(request, scope, form.cleaned_data["reading_reason"])
            return redirect(request.get_full_path())
        reason = "" if is_form else _find_reason(request, scope)
        if not reason:
            return self._render_reason_form(request, scope, form)
        record_reading(scope=scope, reason=reason, page=f"{self.opts.model_name} {row.pk}")
        return None

    def _render_reason_form(
        self, request: HttpRequest, scope: PrivateScope, form: ReadingReasonForm
    ) -> HttpResponse:
        context = {
            **self.admin_site.each_context(request),
            "title": "Reason for reading private content",
            "opts": self.opts,
            "form": form,
            "scope": scope,
            "minutes": max(1, settings.STAFF_REASON_SECONDS // 60),
        }
        return TemplateResponse(request, "admin/reading_reason.html", context)


def has_reason(request: HttpRequest, scope_key: str) -> bool:
    """Return whether this session has a valid reason for a scope, such as ``conversation:<id>``."""
    stored = request.session.get(SESSION_KEY, {}).get(scope_key)
    return bool(stored) and stored[1] > time.time()


def _find_reason(request: HttpRequest, scope: PrivateScope) -> str:
    if not has_reason(request, scope.key):
        return ""
    return str(request.session[SESSION_KEY][scope.key][0])


def _store_reason(request: HttpRequest, scope: PrivateScope, reason: str) -> None:
    now = time.time()
    reasons = {k: v for k, v in request.session.get(SESSION_KEY, {}).items() if v[1] > now}
    reasons[scope.key] = [reason, now + settings.STAFF_REASON_SECONDS]
    newest = sorted(reasons.items(), key=lambda item: item[1][1])[-SCOPES_MAX:]
    request.session[SESSION_KEY] = dict(newest)

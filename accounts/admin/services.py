"""The base class of admin pages that write: each write goes through a service, which writes the audit log."""

from typing import Any

from django.contrib import messages
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect

from lib.admin import GuardedLookups
from lib.problems import Problem


class ServiceAdmin(GuardedLookups):
    """An admin page whose forms and deletions call services instead of ``Model.save`` and ``Model.delete``.

    A subclass defines ``write`` and, if its rows can be deleted, ``erase``. If a service raises a ``Problem``, the page
    shows its sentence and nothing is saved.
    """

    def write(self, request: HttpRequest, row: Any, form: Any, *, is_change: bool) -> Any:
        """Save the values of a valid form with a service, and return the row.

        ``row`` has the new values but is not saved. Many-to-many fields are in ``form.cleaned_data``.
        """
        raise NotImplementedError

    def erase(self, row: Any) -> None:
        """Delete a row with a service."""
        raise NotImplementedError

    def save_model(self, request: HttpRequest, obj: Any, form: Any, change: Any) -> None:
        row = self.write(request, obj, form, is_change=change)
        obj.pk = row.pk
        obj.refresh_from_db()

    def save_related(self, request: HttpRequest, form: Any, formsets: Any, change: Any) -> None:
        """Save the inlines. Unlike in Django, ``write`` has already saved the many-to-many fields of the form."""
        for formset in formsets:
            self.save_formset(request, form, formset, change=change)

    def save_formset(self, request: HttpRequest, form: Any, formset: Any, change: Any) -> None:
        raise NotImplementedError

    def delete_model(self, request: HttpRequest, obj: Any) -> None:
        self.erase(obj)

    def delete_queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> None:
        for row in queryset:
            self.erase(row)

    def changeform_view(
        self,
        request: HttpRequest,
        object_id: str | None = None,
        form_url: str = "",
        extra_context: Any = None,
    ) -> Any:
        try:
            return super().changeform_view(request, object_id, form_url, extra_context)
        except Problem as refusal:
            return self._explain(request, refusal)

    def delete_view(
        self, request: HttpRequest, object_id: str, extra_context: Any = None
    ) -> HttpResponse:
        try:
            return super().delete_view(request, object_id, extra_context)
        except Problem as refusal:
            return self._explain(request, refusal)

    def _explain(self, request: HttpRequest, refusal: Problem) -> HttpResponse:
        self.message_user(request, f"Nothing was saved. {refusal.detail}", messages.ERROR)
        return redirect(request.path)

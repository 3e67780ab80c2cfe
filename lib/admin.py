"""What the admin pages share: tables that are read and never written, and lists that never count them whole."""

import re
from typing import TYPE_CHECKING, Any

from django import forms
from django.contrib import admin
from django.core import paginator
from django.db import models
from django.http import HttpRequest
from django.utils.functional import cached_property

SECRET = re.compile(r"digest|pepper|sealed|secret|password|(^|_)token$")
COUNTED_ROWS = 2_000

if TYPE_CHECKING:  # Django's classes are generic only in their stubs
    InlineFormSet = forms.BaseInlineFormSet[Any, Any]
    ModelAdmin = admin.ModelAdmin[Any]
    ModelForm = forms.ModelForm[Any]
    Paginator = paginator.Paginator[Any]
    TabularInline = admin.TabularInline[Any, Any]
else:
    InlineFormSet = forms.BaseInlineFormSet
    ModelAdmin = admin.ModelAdmin
    ModelForm = forms.ModelForm
    Paginator = paginator.Paginator
    TabularInline = admin.TabularInline


class CappedPaginator(Paginator):
    """Pages of the first rows only: a count of a large table costs a scan of it."""

    @cached_property
    def count(self) -> int:
        """How many rows there are, at most ``COUNTED_ROWS``."""
        rows: Any = self.object_list
        found: int = rows.order_by()[:COUNTED_ROWS].count()
        return found


class ReadOnlyAdmin(ModelAdmin):
    """Shows rows to staff with the view permission; services own the writes.

    Columns that hold secrets, by type (binary) or by name, are left out of every page.
    """

    paginator = CappedPaginator
    show_full_result_count = False
    list_per_page = 50

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def get_fields(self, request: HttpRequest, obj: Any = None) -> Any:
        """All columns but the secret ones, then ``readonly_fields`` that are not columns."""
        own = [field for field in self.opts.concrete_fields if not is_secret(field)]
        names = [field.name for field in own]
        shown = list(self.fields or names)
        return shown + [name for name in self.readonly_fields if name not in shown]

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> Any:
        return self.get_fields(request, obj)


def is_secret(field: Any) -> bool:
    """Whether a column must not be shown to anybody."""
    if field.is_relation:
        return False
    return isinstance(field, models.BinaryField) or bool(SECRET.search(field.name))

"""Base classes of admin pages: read-only pages without secret columns, and lists that stop counting rows early."""

import re
from typing import TYPE_CHECKING, Any

from django import forms
from django.contrib import admin
from django.core import paginator
from django.db import models
from django.http import HttpRequest
from django.utils.functional import cached_property

SECRET = re.compile(r"digest|pepper|sealed|secret|password|(^|_)token$")
"""Names of columns that are never shown."""
COUNTED_ROWS = 2_000
"""The number of rows after which a list stops counting."""

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
    """A paginator of the first ``COUNTED_ROWS`` rows only, because counting a large table scans all of it."""

    @cached_property
    def count(self) -> int:
        """The number of rows, at most ``COUNTED_ROWS``."""
        rows: Any = self.object_list
        count: int = rows.order_by()[:COUNTED_ROWS].count()
        return count


class ReadOnlyAdmin(ModelAdmin):
    """Read-only admin pages for staff with the view permission.

    Columns with secrets are not shown. They are recognized by their type (binary) or name.
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
        """Return the names of all columns except secret columns, then the other names in ``readonly_fields``."""
        own = [field for field in self.opts.concrete_fields if not is_secret(field)]
        names = [field.name for field in own]
        shown = list(self.fields or names)
        return shown + [name for name in self.readonly_fields if name not in shown]

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> Any:
        return self.get_fields(request, obj)


def is_secret(field: Any) -> bool:
    """Return whether a column contains a secret and must not be shown."""
    if field.is_relation:
        return False
    return isinstance(field, models.BinaryField) or bool(SECRET.search(field.name))

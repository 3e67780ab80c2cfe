"""Base classes of admin pages: read-only pages without secret columns, and lists that stop counting rows early."""

import json
import re
from typing import TYPE_CHECKING, Any

from django import forms
from django.contrib import admin
from django.core import paginator
from django.core.exceptions import FieldDoesNotExist, ValidationError
from django.db import models
from django.http import HttpRequest
from django.utils.functional import cached_property

SECRET = re.compile(r"digest|pepper|sealed|secret|password|(^|_)token$")
"""Names of columns that are never shown."""
UNSTORABLE = "Remove NUL characters, lone surrogates, NaN and Infinity: they cannot be stored."
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


class StorableJSON(forms.JSONField):
    """A form field for JSON that PostgreSQL can store: without NUL characters, lone surrogates, NaN and Infinity."""

    def to_python(self, value: Any) -> Any:
        parsed = super().to_python(value)
        try:
            text = json.dumps(parsed, ensure_ascii=False, allow_nan=False)
            text.encode()  # fails for lone surrogates
        except (ValueError, RecursionError) as error:
            raise ValidationError(UNSTORABLE) from error
        if "\\u0000" in text:
            raise ValidationError(UNSTORABLE)
        return parsed

    def bound_data(self, data: Any, initial: Any) -> Any:
        """Return the submitted text as it is, because Django's parsed form of it may be text that is not UTF-8."""
        return forms.fields.InvalidJSONInput(data) if data is not None else None


class GuardedLookups(ModelAdmin):
    """An admin page whose lists cannot be filtered by columns with secrets or private content.

    Django allows every lookup on a model's own columns, so ``?password__startswith=a`` would reveal a hash letter by
    letter.
    """

    private_fields: tuple[str, ...] = ()
    """Names of the columns with private content, of which a list may reveal nothing."""

    def lookup_allowed(self, lookup: str, value: Any, request: HttpRequest | None = None) -> bool:
        if _reads_hidden_column(self.model, lookup, self.admin_site):
            return False
        return super().lookup_allowed(lookup, value, request)  # type: ignore[arg-type]  # the stubs lack None


class ReadOnlyAdmin(GuardedLookups):
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


def _reads_hidden_column(model: Any, lookup: str, site: admin.AdminSite) -> bool:
    """Return whether a lookup such as ``user__email__contains`` names a secret or private column on its path."""
    for name in lookup.split("__"):
        try:
            field = model._meta.get_field(name)  # noqa: SLF001 - Django's documented API of models
        except FieldDoesNotExist:  # the name of a lookup or transform, or ``pk``
            return False
        page = site._registry.get(model)  # noqa: SLF001 - Django has no public accessor that returns None
        if is_secret(field) or field.name in getattr(page, "private_fields", ()):
            return True
        model = field.related_model
        if model is None:
            return False
    return False

"""Base classes of forms on pages: fields whose errors name their label, and forms that show a service's error."""

import re
from collections.abc import Mapping
from typing import Any

from django import forms
from django.contrib import messages
from django.core.exceptions import ValidationError
from django.forms.utils import ErrorDict
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render

from lib.problems import Problem

UNSTORABLE = re.compile("[\0\ud800-\udfff]")
"""Characters that PostgreSQL cannot store or that UTF-8 cannot encode."""
UNUSABLE_FORM = "The form is incomplete or outdated. Reload the page and try again."
"""The error of hidden fields, which users cannot correct."""
TEXT_CODES = ("required", "max_length", "null_characters_not_allowed")
NUMBER_CODES = ("required", "invalid", "min_value", "max_value")


class PageField(forms.BoundField):
    """A bound field on a page. Its value can always be encoded as UTF-8. ``{% field %}`` draws it."""

    form: "PageForm"

    def value(self) -> Any:
        """Return the value to show: "" for None, and U+FFFD in place of NUL and lone surrogates."""
        value = super().value()
        if isinstance(value, str):
            return UNSTORABLE.sub("\N{REPLACEMENT CHARACTER}", value)
        return "" if value is None else value

    @property
    def is_first_invalid(self) -> bool:
        """Whether this is the first drawn field with an error, which gets the focus."""
        drawn = self.form.first_invalid
        if drawn is None and self.errors:
            self.form.first_invalid = drawn = self.name
        return drawn == self.name


class PageForm(forms.Form):
    """A form on a page. ``refused_status`` is the HTTP status of the page that shows its errors.

    ``shown`` contains the names of the fields that the page has drawn so far, and ``first_invalid`` the first one of
    them that has an error. The ids of elements begin with the form's name, because a page can have several forms.
    """

    bound_field_class = PageField
    refused_status = 422
    retry_after: int | None = None
    _errors: ErrorDict | None

    def __init__(self, *args: Any, **options: Any) -> None:
        name = type(self).__name__.removesuffix("Form").lower()
        super().__init__(*args, **{"auto_id": f"{name}-%s"} | options)
        self.shown: set[str] = set()
        self.first_invalid: str | None = None
        self.is_drawn = False

    @property
    def sentences(self) -> list[str]:
        """All error messages, each once."""
        return list(dict.fromkeys(str(text) for texts in self.errors.values() for text in texts))

    def has_shown_error(self) -> bool:
        """Return whether a field that the page has drawn has an error."""
        return bool(self.shown & set(self.errors))

    def sentences_elsewhere(self) -> list[str]:
        """Return the error messages that are not shown at a field on the page, each once."""
        shown = {str(text) for name in self.shown for text in self.errors.get(name, ())}
        return [text for text in self.sentences if text not in shown]

    def refuse(self, problem: Problem) -> None:
        """Add a service's error to the form, and use the error's HTTP status and ``retry_after`` for the page.

        The error belongs to a field if ``problem.extra["field"]`` or the text before the first colon names the field.
        Status 401 becomes 422, because a browser or program would react to 401 by asking for credentials.
        """
        # A form that is not validated yet shows only this error.
        if self._errors is None:
            self._errors, self.cleaned_data = ErrorDict(), {}
        prefix, _, rest = problem.detail.partition(": ")
        name = problem.extra.get("field", prefix)
        name = name if name in self.fields else None
        text = f"{self.fields[name].label}: {rest}" if name and name == prefix else problem.detail
        self.add_error(name, text)
        self.refused_status = 422 if problem.status == 401 else problem.status
        self.retry_after = problem.extra.get("retry_after")


def render_form(
    request: HttpRequest,
    template: str,
    form: PageForm,
    context: Mapping[str, Any] | None = None,
    *,
    status: int = 200,
) -> HttpResponse:
    """Render a page; its template receives the form as ``form``.

    ``status`` is the HTTP status if the form has no errors. If the form has ``retry_after``, the response has a
    ``Retry-After`` header. If the page does not draw the form, for example because the user may not submit it, the
    errors are shown as messages at the top of the page.
    """
    status = form.refused_status if form.errors else status
    context = {"form": form, **(context or {})}
    response = render(request, template, context, status=status)
    if form.errors and not form.is_drawn:
        for sentence in form.sentences:
            messages.error(request, sentence, fail_silently=True)
        response = render(request, template, context, status=status)
    if form.retry_after is not None:
        response.headers["Retry-After"] = str(form.retry_after)
    return response


class TextField(forms.CharField):
    """A field for a text that PostgreSQL can store. A field without a label is hidden, so users cannot correct it."""

    def __init__(
        self, *, label: str = "", error_messages: Mapping[str, str] | None = None, **options: Any
    ) -> None:
        messages = dict.fromkeys(TEXT_CODES, UNUSABLE_FORM)
        if label:
            messages = {
                "required": f"Fill in “{label}”.",
                "max_length": f"“{label}” may have at most {options.get('max_length') or 0:,} characters.",
                "null_characters_not_allowed": f"“{label}” contains characters that cannot be stored. Remove them.",
            }
        super().__init__(
            label=label, error_messages=messages | dict(error_messages or {}), **options
        )

    def run_validators(self, value: str) -> None:
        """Reject lone surrogates with Django's error code for NUL characters."""
        if UNSTORABLE.search(value):
            code = "null_characters_not_allowed"
            raise ValidationError(self.error_messages[code], code=code)
        super().run_validators(value)


class NumberField(forms.IntegerField):
    """A whole number within bounds."""

    def __init__(self, *, label: str = "", **options: Any) -> None:
        message = UNUSABLE_FORM
        if label:
            low, high = options.get("min_value"), options.get("max_value")
            message = f"“{label}” must be a whole number from {low} to {high}."
        options.setdefault("error_messages", dict.fromkeys(NUMBER_CODES, message))
        super().__init__(label=label, **options)


class OptionField(forms.ChoiceField):
    """One of several options."""

    def __init__(self, *, label: str = "", **options: Any) -> None:
        message = f"Choose one of the options of “{label}”." if label else UNUSABLE_FORM
        options.setdefault("error_messages", dict.fromkeys(("required", "invalid_choice"), message))
        super().__init__(label=label, **options)


class CheckboxesField(forms.MultipleChoiceField):
    """Checkboxes for any number of options. Values that are not options are dropped."""

    def to_python(self, value: Any) -> list[str]:
        """Return the submitted values that are among the options, and drop all others."""
        return [item for item in super().to_python(value) if self.valid_value(item)]


class IdField(forms.UUIDField):
    """The id of a database row. The page fills in this hidden field, not the user."""

    def __init__(self, **options: Any) -> None:
        messages = dict.fromkeys(("required", "invalid"), UNUSABLE_FORM)
        super().__init__(error_messages=messages, **options)

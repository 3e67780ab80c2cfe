"""The form of a new API key."""

from collections.abc import Sequence
from typing import Any

from django import forms
from django.conf import settings
from django.core.exceptions import ValidationError

from accounts.roles import READING
from lib.forms import (
    NUMBER_CODES,
    TEXT_CODES,
    CheckboxesField,
    NumberField,
    OptionField,
    PageForm,
    TextField,
)

NAME_ERROR = "Enter a name of 1 to 80 printable characters."


class RevokeForm(PageForm):
    """The form that revokes an API key. With ``children``, also revoke the keys that were created with it."""

    children = forms.BooleanField(required=False)


class KeyForm(PageForm):
    """The name, lifetime in days and permissions of a new API key.

    ``scopes`` are the permissions that the user has, as pairs of name and label.
    """

    name = TextField(
        label="Name", max_length=80, error_messages=dict.fromkeys(TEXT_CODES, NAME_ERROR)
    )
    days = NumberField(label="Valid for (days)")
    access = OptionField(
        label="Permissions",
        choices=[("full", "All"), ("read", "Read only"), ("custom", "Selected permissions")],
    )
    scope = CheckboxesField(required=False)

    def __init__(self, *args: Any, scopes: Sequence[tuple[str, str]], **kwargs: Any) -> None:
        kwargs["initial"] = {"days": 90, "access": "full"}
        super().__init__(*args, **kwargs)
        longest = settings.API_KEY_MAX_DAYS
        self.fields["days"] = NumberField(
            label=str(self.fields["days"].label),
            min_value=1,
            max_value=longest,
            error_messages=dict.fromkeys(
                NUMBER_CODES, f"An API key can be valid for 1 to {longest} days."
            ),
        )
        self.fields["scope"] = CheckboxesField(choices=scopes, required=False)
        self.allowed = {scope for scope, _ in scopes}

    def clean_name(self) -> str:
        """Reject a name with unprintable characters."""
        name: str = self.cleaned_data["name"]
        if not name.isprintable():
            raise ValidationError(NAME_ERROR)
        return name

    def clean(self) -> None:
        """Require at least one permission if ``access`` is ``custom``."""
        if self.cleaned_data.get("access") == "custom" and not self.cleaned_data.get("scope"):
            self.add_error("scope", "Select at least one permission for the key.")

    def selected_scopes(self) -> list[str]:
        """Return the names of the key's permissions. An empty list means all permissions of the user."""
        if self.cleaned_data["access"] == "read":
            return sorted(READING & self.allowed)
        if self.cleaned_data["access"] == "custom":
            return sorted(set(self.cleaned_data["scope"]))
        return []

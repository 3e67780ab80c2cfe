"""The form of a new API key."""

from collections.abc import Sequence
from typing import Any

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

NAME = "Give the key a name of up to 80 characters, so that you know it again."


class KeyForm(PageForm):
    """Name, lifetime and permissions. ``scopes`` are those that the user may give, each with its words."""

    name = TextField(label="Name", max_length=80, error_messages=dict.fromkeys(TEXT_CODES, NAME))
    days = NumberField(label="Valid for (days)")
    access = OptionField(
        label="What it may do", choices=[("full", "All"), ("read", "Read"), ("custom", "Chosen")]
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
            error_messages=dict.fromkeys(NUMBER_CODES, f"A key lives 1 to {longest} days."),
        )
        self.fields["scope"] = CheckboxesField(choices=scopes, required=False)
        self.allowed = {scope for scope, _ in scopes}

    def clean_name(self) -> str:
        """Refuse a name that cannot be printed."""
        name: str = self.cleaned_data["name"]
        if not name.isprintable():
            raise ValidationError(NAME)
        return name

    def clean(self) -> None:
        """Refuse a key of chosen permissions without any."""
        if self.cleaned_data.get("access") == "custom" and not self.cleaned_data.get("scope"):
            self.add_error("scope", "Choose at least one thing that the key may do.")

    def wanted_scopes(self) -> list[str]:
        """Return the scopes of the key; none for a key that may do all."""
        if self.cleaned_data["access"] == "read":
            return sorted(READING & self.allowed)
        if self.cleaned_data["access"] == "custom":
            return sorted(set(self.cleaned_data["scope"]))
        return []

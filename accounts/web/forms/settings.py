"""Forms of a user's settings and secrets."""

from collections.abc import Iterable
from typing import Any

from django import forms

from accounts.services.custom_secrets import VALUE_MAX
from accounts.settings.choices import SecurityAnalyzer
from accounts.settings.fields import FIELDS
from lib.forms import CheckboxesField, IdField, NumberField, OptionField, PageForm, TextField

SEARCH_KEY_LENGTH = 2_000


def bounds(name: str) -> dict[str, Any]:
    """Return the arguments of an optional number field for the setting of this name."""
    schema = FIELDS[name].schema
    return {
        "min_value": schema["minimum"],
        "max_value": schema["maximum"],
        "required": False,
    }


class AgentSettingsForm(PageForm):
    """How agents work for a user. ``field`` names the settings that the page sent; others stay as they are.

    ``locked`` are the settings that the organization enforces. They show what is in force and the page does
    not send them; the service refuses to change one that is sent anyway.
    """

    refused_status = 400
    NAMES = (
        "confirmation_mode",
        "security_analyzer",
        "max_iterations",
        "condenser_max_size",
        "enable_default_condenser",
        "git_user_name",
        "git_user_email",
    )

    field = CheckboxesField(required=False, choices=[(name, name) for name in NAMES])
    confirmation_mode = forms.BooleanField(label="Ask before what is risky", required=False)
    security_analyzer = OptionField(
        label="Who judges the risk", choices=SecurityAnalyzer.choices, required=False
    )
    max_iterations = NumberField(label="Steps before it stops", **bounds("max_iterations"))
    condenser_max_size = NumberField(
        label="Events before history is summarized", **bounds("condenser_max_size")
    )
    enable_default_condenser = forms.BooleanField(label="Summarize long histories", required=False)
    git_user_name = TextField(label="Name in commits", max_length=120, required=False)
    git_user_email = TextField(label="E-mail in commits", max_length=254, required=False)
    search_api_key = TextField(
        label="Web search key (Tavily)", max_length=SEARCH_KEY_LENGTH, required=False
    )
    remove_search_api_key = forms.BooleanField(required=False)

    def __init__(self, *args: Any, locked: Iterable[str] = (), **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        sent = set(self["field"].value() or ())
        for name in set(locked) & set(self.NAMES) - sent:
            self.fields[name].disabled = True

    def values(self) -> dict[str, Any]:
        """Return the settings to change; None takes the user's choice back."""
        found = {name: self.cleaned_data[name] for name in self.cleaned_data["field"]}
        if self.cleaned_data["remove_search_api_key"]:
            found["search_api_key"] = None
        elif key := self.cleaned_data["search_api_key"]:
            found["search_api_key"] = key
        return found


class SecretForm(PageForm):
    """A new secret. Its value is kept as it was typed, spaces included."""

    refused_status = 400
    name = TextField(label="Name", max_length=100)
    description = TextField(label="What it is for", max_length=500, required=False)
    value = TextField(label="Value", max_length=VALUE_MAX, strip=False)
    scope = OptionField(choices=[("organization", "For everybody here")], required=False)


class SecretIdForm(PageForm):
    """A secret to delete, by its id."""

    secret = IdField()

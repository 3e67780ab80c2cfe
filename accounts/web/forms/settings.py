"""Forms of a user's agent settings and secrets."""

from collections.abc import Iterable
from typing import Any

from django import forms

from accounts.services.custom_secrets import VALUE_MAX
from accounts.settings.choices import SecurityAnalyzer
from accounts.settings.fields import FIELDS
from lib.forms import CheckboxesField, IdField, NumberField, OptionField, PageForm, TextField
from lib.money import DollarsField

SEARCH_KEY_LENGTH = 2_000


def bounds(name: str) -> dict[str, Any]:
    """Return the keyword arguments for an optional number field that edits the setting ``name``."""
    schema = FIELDS[name].schema
    return {
        "min_value": schema["minimum"],
        "max_value": schema["maximum"],
        "required": False,
    }


class AgentSettingsForm(PageForm):
    """A user's agent settings. ``field`` contains the names of the settings to change; others stay unchanged.

    ``locked`` are the names of the settings that the organization enforces. The page shows their values but does
    not send them, and the service rejects a change.
    """

    refused_status = 400
    NAMES = (
        "confirmation_mode",
        "security_analyzer",
        "max_iterations",
        "condenser_max_size",
        "enable_default_condenser",
        "max_budget_per_task_micros",
        "git_user_name",
        "git_user_email",
    )

    field = CheckboxesField(required=False, choices=[(name, name) for name in NAMES])
    confirmation_mode = forms.BooleanField(label="Ask before risky actions", required=False)
    security_analyzer = OptionField(
        label="How risk is assessed", choices=SecurityAnalyzer.choices, required=False
    )
    max_iterations = NumberField(label="Maximum steps per run", **bounds("max_iterations"))
    condenser_max_size = NumberField(
        label="Summarize the history after this many events", **bounds("condenser_max_size")
    )
    enable_default_condenser = forms.BooleanField(label="Summarize long histories", required=False)
    max_budget_per_task_micros = DollarsField(
        label="Maximum cost per conversation (US dollars)", required=False
    )
    git_user_name = TextField(label="Git author name", max_length=120, required=False)
    git_user_email = TextField(label="Git author e-mail", max_length=254, required=False)
    search_api_key = TextField(
        label="Web search key (Tavily)", max_length=SEARCH_KEY_LENGTH, required=False
    )
    remove_search_api_key = forms.BooleanField(label="Remove the stored key", required=False)

    def __init__(self, *args: Any, locked: Iterable[str] = (), **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # The page does not send locked settings, but a forged request can. Leave such a field enabled, so that the
        # service rejects the change with a message. Django would ignore the value of a disabled field silently.
        sent = set(self["field"].value() or ())
        for name in set(locked) & set(self.NAMES) - sent:
            self.fields[name].disabled = True

    @property
    def changeable(self) -> list[str]:
        """The names of the settings that the page sends."""
        return [name for name in self.NAMES if not self.fields[name].disabled]

    def values(self) -> dict[str, Any]:
        """Return a dict from setting to new value. None removes the user's value."""
        values = {name: self.cleaned_data[name] for name in self.cleaned_data["field"]}
        if self.cleaned_data["remove_search_api_key"]:
            values["search_api_key"] = None
        elif key := self.cleaned_data["search_api_key"]:
            values["search_api_key"] = key
        return values


class SecretForm(PageForm):
    """A new secret. Spaces at the start and end of its value are kept."""

    refused_status = 400
    name = TextField(label="Name", max_length=100)
    description = TextField(label="Description", max_length=500, required=False)
    value = TextField(label="Value", max_length=VALUE_MAX, strip=False)
    scope = OptionField(choices=[("organization", "All members")], required=False)


class SecretIdForm(PageForm):
    """The id of a secret to delete."""

    secret = IdField()

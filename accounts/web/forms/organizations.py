"""Forms of organizations: name, members, invitations and agent settings."""

from typing import Any, ClassVar

from django import forms

from accounts.models import Membership
from accounts.services.invitations import INVITATION_DAYS_MAX, INVITATION_USES_MAX
from accounts.services.organizations import NAME_MAX, BadName
from accounts.services.user_settings import StaleSettings
from accounts.settings.choices import SecurityAnalyzer
from accounts.settings.fields import FIELDS
from accounts.web.forms.settings import SEARCH_KEY_LENGTH, bounds
from lib.forms import (
    NUMBER_CODES,
    TEXT_CODES,
    CheckboxesField,
    IdField,
    NumberField,
    OptionField,
    PageForm,
    TextField,
)

YES_NO = [("yes", "Yes"), ("no", "No")]


class OrganizationForm(PageForm):
    """The name of an organization."""

    refused_status = 400
    name = TextField(
        label="Name",
        max_length=NAME_MAX,
        error_messages=dict.fromkeys(TEXT_CODES, BadName.sentence),
    )


class MemberForm(PageForm):
    """The user id of the member whom an action concerns."""

    refused_status = 400
    member = IdField()


class RoleForm(MemberForm):
    """The user id of a member, and the new role of the member."""

    role = OptionField(choices=Membership.Role.choices)


class InviteForm(PageForm):
    """A new invitation: role, lifetime in days, maximum number of uses and, optionally, the e-mail address."""

    refused_status = 400
    email = TextField(label="E-mail", max_length=254, required=False)
    role = OptionField(label="Role", choices=Membership.Role.choices, initial="member")
    days = NumberField(
        label="Valid for (days)", min_value=1, max_value=INVITATION_DAYS_MAX, initial=7
    )
    max_uses = NumberField(
        label="Maximum number of uses", min_value=1, max_value=INVITATION_USES_MAX, initial=1
    )


class InvitationForm(PageForm):
    """The id of an invitation to revoke."""

    refused_status = 400
    invitation = IdField()


class AgentDefaultsForm(PageForm):
    """Agent settings that an organization sets for its members, and the names of the enforced settings.

    Settings that are not on the page, such as MCP servers, stay unchanged.
    """

    refused_status = 400
    CHOICES: ClassVar = {
        "confirmation_mode": YES_NO,
        "security_analyzer": SecurityAnalyzer.choices,
        "enable_default_condenser": YES_NO,
    }
    NUMBERS = ("max_iterations", "condenser_max_size")
    SECRET = "search_api_key"  # noqa: S105 - the name of a setting
    ON_PAGE = (*CHOICES, *NUMBERS, SECRET)

    version = NumberField(
        required=False, error_messages=dict.fromkeys(NUMBER_CODES, StaleSettings.sentence)
    )
    confirmation_mode = OptionField(
        label="Ask before risky actions", choices=YES_NO, required=False
    )
    security_analyzer = OptionField(
        label="How risk is assessed", choices=SecurityAnalyzer.choices, required=False
    )
    enable_default_condenser = OptionField(
        label="Summarize long histories", choices=YES_NO, required=False
    )
    max_iterations = NumberField(label="Maximum steps per run", **bounds("max_iterations"))
    condenser_max_size = NumberField(
        label="Summarize the history after this many events", **bounds("condenser_max_size")
    )
    search_api_key = TextField(
        label="Web search key (Tavily)", max_length=SEARCH_KEY_LENGTH, required=False
    )
    remove_search_api_key = forms.BooleanField(label="Remove the stored key", required=False)
    enforced = CheckboxesField(required=False, choices=[(name, name) for name in ON_PAGE])

    def values(self) -> dict[str, Any]:
        """Return a dict from setting to new value. None removes the organization's value."""
        values: dict[str, Any] = {}
        for name in (*self.CHOICES, *self.NUMBERS):
            value = self.cleaned_data[name]
            is_flag = FIELDS[name].schema["type"] == "boolean"
            values[name] = value == "yes" if is_flag and value else value or None
        if self.cleaned_data["remove_search_api_key"]:
            values[self.SECRET] = None
        elif key := self.cleaned_data[self.SECRET]:
            values[self.SECRET] = key
        return values

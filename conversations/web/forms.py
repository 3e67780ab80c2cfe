"""The forms of the conversation pages: the prompt, the search, actions, tags, confirmation and public links."""

import re
from typing import Any
from urllib.parse import urlsplit

from django import forms
from django.core.exceptions import ValidationError

from accounts.settings.choices import ConfirmationPolicy, SecurityAnalyzer
from conversations.models import EgressPolicy
from conversations.services.confirmations import NotWaiting
from lib.forms import (
    NUMBER_CODES,
    TEXT_CODES,
    UNSTORABLE,
    IdField,
    NumberField,
    OptionField,
    PageForm,
    TextField,
)

MESSAGE_LENGTH = 200_000
SEARCH_LENGTH = 200
SEQ_MAX = 10**18 - 1
POLICIES = [
    (ConfirmationPolicy.NEVER, "Never ask me"),
    (ConfirmationPolicy.RISKY, "Ask me about risky actions"),
    (ConfirmationPolicy.ALWAYS, "Ask me about every action"),
]
LIFETIMES = [("1", "1 day"), ("7", "1 week"), ("30", "1 month"), ("365", "1 year")]
YES_NO = [("yes", "Yes"), ("no", "No")]
HOSTS = {"github.com": "github", "gitlab.com": "gitlab", "bitbucket.org": "bitbucket"}
_FULL_NAME = re.compile(r"[\w.-]+(?:/[\w.-]+)+")
_TITLE = "Enter a title of 1 to 200 characters."
_TAGS = "Enter at most 20 tags of up to 50 characters each, separated by commas."
_MESSAGE_TOO_LONG = f"The message is too long. Shorten it to {MESSAGE_LENGTH:,} characters."


# --- Home -----------------------------------------------------------------------


class RepositoryField(TextField):
    """A repository, entered as its name or its URL."""

    def clean(self, value: Any) -> dict[str, str] | None:
        """Return the repository as ``{"provider", "full_name", "branch"}``, or None for an empty text."""
        try:
            return parse_repository(super().clean(value))
        except ValueError as error:
            raise ValidationError(
                "Enter the repository as owner/name, owner/name@branch, or its URL."
            ) from error


def parse_repository(text: str) -> dict[str, str] | None:
    """Parse ``owner/name``, ``owner/name@branch`` or a repository's URL; return None for an empty text.

    The result is ``{"provider", "full_name", "branch"}``, without ``branch`` if the text names none. Raise
    ``ValueError`` for any other text.
    """
    text = text.strip()
    if not text:
        return None
    provider, name = "github", text
    if "://" in text:
        parts = urlsplit(text)
        provider = HOSTS.get((parts.hostname or "").removeprefix("www."), "")
        name = parts.path.strip("/")
    name, _, branch = name.partition("@")
    name = name.removesuffix(".git")
    if not provider or not _FULL_NAME.fullmatch(name):
        raise ValueError(text)
    repository = {"provider": provider, "full_name": name}
    return repository | {"branch": branch} if branch else repository


class PromptForm(PageForm):
    """The first message of a new conversation, and the options of the conversation."""

    message = TextField(
        label="Your request",
        max_length=MESSAGE_LENGTH,
        error_messages={
            "required": "Describe what the agent should do.",
            "max_length": _MESSAGE_TOO_LONG,
        },
    )
    repository = RepositoryField(label="Repository", max_length=400, required=False)
    policy = OptionField(
        label="Before the agent acts",
        choices=POLICIES,
        required=False,
        initial=ConfirmationPolicy.NEVER,
    )
    idempotency_key = TextField(max_length=255, required=False)


class SearchField(forms.CharField):
    """The words of a search. Any text is valid: invalid characters are removed and long texts are shortened."""

    def to_python(self, value: Any) -> str:
        """Return the text without invalid characters, shortened to 200 characters."""
        text = super().to_python(UNSTORABLE.sub("", value or "")) or ""
        return text[:SEARCH_LENGTH]


class SearchForm(PageForm):
    """The query parameters that filter the list on the home page."""

    q = SearchField(required=False)
    tag = SearchField(required=False)
    archived = forms.ChoiceField(choices=[("1", "Archive")], required=False)

    def narrowing(self) -> dict[str, str]:
        """Return the query parameters that filter the list. Parameters with invalid values are dropped."""
        self.full_clean()
        return {name: value for name, value in self.cleaned_data.items() if value}


# --- Actions on one conversation ---------------------------------------------------


class MessageForm(PageForm):
    """A message to the agent. The page chooses ``message_id``, so submitting the form twice sends only one message."""

    text = TextField(
        label="Message to the agent",
        max_length=MESSAGE_LENGTH,
        error_messages={
            "required": "Enter a message.",
            "max_length": _MESSAGE_TOO_LONG,
        },
    )
    message_id = IdField(required=False)


class AnswerForm(PageForm):
    """The user's answer to a confirmation question."""

    accept = OptionField(choices=YES_NO)
    reason = TextField(label="Reason for a rejection", max_length=2_000, required=False)
    # To a user, a number that cannot be a `seq` means the same as a question that is no longer open.
    asked_seq = NumberField(
        required=False, error_messages=dict.fromkeys(NUMBER_CODES, NotWaiting.sentence)
    )


class RenameForm(PageForm):
    """The new title of a conversation."""

    title = TextField(
        label="Title", max_length=200, error_messages={"required": _TITLE, "max_length": _TITLE}
    )


class FeedbackForm(PageForm):
    """A user's rating of one event as good or bad."""

    seq = NumberField(
        min_value=0,
        max_value=SEQ_MAX,
        error_messages=dict.fromkeys(
            NUMBER_CODES, "The rated event is not valid. Reload the page and try again."
        ),
    )
    good = OptionField(choices=YES_NO)


# --- Settings of one conversation --------------------------------------------------


class TagsForm(PageForm):
    """The tags of a conversation, separated by commas."""

    tags = TextField(
        label="Tags",
        max_length=1_100,
        required=False,
        error_messages=dict.fromkeys(TEXT_CODES, _TAGS),
    )

    def clean_tags(self) -> list[str]:
        """Return the list of tags."""
        tags = [part.strip() for part in self.cleaned_data["tags"].split(",") if part.strip()]
        if len(tags) > 20 or any(len(tag) > 50 or not tag.isprintable() for tag in tags):
            raise ValidationError(_TAGS)
        return tags


class ConfirmationForm(PageForm):
    """The confirmation policy and the security analyzer of a conversation."""

    policy = OptionField(label="Before the agent acts", choices=POLICIES)
    analyzer = OptionField(label="Risk is assessed by", choices=SecurityAnalyzer.choices)


CIRCLES = [
    ("private", "Only you"),
    ("read", "Members of the organization can read it"),
    ("steer", "Members can read it, and others may steer"),
]


class SharingForm(PageForm):
    """The circle that may read and steer a conversation, and the creator's consent to lend personal secrets."""

    circle = OptionField(label="Who has access", choices=CIRCLES)
    lends_personal = forms.BooleanField(required=False)


class ShareForm(PageForm):
    """The lifetime of a new public link, in days."""

    days = OptionField(label="The link expires after", choices=LIFETIMES, initial="7")


class RevokeForm(PageForm):
    """The id of a public link to revoke."""

    share = IdField()


class HostForm(PageForm):
    """A host, and whether the sandbox of the conversation may reach it."""

    host = TextField(label="Host", max_length=255)
    answer = OptionField(choices=[("allow", "Allow"), ("refuse", "Refuse")])


class RemoveRuleForm(PageForm):
    """The host of a rule to remove."""

    host = TextField(max_length=255)


class NetworkForm(PageForm):
    """The network profile of an organization's sandboxes, and the listed hosts, one on each line."""

    profile = OptionField(
        label="Which hosts can agents reach?",
        choices=[("", "As set for this server"), *EgressPolicy.Profile.choices],
        required=False,
    )
    hosts = TextField(label="Listed hosts", max_length=256_000, required=False)

    def clean_hosts(self) -> list[str]:
        """Return the list of hosts. Commas and spaces separate hosts too."""
        text: str = self.cleaned_data["hosts"]
        return text.replace(",", " ").split()


class IntentForm(PageForm):
    """The name of the form that was submitted."""

    intent = OptionField(
        choices=[
            (name, name)
            for name in ("tags", "confirmation", "sharing", "share", "revoke", "host", "unrule")
        ]
    )

"""Forms of the pages of conversations: the prompt and the search of home, commands, tags, links."""

import re
from typing import Any
from urllib.parse import urlsplit

from django import forms
from django.core.exceptions import ValidationError

from accounts.settings.choices import ConfirmationPolicy, SecurityAnalyzer
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
LIFETIMES = [("1", "a day"), ("7", "a week"), ("30", "a month"), ("365", "a year")]
YES_NO = [("yes", "Yes"), ("no", "No")]
HOSTS = {"github.com": "github", "gitlab.com": "gitlab", "bitbucket.org": "bitbucket"}
_FULL_NAME = re.compile(r"[\w.-]+(?:/[\w.-]+)+")
_TITLE = "A title has 1 to 200 characters."
_TAGS = "At most 20 tags of at most 50 characters, with commas between them."


# --- Home -----------------------------------------------------------------------


class RepositoryField(TextField):
    """A repository as people name it."""

    def clean(self, value: Any) -> dict[str, str] | None:
        """Return the repository of the text, None for an empty one."""
        try:
            return repository_of(super().clean(value))
        except ValueError as error:
            raise ValidationError(
                "Name the repository as owner/name, owner/name@branch or by its address."
            ) from error


def repository_of(text: str) -> dict[str, str] | None:
    """Return the repository of ``owner/name``, ``owner/name@branch`` or its address; None for an empty text.

    Raises ``ValueError`` for what is neither.
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
    found = {"provider": provider, "full_name": name}
    return found | {"branch": branch} if branch else found


class PromptForm(PageForm):
    """The first message of a conversation, and its options."""

    message = TextField(
        label="Your request",
        max_length=MESSAGE_LENGTH,
        error_messages={
            "required": "Say what the agent should do.",
            "max_length": f"A message has at most {MESSAGE_LENGTH:,} characters.",
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
    """Words to search for. What cannot be stored is dropped and long texts are cut: a search never fails."""

    def to_python(self, value: Any) -> str:
        """Return the usable part of the text."""
        text = super().to_python(UNSTORABLE.sub("", value or "")) or ""
        return text[:SEARCH_LENGTH]


class SearchForm(PageForm):
    """What the address of the home page narrows the list to."""

    q = SearchField(required=False)
    tag = SearchField(required=False)
    archived = forms.ChoiceField(choices=[("1", "Archive")], required=False)

    def narrowing(self) -> dict[str, str]:
        """Return the fields that narrow the list, as they stand in addresses; unknown values are dropped."""
        self.full_clean()
        return {name: value for name, value in self.cleaned_data.items() if value}


# --- Commands to one conversation --------------------------------------------------


class MessageForm(PageForm):
    """A message to the agent; the page gives it an id, so that a repeat is sent once."""

    text = TextField(
        label="Message to the agent",
        max_length=MESSAGE_LENGTH,
        error_messages={
            "required": "Write something first.",
            "max_length": f"A message has at most {MESSAGE_LENGTH:,} characters.",
        },
    )
    message_id = IdField(required=False)


class AnswerForm(PageForm):
    """The answer to the question that was shown; for one that is no event, no question is open."""

    accept = OptionField(choices=YES_NO)
    reason = TextField(label="Reason for a rejection", max_length=2_000, required=False)
    asked_seq = NumberField(
        required=False, error_messages=dict.fromkeys(NUMBER_CODES, NotWaiting.sentence)
    )


class RenameForm(PageForm):
    """Another title."""

    title = TextField(
        label="Title", max_length=200, error_messages={"required": _TITLE, "max_length": _TITLE}
    )


class FeedbackForm(PageForm):
    """Whether one event is a good answer."""

    seq = NumberField(
        min_value=0,
        max_value=SEQ_MAX,
        error_messages=dict.fromkeys(NUMBER_CODES, "Say which event you mean."),
    )
    good = OptionField(choices=YES_NO)


# --- A conversation's own settings ------------------------------------------------


class TagsForm(PageForm):
    """Tags with commas between them."""

    tags = TextField(
        label="Tags",
        max_length=1_100,
        required=False,
        error_messages=dict.fromkeys(TEXT_CODES, _TAGS),
    )

    def clean_tags(self) -> list[str]:
        """Return the tags."""
        tags = [part.strip() for part in self.cleaned_data["tags"].split(",") if part.strip()]
        if len(tags) > 20 or any(len(tag) > 50 or not tag.isprintable() for tag in tags):
            raise ValidationError(_TAGS)
        return tags


class ConfirmationForm(PageForm):
    """When the agent asks, and who judges the risk."""

    policy = OptionField(label="Before the agent acts", choices=POLICIES)
    analyzer = OptionField(label="Who judges the risk", choices=SecurityAnalyzer.choices)


class ShareForm(PageForm):
    """The lifetime of a new public link, in days."""

    days = OptionField(label="A link that holds for", choices=LIFETIMES, initial="7")


class RevokeForm(PageForm):
    """A public link to end, by its id."""

    share = IdField()


class IntentForm(PageForm):
    """Which of the page's forms was sent."""

    intent = OptionField(
        choices=[(name, name) for name in ("tags", "confirmation", "share", "revoke")]
    )

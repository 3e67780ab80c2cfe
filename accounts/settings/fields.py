"""The settings there are: one table from which storage, checks, the API and the compatible edges follow.

A field has a name, a kind, a default and a check. Values are JSON values; None is never stored and means
"not chosen". Secret fields are sealed, shown as a mask and never accepted as one.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from accounts.settings import mcp_servers
from accounts.settings.choices import SecurityAnalyzer
from lib.masks import MASK, is_mask
from lib.problems import Problem

AGENTS = ("CodeActAgent",)
"""The engine has one agent; this is what existing clients call it."""
ANALYZERS = (SecurityAnalyzer.LLM.value, SecurityAnalyzer.PATTERN.value)
"""What clients are offered; not to judge risks is no choice of theirs, but an empty value."""
MICROS = 1_000_000


class InvalidSetting(Problem):
    """A value that a setting does not take; ``field`` and ``detail`` say which and why."""

    code = "invalid-setting"


class UnknownSetting(Problem):
    """There is no setting of this name."""

    code = "unknown-setting"


@dataclass(frozen=True)
class Field:
    """One setting. ``check`` returns the value to store, or raises ``ValueError`` with a sentence.

    ``compat`` is the name in the records of existing clients where it is another; ``inward`` and
    ``outward`` translate its value from there and to there. ``schema`` describes the value in JSON Schema.
    """

    name: str
    default: Any
    check: Callable[[Any], Any]
    schema: dict[str, Any]
    help: str
    is_secret: bool = False
    compat: str = ""
    inward: Callable[[Any], Any] = lambda value: value
    outward: Callable[[Any], Any] = lambda value: value

    def checked(self, value: Any, *, stored: Any = None) -> Any:
        """The value to store. ``stored`` is what parts that come masked are taken from.

        Raises ``InvalidSetting``.
        """
        try:
            if self.name == "mcp_config":
                value = mcp_servers.unmasked(value, stored=stored)
            return self.check(value)
        except ValueError as error:
            raise InvalidSetting(f"{self.name}: {error}", field=self.name) from error

    def shown(self, value: Any) -> Any:
        """The value as it may be told."""
        if not self.is_secret or value is None:
            return value
        return mcp_servers.masked(value) if self.name == "mcp_config" else MASK


def _boolean(value: Any) -> bool:
    if value is True or value is False:
        return bool(value)
    raise ValueError("true or false")


def _text(longest: int) -> Callable[[Any], str]:
    def check(value: Any) -> str:
        if not isinstance(value, str) or len(value) > longest or not value.isprintable():
            raise ValueError(f"up to {longest} printable characters")
        return value.strip()

    return check


def _one_of(*options: str) -> Callable[[Any], str]:
    def check(value: Any) -> str:
        if value not in options:
            raise ValueError("one of " + ", ".join(options))
        return str(value)

    return check


def _number(low: int, high: int) -> Callable[[Any], int]:
    def check(value: Any) -> int:
        if type(value) is float and value.is_integer():
            value = int(value)
        if type(value) is not int or not low <= value <= high:
            raise ValueError(f"a whole number from {low} to {high}")
        return value

    return check


def _secret(value: Any) -> str:
    if not isinstance(value, str) or len(value) > 2_000 or not value.isprintable():
        raise ValueError("up to 2000 printable characters")
    if is_mask(value):
        raise ValueError("this is a mask, not a secret. Leave it out to keep the stored one")
    return value.strip()


def _email(value: Any) -> str:
    text = _text(254)(value)
    if text and ("@" not in text or any(c in text for c in ' <>"')):
        raise ValueError("an e-mail address")
    return text


def _micros(value: Any) -> Any:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1e9:
        return value  # the check refuses it
    return round(value * MICROS)


BOOLEAN: dict[str, Any] = {"type": "boolean"}


def _integer(low: int, high: int) -> dict[str, Any]:
    return {"type": "integer", "minimum": low, "maximum": high}


def _string(longest: int) -> dict[str, Any]:
    return {"type": "string", "maxLength": longest}


def _choice(*options: str) -> dict[str, Any]:
    return {"type": "string", "enum": list(options)}


_analyzers = (SecurityAnalyzer.NONE.value, *ANALYZERS)
_FIELDS = (
    Field("language", "en", _text(20), _string(20), "Of the pages, as a language tag."),
    Field("agent", AGENTS[0], _one_of(*AGENTS), _choice(*AGENTS), "Which agent works."),
    Field(
        "max_iterations",
        500,
        _number(1, 10_000),
        _integer(1, 10_000),
        "Steps that the agent of a new conversation takes before it stops.",
    ),
    Field(
        "confirmation_mode",
        False,
        _boolean,
        BOOLEAN,
        "Whether the agent of a new conversation asks before it acts: before what the analyzer finds "
        "risky, or before everything without one.",
    ),
    Field(
        "security_analyzer",
        SecurityAnalyzer.LLM.value,
        _one_of(*_analyzers),
        _choice(*_analyzers),
        "Who judges the risk of actions in new conversations.",
        inward=lambda value: value or SecurityAnalyzer.NONE.value,
        outward=lambda value: None if value == SecurityAnalyzer.NONE else value,
    ),
    Field(
        "enable_default_condenser",
        True,
        _boolean,
        BOOLEAN,
        "Whether long histories are summarized for the model.",
    ),
    Field(
        "condenser_max_size",
        80,
        _number(20, 10_000),
        _integer(20, 10_000),
        "Events in the history before it is summarized.",
    ),
    Field(
        "max_budget_per_task_micros",
        None,
        _number(1, 10**15),
        _integer(1, 10**15),
        "What one conversation may cost in micro-dollars; null for no limit.",
        compat="max_budget_per_task",
        inward=_micros,
        outward=lambda value: None if value is None else value / MICROS,
    ),
    Field("git_user_name", "", _text(120), _string(120), "Who commits; empty: the user's name."),
    Field("git_user_email", "", _email, _string(254), "Their address; empty: the user's."),
    Field(
        "remote_runtime_resource_factor",
        1,
        _number(1, 8),
        _integer(1, 8),
        "Kept for clients that show it; sandboxes here have one size.",
    ),
    Field("enable_sound_notifications", False, _boolean, BOOLEAN, "Kept for clients with sounds."),
    Field(
        "enable_proactive_conversation_starters",
        True,
        _boolean,
        BOOLEAN,
        "Kept for clients that show it.",
    ),
    Field("enable_solvability_analysis", True, _boolean, BOOLEAN, "Kept for clients that show it."),
    Field(
        # False and not "never asked": clients ask by a dialog in the way, and nothing is collected here.
        "user_consents_to_analytics",
        False,
        _boolean,
        BOOLEAN,
        "Whether the user agrees to analytics.",
    ),
    Field(
        "search_api_key",
        None,
        _secret,
        _string(2_000),
        "Key of the web search (Tavily) that the agent may use.",
        is_secret=True,
    ),
    Field(
        "mcp_config",
        None,
        mcp_servers.checked,
        mcp_servers.SCHEMA,
        "MCP servers that the agent may use.",
        is_secret=True,
    ),
)
FIELDS: dict[str, Field] = {field.name: field for field in _FIELDS}


def field_of(name: str) -> Field:
    """The field of a name. Raises ``UnknownSetting``."""
    if name not in FIELDS:
        raise UnknownSetting(f"There is no setting {name[:60]!r}.", field=name[:60])
    return FIELDS[name]

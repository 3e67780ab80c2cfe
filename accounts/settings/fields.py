"""The definitions of all settings, for storage, validation, the API and the compatibility endpoints.

A setting has a name, a default, a check and a JSON Schema. Values are JSON values. None means that no value is set,
and is never stored. Secret values are encrypted in the database and replaced by a mask in responses.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from accounts.settings import mcp_servers
from accounts.settings.choices import SecurityAnalyzer
from lib.masks import MASK, is_mask
from lib.problems import Problem

AGENTS = ("CodeActAgent",)
"""The engine has one agent; existing clients know it by this name."""
ANALYZERS = (SecurityAnalyzer.LLM.value, SecurityAnalyzer.PATTERN.value)
"""The analyzers that existing clients can choose. They send an empty value for no analyzer."""
MICROS = 1_000_000


class InvalidSetting(Problem):
    """The value is not valid for the setting. ``field`` is the name of the setting, and ``detail`` the reason."""

    code = "invalid-setting"


class UnknownSetting(Problem):
    """There is no setting with this name."""

    code = "unknown-setting"


@dataclass(frozen=True)
class Field:
    """The definition of one setting.

    ``check`` returns the value to store, or raises ``ValueError`` with a message for the user. ``schema`` is
    the JSON Schema of the value. ``compat`` is the name of the setting in existing clients, if that name differs;
    ``from_compat`` and ``to_compat`` convert a value from and to the format of these clients.
    """

    name: str
    default: Any
    check: Callable[[Any], Any]
    schema: dict[str, Any]
    help: str
    is_secret: bool = False
    compat: str = ""
    from_compat: Callable[[Any], Any] = lambda value: value
    to_compat: Callable[[Any], Any] = lambda value: value

    def clean(self, value: Any, *, stored: Any = None) -> Any:
        """Return the value to store. In ``mcp_config``, masks are replaced by the secrets of the ``stored`` value.

        Raise ``InvalidSetting`` if the value is not valid.
        """
        try:
            if self.name == "mcp_config":
                value = mcp_servers.unmask(value, stored=stored)
            return self.check(value)
        except ValueError as error:
            raise InvalidSetting(f"{self.name}: {error}", field=self.name) from error

    def mask(self, value: Any) -> Any:
        """Return the value for responses, with secrets replaced by a mask."""
        if not self.is_secret or value is None:
            return value
        return mcp_servers.mask(value) if self.name == "mcp_config" else MASK


def _boolean(value: Any) -> bool:
    if value is True or value is False:
        return bool(value)
    raise ValueError("enter true or false.")


def _text(longest: int) -> Callable[[Any], str]:
    def check(value: Any) -> str:
        if not isinstance(value, str) or len(value) > longest or not value.isprintable():
            raise ValueError(f"enter up to {longest} printable characters.")
        return value.strip()

    return check


def _one_of(*options: str) -> Callable[[Any], str]:
    def check(value: Any) -> str:
        if value not in options:
            raise ValueError(f"enter one of {', '.join(options)}.")
        return str(value)

    return check


def _number(low: int, high: int) -> Callable[[Any], int]:
    def check(value: Any) -> int:
        # JSON has one number type: some clients send 500.0 for 500. type() also refuses booleans.
        if type(value) is float and value.is_integer():
            value = int(value)
        if type(value) is not int or not low <= value <= high:
            raise ValueError(f"enter a whole number from {low} to {high}.")
        return value

    return check


def _secret(value: Any) -> str:
    if not isinstance(value, str) or len(value) > 2_000 or not value.isprintable():
        raise ValueError("enter up to 2000 printable characters.")
    if is_mask(value):
        raise ValueError("this is a mask, not a secret. Leave it out to keep the stored secret.")
    return value.strip()


def _email(value: Any) -> str:
    text = _text(254)(value)
    # These characters would break the author line of a Git commit.
    if text and ("@" not in text or any(c in text for c in ' <>"')):
        raise ValueError("enter an e-mail address.")
    return text


def _micros(value: Any) -> Any:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1e9:
        return value  # not an amount in dollars: the setting's check raises the error
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
    Field("language", "en", _text(20), _string(20), "Language of the pages, as a language tag."),
    Field("agent", AGENTS[0], _one_of(*AGENTS), _choice(*AGENTS), "Name of the agent."),
    Field(
        "max_iterations",
        500,
        _number(1, 10_000),
        _integer(1, 10_000),
        "Maximum number of steps of the agent in a new conversation.",
    ),
    Field(
        "confirmation_mode",
        False,
        _boolean,
        BOOLEAN,
        "Whether the agent of a new conversation asks the user to confirm actions. It asks before risky actions, "
        "or before every action if there is no security analyzer.",
    ),
    Field(
        "security_analyzer",
        SecurityAnalyzer.LLM.value,
        _one_of(*_analyzers),
        _choice(*_analyzers),
        "The method that rates the risk of actions in new conversations.",
        from_compat=lambda value: value or SecurityAnalyzer.NONE.value,
        to_compat=lambda value: None if value == SecurityAnalyzer.NONE else value,
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
        "Number of events after which the history is summarized.",
    ),
    Field(
        "max_budget_per_task_micros",
        None,
        _number(1, 10**15),
        _integer(1, 10**15),
        "Maximum cost of one conversation in micro-dollars; null for no limit. When the model calls of a conversation "
        "have cost this much, the model gateway refuses further calls with status 402.",
        compat="max_budget_per_task",
        from_compat=_micros,
        to_compat=lambda value: None if value is None else value / MICROS,
    ),
    Field(
        "git_user_name",
        "",
        _text(120),
        _string(120),
        "Author name of the agent's commits; empty for the user's name.",
    ),
    Field(
        "git_user_email",
        "",
        _email,
        _string(254),
        "Author e-mail address of the agent's commits; empty for the user's address.",
    ),
    Field(
        "remote_runtime_resource_factor",
        1,
        _number(1, 8),
        _integer(1, 8),
        "Stored for clients that display it. It has no effect: all sandboxes have the same size.",
    ),
    Field(
        "enable_sound_notifications",
        False,
        _boolean,
        BOOLEAN,
        "Whether clients play sounds. Stored for clients; it has no effect on the server.",
    ),
    Field(
        "enable_proactive_conversation_starters",
        True,
        _boolean,
        BOOLEAN,
        "Stored for clients that display it. It has no effect on the server.",
    ),
    Field(
        "enable_solvability_analysis",
        True,
        _boolean,
        BOOLEAN,
        "Stored for clients that display it. It has no effect on the server.",
    ),
    Field(
        # The default is False and not null: for null, clients open a consent dialog, and this server
        # collects no analytics.
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
        "API key for the agent's web search (Tavily).",
        is_secret=True,
    ),
    Field(
        "mcp_config",
        None,
        mcp_servers.clean,
        mcp_servers.SCHEMA,
        "MCP servers that the agent can use.",
        is_secret=True,
    ),
)
FIELDS: dict[str, Field] = {field.name: field for field in _FIELDS}


def get_field(name: str) -> Field:
    """Return the definition of the setting ``name``. Raise ``UnknownSetting`` if there is no such setting."""
    if name not in FIELDS:
        raise UnknownSetting(f"There is no setting with the name {name[:60]!r}.", field=name[:60])
    return FIELDS[name]

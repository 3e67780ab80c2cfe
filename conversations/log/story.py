"""Events as readable text, for pages without JavaScript, exports and public replays."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import orjson

from conversations.models import Event

TEXT_LENGTH = 100_000
RAW_LENGTH = 20_000
"""The longest text of an entry, and the longest payload that is shown because it is no JSON object, in characters."""


@dataclass(frozen=True, slots=True)
class StoryEntry:
    """An event as readable text, with the name of its author.

    ``tone`` is ``user``, ``agent``, ``action``, ``result``, ``error`` or ``server``. ``risk`` is ``LOW``, ``MEDIUM``,
    ``HIGH`` or empty.
    """

    seq: int
    author: str
    tone: str
    text: str
    at: datetime
    risk: str = ""


def build_entry(event: Event, payload: str | None = None) -> StoryEntry | None:
    """Return an event as readable text, or None if the event contains nothing for a reader.

    ``payload`` replaces the event's own payload, for example with a payload without secrets.
    """
    raw = event.payload if payload is None else payload
    at = event.received_at
    try:
        value = orjson.loads(raw)
    except orjson.JSONDecodeError:  # for example a lone surrogate, which the log stores unchanged
        value = None
    if not isinstance(value, dict):
        return StoryEntry(event.seq, event.kind, "server", raw[:RAW_LENGTH], at)
    read = _READERS.get(event.kind)
    # The engine's own event for a user's message repeats our `UserMessage` event, so skip it (ADR 3).
    if read is None or (event.kind == "MessageEvent" and event.source == Event.Source.USER):
        return None
    author, tone, text = read(value)
    if len(text) > TEXT_LENGTH:
        text = f"{text[:TEXT_LENGTH]}\n[… {len(text) - TEXT_LENGTH:,} more characters]"
    risk = value.get("security_risk")
    if tone != "action" or risk not in ("LOW", "MEDIUM", "HIGH"):
        risk = ""
    return StoryEntry(event.seq, author, tone, text, at, risk) if text else None


def extract_text(content: Any) -> str:
    """Return the texts of all text parts in a message's content, joined by line breaks."""
    parts = content if isinstance(content, list) else []
    return "\n".join(str(part.get("text", "")) for part in parts if isinstance(part, dict))


def _part(payload: dict[str, Any], name: str) -> dict[str, Any]:
    value = payload.get(name)
    return value if isinstance(value, dict) else {}


def _action(payload: dict[str, Any]) -> tuple[str, str, str]:
    action = _part(payload, "action")
    names = ("command", "path", "file_text", "old_str", "new_str", "thought", "message")
    arguments = [action[name] for name in names if isinstance(action.get(name), str)]
    lines = filter(None, [extract_text(payload.get("thought")), *arguments])
    if action.get("kind") == "FinishAction":
        return "Agent", "agent", "\n".join(lines)
    return f"Agent: {payload.get('tool_name') or 'action'}"[:100], "action", "\n".join(lines)


def _confirmation(payload: dict[str, Any]) -> tuple[str, str, str]:
    answer = "Approved" if payload.get("accept") is True else "Rejected"
    return "You", "user", f"{answer}. {payload.get('reason') or ''}".strip()


# By the kind of an event: the function that returns (author, tone, text) from the payload.
_READERS: dict[str, Callable[[dict[str, Any]], tuple[str, str, str]]] = {
    "UserMessage": lambda payload: ("You", "user", str(payload.get("text", ""))),
    "UserConfirmation": _confirmation,
    "MessageEvent": lambda payload: (
        "Agent",
        "agent",
        extract_text(_part(payload, "llm_message").get("content")),
    ),
    "ActionEvent": _action,
    "ObservationEvent": lambda payload: (
        "Result",
        "result",
        extract_text(_part(payload, "observation").get("content")),
    ),
    "UserRejectObservation": lambda payload: (
        "Rejected",
        "error",
        str(payload.get("rejection_reason", "")),
    ),
    "AgentErrorEvent": lambda payload: ("Error", "error", str(payload.get("error", ""))),
    "ConversationErrorEvent": lambda payload: ("Error", "error", str(payload.get("detail", ""))),
    "SandboxNotice": lambda payload: ("Server", "server", str(payload.get("message", ""))),
    "HostRuleChange": lambda payload: ("Server", "server", str(payload.get("message", ""))),
}

STORY_KINDS = tuple(_READERS)
"""The kinds of events that contain text for a reader. All other kinds are internal to the engine."""

"""An event in words: who did what, for pages without scripts, exports and public replays."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import orjson

from conversations.models import Event

TEXT_LENGTH = 100_000
RAW_LENGTH = 20_000


@dataclass(frozen=True, slots=True)
class StoryEntry:
    """An event in words; ``tone`` is user, agent, action, result, error or server."""

    seq: int
    who: str
    tone: str
    text: str
    at: datetime
    risk: str = ""


def entry_of(event: Event, payload: str | None = None) -> StoryEntry | None:
    """Return an event in words, or None for one that says nothing to a reader.

    ``payload`` replaces the event's own, for example after secrets were removed from it.
    """
    raw = event.payload if payload is None else payload
    at = event.received_at
    try:
        value = orjson.loads(raw)
    except orjson.JSONDecodeError:  # a lone surrogate, say, which the log keeps as it came
        value = None
    if not isinstance(value, dict):
        return StoryEntry(event.seq, event.kind, "server", raw[:RAW_LENGTH], at)
    read = _READERS.get(event.kind)
    if read is None or (event.kind == "MessageEvent" and event.source == Event.Source.USER):
        return None
    who, tone, text = read(value)
    if len(text) > TEXT_LENGTH:
        text = f"{text[:TEXT_LENGTH]}\n[… {len(text) - TEXT_LENGTH:,} more characters]"
    risk = value.get("security_risk")
    shown = risk if tone == "action" and risk in ("LOW", "MEDIUM", "HIGH") else ""
    return StoryEntry(event.seq, who, tone, text, at, shown) if text else None


def texts(content: Any) -> str:
    """The texts of an engine's list of contents."""
    parts = content if isinstance(content, list) else []
    return "\n".join(str(part.get("text", "")) for part in parts if isinstance(part, dict))


def _part(payload: dict[str, Any], name: str) -> dict[str, Any]:
    value = payload.get(name)
    return value if isinstance(value, dict) else {}


def _action(payload: dict[str, Any]) -> tuple[str, str, str]:
    action = _part(payload, "action")
    names = ("command", "path", "file_text", "old_str", "new_str", "thought", "message")
    told = [action[name] for name in names if isinstance(action.get(name), str)]
    words = filter(None, [texts(payload.get("thought")), *told])
    if action.get("kind") == "FinishAction":
        return "Agent", "agent", "\n".join(words)
    return f"Agent: {payload.get('tool_name') or 'action'}"[:100], "action", "\n".join(words)


def _confirmation(payload: dict[str, Any]) -> tuple[str, str, str]:
    says = "Approved" if payload.get("accept") is True else "Rejected"
    return "You", "user", f"{says}. {payload.get('reason') or ''}".strip()


_READERS: dict[str, Callable[[dict[str, Any]], tuple[str, str, str]]] = {
    "UserMessage": lambda payload: ("You", "user", str(payload.get("text", ""))),
    "UserConfirmation": _confirmation,
    "MessageEvent": lambda payload: (
        "Agent",
        "agent",
        texts(_part(payload, "llm_message").get("content")),
    ),
    "ActionEvent": _action,
    "ObservationEvent": lambda payload: (
        "Result",
        "result",
        texts(_part(payload, "observation").get("content")),
    ),
    "UserRejectObservation": lambda payload: (
        "Rejected",
        "error",
        str(payload.get("rejection_reason", "")),
    ),
    "AgentErrorEvent": lambda payload: ("Error", "error", str(payload.get("error", ""))),
    "ConversationErrorEvent": lambda payload: ("Error", "error", str(payload.get("detail", ""))),
    "SandboxNotice": lambda payload: ("Server", "server", str(payload.get("message", ""))),
}

STORY_KINDS = tuple(_READERS)
"""The kinds of events that say something to a reader; the others are the engine's housekeeping."""

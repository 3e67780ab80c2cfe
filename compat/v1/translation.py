"""Our log as V1 events: each thing once, and in shapes that do not break the clients that render them."""

import json
from datetime import UTC, datetime
from typing import Any, TypeAlias
from uuid import UUID, uuid4

from django.db.models import Exists, OuterRef, Q, QuerySet

from conversations.models import Event, LoggedEvent, OutgoingMessage

NEVER = ("Unparseable", "Oversize", "Unknown", "UserConfirmation", "SandboxNotice")
NOBODY = (Event.Source.SERVER, Event.Source.UNKNOWN)
OURS = {"UserMessage": "MessageEvent", "SandboxNotice": "ConversationErrorEvent"}
"""Kinds of this server that have a V1 form; the others are not told."""
KINDS_OF = {told: (told, kind) for kind, told in OURS.items()}
SETTLED = ("finished", "error", "stuck", "paused", "waiting_for_confirmation")
"""States in which a run has ended for now. Not ``idle``: the engine passes through it into a run."""
Row: TypeAlias = Event | LoggedEvent
DELTA_FIELDS = {"text": "content", "reasoning": "reasoning_content"}
_SHELLS = ("TerminalObservation", "ExecuteBashObservation")
_WITH_CONTENT = (*_SHELLS, "MCPToolObservation", "BrowserObservation")


def told(events: QuerySet[Event]) -> QuerySet[Event]:
    """Of events, those that V1 clients are told.

    A user's message stands in the log twice, as ours and as the engine's echo of it; ours is told.
    """
    sent = OutgoingMessage.objects.filter(
        conversation_id=OuterRef("conversation_id"), engine_event_id=OuterRef("event_id")
    )
    found = events.exclude(kind__in=NEVER).exclude(source__in=NOBODY)
    found |= events.filter(kind="SandboxNotice", source=Event.Source.SERVER)
    return found.exclude(Q(kind="MessageEvent", source=Event.Source.USER) & Exists(sent))


def is_told(event: Row, conversation_id: UUID) -> bool:
    """Return whether ``told`` keeps an event; one query if it is the engine's copy of a user's message."""
    if event.source in NOBODY:
        return event.kind == "SandboxNotice" and event.source == Event.Source.SERVER
    if event.kind == "MessageEvent" and event.source == Event.Source.USER:
        sent = OutgoingMessage.objects.filter(conversation_id=conversation_id)
        return not sent.filter(engine_event_id=event.event_id).exists()
    return event.kind not in NEVER


def text_of(event: Row) -> str:
    """An event that is told, as the JSON text of its V1 form."""
    try:
        value = json.loads(event.payload)
    except (ValueError, RecursionError):
        value = {}
    if not isinstance(value, dict):
        value = {}
    if event.kind in OURS:
        return _ours(event, value)
    return json.dumps(value) if _mend(event, value) else event.payload


def _ours(event: Row, held: dict[str, Any]) -> str:
    common = {"id": event.event_id, "timestamp": _stamp_of(event)}
    if event.kind == "UserMessage":
        content: list[dict[str, Any]] = [{"type": "text", "text": held.get("text", "")}]
        if images := held.get("images"):
            content.append({"type": "image", "image_urls": images})
        more = {
            "source": "user",
            "llm_message": {"role": "user", "content": content},
            "activated_skills": [],
            "extended_content": [],
        }
    else:
        more = {
            "source": "environment",
            "code": held.get("code", ""),
            "detail": held.get("message", ""),
        }
    return json.dumps(common | more | {"kind": OURS[event.kind]})


def _mend(event: Row, value: dict[str, Any]) -> bool:
    """Give an engine's event what clients cannot do without; whether anything was missing."""
    known = {"id": event.event_id, "kind": event.kind, "source": event.source}
    missing: dict[str, Any] = {
        name: good for name, good in known.items() if value.get(name) != good
    }
    if not (isinstance(value.get("timestamp"), str) and value["timestamp"]):
        missing["timestamp"] = _stamp_of(event)
    if event.kind == "ActionEvent":
        if not isinstance(value.get("thought"), list):
            missing["thought"] = []
        action = value.get("action")
        if isinstance(action, dict) and _kind_of(action) == "FinishAction":
            missing |= (
                {}
                if isinstance(action.get("message"), str)
                else {"action": action | {"message": ""}}
            )
    if event.kind == "ObservationEvent" and (more := _lacks(value.get("observation"))):
        missing["observation"] = value["observation"] | more
    value |= missing
    return bool(missing)


def _lacks(observation: Any) -> dict[str, Any]:
    kind = _kind_of(observation)
    missing: dict[str, Any] = {}
    if kind in _WITH_CONTENT and not isinstance(observation.get("content"), list):
        missing["content"] = []
    if kind in _SHELLS and not isinstance(observation.get("metadata"), dict):
        missing["metadata"] = {"exit_code": _whole(observation.get("exit_code"))}
    return missing


def _whole(value: Any) -> int:
    return value if type(value) is int else -1


def _kind_of(part: Any) -> str:
    return str(part.get("kind")) if isinstance(part, dict) else ""


def _stamp_of(event: Row) -> str:
    """The engine's time of an event, or when it arrived."""
    return stamp(event.engine_time or event.received_at)


def stamp(moment: datetime) -> str:
    """A time as the engine writes it: naive, UTC, always with microseconds, so that text sorts as time."""
    return moment.astimezone(UTC).replace(tzinfo=None).isoformat(timespec="microseconds")


def state_text(key: str, value: Any) -> str:
    """A state update that is not in the log."""
    return transient("ConversationStateUpdateEvent", source="environment", key=key, value=value)


def error_text(code: str, detail: str) -> str:
    """A fault of the socket itself."""
    return transient("ServerErrorEvent", source="environment", code=code, detail=detail)


def delta_text(delta: dict[str, Any]) -> str | None:
    """A piece of what the agent is saying, or None for what V1 has no form of."""
    field = DELTA_FIELDS.get(str(delta.get("kind")))
    if field is None or not delta.get("content"):
        return None
    return transient("StreamingDeltaEvent", source="agent", **{field: delta["content"]})


def transient(kind: str, **fields: Any) -> str:
    """An event outside the log, with an id of its own."""
    now = stamp(datetime.now(UTC))
    body = {"id": str(uuid4()), "timestamp": now} | fields | {"kind": kind}
    return json.dumps(body, default=_plain)


def status_in(event: Row) -> str:
    """The agent's new state, where the event tells one."""
    if event.kind != "ConversationStateUpdateEvent" or '"execution_status"' not in event.payload:
        return ""
    try:
        value = json.loads(event.payload)
    except (ValueError, RecursionError):
        return ""
    is_status = isinstance(value, dict) and value.get("key") == "execution_status"
    found = value.get("value") if is_status else None
    return found if isinstance(found, str) else ""


def _plain(value: Any) -> Any:
    if isinstance(value, datetime):
        return stamp(value)
    if isinstance(value, UUID):
        return str(value)
    raise TypeError(type(value).__name__)

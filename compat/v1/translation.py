"""Translation of our log to V1 events.

The engine's events already have the form of V1. They are sent unchanged but for their time, which gets an offset, and
for fields without which existing clients fail. The log contains a user's message twice (ADR 3): as ``UserMessage`` from
this server, and as the copy that the engine reports. Clients receive it once.
"""

import json
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any, TypeAlias
from uuid import UUID, uuid4

import msgspec
from django.db.models import Exists, OuterRef, Q, QuerySet

from conversations.models import Event, LoggedEvent, OutgoingMessage

HIDDEN_KINDS = ("Unparseable", "Oversize", "Unknown", "UserConfirmation", "SandboxNotice")
HIDDEN_SOURCES = (Event.Source.SERVER, Event.Source.UNKNOWN)
SERVER_KINDS = {"UserMessage": "MessageEvent", "SandboxNotice": "ConversationErrorEvent"}
"""The V1 kinds of events that this server appends itself."""
STORED_KINDS = {v1_kind: (v1_kind, kind) for kind, v1_kind in SERVER_KINDS.items()}
"""By V1 kind: the kinds in the log that are sent as this V1 kind, from the engine and from this server."""
ENDED_STATES = ("finished", "error", "stuck", "paused", "waiting_for_confirmation")
"""States in which a run has ended. ``idle`` is missing, because the engine passes through it when a run starts."""
Row: TypeAlias = Event | LoggedEvent
DELTA_FIELDS = {"text": "content", "reasoning": "reasoning_content"}
_SHELLS = ("TerminalObservation", "ExecuteBashObservation")
_WITH_CONTENT = (*_SHELLS, "MCPToolObservation", "BrowserObservation")


def filter_for_v1(events: QuerySet[Event]) -> QuerySet[Event]:
    """Return the events that V1 clients receive.

    Keep the ``UserMessage`` of a user's message and drop the engine's copy (ADR 3).
    """
    sent = OutgoingMessage.objects.filter(
        conversation_id=OuterRef("conversation_id"), engine_event_id=OuterRef("event_id")
    )
    rows = events.exclude(kind__in=HIDDEN_KINDS).exclude(source__in=HIDDEN_SOURCES)
    # A sandbox could report this kind too, so send only the events that this server wrote.
    rows |= events.filter(kind="SandboxNotice", source=Event.Source.SERVER)
    return rows.exclude(Q(kind="MessageEvent", source=Event.Source.USER) & Exists(sent))


def is_kind_sent_to_v1(event: Row) -> bool:
    """Return whether ``filter_for_v1`` keeps an event, unless the event is one of those that ``find_copies`` finds."""
    if event.source in HIDDEN_SOURCES:
        return event.kind == "SandboxNotice" and event.source == Event.Source.SERVER
    return event.kind not in HIDDEN_KINDS


def is_message_copy(event: Row) -> bool:
    """Return whether an event is a user's message that the engine reports. ``find_copies`` knows if it is a copy."""
    return event.kind == "MessageEvent" and event.source == Event.Source.USER


def find_copies(events: Iterable[Row], conversation_id: UUID) -> set[str]:
    """Return the ids of the events that are the engine's copies of messages that the log also holds (ADR 3).

    Runs one database query if there is a user's message from the engine.
    """
    ids = [event.event_id for event in events if is_message_copy(event)]
    if not ids:
        return set()
    sent = OutgoingMessage.objects.filter(conversation_id=conversation_id, engine_event_id__in=ids)
    return set(sent.values_list("engine_event_id", flat=True))


def encode_event(event: Row) -> str:
    """Return an event of the log as the JSON text that V1 clients receive. Its time has an offset.

    The engine writes times without an offset, which browsers take for local time.
    """
    value = _load(event.payload)
    if event.kind in SERVER_KINDS:
        return _encode_server_event(event, value)
    is_repaired = _repair(event, value)
    was, now = value["timestamp"], _timestamp_of(event)
    # Usually only the time changes. Encoding the whole event again is slow, and changes numbers beyond a float's range.
    if not is_repaired:
        is_plain = was.isascii() and was.isprintable() and '"' not in was and "\\" not in was
        parts = event.payload.split(f'"{was}"' if is_plain else json.dumps(was), 2)
        if len(parts) == 2:
            return f'{parts[0]}"{now}"{parts[1]}'
    return json.dumps(value | {"timestamp": now})


def _load(payload: str) -> dict[str, Any]:
    """Parse a JSON object; return ``{}`` for anything else."""
    try:
        # msgspec takes a third of the time, and fails for what needs another parser, such as lone surrogates and NaN.
        value = _DECODER.decode(payload)
    except (ValueError, RecursionError):
        try:
            value = json.loads(payload)
        except (ValueError, RecursionError):
            return {}
    return value if isinstance(value, dict) else {}


_DECODER = msgspec.json.Decoder()


def _encode_server_event(event: Row, payload: dict[str, Any]) -> str:
    common = {"id": event.event_id, "timestamp": _timestamp_of(event)}
    if event.kind == "UserMessage":
        content: list[dict[str, Any]] = [{"type": "text", "text": payload.get("text", "")}]
        if images := payload.get("images"):
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
            "code": payload.get("code", ""),
            "detail": payload.get("message", ""),
        }
    return json.dumps(common | more | {"kind": SERVER_KINDS[event.kind]})


def _repair(event: Row, value: dict[str, Any]) -> bool:
    """Add or replace fields of an engine's event, in place, so that clients can read it. Return whether it changed."""
    # Clients drop events without these fields. The columns of our log replace values in the payload that differ.
    missing: dict[str, Any] = {}
    if value.get("id") != event.event_id:
        missing["id"] = event.event_id
    if value.get("kind") != event.kind:
        missing["kind"] = event.kind
    if value.get("source") != event.source:
        missing["source"] = event.source
    if not isinstance(value.get("timestamp"), str):
        missing["timestamp"] = _timestamp_of(event)
    if event.kind == "ActionEvent":
        # The web client fails to render an action without ``thought``; an empty list is enough.
        if not isinstance(value.get("thought"), list):
            missing["thought"] = []
        # The web client shows the message of this action as the agent's last message.
        action = value.get("action")
        if isinstance(action, dict) and _kind_of(action) == "FinishAction":
            missing |= (
                {}
                if isinstance(action.get("message"), str)
                else {"action": action | {"message": ""}}
            )
    if event.kind == "ObservationEvent" and (more := _missing_fields(value.get("observation"))):
        missing["observation"] = value["observation"] | more
    if not missing:
        return False
    value |= missing
    return True


def _missing_fields(observation: Any) -> dict[str, Any]:
    kind = _kind_of(observation)
    missing: dict[str, Any] = {}
    if kind in _WITH_CONTENT and not isinstance(observation.get("content"), list):
        missing["content"] = []
    if kind in _SHELLS and not isinstance(observation.get("metadata"), dict):
        missing["metadata"] = {"exit_code": _exit_code(observation.get("exit_code"))}
    return missing


def _exit_code(value: Any) -> int:
    return value if type(value) is int else -1


def _kind_of(part: Any) -> str:
    return str(part.get("kind")) if isinstance(part, dict) else ""


def _timestamp_of(event: Row) -> str:
    """Return the engine's time of an event, or the time when we stored it if the engine sent none."""
    return format_timestamp(event.engine_time or event.received_at)


def format_timestamp(moment: datetime) -> str:
    """Return a time in UTC with the offset ``Z``, always with microseconds.

    Because the number of digits is fixed, sorting the texts also sorts the times. Clients send them back in URLs, where
    ``Z`` needs no encoding.
    """
    text = moment.isoformat(timespec="microseconds")
    if not text.endswith("+00:00"):
        text = moment.astimezone(UTC).isoformat(timespec="microseconds")
    return f"{text[:-6]}Z"


def encode_state(key: str, value: Any) -> str:
    """Return the JSON text of a state update that is not in the log."""
    return encode_transient(
        "ConversationStateUpdateEvent", source="environment", key=key, value=value
    )


def encode_error(code: str, detail: str) -> str:
    """Return the JSON text of an error on the socket, such as a malformed frame."""
    return encode_transient("ServerErrorEvent", source="environment", code=code, detail=detail)


def encode_delta(delta: dict[str, Any]) -> str | None:
    """Return a piece of the agent's output as JSON text, or None if V1 has no event for this kind of output."""
    field = DELTA_FIELDS.get(str(delta.get("kind")))
    if field is None or not delta.get("content"):
        return None
    return encode_transient("StreamingDeltaEvent", source="agent", **{field: delta["content"]})


def encode_transient(kind: str, **fields: Any) -> str:
    """Return the JSON text of an event that is not in the log, with a new id and the current time."""
    now = format_timestamp(datetime.now(UTC))
    body = {"id": str(uuid4()), "timestamp": now} | fields | {"kind": kind}
    return json.dumps(body, default=_encode_value)


def read_status(event: Row) -> str:
    """Return the agent's new state if the event reports one, else ``""``."""
    # A search in the text avoids parsing most payloads.
    if event.kind != "ConversationStateUpdateEvent" or '"execution_status"' not in event.payload:
        return ""
    try:
        value = json.loads(event.payload)
    except (ValueError, RecursionError):
        return ""
    is_status = isinstance(value, dict) and value.get("key") == "execution_status"
    status = value.get("value") if is_status else None
    return status if isinstance(status, str) else ""


def _encode_value(value: Any) -> Any:
    if isinstance(value, datetime):
        return format_timestamp(value)
    if isinstance(value, UUID):
        return str(value)
    raise TypeError(type(value).__name__)

"""What the engine says, as typed values: frames of its session socket, events, and readers of events.

A sandbox belongs to the people and the agent that use it, so everything here is hostile input. Parsing never
raises and never loses a byte: the payload of an event is the exact JSON text that came over the wire, and what
is not strict JSON is kept as base64.
"""

import base64
import hashlib
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, NoReturn, TypeAlias, TypeVar

import msgspec
import orjson
from django.conf import settings

from accounts.settings.choices import ConfirmationPolicy, SecurityAnalyzer

MAX_DEPTH = 500
"""Nesting beyond this is kept as base64: common JSON readers give up at about 1,000."""
MAX_SEQ = 2**63 - 1
SOURCES = frozenset({"user", "agent", "environment", "hook"})
T = TypeVar("T")
_ID = re.compile(r"[\x21-\x7e]{1,80}")
_KIND = re.compile(r"[A-Za-z][A-Za-z0-9_.:-]{0,79}")
_TOKENS = re.compile(r'"(?:[^"\\]|\\.)*"|[\[\]{}]', re.DOTALL)
# The engine writes the envelope's fields in this order. Used where msgspec refuses a frame because of its event.
_ENVELOPE = re.compile(
    rb'\A\s*\{"type":"(?:(durable)","seq":(0|[1-9][0-9]{0,18})|(transient)"),"event":(.*)\}\s*\Z',
    re.DOTALL,
)


class EngineEvent(msgspec.Struct, frozen=True):
    """One event of the engine.

    ``payload`` is the JSON text as it came. Special kinds: ``Unparseable`` (payload ``{"raw_base64", "reason"}``),
    ``Oversize`` (payload ``{"size", "sha256", "limit", "kind"}``: the bytes are not kept), ``Unknown`` (no usable
    kind). ``time`` is the engine's clock in UTC, never an order. An event without a usable id gets one made from
    its place and text, beginning with ``x-``.
    """

    event_id: str
    kind: str
    source: str
    payload: str
    time: datetime | None = None


class Durable(msgspec.Struct, frozen=True):
    """An event at its index in the engine's log, from 0."""

    seq: int
    event: EngineEvent


@dataclass(frozen=True, slots=True)
class Transient:
    """An event that the engine never stores (``full_state``); it has no place in a log."""

    event: EngineEvent


class Sync(msgspec.Struct, frozen=True, tag="sync"):
    """Sent once at the start: the range that is about to be replayed; ``None`` where there is nothing."""

    from_seq: int | None = None
    through_seq: int | None = None


class ItemStarted(msgspec.Struct, frozen=True, tag="item_started"):
    """The model begins to stream; ``item_id`` is the id of the event to come."""

    item_id: str
    attempt: int = 1
    anchor_seq: int | None = None


class Delta(msgspec.Struct, frozen=True, tag="delta"):
    """A piece of streamed text; ``kind`` is ``text`` or ``reasoning``."""

    item_id: str
    order: int
    content: str
    attempt: int = 1
    kind: str = "text"


class ItemAborted(msgspec.Struct, frozen=True, tag="item_aborted"):
    """The stream ended without an event."""

    item_id: str
    reason: str
    attempt: int = 1


class EngineError(msgspec.Struct, frozen=True, tag="error"):
    """Something is wrong with the socket, not with the conversation."""

    code: str
    detail: str


@dataclass(frozen=True, slots=True)
class Unknown:
    """A frame that is none of the others, as it came."""

    raw: bytes


Frame: TypeAlias = (
    Durable | Transient | Sync | ItemStarted | Delta | ItemAborted | EngineError | Unknown
)


class _Durable(msgspec.Struct, tag="durable"):
    seq: int
    event: msgspec.Raw


class _Transient(msgspec.Struct, tag="transient"):
    event: msgspec.Raw


class _Page(msgspec.Struct):
    items: list[msgspec.Raw]
    next_page_id: str | None = None


_WireFrame: TypeAlias = (
    _Durable | _Transient | Sync | ItemStarted | Delta | ItemAborted | EngineError
)
_frames: msgspec.json.Decoder[_WireFrame] = msgspec.json.Decoder(_WireFrame)
_pages = msgspec.json.Decoder(_Page)


def parse_frame(data: bytes | str) -> Frame:
    """One frame of the session socket. Never raises."""
    raw = data.encode("utf-8", "surrogatepass") if isinstance(data, str) else data
    try:
        frame = _frames.decode(raw)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError):
        return _parse_envelope(raw)
    if isinstance(frame, _Durable):
        if not 0 <= frame.seq <= MAX_SEQ:
            return Unknown(raw)
        return Durable(frame.seq, parse_event(bytes(frame.event), seq=frame.seq))
    if isinstance(frame, _Transient):
        return Transient(parse_event(bytes(frame.event), seq=None))
    return frame


def _parse_envelope(raw: bytes) -> Frame:
    if not (match := _ENVELOPE.match(raw)):
        return Unknown(raw)
    if match[3]:
        return Transient(parse_event(match[4], seq=None))
    if (seq := int(match[2])) > MAX_SEQ:
        return Unknown(raw)
    return Durable(seq, parse_event(match[4], seq=seq))


def parse_page(body: bytes) -> tuple[list[bytes], str | None]:
    """The texts of a page of events and the id that the next page begins with. Raises ``ValueError``."""
    try:
        page = _pages.decode(body)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
        return _parse_page_slowly(body, error)
    return [bytes(item) for item in page.items], page.next_page_id


_skip = json.JSONDecoder(parse_int=len, parse_float=len).raw_decode
_PAGE_START = re.compile(r'\s*\{\s*"items"\s*:\s*\[\s*')
_BETWEEN = re.compile(r"\s*(,\s*|(?=\]))")
_PAGE_END = re.compile(r'\s*\]\s*,\s*"next_page_id"\s*:\s*(?:null|"([^"\\]*)")\s*\}\s*\Z')


def _parse_page_slowly(body: bytes, cause: BaseException) -> tuple[list[bytes], str | None]:
    """For what msgspec refuses and one event may hold all the same: lone surrogates, NaN, broken UTF-8.

    Cuts the page at its commas; each event is judged by itself later.
    """
    text = body.decode("utf-8", "surrogateescape")
    items: list[bytes] = []
    try:
        place = _PAGE_START.match(text)
        while place:
            if end := _PAGE_END.match(text, place.end()):
                return items, end[1]
            _, stop = _skip(text, place.end())
            items.append(text[place.end() : stop].encode("utf-8", "surrogateescape"))
            place = _BETWEEN.match(text, stop)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"not a page of events: {error}") from cause
    raise ValueError(f"not a page of events: {cause}") from cause


def parse_event(raw: bytes, *, seq: int | None) -> EngineEvent:
    """One event from its JSON text. Never raises; ``seq`` is its index in the engine's log, if it has one."""
    try:
        text = raw.decode("utf-8")
        value = _strict(text)
    except ValueError as error:  # UnicodeDecodeError and JSONDecodeError are
        return _unparseable(raw, seq=seq, reason=str(error))
    except RecursionError:
        return _unparseable(raw, seq=seq, reason=f"nested deeper than {MAX_DEPTH}")
    fields = value if isinstance(value, dict) else {}
    kind, event_id = fields.get("kind"), fields.get("id")
    source = fields.get("source")
    if not (isinstance(kind, str) and _KIND.fullmatch(kind)):
        kind = "Unknown"
    if not (isinstance(event_id, str) and _ID.fullmatch(event_id)):
        event_id = _made_id(raw, seq)
    if len(raw) > settings.EVENT_MAX_BYTES:
        kind, text = "Oversize", _oversize(raw, kind)
    return EngineEvent(
        event_id=event_id,
        kind=kind,
        source=source if isinstance(source, str) and source in SOURCES else "unknown",
        payload=text,
        time=_time(fields.get("timestamp")),
    )


def _unparseable(raw: bytes, *, seq: int | None, reason: str) -> EngineEvent:
    if len(raw) > settings.EVENT_MAX_BYTES:
        kind, payload = "Oversize", _oversize(raw, "Unparseable")
    else:
        kind = "Unparseable"
        payload = json.dumps({"raw_base64": base64.b64encode(raw).decode(), "reason": reason[:300]})
    return EngineEvent(_made_id(raw, seq), kind, "unknown", payload)


def _oversize(raw: bytes, kind: str) -> str:
    return json.dumps(
        {
            "size": len(raw),
            "sha256": hashlib.sha256(raw).hexdigest(),
            "limit": settings.EVENT_MAX_BYTES,
            "kind": kind,
        }
    )


def _made_id(raw: bytes, seq: int | None) -> str:
    place = b"" if seq is None else str(seq).encode()
    return "x-" + hashlib.sha256(place + b"\0" + raw).hexdigest()


def _refuse(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _number(text: str) -> int | float:
    """Python refuses to make an int of more than 4,300 digits; such a number is read as a float."""
    return int(text) if len(text) <= 40 else float(text)


def _strict(text: str) -> Any:
    """Read JSON as RFC 8259 has it: no NaN, bounded depth. Numbers are read as far as floats go."""
    if len(text) > 2 * MAX_DEPTH and _is_deep(text):
        raise RecursionError
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        # Stricter than the RFC: it also refuses lone surrogates and numbers beyond a float.
        return json.loads(text, parse_constant=_refuse, parse_int=_number)


def _is_deep(text: str) -> bool:
    if text.count("[") + text.count("{") <= MAX_DEPTH:
        return False
    depth = 0
    for token in _TOKENS.finditer(text):
        character = text[token.start()]
        if character in "[{":
            depth += 1
            if depth > MAX_DEPTH:
                return True
        elif character in "]}":
            depth -= 1
    return False


def _time(value: Any) -> datetime | None:
    if not isinstance(value, str) or len(value) > 40:
        return None
    try:
        time = datetime.fromisoformat(value)
        return time.replace(tzinfo=UTC) if time.tzinfo is None else time.astimezone(UTC)
    except (ValueError, OverflowError):
        return None


# --- Readers: what our projections need to know of an event ----------------------


def value_of(event: EngineEvent) -> dict[str, Any]:
    """The event as a dictionary; empty where it is not an object. Never raises."""
    try:
        value = _strict(event.payload)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def tells_state(event: EngineEvent) -> bool:
    """Whether the event may tell a state of the agent, to be read by ``state_update``."""
    return event.kind == "ConversationStateUpdateEvent"


def state_update(event: EngineEvent) -> tuple[str, Any] | None:
    """Key and value of a ``ConversationStateUpdateEvent``; the value is None where the wire dropped it."""
    if not tells_state(event):
        return None
    fields = value_of(event)
    key = fields.get("key")
    return (key, fields.get("value")) if isinstance(key, str) else None


_STATUSES = frozenset(
    {"idle", "running", "paused", "waiting_for_confirmation", "finished", "error", "stuck"}
)


def execution_status(event: EngineEvent) -> str | None:
    """What the agent does from this event on, where it says so (also a transient ``full_state``)."""
    return _from_state(event, "execution_status", lambda v: v if _is_status(v) else None)


def _is_status(value: Any) -> bool:
    return isinstance(value, str) and value in _STATUSES


def _from_state(event: EngineEvent, name: str, read: Callable[[Any], T | None]) -> T | None:
    update = state_update(event)
    if update is None:
        return None
    key, value = update
    if key == "full_state" and isinstance(value, dict):
        value = value.get(name)
    elif key != name:
        return None
    return read(value)


@dataclass(frozen=True, slots=True)
class TokenUsage:
    """Tokens of one conversation so far, in all its uses of models, as the engine counts them."""

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int


def usage(event: EngineEvent) -> TokenUsage | None:
    """The running totals that a ``stats`` update (or ``full_state``) tells."""
    return _from_state(event, "stats", _usage)


def _usage(stats: Any) -> TokenUsage | None:
    metrics = stats.get("usage_to_metrics") if isinstance(stats, dict) else None
    if not isinstance(metrics, dict):
        return None
    totals = [0, 0, 0]
    for one in metrics.values():
        tokens = one.get("accumulated_token_usage") if isinstance(one, dict) else None
        if not isinstance(tokens, dict):
            continue
        for place, name in enumerate(("prompt_tokens", "completion_tokens", "cache_read_tokens")):
            count = tokens.get(name)
            if type(count) is int and 0 <= count < 2**53:
                totals[place] += count
    return TokenUsage(*totals)


def message_text(event: EngineEvent) -> str | None:
    """The text of a ``MessageEvent``, its parts joined as they are; None for other kinds."""
    if event.kind != "MessageEvent":
        return None
    message = value_of(event).get("llm_message")
    parts = message.get("content") if isinstance(message, dict) else None
    texts = [p.get("text") for p in parts if isinstance(p, dict)] if isinstance(parts, list) else []
    return "".join(text for text in texts if isinstance(text, str))


@dataclass(frozen=True, slots=True)
class RunFailure:
    """Why a run stopped. ``user_action`` is what helps: ``settings``, ``retry`` or ``none``."""

    code: str
    detail: str
    retryable: bool
    user_action: str


def failure(event: EngineEvent) -> RunFailure | None:
    """What a ``ConversationErrorEvent`` says; None for other kinds."""
    if event.kind != "ConversationErrorEvent":
        return None
    fields = value_of(event)
    how = fields.get("classification")
    how = how if isinstance(how, dict) else {}
    action = how.get("user_action")
    return RunFailure(
        code=str(fields.get("code") or "")[:100],
        detail=str(fields.get("detail") or "")[:2000],
        retryable=how.get("retryable") is True,
        user_action=action if action in ("settings", "retry") else "none",
    )


# --- What we say to the engine ---------------------------------------------------

_POLICIES: dict[str, dict[str, Any]] = {
    ConfirmationPolicy.NEVER: {"kind": "NeverConfirm"},
    ConfirmationPolicy.ALWAYS: {"kind": "AlwaysConfirm"},
    ConfirmationPolicy.RISKY: {
        "kind": "ConfirmRisky",
        "threshold": "HIGH",
        "confirm_unknown": True,
    },
}
_ANALYZERS: dict[str, dict[str, Any] | None] = {
    SecurityAnalyzer.LLM: {"kind": "LLMSecurityAnalyzer"},
    SecurityAnalyzer.PATTERN: {"kind": "PatternSecurityAnalyzer"},
    SecurityAnalyzer.NONE: None,
}


def policy_body(name: str) -> dict[str, Any]:
    """Return the engine's form of a ``ConfirmationPolicy``."""
    return _POLICIES[name]


def analyzer_body(name: str) -> dict[str, Any] | None:
    """Return the engine's form of a ``SecurityAnalyzer``; an empty name is the default, the model itself."""
    return _ANALYZERS[name or SecurityAnalyzer.LLM]


def start_body(
    *,
    conversation_id: Any,
    model: str,
    gateway_url: str,
    token: str,
    workspace: str,
    confirmation_policy: str = ConfirmationPolicy.NEVER,
    security_analyzer: str = "",
    prompt_price: float | None = None,
    completion_price: float | None = None,
    system_suffix: str = "",
    max_iterations: int = 500,
    condenser_max_size: int | None = 80,
    mcp_servers: dict[str, Any] | None = None,
    secrets: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """The engine's ``StartConversationRequest``, without a first message: our delivery job sends that.

    ``gateway_url`` is the OpenAI-compatible base that ends in ``/v1`` and ``token`` its key. Prices are in
    dollars per token and only for the figure that the engine itself shows; we bill at the gateway.
    """
    llm: dict[str, Any] = {
        "model": f"openai/{model}",
        "base_url": gateway_url,
        "api_key": token,
        "usage_id": "agent",
        "stream": True,
        # The engine's own waits are 8 to 64 s; the gateway retries upstream by itself.
        "num_retries": 3,
        "retry_min_wait": 1,
        "retry_max_wait": 4,
    }
    if prompt_price is not None:
        llm["input_cost_per_token"] = prompt_price
    if completion_price is not None:
        llm["output_cost_per_token"] = completion_price
    context: dict[str, Any] = {
        "skills": [],
        "load_public_skills": False,  # they would be cloned from the internet
        "load_user_skills": False,
    }
    condenser = {
        "kind": "LLMSummarizingCondenser",
        "max_size": condenser_max_size,
        "keep_first": 4,
        "llm": llm | {"usage_id": "condenser", "stream": False},
    }
    if system_suffix:
        context["system_message_suffix"] = system_suffix
    return {
        "conversation_id": str(conversation_id),
        "agent": {
            "kind": "Agent",
            "llm": llm,
            "tools": [{"name": "terminal"}, {"name": "file_editor"}, {"name": "task_tracker"}],
            "condenser": condenser if condenser_max_size else None,
            "agent_context": context,
            "mcp_config": mcp_servers or {},
        },
        "workspace": {"kind": "LocalWorkspace", "working_dir": workspace},
        "confirmation_policy": policy_body(confirmation_policy),
        "security_analyzer": analyzer_body(security_analyzer),
        "secrets": secrets or {},
        "max_iterations": max_iterations,
        "stuck_detection": True,
        "autotitle": False,  # a model call whose result no event reports
        "tags": {},
    }

"""Typed payloads of the engine: frames of its session socket, events, parsers of events, and request bodies.

Users and the agent control the sandbox, so all input from the engine may be hostile. Parsing a frame or an event never
raises an exception and never loses a byte: an event's payload is the exact JSON text that was received, and a text
that is not strict JSON is stored as base64.
"""

import base64
import hashlib
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, NoReturn, TypeAlias, TypeVar

import msgspec
import orjson
from django.conf import settings

from accounts.settings.choices import ConfirmationPolicy, SecurityAnalyzer

MAX_DEPTH = 500
"""The deepest nesting that is stored as JSON. Common parsers fail at about 1,000 levels. Deeper texts become base64."""
MAX_SEQ = 2**63 - 1  # the largest bigint of PostgreSQL
SOURCES = frozenset({"user", "agent", "environment", "hook"})
T = TypeVar("T")
_ID = re.compile(r"[\x21-\x7e]{1,80}")
_KIND = re.compile(r"[A-Za-z][A-Za-z0-9_.:-]{0,79}")
_TOKENS = re.compile(r'"(?:[^"\\]|\\.)*"|[\[\]{}]', re.DOTALL)
# Matches the envelope of a frame whose event msgspec rejects. The engine always writes the fields in this order.
_ENVELOPE = re.compile(
    rb'\A\s*\{"type":"(?:(durable)","seq":(0|[1-9][0-9]{0,18})|(transient)"),"event":(.*)\}\s*\Z',
    re.DOTALL,
)


class EngineEvent(msgspec.Struct, frozen=True):
    """One event of the engine.

    ``payload`` is the JSON text as received. There are three special kinds: ``Unparseable`` (the payload is
    ``{"raw_base64", "reason"}``), ``Oversize`` (the payload is ``{"size", "sha256", "limit", "kind"}``, and the text is
    dropped), and ``Unknown`` for an event without a usable kind. ``time`` is the time of the engine's clock in UTC, and
    must not be used for ordering. If an event has no usable id, ``event_id`` is derived from its index and text, with
    the prefix ``x-``.
    """

    event_id: str
    kind: str
    source: str
    payload: str
    time: datetime | None = None


class Durable(msgspec.Struct, frozen=True):
    """An event with its index in the engine's log, counted from 0."""

    seq: int
    event: EngineEvent


@dataclass(frozen=True, slots=True)
class Transient:
    """An event that the engine does not store (``full_state``), so it has no index."""

    event: EngineEvent


class Sync(msgspec.Struct, frozen=True, tag="sync"):
    """The first frame of a socket: the range of indices that the engine will replay, or None if it replays nothing."""

    from_seq: int | None = None
    through_seq: int | None = None


class ItemStarted(msgspec.Struct, frozen=True, tag="item_started"):
    """The model starts to stream an item. ``item_id`` is the id that the event will have."""

    item_id: str
    attempt: int = 1
    anchor_seq: int | None = None


class Delta(msgspec.Struct, frozen=True, tag="delta"):
    """A piece of streamed text. ``kind`` is ``text`` or ``reasoning``."""

    item_id: str
    order: int
    content: str
    attempt: int = 1
    kind: str = "text"


class ItemAborted(msgspec.Struct, frozen=True, tag="item_aborted"):
    """A streamed item was aborted, so no event with the id ``item_id`` will follow."""

    item_id: str
    reason: str
    attempt: int = 1


class EngineError(msgspec.Struct, frozen=True, tag="error"):
    """An error of the session socket, not of the conversation."""

    code: str
    detail: str


@dataclass(frozen=True, slots=True)
class Unknown:
    """A frame of an unknown type, as received."""

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
    """Return a parsed frame of the session socket. Raise no exception: an unreadable frame becomes ``Unknown``."""
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
    """Return the JSON texts of a page of events, and the id at which the next page starts.

    Raise ``ValueError`` if the body is not a page of events.
    """
    try:
        page = _pages.decode(body)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
        return _parse_page_slowly(body, error)
    return [bytes(item) for item in page.items], page.next_page_id


# Finds the end of a JSON value. Numbers are only measured, because `int` would reject very long numbers.
_skip = json.JSONDecoder(parse_int=len, parse_float=len).raw_decode
_PAGE_START = re.compile(r'\s*\{\s*"items"\s*:\s*\[\s*')
_BETWEEN = re.compile(r"\s*(,\s*|(?=\]))")
_PAGE_END = re.compile(r'\s*\]\s*,\s*"next_page_id"\s*:\s*(?:null|"([^"\\]*)")\s*\}\s*\Z')


def _parse_page_slowly(body: bytes, cause: BaseException) -> tuple[list[bytes], str | None]:
    """Parse a page that msgspec rejects because an event contains lone surrogates, NaN or broken UTF-8.

    Only cut the page into the texts of its events. Each event is parsed individually later.
    """
    text = body.decode("utf-8", "surrogateescape")
    items: list[bytes] = []
    try:
        match = _PAGE_START.match(text)
        while match:
            if end := _PAGE_END.match(text, match.end()):
                return items, end[1]
            _, stop = _skip(text, match.end())
            items.append(text[match.end() : stop].encode("utf-8", "surrogateescape"))
            match = _BETWEEN.match(text, stop)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"not a page of events: {error}") from cause
    raise ValueError(f"not a page of events: {cause}") from cause


def parse_event(raw: bytes, *, seq: int | None) -> EngineEvent:
    """Return the event that a JSON text contains. Never raise. ``seq`` is its index in the engine's log, if known."""
    try:
        text = raw.decode("utf-8")
        value = _parse_strictly(text)
    except ValueError as error:  # the base class of UnicodeDecodeError and JSONDecodeError
        return _unparseable(raw, seq=seq, reason=str(error))
    except RecursionError:
        return _unparseable(raw, seq=seq, reason=f"nested deeper than {MAX_DEPTH}")
    fields = value if isinstance(value, dict) else {}
    kind, event_id = fields.get("kind"), fields.get("id")
    source = fields.get("source")
    if not (isinstance(kind, str) and _KIND.fullmatch(kind)):
        kind = "Unknown"
    if not (isinstance(event_id, str) and _ID.fullmatch(event_id)):
        event_id = _derive_id(raw, seq)
    if len(raw) > settings.EVENT_MAX_BYTES:
        kind, text = "Oversize", _describe_oversize(raw, kind)
    return EngineEvent(
        event_id=event_id,
        kind=kind,
        source=source if isinstance(source, str) and source in SOURCES else "unknown",
        payload=text,
        time=_parse_time(fields.get("timestamp")),
    )


def _unparseable(raw: bytes, *, seq: int | None, reason: str) -> EngineEvent:
    if len(raw) > settings.EVENT_MAX_BYTES:
        kind, payload = "Oversize", _describe_oversize(raw, "Unparseable")
    else:
        kind = "Unparseable"
        payload = json.dumps({"raw_base64": base64.b64encode(raw).decode(), "reason": reason[:300]})
    return EngineEvent(_derive_id(raw, seq), kind, "unknown", payload)


def _describe_oversize(raw: bytes, kind: str) -> str:
    return json.dumps(
        {
            "size": len(raw),
            "sha256": hashlib.sha256(raw).hexdigest(),
            "limit": settings.EVENT_MAX_BYTES,
            "kind": kind,
        }
    )


def _derive_id(raw: bytes, seq: int | None) -> str:
    index = b"" if seq is None else str(seq).encode()
    return "x-" + hashlib.sha256(index + b"\0" + raw).hexdigest()


def _reject_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _parse_int(text: str) -> int | float:
    """Parse an integer. More than 40 digits become a float, because Python rejects more than 4,300 digits."""
    return int(text) if len(text) <= 40 else float(text)


def _parse_strictly(text: str) -> Any:
    """Parse JSON as defined by RFC 8259: no NaN, and nesting up to ``MAX_DEPTH``. Numbers may lose precision."""
    # A text that is too short for so many pairs of brackets cannot be nested too deeply.
    if len(text) > 2 * MAX_DEPTH and _is_deep(text):
        raise RecursionError
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        # orjson is stricter: it also rejects lone surrogates and numbers beyond a float.
        return json.loads(text, parse_constant=_reject_constant, parse_int=_parse_int)


def _is_deep(text: str) -> bool:
    # A cheap check first: most texts have fewer brackets than the limit.
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


def _parse_time(value: Any) -> datetime | None:
    if not isinstance(value, str) or len(value) > 40:
        return None
    try:
        time = datetime.fromisoformat(value)
        return time.replace(tzinfo=UTC) if time.tzinfo is None else time.astimezone(UTC)
    except (ValueError, OverflowError):
        return None


# --- Parsers of events ------------------------------------------------------------


def parse_payload(event: EngineEvent) -> dict[str, Any]:
    """Return the event's payload as a dictionary, which is empty if the payload is not a JSON object."""
    try:
        value = _parse_strictly(event.payload)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def is_state_update(event: EngineEvent) -> bool:
    """Return whether the event may report a state of the agent. ``parse_state_update`` returns that state."""
    return event.kind == "ConversationStateUpdateEvent"


def parse_state_update(event: EngineEvent) -> tuple[str, Any] | None:
    """Return the key and the value of a ``ConversationStateUpdateEvent``, or None for an event of another kind.

    The value is None if the event contains no value.
    """
    if not is_state_update(event):
        return None
    fields = parse_payload(event)
    key = fields.get("key")
    return (key, fields.get("value")) if isinstance(key, str) else None


_STATUSES = frozenset(
    {"idle", "running", "paused", "waiting_for_confirmation", "finished", "error", "stuck"}
)


def parse_execution_status(event: EngineEvent) -> str | None:
    """Return the execution status that the event reports, or None if the event reports no status."""
    return _read_state(
        event, "execution_status", lambda value: value if _is_status(value) else None
    )


def _is_status(value: Any) -> bool:
    return isinstance(value, str) and value in _STATUSES


def _read_state(event: EngineEvent, name: str, read: Callable[[Any], T | None]) -> T | None:
    update = parse_state_update(event)
    if update is None:
        return None
    key, value = update
    # A `full_state` update contains all fields; other updates contain only the field that is their key.
    if key == "full_state" and isinstance(value, dict):
        value = value.get(name)
    elif key != name:
        return None
    return read(value)


@dataclass(frozen=True, slots=True)
class TokenUsage:
    """The tokens that a conversation has used so far with all models, as the engine counts them."""

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int


def parse_token_usage(event: EngineEvent) -> TokenUsage | None:
    """Return the token totals that a ``stats`` or ``full_state`` update reports, or None for other events."""
    return _read_state(event, "stats", _sum_usage)


def _sum_usage(stats: Any) -> TokenUsage | None:
    metrics = stats.get("usage_to_metrics") if isinstance(stats, dict) else None
    if not isinstance(metrics, dict):
        return None
    totals = [0, 0, 0]
    for metric in metrics.values():
        tokens = metric.get("accumulated_token_usage") if isinstance(metric, dict) else None
        if not isinstance(tokens, dict):
            continue
        for index, name in enumerate(("prompt_tokens", "completion_tokens", "cache_read_tokens")):
            count = tokens.get(name)
            # JSON numbers from 2**53 are not exact. `type` instead of `isinstance`, because a bool is an int.
            if type(count) is int and 0 <= count < 2**53:
                totals[index] += count
    return TokenUsage(*totals)


def parse_message_text(event: EngineEvent) -> str | None:
    """Return the concatenated text parts of a ``MessageEvent``, or None for an event of another kind."""
    if event.kind != "MessageEvent":
        return None
    message = parse_payload(event).get("llm_message")
    parts = message.get("content") if isinstance(message, dict) else None
    texts = [p.get("text") for p in parts if isinstance(p, dict)] if isinstance(parts, list) else []
    return "".join(text for text in texts if isinstance(text, str))


@dataclass(frozen=True, slots=True)
class RunFailure:
    """The failure that stopped a run. ``user_action`` is what the user can do: ``settings``, ``retry`` or ``none``."""

    code: str
    detail: str
    retryable: bool
    user_action: str


def parse_run_failure(event: EngineEvent) -> RunFailure | None:
    """Return the failure that a ``ConversationErrorEvent`` reports, or None for an event of another kind."""
    if event.kind != "ConversationErrorEvent":
        return None
    fields = parse_payload(event)
    classification = fields.get("classification")
    classification = classification if isinstance(classification, dict) else {}
    action = classification.get("user_action")
    return RunFailure(
        code=str(fields.get("code") or "")[:100],
        detail=str(fields.get("detail") or "")[:2000],
        retryable=classification.get("retryable") is True,
        user_action=action if action in ("settings", "retry") else "none",
    )


# --- Request bodies ----------------------------------------------------------------

TOOLS = ("terminal", "file_editor", "task_tracker")
"""The engine's names of the tools that an agent has, besides ``finish`` and ``think``, which every agent has."""
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


def build_policy(name: str) -> dict[str, Any]:
    """Return a ``ConfirmationPolicy`` in the engine's format."""
    return _POLICIES[name]


def build_analyzer(name: str) -> dict[str, Any] | None:
    """Return a ``SecurityAnalyzer`` in the engine's format. An empty name means the default, ``llm``."""
    return _ANALYZERS[name or SecurityAnalyzer.LLM]


def build_start_request(
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
    tags: dict[str, str] | None = None,
    tools: Sequence[str] | None = None,
) -> dict[str, Any]:
    """Return the engine's ``StartConversationRequest``. It contains no message: a delivery job sends the first message.

    ``gateway_url`` is the OpenAI-compatible base URL of the model gateway, which ends in ``/v1``, and ``token`` is the
    key for it. ``tools`` names the agent's tools, by default all of ``TOOLS``. Prices are in US dollars per token. The
    engine uses them only for its own cost figure; users are billed by the gateway.
    """
    llm: dict[str, Any] = {
        "model": f"openai/{model}",
        "base_url": gateway_url,
        "api_key": token,
        "usage_id": "agent",
        "stream": True,
        # Shorter than the engine's own waits of 8 to 64 s, so that a user sees a failure soon.
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
        "load_public_skills": False,  # the engine would clone them from the internet
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
            "tools": [{"name": name} for name in (TOOLS if tools is None else tools)],
            "condenser": condenser if condenser_max_size else None,
            "agent_context": context,
            "mcp_config": mcp_servers or {},
        },
        "workspace": {"kind": "LocalWorkspace", "working_dir": workspace},
        "confirmation_policy": build_policy(confirmation_policy),
        "security_analyzer": build_analyzer(security_analyzer),
        "secrets": secrets or {},
        "max_iterations": max_iterations,
        "stuck_detection": True,
        "autotitle": False,  # a model call whose result no event reports
        "tags": tags or {},
    }

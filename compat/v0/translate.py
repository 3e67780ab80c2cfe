"""From events of our log to events of V0: pure, driven by tables, total over whatever a sandbox may say.

An event of the log becomes at most one event of V0, whose ``id`` is its ``seq``: stable, growing, never reused.
What V0 has no word for is left out; a kind that nobody knows becomes V0's ``null``, which clients skip.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Final

from compat.v0 import actions
from compat.v0.actions import RISKS
from compat.v0.values import listing, loads, mapping, number, parts_images, parts_text, text, whole

Json = dict[str, Any]
AGENT_STATES: Final = {
    "idle": "awaiting_user_input",
    "running": "running",
    "paused": "paused",
    "waiting_for_confirmation": "awaiting_user_confirmation",
    "finished": "finished",
    "error": "error",
    "stuck": "error",
    "deleting": "stopped",
}
REASONS: Final = {
    "error": "The agent stopped with an error.",
    "stuck": "The agent went round in circles and was stopped.",
}
SOURCES: Final = {"user": "user", "agent": "agent"}
ERROR_IDS: Final = {
    "LLMAuthenticationError": "STATUS$ERROR_LLM_AUTHENTICATION",
    "LLMServiceUnavailableError": "STATUS$ERROR_LLM_SERVICE_UNAVAILABLE",
    "LLMRateLimitError": "STATUS$LLM_RETRY",
    "LLMContextWindowExceedError": "STATUS$ERROR_LLM_INTERNAL_SERVER_ERROR",
    "LLMBadRequestError": "STATUS$ERROR_LLM_INTERNAL_SERVER_ERROR",
    "LLMContentPolicyViolationError": "STATUS$ERROR_LLM_CONTENT_POLICY_VIOLATION",
}
_OUT_OF_CREDITS: Final = ("budget has been exceeded", "out of credits", "out of funds")


@dataclass(frozen=True, slots=True)
class Entry:
    """An event of our log as the translation reads it. ``value`` is empty where it is no JSON object."""

    seq: int
    event_id: str
    kind: str
    source: str
    value: Json
    at: str

    @classmethod
    def of_event(cls, event: Any) -> "Entry":
        """From a row of the log. Never raises."""
        at = event.received_at.isoformat()
        return cls(event.seq, event.event_id, event.kind, event.source, loads(event.payload), at)


@dataclass(slots=True)
class Links:
    """What an event's translation must know of other events.

    ``actions``: payloads by engine id, of actions that are answered; ``places``: seqs by engine id;
    ``echoes``: engine ids of messages that the log holds as our ``UserMessage`` already; ``metrics``: the
    newest running totals.
    """

    actions: dict[str, Json] = field(default_factory=dict)
    places: dict[str, int] = field(default_factory=dict)
    echoes: set[str] = field(default_factory=set)
    metrics: Json | None = None


def wanted_ids(entry: Entry) -> set[str]:
    """The ids of the events that must be in ``Links`` before this one is translated."""
    if entry.kind in ("ObservationEvent", "UserRejectObservation", "HookExecutionEvent"):
        ids = [entry.value.get("action_id")]
    elif entry.kind == "Condensation":
        ids = listing(entry.value.get("forgotten_event_ids"))
    else:
        ids = []
    return {one for one in ids if isinstance(one, str) and one}


def is_user_message(entry: Entry) -> bool:
    """Whether this is a message in the engine's log that may be the echo of one of ours."""
    return entry.kind == "MessageEvent" and entry.source == "user"


def translate(entry: Entry, links: Links) -> Json | None:
    """The V0 event, or None. Keeps ``links`` up to date with what it passes. Never raises."""
    if entry.kind == "ActionEvent":
        links.actions[entry.event_id] = entry.value
    links.places[entry.event_id] = entry.seq
    if (metrics := metrics_of(entry)) is not None:
        links.metrics = metrics
    make = KINDS.get(entry.kind)
    if make is None:
        return _observation(entry, "null", "", {}, entry.kind)
    return make(entry, links)


def translate_all(entries: Iterable[Entry], links: Links) -> list[Json]:
    """All V0 events of a stretch of the log, in its order."""
    return [event for entry in entries if (event := translate(entry, links)) is not None]


def is_state(event: Json) -> bool:
    return event.get("observation") == "agent_state_changed"


def is_null(event: Json) -> bool:
    return "null" in (event.get("action"), event.get("observation"))


def is_hidden(event: Json) -> bool:
    """Whether V0 calls this event hidden."""
    fields = event.get("args") or event.get("extras") or {}
    return fields.get("hidden") is True


# --- The two shapes -----------------------------------------------------------------


def _base(entry: Entry, source: str, message: str) -> Json:
    return {"id": entry.seq, "timestamp": entry.at, "source": source, "message": message}


def _action(
    entry: Entry,
    name: str,
    message: str,
    args: Json,
    *,
    source: str | None = None,
    more: Json | None = None,
) -> Json:
    base = _base(entry, source or _source(entry), message)
    return base | {"action": name, "args": args} | (more or {})


def _observation(
    entry: Entry,
    name: str,
    message: str,
    extras: Json,
    content: str,
    *,
    more: Json | None = None,
    source: str = "environment",
) -> Json:
    base = _base(entry, source, message)
    return base | {"observation": name, "content": content, "extras": extras} | (more or {})


def _source(entry: Entry) -> str:
    return SOURCES.get(entry.source, "environment")


def state_frame(state: str, *, reason: str = "") -> Json:
    """A state that is told outside the log, and so without an id."""
    return {
        "source": "environment",
        "message": "",
        "observation": "agent_state_changed",
        "content": "",
        "extras": {"agent_state": state, "reason": reason},
    }


# --- Messages -----------------------------------------------------------------------


def _message(entry: Entry, content: str, images: list[str], *, waits: bool = False) -> Json:
    args = {
        "content": content,
        "file_urls": [],
        "image_urls": images,
        "wait_for_response": waits,
        "security_risk": RISKS["UNKNOWN"],
    }
    return _action(entry, "message", content, args)


def _our_message(entry: Entry, links: Links) -> Json:
    images = [url for url in listing(entry.value.get("images")) if isinstance(url, str)]
    return _message(entry, text(entry.value.get("text")), images)


def _engine_message(entry: Entry, links: Links) -> Json | None:
    if entry.event_id in links.echoes:
        return None
    message = mapping(entry.value.get("llm_message"))
    content = message.get("content")
    told = _message(entry, parts_text(content), parts_images(content), waits=_is_agent(entry))
    return told | _metrics(entry, links)


def _is_agent(entry: Entry) -> bool:
    return entry.source == "agent"


def _system(entry: Entry, links: Links) -> Json:
    prompt = entry.value.get("system_prompt")
    content = text(mapping(prompt).get("text")) if isinstance(prompt, dict) else text(prompt)
    args = {
        "content": content,
        "tools": listing(entry.value.get("tools")),
        "openhands_version": None,
        "agent_class": None,
    }
    return _action(entry, "system", content, args, source="agent")


# --- Work -----------------------------------------------------------------------------


def _agent_action(entry: Entry, links: Links) -> Json:
    told = actions.action_of(entry.value)
    more = _call(entry) | _metrics(entry, links) | (told.more or {})
    return _action(entry, told.name, told.sentence, told.fields, source="agent", more=more)


def _agent_observation(entry: Entry, links: Links) -> Json | None:
    told = actions.observation_of(entry.value, links.actions.get(_answers(entry), {}))
    if told is None:
        return None
    more = _cause(entry, links) | _call(entry) | (told.more or {})
    # V0 stores what a tool gave under the source of who called it.
    return _observation(
        entry, told.name, told.sentence, told.fields, told.content, more=more, source="agent"
    )


def _rejected(entry: Entry, links: Links) -> Json:
    reason = text(entry.value.get("rejection_reason"))
    more = _cause(entry, links) | _call(entry)
    return _observation(entry, "user_rejected", reason, {}, reason, more=more, source="user")


def _answers(entry: Entry) -> str:
    return text(entry.value.get("action_id"))


def _cause(entry: Entry, links: Links) -> Json:
    seq = links.places.get(_answers(entry))
    return {} if seq is None else {"cause": seq}


def _call(entry: Entry) -> Json:
    name, call = entry.value.get("tool_name"), entry.value.get("tool_call_id")
    if not (isinstance(name, str) and isinstance(call, str)):
        return {}
    answer = {"id": text(entry.value.get("llm_response_id"))}
    return {
        "tool_call_metadata": {
            "function_name": name,
            "tool_call_id": call,
            "model_response": answer,
            "total_calls_in_response": 1,
        }
    }


def _metrics(entry: Entry, links: Links) -> Json:
    return {"llm_metrics": links.metrics} if links.metrics and _is_agent(entry) else {}


def metrics_of(entry: Entry) -> Json | None:
    """The running totals that a ``stats`` update tells, as V0 has them; None for any other event."""
    if entry.kind != "ConversationStateUpdateEvent":
        return None
    value = entry.value.get("value")
    if entry.value.get("key") == "full_state":
        value = mapping(value).get("stats")
    elif entry.value.get("key") != "stats":
        return None
    uses = mapping(mapping(value).get("usage_to_metrics"))
    if not uses:
        return None
    usage: Json = {"model": "", "response_id": ""} | dict.fromkeys(_TOKENS, 0)
    cost, budget = 0.0, None
    for one in (mapping(use) for use in uses.values()):
        cost += number(one.get("accumulated_cost"))
        budget = one.get("max_budget_per_task") if budget is None else budget
        counted = mapping(one.get("accumulated_token_usage"))
        for name in _TOKENS:
            usage[name] += whole(counted.get(name), 0)
        usage["model"] = usage["model"] or text(one.get("model_name"))
    return {
        "accumulated_cost": cost,
        "max_budget_per_task": budget if type(budget) in (int, float) else None,
        "accumulated_token_usage": usage,
        "costs": [],
        "response_latencies": [],
        "token_usages": [],
    }


_TOKENS: Final = (
    *("prompt_tokens", "completion_tokens", "cache_read_tokens", "cache_write_tokens"),
    *("context_window", "per_turn_token"),
)

# --- States, errors and the rest --------------------------------------------------------


def _state(entry: Entry, links: Links) -> Json | None:
    value = entry.value.get("value")
    if entry.value.get("key") == "full_state":
        value = mapping(value).get("execution_status")
    elif entry.value.get("key") != "execution_status":
        return None
    state = AGENT_STATES.get(value) if isinstance(value, str) else None
    if state is None:
        return None
    extras = {"agent_state": state, "reason": REASONS.get(text(value), "")}
    return _observation(entry, "agent_state_changed", "", extras, "")


def _error(entry: Entry, content: str, error_id: str = "", more: Json | None = None) -> Json:
    extras = {"error_id": error_id}
    return _observation(entry, "error", content, extras, content, more=more, source=_source(entry))


def _agent_error(entry: Entry, links: Links) -> Json:
    return _error(entry, text(entry.value.get("error")), more=_call(entry))


def _run_error(entry: Entry, links: Links) -> Json:
    code, detail = text(entry.value.get("code")), text(entry.value.get("detail"))
    return _error(entry, detail or code, error_id_of(code, detail))


def error_id_of(code: str, detail: str = "") -> str:
    """V0's status word for the engine's reason of a failure; ``STATUS$ERROR`` for those it has no word for."""
    if any(words in detail.lower() for words in _OUT_OF_CREDITS):
        return "STATUS$ERROR_LLM_OUT_OF_CREDITS"
    return ERROR_IDS.get(code, "STATUS$ERROR")


def _notice(entry: Entry, links: Links) -> Json:
    message, detail = text(entry.value.get("message")), text(entry.value.get("detail"))
    content = f"{message}\n{detail}" if detail else message
    is_lost = text(entry.value.get("code")).startswith("engine_")
    status = "STATUS$ERROR_RUNTIME_DISCONNECTED" if is_lost else "STATUS$ERROR"
    return _error(entry, content, status)


def _hook(entry: Entry, links: Links) -> Json | None:
    value = entry.value
    if value.get("success") is True and value.get("blocked") is not True:
        return None
    reason = value.get("reason") or value.get("error") or value.get("stderr")
    said = f"A hook ({text(value.get('hook_event_type'))}) failed: {text(reason)}"
    return _error(entry, said, more=_cause(entry, links))


def _acp(entry: Entry, links: Links) -> Json:
    arguments = mapping(entry.value.get("raw_input"))
    name = text(entry.value.get("title"))
    fields = {"name": name, "arguments": arguments}
    content = parts_text(entry.value.get("content")) or text(entry.value.get("raw_output"))
    return _observation(entry, "mcp", name, fields, content, source="agent")


def _condensation(entry: Entry, links: Links) -> Json:
    forgotten = sorted(links.places[one] for one in wanted_ids(entry) if one in links.places)
    summary, offset = entry.value.get("summary"), entry.value.get("summary_offset")
    is_whole = isinstance(summary, str) and type(offset) is int
    args = {
        "forgotten_event_ids": forgotten,
        "forgotten_events_start_id": None,
        "forgotten_events_end_id": None,
        "summary": summary if is_whole else None,
        "summary_offset": offset if is_whole else None,
    }
    return _action(entry, "condensation", text(summary), args, source="agent")


def _condensation_request(entry: Entry, links: Links) -> Json:
    return _action(entry, "condensation_request", "", {})


def _condensation_summary(entry: Entry, links: Links) -> Json:
    return _observation(entry, "condense", "", {}, text(entry.value.get("summary")))


def _asked_state(state: str) -> "Maker":
    def make(entry: Entry, links: Links) -> Json:
        return _action(
            entry, "change_agent_state", "", {"agent_state": state, "thought": ""}, source="user"
        )

    return make


def _answer(entry: Entry, links: Links) -> Json:
    state = "user_confirmed" if entry.value.get("accept") is True else "user_rejected"
    args = {"agent_state": state, "thought": text(entry.value.get("reason"))}
    return _action(entry, "change_agent_state", "", args, source="user")


def _nothing(entry: Entry, links: Links) -> None:
    return None


Maker = Callable[[Entry, Links], Json | None]
KINDS: Final[dict[str, Maker]] = {
    # Ours
    "UserMessage": _our_message,
    "UserConfirmation": _answer,
    "SandboxNotice": _notice,
    # The engine's
    "SystemPromptEvent": _system,
    "MessageEvent": _engine_message,
    "ActionEvent": _agent_action,
    "ObservationEvent": _agent_observation,
    "UserRejectObservation": _rejected,
    "AgentErrorEvent": _agent_error,
    "ConversationStateUpdateEvent": _state,
    "ConversationErrorEvent": _run_error,
    "ServerErrorEvent": _run_error,
    "Condensation": _condensation,
    "CondensationRequest": _condensation_request,
    "CondensationSummaryEvent": _condensation_summary,
    "PauseEvent": _asked_state("paused"),
    "InterruptEvent": _asked_state("paused"),
    "HookExecutionEvent": _hook,
    "ACPToolCallEvent": _acp,
    # No word of V0
    "SecurityAnalysisEvent": _nothing,
    "TokenEvent": _nothing,
    "LLMCompletionLogEvent": _nothing,
    "StreamingDeltaEvent": _nothing,
}

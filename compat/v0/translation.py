"""Translation of the events of our log to V0 events. The table ``KINDS`` maps each kind to its translator.

V0 is OpenHands' older protocol. An event of the log becomes at most one V0 event. The V0 event's ``id`` is the ``seq``
in the log, which never changes. Kinds without an equivalent in V0 are skipped. A kind that this server does not know
becomes a V0 event with the observation ``null``, which clients ignore. The payloads come from sandboxes and are not
trusted, so no function of this module raises for a malformed payload.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec

from compat.v0 import actions
from compat.v0.actions import RISKS
from compat.v0.values import (
    as_dict,
    as_int,
    as_list,
    as_number,
    as_text,
    join_text_parts,
    list_image_urls,
    loads,
)

Json = dict[str, Any]
# V0's agent states, by the engine's execution status.
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
# The web client shows the reason of the state ``error`` in a banner.
REASONS: Final = {
    "error": "The agent stopped with an error.",
    "stuck": "The agent repeated the same steps and was stopped.",
}
SOURCES: Final = {"user": "user", "agent": "agent"}
# V0's statuses, by the engine's error code.
ERROR_IDS: Final = {
    "LLMAuthenticationError": "STATUS$ERROR_LLM_AUTHENTICATION",
    "LLMServiceUnavailableError": "STATUS$ERROR_LLM_SERVICE_UNAVAILABLE",
    "LLMRateLimitError": "STATUS$LLM_RETRY",
    "LLMContextWindowExceedError": "STATUS$ERROR_LLM_INTERNAL_SERVER_ERROR",
    "LLMBadRequestError": "STATUS$ERROR_LLM_INTERNAL_SERVER_ERROR",
    "LLMContentPolicyViolationError": "STATUS$ERROR_LLM_CONTENT_POLICY_VIOLATION",
}
_OUT_OF_CREDITS: Final = ("budget has been exceeded", "out of credits", "out of funds")


class Entry(msgspec.Struct, frozen=True, gc=False):
    """An event of our log, prepared for translation.

    ``value`` is the parsed payload, or ``{}`` if the payload is not a JSON object. ``at`` is the time when this server
    received the event, in ISO 8601.
    """

    seq: int
    event_id: str
    kind: str
    source: str
    value: Json
    at: str

    @classmethod
    def of_event(cls, event: Any) -> "Entry":
        """Return a row of the log (``Event`` or ``LoggedEvent``) as an entry."""
        at = event.received_at.isoformat()
        return cls(event.seq, event.event_id, event.kind, event.source, loads(event.payload), at)


STATE: Final = "ConversationStateUpdateEvent"


@dataclass(slots=True)
class Links:
    """Data about earlier events that the translation of later events needs. Ids are the engine's event ids."""

    actions: dict[str, Json | str] = field(default_factory=dict)
    """Payloads of actions, by id: parsed, or as JSON text."""
    seqs: dict[str, int] = field(default_factory=dict)
    """The ``seq`` of events, by id."""
    echoes: set[str] = field(default_factory=set)
    """Ids of the engine's copies of messages that the log also holds as ``UserMessage`` (ADR 3)."""
    metrics: Json | None = None
    """The newest totals of tokens and cost, in V0's form."""

    def find_action(self, event_id: str) -> Json:
        """Return the parsed payload of an action, or ``{}`` if it is not known."""
        payload = self.actions.get(event_id, {})
        if isinstance(payload, str):
            payload = self.actions[event_id] = loads(payload)
        return payload


REFERRING: Final = frozenset(
    ("ObservationEvent", "UserRejectObservation", "HookExecutionEvent", "Condensation")
)
"""The kinds of events that refer to earlier events."""


def referenced_ids(entry: Entry) -> set[str]:
    """Return the ids of the events that ``Links`` must hold before this entry is translated."""
    if entry.kind in ("ObservationEvent", "UserRejectObservation", "HookExecutionEvent"):
        ids = [entry.value.get("action_id")]
    elif entry.kind == "Condensation":
        ids = as_list(entry.value.get("forgotten_event_ids"))
    else:
        ids = []
    return {event_id for event_id in ids if isinstance(event_id, str) and event_id}


def is_user_message(entry: Entry) -> bool:
    """Return whether an entry is the engine's copy of a user's message."""
    return entry.kind == "MessageEvent" and entry.source == "user"


def translate_event(entry: Entry, links: Links) -> Json | None:
    """Return the V0 event of an entry, or None if V0 has no equivalent. Add the entry to ``links``."""
    if entry.kind == "ActionEvent":
        links.actions[entry.event_id] = entry.value
    links.seqs[entry.event_id] = entry.seq
    if entry.kind == STATE and (metrics := extract_metrics(entry)) is not None:
        links.metrics = metrics
    translator = KINDS.get(entry.kind)
    if translator is None:
        return _build_observation(entry, "null", "", {}, entry.kind)
    return translator(entry, links)


def is_state_change(event: Json) -> bool:
    return event.get("observation") == "agent_state_changed"


def is_null(event: Json) -> bool:
    """Return whether a V0 event stands for a log event of a kind that this server does not know."""
    return "null" in (event.get("action"), event.get("observation"))


def is_hidden(event: Json) -> bool:
    """Return whether a V0 event is marked as ``hidden``."""
    fields = event.get("args") or event.get("extras") or {}
    return fields.get("hidden") is True


# --- The two shapes -----------------------------------------------------------------


def _base_fields(entry: Entry, source: str, message: str) -> Json:
    # The web client ignores an event unless it has all four fields and the id is a number.
    return {"id": entry.seq, "timestamp": entry.at, "source": source, "message": message}


def _build_action(
    entry: Entry,
    name: str,
    message: str,
    args: Json,
    *,
    source: str | None = None,
    more: Json | None = None,
) -> Json:
    event = _base_fields(entry, source or _v0_source(entry), message)
    event["action"], event["args"] = name, args
    if more:
        event |= more
    return event


def _build_observation(
    entry: Entry,
    name: str,
    message: str,
    extras: Json,
    content: str,
    *,
    more: Json | None = None,
    source: str = "environment",
) -> Json:
    event = _base_fields(entry, source, message)
    event["observation"], event["content"], event["extras"] = name, content, extras
    if more:
        event |= more
    return event


def _v0_source(entry: Entry) -> str:
    return SOURCES.get(entry.source, "environment")


def build_state_frame(state: str, *, reason: str = "") -> Json:
    """Return a V0 event for an agent state that is not in the log. Clients do not resume from it: it has no ``id``."""
    return {
        "source": "environment",
        "message": "",
        "observation": "agent_state_changed",
        "content": "",
        "extras": {"agent_state": state, "reason": reason},
    }


# --- Messages -----------------------------------------------------------------------


def _build_message(
    entry: Entry, content: str, images: list[str], *, waits_for_response: bool = False
) -> Json:
    args = {
        "content": content,
        "file_urls": [],
        "image_urls": images,
        "wait_for_response": waits_for_response,
        "security_risk": RISKS["UNKNOWN"],
    }
    # The web client shows ``args.content`` of the user's messages, but the top-level ``message`` of the agent's.
    return _build_action(entry, "message", content, args)


def _translate_user_message(entry: Entry, links: Links) -> Json:
    # The web client shows an empty page until it has received an event with the source ``user``.
    images = [url for url in as_list(entry.value.get("images")) if isinstance(url, str)]
    return _build_message(entry, as_text(entry.value.get("text")), images)


def _translate_engine_message(entry: Entry, links: Links) -> Json | None:
    if entry.event_id in links.echoes:  # clients received our ``UserMessage`` instead
        return None
    message = as_dict(entry.value.get("llm_message"))
    content = message.get("content")
    event = _build_message(
        entry,
        join_text_parts(content),
        list_image_urls(content),
        waits_for_response=_is_agent(entry),
    )
    event |= _llm_metrics(entry, links)
    return event


def _is_agent(entry: Entry) -> bool:
    return entry.source == "agent"


def _translate_system_prompt(entry: Entry, links: Links) -> Json:
    prompt = entry.value.get("system_prompt")
    content = as_text(as_dict(prompt).get("text")) if isinstance(prompt, dict) else as_text(prompt)
    args = {
        "content": content,
        "tools": as_list(entry.value.get("tools")),
        "openhands_version": None,
        "agent_class": None,
    }
    return _build_action(entry, "system", content, args, source="agent")


# --- Work -----------------------------------------------------------------------------


def _translate_action(entry: Entry, links: Links) -> Json:
    action = actions.render_action(entry.value)
    more = _tool_call_metadata(entry)
    if links.metrics and _is_agent(entry):
        more["llm_metrics"] = links.metrics
    if action.more:
        more |= action.more
    return _build_action(
        entry, action.name, action.message, action.fields, source="agent", more=more
    )


def _translate_observation(entry: Entry, links: Links) -> Json | None:
    action_id = _action_id(entry)
    result = actions.render_observation(entry.value, links.find_action(action_id))
    if result is None:
        return None
    seq = links.seqs.get(action_id)
    more: Json = {} if seq is None else {"cause": seq}
    more |= _tool_call_metadata(entry)
    if result.more:
        more |= result.more
    # In V0 a tool's result has the source of its caller, the agent. The engine says "environment".
    return _build_observation(
        entry, result.name, result.message, result.fields, result.content, more=more, source="agent"
    )


def _translate_rejection(entry: Entry, links: Links) -> Json:
    reason = as_text(entry.value.get("rejection_reason"))
    more = _cause_field(entry, links) | _tool_call_metadata(entry)
    return _build_observation(entry, "user_rejected", reason, {}, reason, more=more, source="user")


def _action_id(entry: Entry) -> str:
    return as_text(entry.value.get("action_id"))


def _cause_field(entry: Entry, links: Links) -> Json:
    # V0's cause is a number, the ``id`` of the action's event. The engine's ``action_id`` is a UUID.
    seq = links.seqs.get(_action_id(entry))
    return {} if seq is None else {"cause": seq}


def _tool_call_metadata(entry: Entry) -> Json:
    name, call = entry.value.get("tool_name"), entry.value.get("tool_call_id")
    if not (isinstance(name, str) and isinstance(call, str)):
        return {}
    response = {"id": as_text(entry.value.get("llm_response_id"))}
    return {
        "tool_call_metadata": {
            "function_name": name,
            "tool_call_id": call,
            "model_response": response,
            "total_calls_in_response": 1,
        }
    }


def _llm_metrics(entry: Entry, links: Links) -> Json:
    return {"llm_metrics": links.metrics} if links.metrics and _is_agent(entry) else {}


def extract_metrics(entry: Entry) -> Json | None:
    """Return V0's ``llm_metrics`` if an event reports the totals of tokens and cost, otherwise None."""
    if entry.kind != STATE:
        return None
    value = entry.value.get("value")
    if entry.value.get("key") == "full_state":
        value = as_dict(value).get("stats")
    elif entry.value.get("key") != "stats":
        return None
    uses = as_dict(as_dict(value).get("usage_to_metrics"))
    if not uses:
        return None
    usage: Json = NO_USAGE.copy()
    cost, budget = 0.0, None
    # The engine counts the agent and the condenser separately. V0 has one total for both.
    for use in map(as_dict, uses.values()):
        cost += as_number(use.get("accumulated_cost"))
        budget = use.get("max_budget_per_task") if budget is None else budget
        tokens = as_dict(use.get("accumulated_token_usage"))
        for name in TOKENS if tokens else ():
            usage[name] += as_int(tokens.get(name), 0)
        usage["model"] = usage["model"] or as_text(use.get("model_name"))
    return build_metrics(cost, budget if type(budget) in (int, float) else None, usage)


def build_metrics(cost: float, budget: float | None, usage: Json) -> Json:
    """Return V0's ``llm_metrics``: the cost and its limit in dollars, and the totals of ``TOKENS`` of a model."""
    return {
        "accumulated_cost": cost,
        "max_budget_per_task": budget,
        "accumulated_token_usage": usage,
        "costs": [],
        "response_latencies": [],
        "token_usages": [],
    }


TOKENS: Final = (
    *("prompt_tokens", "completion_tokens", "cache_read_tokens", "cache_write_tokens"),
    *("context_window", "per_turn_token"),
)
NO_USAGE: Final[Json] = {"model": "", "response_id": ""} | dict.fromkeys(TOKENS, 0)

# --- States, errors and the rest --------------------------------------------------------


def _translate_state(entry: Entry, links: Links) -> Json | None:
    value = entry.value.get("value")
    if entry.value.get("key") == "full_state":
        value = as_dict(value).get("execution_status")
    elif entry.value.get("key") != "execution_status":
        return None
    state = AGENT_STATES.get(value) if isinstance(value, str) else None
    if state is None:
        return None
    extras = {"agent_state": state, "reason": REASONS.get(as_text(value), "")}
    return _build_observation(entry, "agent_state_changed", "", extras, "")


def _build_error(entry: Entry, content: str, error_id: str = "", more: Json | None = None) -> Json:
    extras = {"error_id": error_id}
    return _build_observation(
        entry, "error", content, extras, content, more=more, source=_v0_source(entry)
    )


def _translate_agent_error(entry: Entry, links: Links) -> Json:
    return _build_error(entry, as_text(entry.value.get("error")), more=_tool_call_metadata(entry))


def _translate_run_error(entry: Entry, links: Links) -> Json:
    code, detail = as_text(entry.value.get("code")), as_text(entry.value.get("detail"))
    return _build_error(entry, detail or code, error_id_for(code, detail))


def error_id_for(code: str, detail: str = "") -> str:
    """Return V0's status for the engine's error code, or ``STATUS$ERROR`` if V0 has no status for it.

    The web client shows a link to the billing page for ``STATUS$ERROR_LLM_OUT_OF_CREDITS``. The engine reports
    an exceeded budget as a plain bad request, so only the text of ``detail`` shows that the budget is exceeded.
    """
    if any(words in detail.lower() for words in _OUT_OF_CREDITS):
        return "STATUS$ERROR_LLM_OUT_OF_CREDITS"
    return ERROR_IDS.get(code, "STATUS$ERROR")


def _translate_notice(entry: Entry, links: Links) -> Json:
    message, detail = as_text(entry.value.get("message")), as_text(entry.value.get("detail"))
    content = f"{message}\n{detail}" if detail else message
    is_connection_lost = as_text(entry.value.get("code")).startswith("engine_")
    status = "STATUS$ERROR_RUNTIME_DISCONNECTED" if is_connection_lost else "STATUS$ERROR"
    return _build_error(entry, content, status)


def _translate_hook(entry: Entry, links: Links) -> Json | None:
    value = entry.value
    # V0 has no event for a hook that succeeded.
    if value.get("success") is True and value.get("blocked") is not True:
        return None
    reason = value.get("reason") or value.get("error") or value.get("stderr")
    content = f"A hook ({as_text(value.get('hook_event_type'))}) failed: {as_text(reason)}"
    return _build_error(entry, content, more=_cause_field(entry, links))


def _translate_acp_call(entry: Entry, links: Links) -> Json:
    arguments = as_dict(entry.value.get("raw_input"))
    name = as_text(entry.value.get("title"))
    fields = {"name": name, "arguments": arguments}
    content = join_text_parts(entry.value.get("content")) or as_text(entry.value.get("raw_output"))
    return _build_observation(entry, "mcp", name, fields, content, source="agent")


def _translate_condensation(entry: Entry, links: Links) -> Json:
    forgotten = sorted(links.seqs[i] for i in referenced_ids(entry) if i in links.seqs)
    summary, offset = entry.value.get("summary"), entry.value.get("summary_offset")
    # V0 requires the summary and its offset together, or neither.
    is_complete = isinstance(summary, str) and type(offset) is int
    args = {
        "forgotten_event_ids": forgotten,
        "forgotten_events_start_id": None,
        "forgotten_events_end_id": None,
        "summary": summary if is_complete else None,
        "summary_offset": offset if is_complete else None,
    }
    return _build_action(entry, "condensation", as_text(summary), args, source="agent")


def _translate_condensation_request(entry: Entry, links: Links) -> Json:
    return _build_action(entry, "condensation_request", "", {})


def _translate_condensation_summary(entry: Entry, links: Links) -> Json:
    return _build_observation(entry, "condense", "", {}, as_text(entry.value.get("summary")))


def _state_request_translator(state: str) -> "Translator":
    def translate(entry: Entry, links: Links) -> Json:
        return _build_action(
            entry, "change_agent_state", "", {"agent_state": state, "thought": ""}, source="user"
        )

    return translate


def _translate_confirmation(entry: Entry, links: Links) -> Json:
    state = "user_confirmed" if entry.value.get("accept") is True else "user_rejected"
    args = {"agent_state": state, "thought": as_text(entry.value.get("reason"))}
    return _build_action(entry, "change_agent_state", "", args, source="user")


def _skip(entry: Entry, links: Links) -> None:
    return None


Translator = Callable[[Entry, Links], Json | None]
KINDS: Final[dict[str, Translator]] = {
    # Kinds that this server appends
    "UserMessage": _translate_user_message,
    "UserConfirmation": _translate_confirmation,
    "SandboxNotice": _translate_notice,
    # Kinds of the engine
    "SystemPromptEvent": _translate_system_prompt,
    "MessageEvent": _translate_engine_message,
    "ActionEvent": _translate_action,
    "ObservationEvent": _translate_observation,
    "UserRejectObservation": _translate_rejection,
    "AgentErrorEvent": _translate_agent_error,
    "ConversationStateUpdateEvent": _translate_state,
    "ConversationErrorEvent": _translate_run_error,
    "ServerErrorEvent": _translate_run_error,
    "Condensation": _translate_condensation,
    "CondensationRequest": _translate_condensation_request,
    "CondensationSummaryEvent": _translate_condensation_summary,
    "PauseEvent": _state_request_translator("paused"),
    "InterruptEvent": _state_request_translator("paused"),
    "HookExecutionEvent": _translate_hook,
    "ACPToolCallEvent": _translate_acp_call,
    # Kinds without an equivalent in V0
    "HostRuleChange": _skip,
    "SecurityAnalysisEvent": _skip,
    "TokenEvent": _skip,
    "LLMCompletionLogEvent": _skip,
    "StreamingDeltaEvent": _skip,
}

TRANSLATED: Final = tuple(kind for kind, translator in KINDS.items() if translator is not _skip)
"""The kinds of events in the log that have an equivalent in V0."""

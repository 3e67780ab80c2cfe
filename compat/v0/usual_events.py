"""A short way from the usual rows of a log to V0 events, for pages: typed structures instead of dicts.

``compat.v0.translation`` translates every event. Most rows of a log are commands, their results and the agent's
messages, in the form that the engine writes today. This module reads only the fields that V0 needs of them, which takes
a third of the time. It returns None for any other row, and the structures become the same bytes as the events of
``compat.v0.translation``.
"""

from typing import Annotated, Final, Literal, TypeAlias

import msgspec
from msgspec import UNSET, Raw, Struct, UnsetType

from compat.v0.actions import RISKS, shorten_output
from compat.v0.page_encoding import encode_metrics
from compat.v0.translation import NO_USAGE, SOURCES, TOKENS, Json, Links, build_metrics
from compat.v0.values import as_number
from conversations.log.windows import WindowRow, format_received

Integer: TypeAlias = Annotated[int, msgspec.Meta(ge=-(2**53), le=2**53)]
"""An integer that every encoder of JSON writes as digits."""

# --- The payloads of the engine. A payload that does not fit is not usual. ---------------


class _Text(Struct, gc=False):
    text: str


class _MessagePart(Struct, gc=False):
    text: str
    image_urls: UnsetType | None = UNSET


class _Message(Struct, gc=False):
    content: tuple[_MessagePart]


class _MessageEvent(Struct, gc=False):
    llm_message: _Message


class _Command(Struct, gc=False):
    kind: Literal["TerminalAction"]
    command: str
    is_input: bool = False
    timeout: None = None


class _ActionEvent(Struct, gc=False):
    action: _Command
    thought: list[_Text]
    tool_name: str
    tool_call_id: str
    llm_response_id: str = ""
    security_risk: str = ""


class _Metadata(Struct, gc=False):
    """The ``metadata`` of a command's result, which V0 clients receive with these fields in this order."""

    exit_code: Integer
    pid: Integer = -1
    username: str | None = None
    hostname: str | None = None
    working_dir: str | None = None
    py_interpreter_path: str | None = None
    prefix: str = ""
    suffix: str = ""


class _Result(Struct, gc=False):
    kind: Literal["TerminalObservation"]
    command: str
    content: tuple[_Text]
    metadata: _Metadata
    is_error: bool = False


class _ObservationEvent(Struct, gc=False):
    observation: _Result
    action_id: str
    tool_name: str
    tool_call_id: str
    llm_response_id: str = ""


class _Tokens(Struct, gc=False):
    """The counters of ``compat.v0.translation.TOKENS``, in V0's order."""

    prompt_tokens: Integer = 0
    completion_tokens: Integer = 0
    cache_read_tokens: Integer = 0
    cache_write_tokens: Integer = 0
    context_window: Integer = 0
    per_turn_token: Integer = 0


class _Use(Struct, gc=False):
    model_name: str = ""
    accumulated_cost: Integer | float = 0
    max_budget_per_task: Integer | float | None = None
    accumulated_token_usage: _Tokens | None = None


class _Stats(Struct, gc=False):
    usage_to_metrics: dict[str, _Use]


class _StatsEvent(Struct, gc=False):
    key: Literal["stats"]
    value: _Stats


# --- The events of V0, with their fields in the order of ``compat.v0.translation`` -------


class _Response(Struct, gc=False):
    id: str


class _ToolCall(Struct, gc=False):
    function_name: str
    tool_call_id: str
    model_response: _Response
    total_calls_in_response: int = 1


class _RunArguments(Struct, gc=False):
    thought: str
    security_risk: int
    command: str
    is_input: bool
    blocking: bool = False
    is_static: bool = False
    cwd: None = None
    hidden: bool = False
    confirmation_state: str = "confirmed"


class _RunExtras(Struct, gc=False):
    command: str
    metadata: _Metadata
    hidden: bool = False


class _MessageArguments(Struct, gc=False):
    content: str
    file_urls: tuple[()]
    image_urls: tuple[()]
    wait_for_response: bool
    security_risk: int


class _Action(Struct, gc=False):
    id: int
    timestamp: str
    source: str
    message: str
    action: str
    args: _RunArguments | _MessageArguments
    tool_call_metadata: _ToolCall | UnsetType
    llm_metrics: Raw | UnsetType


class _RunObservation(Struct, gc=False):
    id: int
    timestamp: str
    source: str
    message: str
    observation: str
    content: str
    extras: _RunExtras
    cause: int
    tool_call_metadata: _ToolCall
    success: bool


UsualEvent: TypeAlias = _Action | _RunObservation
_decode_stats: Final = msgspec.json.Decoder(_StatsEvent).decode
_decode_message: Final = msgspec.json.Decoder(_MessageEvent).decode
_decode_action: Final = msgspec.json.Decoder(_ActionEvent).decode
_decode_observation: Final = msgspec.json.Decoder(_ObservationEvent).decode


class UsualTranslator:
    """The translation of a window's usual rows. It uses and updates the same ``Links`` as ``translate_event``."""

    def __init__(self, links: Links) -> None:
        self._links = links
        self._metrics: Json | None = None
        self._encoded_metrics: Raw | UnsetType = UNSET

    def translate(self, row: WindowRow) -> UsualEvent | None:
        """Return the V0 event of a row, or None if the row is not usual. Then ``links`` is unchanged."""
        _, seq, event_id, kind, source, payload, received = row
        try:
            if kind == "ObservationEvent":
                # Most other results fail here, without the cost of an exception.
                if '"TerminalObservation"' not in payload:
                    return None
                event = self._translate_result(seq, payload, received)
            elif kind == "ActionEvent":
                if '"TerminalAction"' not in payload:
                    return None
                event = self._translate_command(seq, source, payload, received)
                # Parsed only if the result of this action is not usual.
                if event is not None:
                    self._links.actions[event_id] = payload
            elif kind == "MessageEvent":
                if event_id in self._links.echoes:
                    return None
                event = self._translate_message(seq, source, payload, received)
            else:
                return None
        except (ValueError, RecursionError):
            return None
        if event is not None:
            self._links.seqs[event_id] = seq
        return event

    def read_totals(self, row: WindowRow) -> bool:
        """Add the totals of tokens and cost of a state update to the links, and return True.

        Return False, and leave the links unchanged, if the row is not a usual report of these totals.
        """
        if '"stats"' not in row[5]:
            return False
        try:
            uses = _decode_stats(row[5]).value.usage_to_metrics
        except (ValueError, RecursionError):
            return False
        if not uses:
            return False
        usage = NO_USAGE.copy()
        cost, budget = 0.0, None
        for use in uses.values():
            cost += as_number(use.accumulated_cost)
            budget = use.max_budget_per_task if budget is None else budget
            usage["model"] = usage["model"] or use.model_name
            if tokens := use.accumulated_token_usage:
                for name in TOKENS:
                    usage[name] += getattr(tokens, name)
        self._links.metrics = build_metrics(cost, budget, usage)
        self._links.seqs[row[2]] = row[1]
        return True

    def _translate_message(self, seq: int, source: str, payload: str, received: str) -> UsualEvent:
        content = _decode_message(payload).llm_message.content[0].text
        is_agent = source == "agent"
        args = _MessageArguments(content, (), (), is_agent, RISKS["UNKNOWN"])
        return _Action(
            seq,
            format_received(received),
            SOURCES.get(source, "environment"),
            content,
            "message",
            args,
            UNSET,
            self._metrics_now() if is_agent else UNSET,
        )

    def _translate_command(
        self, seq: int, source: str, payload: str, received: str
    ) -> UsualEvent | None:
        event = _decode_action(payload)
        action, thought = event.action, event.thought
        if len(thought) > 1:
            return None
        return _Action(
            seq,
            format_received(received),
            "agent",
            f"Runs: {action.command}",
            "run",
            _RunArguments(
                thought[0].text if thought else "",
                RISKS.get(event.security_risk, -1),
                action.command,
                action.is_input,
            ),
            _ToolCall(event.tool_name, event.tool_call_id, _Response(event.llm_response_id)),
            self._metrics_now() if source == "agent" else UNSET,
        )

    def _translate_result(self, seq: int, payload: str, received: str) -> UsualEvent | None:
        event = _decode_observation(payload)
        result = event.observation
        output, command, code = result.content[0].text, result.command, result.metadata.exit_code
        cause = self._links.seqs.get(event.action_id)
        # Without these, other fields or rows may contain the values.
        if cause is None or not output or not command:
            return None
        return _RunObservation(
            seq,
            format_received(received),
            "agent",
            f"Ran: {command} (exit {code})",
            "run",
            shorten_output(output),
            _RunExtras(command, result.metadata),
            cause,
            _ToolCall(event.tool_name, event.tool_call_id, _Response(event.llm_response_id)),
            code == 0 and not result.is_error,
        )

    def _metrics_now(self) -> Raw | UnsetType:
        """Return the newest totals as JSON text. Many events follow that have the same totals."""
        metrics = self._links.metrics
        if metrics is not self._metrics:
            self._metrics = metrics
            self._encoded_metrics = encode_metrics(metrics) if metrics else UNSET
        return self._encoded_metrics

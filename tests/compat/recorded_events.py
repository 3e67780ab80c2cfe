"""A log with every kind of event that V0 translates, and with odd events, for the recordings of the sockets."""

import json
from dataclasses import dataclass
from datetime import UTC, datetime

from django.db import connection, transaction

from conversations import announcing, services
from conversations.engine.payloads import Durable, parse_event
from conversations.models import Conversation, Lease, NewEvent, OutgoingMessage
from conversations.services.state import change_fields

START = datetime(2020, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class Engine:
    """An event of the engine, as the bytes of its socket."""

    raw: bytes


@dataclass(frozen=True)
class Message:
    """A message that a user posts to this server."""

    id: str
    text: str
    images: tuple[str, ...] = ()


@dataclass(frozen=True)
class Server:
    """Another event that this server appends itself."""

    id: str
    kind: str
    payload: str


def event(event_id, kind, source="agent", **fields):
    head = {"id": event_id, "timestamp": "2020-01-01T10:00:00.123456", "source": source}
    return Engine(json.dumps(head | {"kind": kind} | fields).encode())


def raw(text):
    return Engine(text.encode("utf-8", "surrogatepass"))


def texts(*parts):
    return [{"type": "text", "text": part} for part in parts]


def state(event_id, value, key="execution_status"):
    return event(event_id, "ConversationStateUpdateEvent", "environment", key=key, value=value)


def action(event_id, kind, *, tool="terminal", **fields):
    return event(
        event_id,
        "ActionEvent",
        thought=texts("Först", "dann 🙂"),
        action={"kind": kind} | fields,
        tool_name=tool,
        tool_call_id=f"call-{event_id}",
        llm_response_id="response-1",
        security_risk="MEDIUM",
    )


def observation(event_id, action_id, kind, *, tool="terminal", **fields):
    return event(
        event_id,
        "ObservationEvent",
        "environment",
        observation={"kind": kind} | fields,
        action_id=action_id,
        tool_name=tool,
        tool_call_id=f"call-{action_id}",
    )


def usage(event_id, cost, tokens, key="stats"):
    numbers = {"prompt_tokens": tokens, "completion_tokens": 7, "context_window": 200_000}
    agent = {
        "model_name": "provider/model",
        "accumulated_cost": cost,
        "max_budget_per_task": 4.5,
        "accumulated_token_usage": numbers,
    }
    uses = {"usage_to_metrics": {"agent": agent, "condenser": agent | {"accumulated_cost": 0.25}}}
    value = uses if key == "stats" else {"stats": uses, "execution_status": "running"}
    return state(event_id, value, key)


def fillers(first, count):
    """Return events that V0 does not send and that recordings of V1 store as one line."""
    return [event(f"filler-{number}", "TokenEvent") for number in range(first, first + count)]


MESSAGES = [
    event("system", "SystemPromptEvent", system_prompt={"text": "Be naïve."}, tools=[{"t": 1}]),
    event("system-2", "SystemPromptEvent", system_prompt="Plain", tools="none"),
    Message("message-1", "Fix the naïve test 🙂\n</script>", ("data:image/png;base64,AA",)),
    event(
        "echo-1",
        "MessageEvent",
        "user",
        llm_message={"role": "user", "content": texts("Fix the naïve test 🙂\n</script>")},
    ),
    event(
        "typed",
        "MessageEvent",
        "user",
        llm_message={"role": "user", "content": texts("Typed in the engine")},
    ),
    state("state-running", "running"),
    usage("usage-1", 0.5, 1200),
    event(
        "answer-1",
        "MessageEvent",
        llm_message={
            "role": "assistant",
            "content": [
                *texts("One", "Two"),
                {"type": "image", "image_urls": ["https://x/y.png", 7]},
            ],
        },
    ),
    event("answer-2", "MessageEvent", llm_message={"role": "assistant", "content": "A text"}),
    event("hook-message", "MessageEvent", "hook", llm_message={"content": texts("From a hook")}),
]
WORK = [
    action("run", "TerminalAction", command="ls -la 'ü'", is_input=True, timeout=5.0),
    observation(
        "ran",
        "run",
        "TerminalObservation",
        command="ls",
        content=texts("drwx ü\x1b[0m"),
        metadata={
            "exit_code": 0,
            "pid": 12,
            "username": "agent",
            "working_dir": "/w",
            "prefix": "p",
        },
    ),
    action("bash", "ExecuteBashAction", command="false"),
    observation(
        "bashed", "bash", "ExecuteBashObservation", exit_code=1, output="no", is_error=True
    ),
    observation("long", "bash", "TerminalObservation", content=texts("x" * 31_000)),
    action("view", "FileEditorAction", command="view", path="/w/a.py", view_range=[1, 5]),
    observation("viewed", "view", "FileEditorObservation", command="view", content=texts("1 a")),
    action("create", "FileEditorAction", command="create", path="/w/a.py", file_text="a\n"),
    observation(
        "created",
        "create",
        "FileEditorObservation",
        command="create",
        path="/w/a.py",
        prev_exist=True,
        old_content="a\nb\n",
        new_content="a\nc",
    ),
    action(
        "replace",
        "StrReplaceEditorAction",
        command="str_replace",
        path="b",
        old_str="x",
        new_str="y",
    ),
    observation(
        "not-replaced", "replace", "StrReplaceEditorObservation", error="No x", is_error=True
    ),
    action(
        "plan-file",
        "PlanningFileEditorAction",
        command="insert",
        path="p",
        insert_line=3,
        new_str="n",
    ),
    observation("planned-file", "plan-file", "PlanningFileEditorObservation", command="insert"),
    action("read", "ReadFileAction", file_path="/w/r"),
    observation("has-read", "read", "ReadFileObservation", content=texts("text")),
    action("write", "WriteFileAction", file_path="/w/w", content="new"),
    observation("wrote", "write", "WriteFileObservation", file_path="/w/w"),
    action("edit", "EditAction", file_path="/w/e", old_string="o", new_string="n"),
    observation("edited", "edit", "EditObservation", old_content="o", new_content="n"),
    action(
        "tasks",
        "TaskTrackerAction",
        command="plan",
        task_list=[{"title": "T", "status": "done"}, 7],
    ),
    observation(
        "tasked", "tasks", "TaskTrackerObservation", task_list=[{"title": "T", "notes": "N"}]
    ),
    action("think", "ThinkAction", thought="Hm"),
    observation("thought", "think", "ThinkObservation", content=texts("Your thought")),
    action("browse", "BrowserNavigateAction", url="https://example.com/ü"),
    observation(
        "browsed", "browse", "BrowserObservation", content=texts("Page"), screenshot_data="QUJD"
    ),
    action("click", "BrowserClickAction", index=3, new_tab=False),
    observation("clicked", "click", "BrowserObservation", is_error=True, content=texts("Gone")),
    action("delegate", "DelegateAction", agent="helper", task={"a": [1, None]}),
    observation("delegated", "delegate", "DelegateObservation", content=texts("Done")),
    action("task", "TaskAction", subagent_type="tester", prompt="Try"),
    observation("task-done", "task", "TaskObservation", content=texts("Tried")),
    action("tool", "MCPToolAction", tool="search", data={"q": "ü", "n": 1.0}),
    observation("tool-done", "tool", "MCPToolObservation", tool_name="search", content=texts("3")),
    action("other", "NewAction", tool="new", b=2, a=1),
    observation("other-done", "other", "NewObservation", tool="new", content=texts("New")),
    action("rejected", "TerminalAction", command="rm -rf /"),
    event(
        "rejection",
        "UserRejectObservation",
        "user",
        rejection_reason="No",
        action_id="rejected",
        tool_name="terminal",
        tool_call_id="c",
    ),
    state("state-waiting", "waiting_for_confirmation"),
    Server("accepted", "UserConfirmation", '{"accept":true,"reason":"Fine"}'),
    Server("refused", "UserConfirmation", '{"accept":false}'),
    usage("usage-2", 1.5, 2400, key="full_state"),
    action("finish", "FinishAction", message="All done"),
    observation("finished", "finish", "FinishObservation", content=texts("All done")),
]
OTHERS = [
    event(
        "agent-error", "AgentErrorEvent", error="Bad call", tool_name="terminal", tool_call_id="c"
    ),
    event(
        "run-error",
        "ConversationErrorEvent",
        "environment",
        code="LLMAuthenticationError",
        detail="Key",
    ),
    event(
        "run-error-2",
        "ConversationErrorEvent",
        "environment",
        code="X",
        detail="Budget has been exceeded!",
    ),
    event("server-error", "ServerErrorEvent", "environment", code="Crash", detail=""),
    Server(
        "notice",
        "SandboxNotice",
        '{"code":"engine_lost","message":"The engine is gone","detail":"exit 1"}',
    ),
    Server("notice-2", "SandboxNotice", '{"code":"other","message":"A notice"}'),
    event("pause", "PauseEvent", "user"),
    event("interrupt", "InterruptEvent", "user"),
    event("hook-ok", "HookExecutionEvent", "hook", success=True, action_id="run"),
    event(
        "hook-bad",
        "HookExecutionEvent",
        "hook",
        success=False,
        hook_event_type="PreToolUse",
        stderr="no",
        action_id="run",
    ),
    event("hook-blocked", "HookExecutionEvent", "hook", success=True, blocked=True, reason="never"),
    event("acp", "ACPToolCallEvent", title="Read", raw_input={"path": "x"}, raw_output={"a": 1}),
    event("condense-request", "CondensationRequest", "environment"),
    event(
        "condensation",
        "Condensation",
        forgotten_event_ids=["ran", "run", "unknown", 7, "echo-1", "message-1"],
        summary="In short",
        summary_offset=2,
    ),
    event("condensation-2", "Condensation", forgotten_event_ids=["run"], summary="No offset"),
    event("summary", "CondensationSummaryEvent", "environment", summary="In short"),
    event("hosts", "HostRuleChange", "environment"),
    event("analysis", "SecurityAnalysisEvent", "environment"),
    event("token", "TokenEvent"),
    event("completion-log", "LLMCompletionLogEvent", "environment"),
    event("delta", "StreamingDeltaEvent", content="a"),
    state("other-key", ["x"], "tags"),
    state("paused", "paused"),
    state("resumed", "running"),
]
ODD = [
    event("new-kind", "KindOfTomorrow", "environment", value=1),
    event("new-source", "MessageEvent", "planet", llm_message={"content": "From elsewhere"}),
    raw(
        r'{"id":"surrogate","kind":"MessageEvent","source":"agent","llm_message":{"content":"a\ud800b"}}'
    ),
    raw(r'{"id":"low-surrogate","kind":"ThinkEvent","source":"agent","\udfff":"\udc00\ud83d"}'),
    raw(
        r'{"id":"nul","kind":"MessageEvent","source":"agent","llm_message":{"content":"a\u0000b\u2028c\u0085"}}'
    ),
    raw(
        '{"id":"unicode","kind":"MessageEvent","source":"agent","llm_message":{"content":"👩‍👩‍👧 \u202e \ufeff \u2028 \uffff \U0010ffff"}}'
    ),
    raw(
        '{"id":"huge","kind":"ActionEvent","source":"agent","tool_name":"t","action":{"kind":"X","a":1e400,"b":-1e400,"c":1e-400,"d":1.0,"e":1E5,"f":-0,"g":9007199254740993}}'
    ),
    raw(
        '{"id":"digits","kind":"ActionEvent","source":"agent","tool_name":"t","action":{"kind":"X","a":'
        + "7" * 60
        + ',"b":-'
        + "9" * 310
        + "}}"
    ),
    raw(
        '{"id":"many-digits","kind":"ActionEvent","source":"agent","tool_name":"t","action":{"kind":"X","a":'
        + "7" * 4_400
        + "}}"
    ),
    raw(
        '{"id":"many-digits-in-no-field","kind":"MessageEvent","source":"agent","timestamp":7,"n":'
        + "7" * 4_400
        + "}"
    ),
    raw(
        '{"id":"huge-usage","kind":"ConversationStateUpdateEvent","source":"environment","key":"stats","value":{"usage_to_metrics":{"a":{"accumulated_cost":1e400,"max_budget_per_task":1e309,"accumulated_token_usage":{"prompt_tokens":1e400}}}}}'
    ),
    raw('{"id":"nan","kind":"MessageEvent","source":"agent","n":NaN}'),
    raw("not JSON"),
    raw("[1,2,3]"),
    raw("{}"),
    raw(
        ' {\n\t"id" : "spaces" ,\r\n "kind":"MessageEvent" , "source":"agent", "llm_message": {"content" : "x"} } '
    ),
    raw(
        '{"id":"twice","id":"second","kind":"A","kind":"MessageEvent","source":"agent","llm_message":{"content":"1"},"llm_message":{"content":"2"}}'
    ),
    raw('{"kind":"MessageEvent","source":"agent","llm_message":{"content":"No id"}}'),
    raw('{"id":7,"kind":["MessageEvent"],"source":{"a":1}}'),
    event("run", "MessageEvent", llm_message={"content": "An id that the log has already"}),
    event(
        "time-twice",
        "MessageEvent",
        copy="2020-01-01T10:00:00.123456",
        llm_message={"content": "x"},
    ),
    event("no-time", "MessageEvent", timestamp=None, llm_message={"content": "x"}),
    event("bad-time", "MessageEvent", timestamp="yesterday", llm_message={"content": "x"}),
    event("time-with-offset", "MessageEvent", timestamp="2020-01-01T12:00:00+02:00"),
    event(
        "action-of-lists",
        "ActionEvent",
        action=[1],
        thought="x",
        tool_name=7,
        security_risk=["HIGH"],
    ),
    event("action-of-null", "ActionEvent", action=None, thought=None),
    event(
        "action-of-text",
        "ActionEvent",
        action={"kind": "TerminalAction", "command": {"a": [1]}, "timeout": True},
    ),
    event("finish-without-text", "ActionEvent", action={"kind": "FinishAction", "message": None}),
    event(
        "no-action",
        "ObservationEvent",
        "environment",
        observation={"kind": "TerminalObservation", "content": "x"},
        action_id="unknown",
    ),
    event(
        "action-id-of-number", "ObservationEvent", "environment", observation="text", action_id=7
    ),
    event(
        "observation-of-null", "ObservationEvent", "environment", observation=None, action_id=None
    ),
    event(
        "mcp-without-content",
        "ObservationEvent",
        "environment",
        observation={"kind": "MCPToolObservation"},
        action_id="",
    ),
    event(
        "state-of-list",
        "ConversationStateUpdateEvent",
        "environment",
        key=["x"],
        value={"execution_status": ["running"]},
    ),
    event(
        "state-unknown",
        "ConversationStateUpdateEvent",
        "environment",
        key="execution_status",
        value="dancing",
    ),
    event(
        "condensation-of-text",
        "Condensation",
        forgotten_event_ids="run",
        summary=7,
        summary_offset=True,
    ),
    event(
        "agent-user-message",
        "UserMessage",
        "agent",
        text="A sandbox that imitates the server",
        images=[7],
    ),
    event("agent-notice", "SandboxNotice", "environment", code="engine_lost", message="Imitated"),
    event("null-action", "ActionEvent", action={"kind": "NullAction"}, tool_name="null"),
    event(
        "deep",
        "MessageEvent",
        extra=json.loads("[" * 60 + "]" * 60),
        llm_message={"content": "deep"},
    ),
]
FAR = [
    *fillers(0, 600),
    observation("ran-far", "run", "TerminalObservation", content=texts("late"), exit_code=0),
    event("hook-far", "HookExecutionEvent", "hook", success=False, error="late", action_id="click"),
    event("condensation-far", "Condensation", forgotten_event_ids=["view", "system", "no"], summary="s", summary_offset=0),
    state("state-finished", "finished"),
    event("last", "MessageEvent", llm_message={"content": "The last message"}),
]  # fmt: skip
EVERYTHING = [*MESSAGES, *WORK, *OTHERS, *ODD, *FAR]


def append(conversation, items):
    """Append events in their order: consecutive events of the engine together, as a manager does."""
    for batch in batches(items):
        if isinstance(batch[0], Engine):
            _ingest(conversation, [item.raw for item in batch])
        elif isinstance(batch[0], Message):
            _post(conversation, batch[0])
        else:
            _append_own(conversation, batch[0])


def batches(items):
    """Return lists of the events that are appended in one transaction."""
    found = []
    for item in items:
        if found and isinstance(item, Engine) and isinstance(found[-1][0], Engine):
            found[-1].append(item)
        else:
            found.append([item])
    return found


def _ingest(conversation, batch):
    first = Conversation.objects.values_list("engine_seq", flat=True).get(pk=conversation.pk) + 1
    frames = [
        Durable(seq, parse_event(data, seq=seq)) for seq, data in enumerate(batch, start=first)
    ]
    services.ingest_events(conversation_id=conversation.pk, generation=1, frames=frames)


def _post(conversation, message):
    services.post_message(
        conversation_id=conversation.pk,
        text=message.text,
        images=list(message.images),
        message_id=message.id,
        by=conversation.created_by,
    )
    # The engine's copy of a message is recognized only after a delivery was tried.
    OutgoingMessage.objects.filter(conversation=conversation).update(attempts=1)


@transaction.atomic
def _append_own(conversation, item):
    row = Conversation.objects.select_for_update().get(pk=conversation.pk)
    source = "server" if item.kind == "SandboxNotice" else "user"
    row.append(NewEvent(item.id, item.kind, source, item.payload))
    announcing.announce_on_commit(row.pk)


def create(user, items=(), **fields):
    """Create a conversation with a log. Its events were received 1.25 seconds apart from 2020-01-01 on."""
    conversation = services.create_conversation(user=user, title="First")
    Lease.objects.filter(conversation=conversation).update(generation=1)
    append(conversation, items)
    fix_times(conversation)
    change(conversation, **{"status": "running"} | fields)
    conversation.refresh_from_db()
    return conversation


def fix_times(conversation):
    """Set the time of receipt of all events by their ``seq``."""
    statement = (
        "UPDATE conversations_event SET received_at = %s + seq * interval '1.25 seconds'"
        " WHERE conversation_id = %s"
    )
    with connection.cursor() as cursor:
        cursor.execute(statement, [START, conversation.pk])


def change(conversation, **fields):
    """Change columns of a conversation and nudge its readers."""
    with transaction.atomic():
        row = Conversation.objects.select_for_update().get(pk=conversation.pk)
        change_fields(row, **fields)


def find_seq(conversation, event_id):
    """Return the position of an event in the log."""
    return conversation.events.values_list("seq", flat=True).get(event_id=event_id)


def prune(conversation, seq):
    """Remove the events up to a position, as the operator's command does."""
    with transaction.atomic():
        conversation.events.filter(seq__lte=seq)._raw_delete("default")
        Conversation.objects.filter(pk=conversation.pk).update(pruned_seq=seq)
    conversation.refresh_from_db()

"""Every kind of the engine's events in V0's words, one by one, by full bodies; and whatever else may come."""

import json

import pytest

from compat.v0 import actions, translation
from compat.v0.translation import Entry, Links
from compat.v0.values import loads
from tests.hostile import EVENTS

AT = "2026-11-22T10:00:00+00:00"
CALL = {"tool_name": "terminal", "tool_call_id": "call_1", "llm_response_id": "r1"}
METADATA = {
    "tool_call_metadata": {
        "function_name": "terminal",
        "tool_call_id": "call_1",
        "model_response": {"id": "r1"},
        "total_calls_in_response": 1,
    }
}
RESULT_METADATA = {
    "tool_call_metadata": METADATA["tool_call_metadata"] | {"model_response": {"id": ""}}
}


def entry(kind, source="agent", *, seq=7, event_id="e7", **value):
    return Entry(seq, event_id, kind, source, value, AT)


def told(kind, source="agent", links=None, **value):
    return translation.translate_event(entry(kind, source, **value), links or Links())


def base(source, message, **more):
    return {"id": 7, "timestamp": AT, "source": source, "message": message} | more


def action(kind, **fields):
    """An ActionEvent's V0 action: its name and args."""
    thought = [{"type": "text", "text": "First"}, {"type": "text", "text": "then"}]
    value = {
        "action": {"kind": kind} | fields,
        "thought": thought,
        "security_risk": "MEDIUM",
    } | CALL
    return told("ActionEvent", **value)


def observation(kind, asked=None, tool="terminal", **fields):
    """An ObservationEvent's V0 observation, answering the action at seq 5."""
    links = Links(actions={"a5": {"action": asked or {}}}, seqs={"a5": 5})
    value = {"observation": {"kind": kind} | fields, "action_id": "a5", "tool_call_id": "call_1"}
    return told("ObservationEvent", "environment", links, tool_name=tool, **value)


def text(*parts):
    return [{"type": "text", "text": part} for part in parts]


# --- Messages ---------------------------------------------------------------------


def message_args(content, images=(), *, waits=False):
    return {
        "content": content,
        "file_urls": [],
        "image_urls": list(images),
        "wait_for_response": waits,
        "security_risk": -1,
    }


def test_user_message_becomes_a_message_action():
    found = told("UserMessage", "user", text="Hello", images=["data:image/png;base64,AA"])

    assert found == base(
        "user", "Hello", action="message", args=message_args("Hello", ["data:image/png;base64,AA"])
    )


def test_echo_of_a_sent_message_is_dropped_and_another_user_message_is_kept():
    links = Links(echoes={"e7"})
    message = {"llm_message": {"role": "user", "content": text("Hello")}}

    assert told("MessageEvent", "user", links, **message) is None
    assert told("MessageEvent", "user", **message) == base(
        "user", "Hello", action="message", args=message_args("Hello")
    )


def test_agent_message_joins_text_parts_and_waits_for_a_response():
    content = [*text("One", "Two"), {"type": "image", "image_urls": ["https://x/y.png"]}]
    found = told("MessageEvent", llm_message={"role": "assistant", "content": content})

    args = message_args("One\nTwo", ["https://x/y.png"], waits=True)
    assert found == base("agent", "One\nTwo", action="message", args=args)


def test_system_prompt_becomes_a_system_action():
    found = told("SystemPromptEvent", system_prompt={"text": "Be good"}, tools=[{"title": "t"}])

    args = {"content": "Be good", "tools": [{"title": "t"}]}
    none = {"openhands_version": None, "agent_class": None}
    assert found == base("agent", "Be good", action="system", args=args | none)


# --- Actions ----------------------------------------------------------------------

THOUGHT = {"thought": "First\nthen"}
RISKY = THOUGHT | {"security_risk": 1}
EDIT = {"start": 1, "end": -1, "content": "", "impl_source": "oh_aci", "insert_line": None}


@pytest.mark.parametrize("kind", ["TerminalAction", "ExecuteBashAction"])
def test_terminal_action_becomes_a_run_action(kind):
    found = action(kind, command="ls", is_input=True, timeout=5.0)

    args = {
        "command": "ls",
        "is_input": True,
        "blocking": False,
        "is_static": False,
        "cwd": None,
        "hidden": False,
        "confirmation_state": "confirmed",
    }
    assert found == base(
        "agent", "Runs: ls", action="run", args=RISKY | args, timeout=5.0, **METADATA
    )


ACTIONS = {
    "FileEditorAction create": (
        {"command": "create", "path": "/w/a.txt", "file_text": "x"},
        ("edit", "Edits /w/a.txt (create)"),
        RISKY
        | EDIT
        | {
            "path": "/w/a.txt",
            "command": "create",
            "file_text": "x",
            "old_str": None,
            "new_str": None,
        },
    ),
    "StrReplaceEditorAction insert": (
        {"command": "insert", "path": "a", "new_str": "n", "insert_line": 3},
        ("edit", "Edits a (insert)"),
        RISKY
        | EDIT
        | {
            "path": "a",
            "command": "insert",
            "file_text": None,
            "old_str": None,
            "new_str": "n",
            "insert_line": 3,
        },
    ),
    "PlanningFileEditorAction str_replace": (
        {"command": "str_replace", "path": "a", "old_str": "o", "new_str": "n"},
        ("edit", "Edits a (str_replace)"),
        RISKY
        | EDIT
        | {
            "path": "a",
            "command": "str_replace",
            "file_text": None,
            "old_str": "o",
            "new_str": "n",
        },
    ),
    "FileEditorAction view": (
        {"command": "view", "path": "a", "view_range": [1, 5]},
        ("read", "Reads a"),
        RISKY | {"path": "a", "start": 0, "end": -1, "impl_source": "oh_aci", "view_range": [1, 5]},
    ),
    "ReadFileAction": (
        {"file_path": "a"},
        ("read", "Reads a"),
        RISKY | {"path": "a", "start": 0, "end": -1, "impl_source": "oh_aci", "view_range": None},
    ),
    "WriteFileAction": (
        {"file_path": "a", "content": "c"},
        ("write", "Writes a"),
        RISKY | {"path": "a", "content": "c", "start": 0, "end": -1},
    ),
    "EditAction": (
        {"file_path": "a", "old_string": "o", "new_string": "n"},
        ("edit", "Edits a (str_replace)"),
        RISKY
        | EDIT
        | {
            "path": "a",
            "command": "str_replace",
            "file_text": None,
            "old_str": "o",
            "new_str": "n",
        },
    ),
    "TaskTrackerAction": (
        {"command": "plan", "task_list": [{"title": "A", "notes": "n", "status": "in_progress"}]},
        ("task_tracking", "Plans 1 tasks"),
        THOUGHT
        | {
            "command": "plan",
            "task_list": [{"id": "1", "title": "A", "notes": "n", "status": "in_progress"}],
        },
    ),
    "ThinkAction": ({"thought": "hm"}, ("think", "Thinks: hm"), {"thought": "hm"}),
    "FinishAction": (
        {"message": "All done."},
        ("finish", "All done."),
        THOUGHT | {"final_thought": "All done.", "outputs": {}},
    ),
    "BrowserNavigateAction": (
        {"url": "https://example.com", "new_tab": False},
        ("browse", "Opens https://example.com"),
        RISKY | {"url": "https://example.com", "return_axtree": False},
    ),
    "BrowserClickAction": (
        {"index": 3, "new_tab": False},
        ("browse_interactive", "In the browser: Click(index=3, new_tab=false)"),
        RISKY
        | {
            "browser_actions": "Click(index=3, new_tab=false)",
            "browsergym_send_msg_to_user": "",
            "return_axtree": False,
        },
    ),
    "DelegateAction": (
        {"agent": "helper", "task": "t"},
        ("delegate", "Asks helper"),
        THOUGHT | {"agent": "helper", "inputs": {"agent": "helper", "task": "t"}},
    ),
    "TaskAction": (
        {"subagent_type": "coder", "prompt": "p"},
        ("delegate", "Asks coder"),
        THOUGHT | {"agent": "coder", "inputs": {"subagent_type": "coder", "prompt": "p"}},
    ),
    "MCPToolAction": (
        {"data": {"q": "x"}},
        ("call_tool_mcp", "Calls terminal"),
        RISKY | {"name": "terminal", "arguments": {"q": "x"}},
    ),
    "GlobAction": (
        {"pattern": "*.py"},
        ("call_tool_mcp", "Calls terminal"),
        RISKY | {"name": "terminal", "arguments": {"pattern": "*.py"}},
    ),
    "SomethingNewAction": (
        {"a": 1},
        ("call_tool_mcp", "Calls terminal"),
        RISKY | {"name": "terminal", "arguments": {"a": 1}},
    ),
}


@pytest.mark.parametrize("name", ACTIONS)
def test_action_event_becomes_its_v0_action(name):
    fields, (action_name, message), args = ACTIONS[name]

    found = action(name.partition(" ")[0], **fields)

    assert found == base("agent", message, action=action_name, args=args, **METADATA)


def test_every_action_kind_of_the_table_has_a_case():
    tried = {name.partition(" ")[0] for name in ACTIONS} | {"TerminalAction", "ExecuteBashAction"}

    assert set(actions.ACTIONS) <= tried


def test_unreadable_tool_call_becomes_an_mcp_action_without_arguments():
    """The engine could not read the model's call: the call is shown, its error follows."""
    found = told("ActionEvent", **CALL)

    args = {"thought": "", "security_risk": -1, "name": "terminal", "arguments": {}}
    assert found == base("agent", "Calls terminal", action="call_tool_mcp", args=args, **METADATA)


# --- Observations -----------------------------------------------------------------


def test_terminal_observation_becomes_a_run_observation():
    found = observation(
        "TerminalObservation",
        content=text("hello"),
        command="echo hello",
        exit_code=0,
        is_error=False,
        metadata={
            "exit_code": 0,
            "pid": 9,
            "username": "root",
            "hostname": "vm",
            "working_dir": "/w",
        },
    )

    metadata = {
        "exit_code": 0,
        "pid": 9,
        "username": "root",
        "hostname": "vm",
        "working_dir": "/w",
        "py_interpreter_path": None,
        "prefix": "",
        "suffix": "",
    }
    assert found == base(
        "agent",
        "Ran: echo hello (exit 0)",
        observation="run",
        content="hello",
        extras={"command": "echo hello", "metadata": metadata, "hidden": False},
        success=True,
        cause=5,
        **RESULT_METADATA,
    )


def test_terminal_observation_without_exit_code_shows_minus_one_and_no_success():
    found = observation("ExecuteBashObservation", {"command": "ls"}, output="x", exit_code=None)

    assert found["extras"]["metadata"]["exit_code"] == -1
    assert (found["extras"]["command"], found["content"], found["success"]) == ("ls", "x", False)


def test_long_output_is_cut_in_the_middle():
    output = "a" * 40_000 + "b" * 40_000
    found = observation("TerminalObservation", content=text(output))["content"]

    assert len(found) <= 30_000
    assert (found[:3], found[-3:]) == ("aaa", "bbb")
    assert "characters left out" in found


DIFF = "--- a.txt\n+++ a.txt\n@@ -1 +1 @@\n-old\n+new"
BROWSED = {
    "screenshot_path": None,
    "set_of_marks": "",
    "goal_image_urls": [],
    "active_page_index": -1,
    "dom_object": {},
    "axtree_object": {},
    "extra_element_properties": {},
    "focused_element_bid": "",
    "filter_visible_only": False,
}
OBSERVATIONS = {
    "FileEditorObservation str_replace": (
        {
            "command": "str_replace",
            "path": "/w/a.txt",
            "prev_exist": True,
            "old_content": "old",
            "new_content": "new",
            "content": text("ok"),
        },
        {},
        ("edit", "Edited /w/a.txt", "ok"),
        {
            "path": "/w/a.txt",
            "prev_exist": True,
            "old_content": "old",
            "new_content": "new",
            "impl_source": "oh_aci",
            "diff": DIFF,
        },
    ),
    "StrReplaceEditorObservation create": (
        {
            "command": "create",
            "path": "b",
            "prev_exist": False,
            "new_content": "n",
            "output": "made",
        },
        {},
        ("edit", "Edited b", "made"),
        {
            "path": "b",
            "prev_exist": False,
            "old_content": None,
            "new_content": "n",
            "impl_source": "oh_aci",
            "diff": "--- b\n+++ b\n@@ -0,0 +1 @@\n+n",
        },
    ),
    "PlanningFileEditorObservation view": (
        {"command": "view", "path": "b", "content": text("1 n")},
        {},
        ("read", "Read b", "1 n"),
        {"path": "b", "impl_source": "oh_aci"},
    ),
    "FileEditorObservation error": (
        {"command": "str_replace", "path": "b", "is_error": True, "content": text("no match")},
        {},
        ("error", "no match", "no match"),
        {"error_id": ""},
    ),
    "EditObservation": (
        {"content": text("ok"), "old_content": "", "new_content": ""},
        {"file_path": "c"},
        ("edit", "Edited c", "ok"),
        {
            "path": "c",
            "prev_exist": False,
            "old_content": "",
            "new_content": "",
            "impl_source": "oh_aci",
            "diff": "",
        },
    ),
    "ReadFileObservation": (
        {"content": text("text")},
        {"file_path": "c"},
        ("read", "Read c", "text"),
        {"path": "c", "impl_source": "oh_aci"},
    ),
    "WriteFileObservation": (
        {"content": text("ok"), "file_path": "c"},
        {},
        ("write", "Wrote c", "ok"),
        {"path": "c"},
    ),
    "TaskTrackerObservation": (
        {"content": text("1 task"), "command": "view", "task_list": [{"title": "A"}]},
        {},
        ("task_tracking", "The tasks", "1 task"),
        {
            "command": "view",
            "task_list": [{"id": "1", "title": "A", "notes": "", "status": "todo"}],
        },
    ),
    "ThinkObservation": ({"content": text("ok")}, {}, ("think", "Noted.", "ok"), {}),
    "MCPToolObservation": (
        {"content": text("answer"), "tool_name": "search"},
        {"data": {"q": "x"}},
        ("mcp", "search answered", "answer"),
        {"name": "search", "arguments": {"q": "x"}},
    ),
    "BrowserObservation": (
        {"content": text("Page"), "screenshot_data": "AAAA"},
        {"kind": "BrowserNavigateAction", "url": "https://e.com"},
        ("browse", "Saw https://e.com", "Page"),
        BROWSED
        | {
            "url": "https://e.com",
            "trigger_by_action": "BrowserNavigateAction",
            "screenshot": "data:image/png;base64,AAAA",
            "error": False,
            "open_pages_urls": ["https://e.com"],
            "last_browser_action": "BrowserNavigateAction",
            "last_browser_action_error": "",
        },
    ),
    "BrowserObservation failed": (
        {"content": text("no such element"), "is_error": True},
        {"kind": "BrowserClickAction", "index": 1},
        ("browse", "Saw the page", "no such element"),
        BROWSED
        | {
            "url": "",
            "trigger_by_action": "BrowserClickAction",
            "screenshot": "",
            "error": True,
            "open_pages_urls": [],
            "last_browser_action": "BrowserClickAction",
            "last_browser_action_error": "no such element",
        },
    ),
    "DelegateObservation": (
        {"content": text("done")},
        {},
        ("delegate", "The other agent answered", "done"),
        {"outputs": {"content": "done"}},
    ),
    "TaskObservation": (
        {"content": "done"},
        {},
        ("delegate", "The other agent answered", "done"),
        {"outputs": {"content": "done"}},
    ),
    "SomethingNewObservation": (
        {"content": text("done")},
        {"kind": "SomethingNewAction", "a": 1},
        ("mcp", "terminal answered", "done"),
        {"name": "terminal", "arguments": {"a": 1}},
    ),
}


@pytest.mark.parametrize("name", OBSERVATIONS)
def test_observation_event_becomes_its_v0_observation(name):
    fields, asked, (observed, message, content), extras = OBSERVATIONS[name]

    found = observation(name.partition(" ")[0], asked, **fields)

    shape = {"observation": observed, "content": content, "extras": extras, "cause": 5}
    assert found == base("agent", message, **shape, **RESULT_METADATA)


def test_every_observation_kind_of_the_table_has_a_case():
    tried = {name.partition(" ")[0] for name in OBSERVATIONS}

    assert set(actions.OBSERVATIONS) <= tried | {"TerminalObservation", "ExecuteBashObservation"}


def test_finish_observation_is_dropped():
    assert observation("FinishObservation", message="Done") is None


def test_observation_of_an_unknown_action_has_no_cause():
    found = told("ObservationEvent", "environment", observation={"kind": "ThinkObservation"})

    assert found == base("agent", "Noted.", observation="think", content="", extras={})


def test_diff_of_very_long_texts_is_empty():
    assert actions.make_diff("a", "x\n" * 100_000, "y\n" * 100_000) == ""


def test_rejection_becomes_a_user_rejected_observation():
    links = Links(seqs={"a5": 5})
    found = told(
        "UserRejectObservation", "environment", links, action_id="a5", rejection_reason="no", **CALL
    )

    shape = {"observation": "user_rejected", "content": "no", "extras": {}, "cause": 5}
    assert found == base("user", "no", **shape, **METADATA)


# --- States, errors and the rest -----------------------------------------------------

STATES = {
    "idle": "awaiting_user_input",
    "running": "running",
    "paused": "paused",
    "waiting_for_confirmation": "awaiting_user_confirmation",
    "finished": "finished",
    "error": "error",
    "stuck": "error",
    "deleting": "stopped",
}


@pytest.mark.parametrize("key", ["execution_status", "full_state"])
@pytest.mark.parametrize("status", STATES)
def test_execution_status_becomes_an_agent_state(status, key):
    value = status if key == "execution_status" else {"execution_status": status}
    found = told("ConversationStateUpdateEvent", "environment", key=key, value=value)

    extras = {"agent_state": STATES[status], "reason": translation.REASONS.get(status, "")}
    shape = {"observation": "agent_state_changed", "content": "", "extras": extras}
    assert found == base("environment", "", **shape)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("execution_status", "odd"),
        ("execution_status", None),
        ("execution_status", ["idle"]),
        ("tags", {}),
        (None, 1),
    ],
)
def test_update_without_a_known_status_is_dropped(key, value):
    assert told("ConversationStateUpdateEvent", "environment", key=key, value=value) is None


def test_usage_totals_are_added_to_the_next_action():
    links = Links()
    use = {
        "model_name": "m",
        "accumulated_cost": 0.5,
        "max_budget_per_task": None,
        "accumulated_token_usage": {
            "prompt_tokens": 10,
            "completion_tokens": 2,
            "cache_read_tokens": 1,
        },
    }
    uses = {"usage_to_metrics": {"agent": use, "condenser": use}}

    assert (
        told("ConversationStateUpdateEvent", "environment", links, key="stats", value=uses) is None
    )
    found = told("ActionEvent", "agent", links, action={"kind": "ThinkAction", "thought": "x"})

    assert found["llm_metrics"] == {
        "accumulated_cost": 1.0,
        "max_budget_per_task": None,
        "accumulated_token_usage": {
            "model": "m",
            "response_id": "",
            "prompt_tokens": 20,
            "completion_tokens": 4,
            "cache_read_tokens": 2,
            "cache_write_tokens": 0,
            "context_window": 0,
            "per_turn_token": 0,
        },
        "costs": [],
        "response_latencies": [],
        "token_usages": [],
    }


def error_of(source, content, error_id="", **more):
    shape = {"observation": "error", "content": content, "extras": {"error_id": error_id}}
    return base(source, content, **shape, **more)


@pytest.mark.parametrize(
    ("code", "detail", "status"),
    [
        ("LLMAuthenticationError", "key", "STATUS$ERROR_LLM_AUTHENTICATION"),
        ("LLMServiceUnavailableError", "away", "STATUS$ERROR_LLM_SERVICE_UNAVAILABLE"),
        ("LLMRateLimitError", "slow", "STATUS$LLM_RETRY"),
        ("LLMContextWindowExceedError", "long", "STATUS$ERROR_LLM_INTERNAL_SERVER_ERROR"),
        ("LLMBadRequestError", "bad", "STATUS$ERROR_LLM_INTERNAL_SERVER_ERROR"),
        ("LLMBadRequestError", "Budget has been exceeded!", "STATUS$ERROR_LLM_OUT_OF_CREDITS"),
        ("LLMContentPolicyViolationError", "no", "STATUS$ERROR_LLM_CONTENT_POLICY_VIOLATION"),
        ("MaxIterationsReached", "500", "STATUS$ERROR"),
    ],
)
def test_conversation_error_becomes_an_error_with_its_v0_status(code, detail, status):
    found = told("ConversationErrorEvent", "environment", code=code, detail=detail)

    assert found == error_of("environment", detail, status)


OTHERS = {
    "AgentErrorEvent": (
        "agent",
        {"error": "no such tool"} | CALL,
        error_of("agent", "no such tool", **METADATA),
    ),
    "ServerErrorEvent": (
        "environment",
        {"code": "Odd", "detail": ""},
        error_of("environment", "Odd", "STATUS$ERROR"),
    ),
    "SandboxNotice": (
        "server",
        {"code": "engine_stopped", "message": "It stopped.", "detail": "exit 1"},
        error_of("environment", "It stopped.\nexit 1", "STATUS$ERROR_RUNTIME_DISCONNECTED"),
    ),
    "UserConfirmation": (
        "user",
        {"accept": True, "reason": ""},
        base(
            "user",
            "",
            action="change_agent_state",
            args={"agent_state": "user_confirmed", "thought": ""},
        ),
    ),
    "PauseEvent": (
        "user",
        {},
        base(
            "user", "", action="change_agent_state", args={"agent_state": "paused", "thought": ""}
        ),
    ),
    "InterruptEvent": (
        "user",
        {},
        base(
            "user", "", action="change_agent_state", args={"agent_state": "paused", "thought": ""}
        ),
    ),
    "CondensationRequest": (
        "environment",
        {},
        base("environment", "", action="condensation_request", args={}),
    ),
    "CondensationSummaryEvent": (
        "environment",
        {"summary": "short"},
        base("environment", "", observation="condense", content="short", extras={}),
    ),
    "HookExecutionEvent": (
        "hook",
        {"success": False, "hook_event_type": "PreToolUse", "stderr": "denied"},
        error_of("environment", "A hook (PreToolUse) failed: denied"),
    ),
    "ACPToolCallEvent": (
        "agent",
        {"title": "Read", "raw_input": {"p": 1}, "content": "seen"},
        base(
            "agent",
            "Read",
            observation="mcp",
            content="seen",
            extras={"name": "Read", "arguments": {"p": 1}},
        ),
    ),
    "SecurityAnalysisEvent": ("agent", {"risks": {}}, None),
    "TokenEvent": ("agent", {"prompt_token_ids": [1]}, None),
    "LLMCompletionLogEvent": ("environment", {"log_data": "x"}, None),
    "StreamingDeltaEvent": ("agent", {"content": "x"}, None),
    "SomethingNewEvent": (
        "agent",
        {"a": 1},
        base("environment", "", observation="null", content="SomethingNewEvent", extras={}),
    ),
    "Unparseable": (
        "unknown",
        {"raw_base64": "AA=="},
        base("environment", "", observation="null", content="Unparseable", extras={}),
    ),
}


@pytest.mark.parametrize("kind", OTHERS)
def test_event_of_another_kind_becomes_its_v0_event(kind):
    source, value, wanted = OTHERS[kind]

    assert told(kind, source, **value) == wanted


def test_refused_confirmation_keeps_its_reason_and_successful_hook_is_dropped():
    refused = told("UserConfirmation", "user", accept=False, reason="not that one")

    assert refused["args"] == {"agent_state": "user_rejected", "thought": "not that one"}
    assert told("HookExecutionEvent", "hook", success=True) is None


def test_condensation_lists_the_ids_of_forgotten_events():
    links = Links(seqs={"a": 3, "b": 2})
    found = told(
        "Condensation",
        "environment",
        links,
        forgotten_event_ids=["a", "b", "gone"],
        summary="s",
        summary_offset=2,
    )

    args = {
        "forgotten_event_ids": [2, 3],
        "forgotten_events_start_id": None,
        "forgotten_events_end_id": None,
    }
    summary = {"summary": "s", "summary_offset": 2}
    assert found == base("agent", "s", action="condensation", args=args | summary)


def test_every_event_kind_of_the_table_has_a_case():
    elsewhere = {
        *("UserMessage", "SystemPromptEvent", "MessageEvent", "ActionEvent", "ObservationEvent"),
        *(
            "UserRejectObservation",
            "ConversationStateUpdateEvent",
            "ConversationErrorEvent",
            "Condensation",
        ),
    }

    assert set(translation.KINDS) == (set(OTHERS) & set(translation.KINDS)) | elsewhere


# --- Hostile input ------------------------------------------------------------------

ODD = [
    None,
    0,
    -1,
    True,
    1.5,
    "",
    "x",
    [],
    [None],
    [1, "a"],
    {},
    {"a": []},
    {"kind": 3},
    [{"text": 3}],
]
FIELDS = (
    *(
        "text",
        "images",
        "llm_message",
        "system_prompt",
        "tools",
        "action",
        "thought",
        "security_risk",
    ),
    *(
        "tool_name",
        "tool_call_id",
        "llm_response_id",
        "observation",
        "action_id",
        "rejection_reason",
    ),
    *(
        "error",
        "key",
        "value",
        "code",
        "detail",
        "message",
        "accept",
        "reason",
        "forgotten_event_ids",
    ),
    *("summary", "summary_offset", "success", "title", "raw_input", "content"),
)
INNER = (
    *(
        "command",
        "path",
        "content",
        "task_list",
        "url",
        "metadata",
        "exit_code",
        "old_content",
        "data",
    ),
    *(
        "new_content",
        "view_range",
        "insert_line",
        "screenshot_data",
        "output",
        "file_path",
        "message",
    ),
)


@pytest.mark.parametrize("kind", [*translation.KINDS, "SomethingNewEvent"])
def test_field_of_an_unexpected_type_still_translates_to_json(kind):
    for odd in ODD:
        for name in FIELDS:
            json.dumps(told(kind, "user", **{name: odd}), allow_nan=False)
        for key in ("stats", "full_state", "execution_status"):
            json.dumps(told(kind, "environment", key=key, value=odd))
            json.dumps(
                told(kind, "environment", key=key, value={"usage_to_metrics": odd, "stats": odd})
            )
            use = {
                "usage_to_metrics": {
                    "agent": odd,
                    "x": {"accumulated_token_usage": odd, "accumulated_cost": odd},
                }
            }
            json.dumps(told(kind, "environment", key=key, value=use))


@pytest.mark.parametrize("kind", [*actions.ACTIONS, *actions.OBSERVATIONS, "BrowserX", "Odd"])
def test_tool_field_of_an_unexpected_type_still_translates_to_json(kind):
    for odd in ODD:
        for name in INNER:
            json.dumps(action(kind, **{name: odd}), allow_nan=False)
            json.dumps(observation(kind, {name: odd}, **{name: odd}), allow_nan=False)


@pytest.mark.parametrize("name", EVENTS)
def test_hostile_payload_translates_to_strict_json(name):
    raw = EVENTS[name].decode("utf-8", "replace")
    for kind in ("MessageEvent", "ActionEvent", "SomethingNewEvent"):
        found = translation.translate_event(Entry(1, "e", kind, "user", loads(raw), AT), Links())

        json.loads(json.dumps(found, allow_nan=False))

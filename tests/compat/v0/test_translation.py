"""Translation of the engine's events to V0: the full V0 event of every kind, and hostile input."""

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


def make_entry(kind, source="agent", *, seq=7, event_id="e7", **value):
    return Entry(seq, event_id, kind, source, value, AT)


def translate(kind, source="agent", links=None, **value):
    return translation.translate_event(make_entry(kind, source, **value), links or Links())


def v0_event(source, message, **more):
    return {"id": 7, "timestamp": AT, "source": source, "message": message} | more


def translate_action(kind, **fields):
    """Return the V0 event of an ``ActionEvent`` with an action of this kind."""
    thought = [{"type": "text", "text": "First"}, {"type": "text", "text": "then"}]
    value = {
        "action": {"kind": kind} | fields,
        "thought": thought,
        "security_risk": "MEDIUM",
    } | CALL
    return translate("ActionEvent", **value)


def translate_observation(kind, request=None, tool="terminal", **fields):
    """Return the V0 event of an ``ObservationEvent`` that belongs to the action at ``seq`` 5."""
    links = Links(actions={"a5": {"action": request or {}}}, seqs={"a5": 5})
    value = {"observation": {"kind": kind} | fields, "action_id": "a5", "tool_call_id": "call_1"}
    return translate("ObservationEvent", "environment", links, tool_name=tool, **value)


def text_parts(*parts):
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
    event = translate("UserMessage", "user", text="Hello", images=["data:image/png;base64,AA"])

    assert event == v0_event(
        "user", "Hello", action="message", args=message_args("Hello", ["data:image/png;base64,AA"])
    )


def test_echo_of_a_sent_message_is_dropped_and_another_user_message_is_kept():
    links = Links(echoes={"e7"})
    message = {"llm_message": {"role": "user", "content": text_parts("Hello")}}

    assert translate("MessageEvent", "user", links, **message) is None
    assert translate("MessageEvent", "user", **message) == v0_event(
        "user", "Hello", action="message", args=message_args("Hello")
    )


def test_agent_message_joins_text_parts_and_waits_for_a_response():
    content = [*text_parts("One", "Two"), {"type": "image", "image_urls": ["https://x/y.png"]}]
    event = translate("MessageEvent", llm_message={"role": "assistant", "content": content})

    args = message_args("One\nTwo", ["https://x/y.png"], waits=True)
    assert event == v0_event("agent", "One\nTwo", action="message", args=args)


def test_system_prompt_becomes_a_system_action():
    event = translate(
        "SystemPromptEvent", system_prompt={"text": "Be good"}, tools=[{"title": "t"}]
    )

    args = {"content": "Be good", "tools": [{"title": "t"}]}
    none = {"openhands_version": None, "agent_class": None}
    assert event == v0_event("agent", "Be good", action="system", args=args | none)


# --- Actions ----------------------------------------------------------------------

THOUGHT = {"thought": "First\nthen"}
RISKY = THOUGHT | {"security_risk": 1}
EDIT = {"start": 1, "end": -1, "content": "", "impl_source": "oh_aci", "insert_line": None}


@pytest.mark.parametrize("kind", ["TerminalAction", "ExecuteBashAction"])
def test_terminal_action_becomes_a_run_action(kind):
    event = translate_action(kind, command="ls", is_input=True, timeout=5.0)

    args = {
        "command": "ls",
        "is_input": True,
        "blocking": False,
        "is_static": False,
        "cwd": None,
        "hidden": False,
        "confirmation_state": "confirmed",
    }
    assert event == v0_event(
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

    event = translate_action(name.partition(" ")[0], **fields)

    assert event == v0_event("agent", message, action=action_name, args=args, **METADATA)


def test_every_action_kind_of_the_table_has_a_case():
    tried = {name.partition(" ")[0] for name in ACTIONS} | {"TerminalAction", "ExecuteBashAction"}

    assert set(actions.ACTIONS) <= tried


def test_unreadable_tool_call_becomes_an_mcp_action_without_arguments():
    """The engine could not parse the model's call. It logs the call and then an error event."""
    event = translate("ActionEvent", **CALL)

    args = {"thought": "", "security_risk": -1, "name": "terminal", "arguments": {}}
    assert event == v0_event(
        "agent", "Calls terminal", action="call_tool_mcp", args=args, **METADATA
    )


# --- Observations -----------------------------------------------------------------


def test_terminal_observation_becomes_a_run_observation():
    event = translate_observation(
        "TerminalObservation",
        content=text_parts("hello"),
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
    assert event == v0_event(
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
    event = translate_observation(
        "ExecuteBashObservation", {"command": "ls"}, output="x", exit_code=None
    )

    assert event["extras"]["metadata"]["exit_code"] == -1
    assert (event["extras"]["command"], event["content"], event["success"]) == ("ls", "x", False)


def test_long_output_is_cut_in_the_middle():
    output = "a" * 40_000 + "b" * 40_000
    content = translate_observation("TerminalObservation", content=text_parts(output))["content"]

    assert len(content) <= 30_000
    assert (content[:3], content[-3:]) == ("aaa", "bbb")
    assert "characters left out" in content


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
            "content": text_parts("ok"),
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
        {"command": "view", "path": "b", "content": text_parts("1 n")},
        {},
        ("read", "Read b", "1 n"),
        {"path": "b", "impl_source": "oh_aci"},
    ),
    "FileEditorObservation error": (
        {
            "command": "str_replace",
            "path": "b",
            "is_error": True,
            "content": text_parts("no match"),
        },
        {},
        ("error", "no match", "no match"),
        {"error_id": ""},
    ),
    "EditObservation": (
        {"content": text_parts("ok"), "old_content": "", "new_content": ""},
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
        {"content": text_parts("text")},
        {"file_path": "c"},
        ("read", "Read c", "text"),
        {"path": "c", "impl_source": "oh_aci"},
    ),
    "WriteFileObservation": (
        {"content": text_parts("ok"), "file_path": "c"},
        {},
        ("write", "Wrote c", "ok"),
        {"path": "c"},
    ),
    "TaskTrackerObservation": (
        {"content": text_parts("1 task"), "command": "view", "task_list": [{"title": "A"}]},
        {},
        ("task_tracking", "The tasks", "1 task"),
        {
            "command": "view",
            "task_list": [{"id": "1", "title": "A", "notes": "", "status": "todo"}],
        },
    ),
    "ThinkObservation": ({"content": text_parts("ok")}, {}, ("think", "Noted.", "ok"), {}),
    "MCPToolObservation": (
        {"content": text_parts("answer"), "tool_name": "search"},
        {"data": {"q": "x"}},
        ("mcp", "search answered", "answer"),
        {"name": "search", "arguments": {"q": "x"}},
    ),
    "BrowserObservation": (
        {"content": text_parts("Page"), "screenshot_data": "AAAA"},
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
        {"content": text_parts("no such element"), "is_error": True},
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
        {"content": text_parts("done")},
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
        {"content": text_parts("done")},
        {"kind": "SomethingNewAction", "a": 1},
        ("mcp", "terminal answered", "done"),
        {"name": "terminal", "arguments": {"a": 1}},
    ),
}


@pytest.mark.parametrize("name", OBSERVATIONS)
def test_observation_event_becomes_its_v0_observation(name):
    fields, request, (observed, message, content), extras = OBSERVATIONS[name]

    event = translate_observation(name.partition(" ")[0], request, **fields)

    shape = {"observation": observed, "content": content, "extras": extras, "cause": 5}
    assert event == v0_event("agent", message, **shape, **RESULT_METADATA)


def test_every_observation_kind_of_the_table_has_a_case():
    tried = {name.partition(" ")[0] for name in OBSERVATIONS}

    assert set(actions.OBSERVATIONS) <= tried | {"TerminalObservation", "ExecuteBashObservation"}


def test_finish_observation_is_dropped():
    assert translate_observation("FinishObservation", message="Done") is None


def test_observation_of_an_unknown_action_has_no_cause():
    event = translate("ObservationEvent", "environment", observation={"kind": "ThinkObservation"})

    assert event == v0_event("agent", "Noted.", observation="think", content="", extras={})


def test_diff_of_very_long_texts_is_empty():
    assert actions.make_diff("a", "x\n" * 100_000, "y\n" * 100_000) == ""


def test_rejection_becomes_a_user_rejected_observation():
    links = Links(seqs={"a5": 5})
    event = translate(
        "UserRejectObservation", "environment", links, action_id="a5", rejection_reason="no", **CALL
    )

    shape = {"observation": "user_rejected", "content": "no", "extras": {}, "cause": 5}
    assert event == v0_event("user", "no", **shape, **METADATA)


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
    event = translate("ConversationStateUpdateEvent", "environment", key=key, value=value)

    extras = {"agent_state": STATES[status], "reason": translation.REASONS.get(status, "")}
    shape = {"observation": "agent_state_changed", "content": "", "extras": extras}
    assert event == v0_event("environment", "", **shape)


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
    assert translate("ConversationStateUpdateEvent", "environment", key=key, value=value) is None


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
        translate("ConversationStateUpdateEvent", "environment", links, key="stats", value=uses)
        is None
    )
    event = translate("ActionEvent", "agent", links, action={"kind": "ThinkAction", "thought": "x"})

    assert event["llm_metrics"] == {
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


def error_event(source, content, error_id="", **more):
    shape = {"observation": "error", "content": content, "extras": {"error_id": error_id}}
    return v0_event(source, content, **shape, **more)


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
    event = translate("ConversationErrorEvent", "environment", code=code, detail=detail)

    assert event == error_event("environment", detail, status)


OTHERS = {
    "AgentErrorEvent": (
        "agent",
        {"error": "no such tool"} | CALL,
        error_event("agent", "no such tool", **METADATA),
    ),
    "ServerErrorEvent": (
        "environment",
        {"code": "Odd", "detail": ""},
        error_event("environment", "Odd", "STATUS$ERROR"),
    ),
    "SandboxNotice": (
        "server",
        {"code": "engine_stopped", "message": "It stopped.", "detail": "exit 1"},
        error_event("environment", "It stopped.\nexit 1", "STATUS$ERROR_RUNTIME_DISCONNECTED"),
    ),
    "UserConfirmation": (
        "user",
        {"accept": True, "reason": ""},
        v0_event(
            "user",
            "",
            action="change_agent_state",
            args={"agent_state": "user_confirmed", "thought": ""},
        ),
    ),
    "PauseEvent": (
        "user",
        {},
        v0_event(
            "user", "", action="change_agent_state", args={"agent_state": "paused", "thought": ""}
        ),
    ),
    "InterruptEvent": (
        "user",
        {},
        v0_event(
            "user", "", action="change_agent_state", args={"agent_state": "paused", "thought": ""}
        ),
    ),
    "CondensationRequest": (
        "environment",
        {},
        v0_event("environment", "", action="condensation_request", args={}),
    ),
    "CondensationSummaryEvent": (
        "environment",
        {"summary": "short"},
        v0_event("environment", "", observation="condense", content="short", extras={}),
    ),
    "HookExecutionEvent": (
        "hook",
        {"success": False, "hook_event_type": "PreToolUse", "stderr": "denied"},
        error_event("environment", "A hook (PreToolUse) failed: denied"),
    ),
    "ACPToolCallEvent": (
        "agent",
        {"title": "Read", "raw_input": {"p": 1}, "content": "seen"},
        v0_event(
            "agent",
            "Read",
            observation="mcp",
            content="seen",
            extras={"name": "Read", "arguments": {"p": 1}},
        ),
    ),
    "SecurityAnalysisEvent": ("agent", {"risks": {}}, None),
    "HostRuleChange": ("server", {"host": "a.example", "allowed": True, "message": "x"}, None),
    "TokenEvent": ("agent", {"prompt_token_ids": [1]}, None),
    "LLMCompletionLogEvent": ("environment", {"log_data": "x"}, None),
    "StreamingDeltaEvent": ("agent", {"content": "x"}, None),
    "SomethingNewEvent": (
        "agent",
        {"a": 1},
        v0_event("environment", "", observation="null", content="SomethingNewEvent", extras={}),
    ),
    "Unparseable": (
        "unknown",
        {"raw_base64": "AA=="},
        v0_event("environment", "", observation="null", content="Unparseable", extras={}),
    ),
}


@pytest.mark.parametrize("kind", OTHERS)
def test_event_of_another_kind_becomes_its_v0_event(kind):
    source, value, event = OTHERS[kind]

    assert translate(kind, source, **value) == event


def test_refused_confirmation_keeps_its_reason_and_successful_hook_is_dropped():
    refused = translate("UserConfirmation", "user", accept=False, reason="not that one")

    assert refused["args"] == {"agent_state": "user_rejected", "thought": "not that one"}
    assert translate("HookExecutionEvent", "hook", success=True) is None


def test_condensation_lists_the_ids_of_forgotten_events():
    links = Links(seqs={"a": 3, "b": 2})
    event = translate(
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
    assert event == v0_event("agent", "s", action="condensation", args=args | summary)


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

UNEXPECTED = [
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
    for unexpected in UNEXPECTED:
        for name in FIELDS:
            json.dumps(translate(kind, "user", **{name: unexpected}), allow_nan=False)
        for key in ("stats", "full_state", "execution_status"):
            json.dumps(translate(kind, "environment", key=key, value=unexpected))
            json.dumps(
                translate(
                    kind,
                    "environment",
                    key=key,
                    value={"usage_to_metrics": unexpected, "stats": unexpected},
                )
            )
            use = {
                "usage_to_metrics": {
                    "agent": unexpected,
                    "x": {"accumulated_token_usage": unexpected, "accumulated_cost": unexpected},
                }
            }
            json.dumps(translate(kind, "environment", key=key, value=use))


@pytest.mark.parametrize("kind", [*actions.ACTIONS, *actions.OBSERVATIONS, "BrowserX", "Odd"])
def test_tool_field_of_an_unexpected_type_still_translates_to_json(kind):
    for unexpected in UNEXPECTED:
        for name in INNER:
            json.dumps(translate_action(kind, **{name: unexpected}), allow_nan=False)
            json.dumps(
                translate_observation(kind, {name: unexpected}, **{name: unexpected}),
                allow_nan=False,
            )


@pytest.mark.parametrize("name", EVENTS)
def test_hostile_payload_translates_to_strict_json(name):
    raw = EVENTS[name].decode("utf-8", "replace")
    for kind in ("MessageEvent", "ActionEvent", "SomethingNewEvent"):
        event = translation.translate_event(Entry(1, "e", kind, "user", loads(raw), AT), Links())

        json.loads(json.dumps(event, allow_nan=False))

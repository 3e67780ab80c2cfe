"""Translation of the engine's actions and observations to actions and observations of V0.

V0 is OpenHands' older protocol: REST routes without a version in the path, and Socket.IO. The tables ``ACTIONS`` and
``OBSERVATIONS`` map the engine's kinds of actions and observations to the functions that render them. An action of
any other kind becomes a call of an MCP tool, and an observation of any other kind becomes the result of such a call.
The payloads come from sandboxes and are not trusted, so the functions of ``compat.v0.values`` convert every value.
"""

import posixpath
from collections.abc import Callable
from typing import Any, Final

import msgspec

from compat.v0.values import as_dict, as_int, as_list, as_text, join_text_parts, list_image_urls
from lib.text_diffs import unified_diff

Payload = dict[str, Any]
"""An untrusted JSON object from the engine: the payload of an event, or the action or observation in it."""
Fields = dict[str, Any]
"""The ``args`` of a V0 action or the ``extras`` of a V0 observation."""
RISKS: Final = {"UNKNOWN": -1, "LOW": 0, "MEDIUM": 1, "HIGH": 2}
"""The numbers of V0's ``ActionSecurityRisk``, by the engine's names."""
EDITOR: Final = "oh_aci"
"""The ``impl_source`` of file actions: the value ``OH_ACI`` of V0's ``FileEditSource`` and ``FileReadSource``."""
EDITED_LINES: Final = {"start": 1, "end": -1}
"""V0's default of an edit: it counts lines from 1, and -1 is the last line."""
WHOLE_FILE: Final = {"start": 0, "end": -1}
"""V0's default of reading and writing: they count lines from 0, unlike an edit."""
OUTPUT_LENGTH: Final = 30_000
"""The maximum length of a command's output in a V0 event, in characters, as in OpenHands' own server."""
DIFF_LENGTH: Final = 200_000
"""The maximum length of the old and the new text together, in characters, for which a diff is made.

The time of difflib grows faster than the length. Clients still receive both texts and can compare them.
"""


class Rendering(msgspec.Struct, frozen=True, gc=False):
    """The parts of a V0 action or observation that depend on the engine's kind."""

    name: str
    """The value of ``action`` or ``observation``."""
    message: str
    fields: Fields
    content: str = ""
    more: Fields | None = None
    """Further keys at the top level of the event, such as ``timeout`` or ``success``."""


# --- Actions ----------------------------------------------------------------------


def render_action(event: Payload) -> Rendering:
    """Return the V0 action for the payload of an ``ActionEvent``."""
    action = as_dict(event.get("action"))
    kind = as_text(action.get("kind"))
    thought = join_text_parts(event.get("thought"))
    risk = RISKS.get(as_text(event.get("security_risk")), -1)
    render = ACTIONS.get(kind) or (
        _render_browse_interactive if kind.startswith("Browser") else None
    )
    rendering = render(action) if render else _render_tool_call(event, action)
    fields: Fields = {"thought": thought}
    if rendering.name not in WITHOUT_RISK:
        fields["security_risk"] = risk
    fields |= rendering.fields
    return Rendering(rendering.name, rendering.message, fields, "", rendering.more)


WITHOUT_RISK: Final = {"think", "finish", "delegate", "task_tracking"}
"""V0's classes of these actions have no ``security_risk``."""


def _render_run(action: Payload) -> Rendering:
    command = as_text(action.get("command"))
    fields = {
        "command": command,
        "is_input": action.get("is_input") is True,
        "blocking": False,
        "is_static": False,
        "cwd": None,
        "hidden": False,
        "confirmation_state": "confirmed",
    }
    timeout = action.get("timeout")
    more = {"timeout": timeout} if type(timeout) in (int, float) else None
    return Rendering("run", f"Runs: {command}", fields, more=more)


def _render_file_action(action: Payload) -> Rendering:
    path, command = as_text(action.get("path")), as_text(action.get("command"))
    if command == "view":
        return _render_read(path, action.get("view_range"))
    fields = {
        "path": path,
        "command": command,
        "file_text": _text_or_none(action.get("file_text")),
        "old_str": _text_or_none(action.get("old_str")),
        "new_str": _text_or_none(action.get("new_str")),
        "insert_line": _int_or_none(action.get("insert_line")),
        "content": "",
        **EDITED_LINES,
        "impl_source": EDITOR,
    }
    return Rendering("edit", f"Edits {path} ({command})", fields)


def _render_read(path: str, view_range: Any = None) -> Rendering:
    lines = [n for n in as_list(view_range) if type(n) is int]
    fields = {
        "path": path,
        **WHOLE_FILE,
        "impl_source": EDITOR,
        "view_range": lines if len(lines) == 2 else None,
    }
    return Rendering("read", f"Reads {path}", fields)


def _render_write(action: Payload) -> Rendering:
    path = as_text(action.get("file_path"))
    content = as_text(action.get("content"))
    return Rendering("write", f"Writes {path}", {"path": path, "content": content, **WHOLE_FILE})


def _render_replace(action: Payload) -> Rendering:
    return _render_file_action(
        {
            "path": action.get("file_path"),
            "command": "str_replace",
            "old_str": action.get("old_string"),
            "new_str": action.get("new_string"),
        }
    )


def _render_tasks(action: Payload) -> Rendering:
    command = as_text(action.get("command")) or "view"
    tasks = serialize_tasks(action.get("task_list"))
    message = f"Plans {len(tasks)} tasks" if command == "plan" else "Looks at the tasks"
    return Rendering("task_tracking", message, {"command": command, "task_list": tasks})


def serialize_tasks(value: Any) -> list[Fields]:
    """Return V0's task list. V0 requires ids, which the engine's tasks lack, so the id is the position (from 1)."""
    return [
        {
            "id": str(position),
            "title": as_text(task.get("title")),
            "notes": as_text(task.get("notes")),
            "status": as_text(task.get("status")) or "todo",
        }
        for position, task in enumerate((as_dict(item) for item in as_list(value)), start=1)
    ]


def _render_think(action: Payload) -> Rendering:
    thought = as_text(action.get("thought"))
    return Rendering("think", f"Thinks: {thought}", {"thought": thought})


def _render_finish(action: Payload) -> Rendering:
    message = as_text(action.get("message"))
    # The web client shows ``final_thought`` as the agent's last message.
    return Rendering("finish", message or "Done.", {"final_thought": message, "outputs": {}})


def _render_browse(action: Payload) -> Rendering:
    url = as_text(action.get("url"))
    return Rendering("browse", f"Opens {url}", {"url": url, "return_axtree": False})


def _render_browse_interactive(action: Payload) -> Rendering:
    name = as_text(action.get("kind")).removeprefix("Browser").removesuffix("Action")
    arguments = [
        f"{key}={as_text(value)}" for key, value in action.items() if key not in ("kind", "thought")
    ]
    # V0's browser actions are source code. Clients display it and do not run it.
    call = f"{name}({', '.join(arguments)})"
    fields = {"browser_actions": call, "browsergym_send_msg_to_user": "", "return_axtree": False}
    return Rendering("browse_interactive", f"In the browser: {call}", fields)


def _render_delegate(action: Payload) -> Rendering:
    agent = as_text(action.get("agent")) or as_text(action.get("subagent_type")) or "agent"
    inputs = {key: value for key, value in action.items() if key != "kind"}
    return Rendering("delegate", f"Asks {agent}", {"agent": agent, "inputs": inputs})


def _render_tool_call(event: Payload, action: Payload) -> Rendering:
    name = as_text(event.get("tool_name")) or as_text(action.get("kind"))
    data = action.get("data")
    arguments = (
        data
        if action.get("kind") == "MCPToolAction" and isinstance(data, dict)
        else {key: value for key, value in action.items() if key != "kind"}
    )
    return Rendering("call_tool_mcp", f"Calls {name}", {"name": name, "arguments": arguments})


def _text_or_none(value: Any) -> str | None:
    return None if value is None else as_text(value)


def _int_or_none(value: Any) -> int | None:
    # Not ``isinstance``: a boolean is an instance of ``int``.
    return value if type(value) is int else None


ACTIONS: Final[dict[str, Callable[[Payload], Rendering]]] = {
    "TerminalAction": _render_run,
    "ExecuteBashAction": _render_run,  # the engine's earlier name of TerminalAction
    "FileEditorAction": _render_file_action,
    "StrReplaceEditorAction": _render_file_action,
    "PlanningFileEditorAction": _render_file_action,
    "ReadFileAction": lambda action: _render_read(as_text(action.get("file_path"))),
    "WriteFileAction": _render_write,
    "EditAction": _render_replace,
    "TaskTrackerAction": _render_tasks,
    "ThinkAction": _render_think,
    "FinishAction": _render_finish,
    "BrowserNavigateAction": _render_browse,
    "DelegateAction": _render_delegate,
    "TaskAction": _render_delegate,
}

# --- Observations -----------------------------------------------------------------


def render_observation(event: Payload, action_event: Payload) -> Rendering | None:
    """Return the V0 observation for the payload of an ``ObservationEvent``, or None if V0 has no equivalent.

    ``action_event`` is the payload of the ``ActionEvent`` that caused the observation, or ``{}`` if the log does not
    contain that event.
    """
    observation = as_dict(event.get("observation"))
    kind = as_text(observation.get("kind"))
    # In V0 the ``finish`` action has no observation.
    if kind == "FinishObservation":
        return None
    action = as_dict(action_event.get("action"))
    render = OBSERVATIONS.get(kind) or (
        _render_browser_result if kind.startswith("Browser") else None
    )
    return (
        render(observation, action) if render else _render_tool_result(event, observation, action)
    )


_UNKNOWN_TEXTS: Final[Fields] = {
    "username": None,
    "hostname": None,
    "working_dir": None,
    "py_interpreter_path": None,
    "prefix": "",
    "suffix": "",
}
"""The texts in V0's metadata of a command, with the values that stand for an unknown text."""


def _render_run_result(observation: Payload, action: Payload) -> Rendering:
    # The engine's earlier versions report the exit code outside the metadata. -1 means unknown.
    reported = as_dict(observation.get("metadata"))
    code = as_int(reported.get("exit_code", observation.get("exit_code")), -1)
    metadata = {"exit_code": code, "pid": as_int(reported.get("pid"), -1), **_UNKNOWN_TEXTS}
    for name in reported.keys() & _UNKNOWN_TEXTS.keys():
        if (value := reported[name]) is not None:
            metadata[name] = as_text(value)
    command = as_text(observation.get("command") or action.get("command"))
    output = shorten_output(_content_text(observation))
    fields = {"command": command, "metadata": metadata, "hidden": False}
    message = f"Ran: {command} (exit {code})"
    is_success = code == 0 and observation.get("is_error") is not True
    return Rendering("run", message, fields, output, {"success": is_success})


def shorten_output(output: str) -> str:
    """Replace the middle of an output that is longer than ``OUTPUT_LENGTH`` by a note."""
    if len(output) <= OUTPUT_LENGTH:
        return output
    # Twice 40 characters leave room for the note.
    half = OUTPUT_LENGTH // 2 - 40
    omitted = len(output) - 2 * half
    return f"{output[:half]}\n[… {omitted} characters left out …]\n{output[-half:]}"


def _render_edit_result(observation: Payload, action: Payload) -> Rendering:
    path = as_text(observation.get("path") or action.get("path") or action.get("file_path"))
    command = as_text(observation.get("command") or action.get("command"))
    content = _content_text(observation)
    if observation.get("is_error") is True or observation.get("error"):
        return Rendering(
            "error", content, {"error_id": ""}, content or as_text(observation.get("error"))
        )
    if command == "view":
        return Rendering("read", f"Read {path}", {"path": path, "impl_source": EDITOR}, content)
    old = _text_or_none(observation.get("old_content"))
    new = _text_or_none(observation.get("new_content"))
    fields = {
        "path": path,
        "prev_exist": observation.get("prev_exist") is True,
        "old_content": old,
        "new_content": new,
        "impl_source": EDITOR,
        "diff": make_diff(path, old or "", new or ""),
    }
    return Rendering("edit", f"Edited {path}", fields, content)


def make_diff(path: str, old: str, new: str) -> str:
    """Return a unified diff of two texts, or ``""`` if they are longer than ``DIFF_LENGTH`` together."""
    if len(old) + len(new) > DIFF_LENGTH:
        return ""
    name = posixpath.basename(path) or "file"
    # OpenHands does not mark a last line without a line end.
    return unified_diff(old, new, name, name, marks_end=False)


def _render_read_result(observation: Payload, action: Payload) -> Rendering:
    return _render_edit_result(observation | {"command": "view"}, action)


def _render_write_result(observation: Payload, action: Payload) -> Rendering:
    path = as_text(observation.get("file_path") or action.get("file_path"))
    return Rendering("write", f"Wrote {path}", {"path": path}, _content_text(observation))


def _render_tasks_result(observation: Payload, action: Payload) -> Rendering:
    command = as_text(observation.get("command") or action.get("command")) or "view"
    fields = {"command": command, "task_list": serialize_tasks(observation.get("task_list"))}
    return Rendering("task_tracking", "The tasks", fields, _content_text(observation))


def _render_think_result(observation: Payload, action: Payload) -> Rendering:
    return Rendering("think", "Noted.", {}, _content_text(observation))


def _render_mcp_result(observation: Payload, action: Payload) -> Rendering:
    name = as_text(observation.get("tool_name"))
    arguments = as_dict(action.get("data"))
    content = _content_text(observation)
    return Rendering("mcp", f"{name} answered", {"name": name, "arguments": arguments}, content)


def _render_browser_result(observation: Payload, action: Payload) -> Rendering:
    is_error = observation.get("is_error") is True
    content = _content_text(observation)
    data = observation.get("screenshot_data")
    images = list_image_urls(observation.get("content"))
    screenshot = f"data:image/png;base64,{data}" if isinstance(data, str) and data else ""
    if screenshot.startswith("data:image/png;base64,data:"):  # it already was a data URL
        screenshot = as_text(data)
    url = as_text(action.get("url"))
    fields: Fields = {
        "url": url,
        "trigger_by_action": as_text(action.get("kind")),
        "screenshot": screenshot or (images[0] if images else ""),
        "screenshot_path": None,
        "set_of_marks": "",
        "error": is_error,
        "goal_image_urls": [],
        "open_pages_urls": [url] if url else [],
        "active_page_index": -1,
        "dom_object": {},
        "axtree_object": {},
        "extra_element_properties": {},
        "last_browser_action": as_text(action.get("kind")),
        "last_browser_action_error": content if is_error else "",
        "focused_element_bid": "",
        "filter_visible_only": False,
    }
    return Rendering("browse", f"Saw {url}" if url else "Saw the page", fields, content)


def _render_delegate_result(observation: Payload, action: Payload) -> Rendering:
    content = _content_text(observation)
    return Rendering(
        "delegate", "The other agent answered", {"outputs": {"content": content}}, content
    )


def _render_tool_result(event: Payload, observation: Payload, action: Payload) -> Rendering:
    name = as_text(event.get("tool_name")) or as_text(observation.get("kind"))
    arguments = {key: value for key, value in action.items() if key != "kind"}
    fields = {"name": name, "arguments": arguments}
    return Rendering("mcp", f"{name} answered", fields, _content_text(observation))


def _content_text(observation: Payload) -> str:
    """Return an observation's text, from the field that the engine's version uses."""
    return join_text_parts(observation.get("content")) or as_text(
        observation.get("output") or observation.get("error")
    )


OBSERVATIONS: Final[dict[str, Callable[[Payload, Payload], Rendering]]] = {
    "TerminalObservation": _render_run_result,
    "ExecuteBashObservation": _render_run_result,
    "FileEditorObservation": _render_edit_result,
    "StrReplaceEditorObservation": _render_edit_result,
    "PlanningFileEditorObservation": _render_edit_result,
    "EditObservation": _render_edit_result,
    "ReadFileObservation": _render_read_result,
    "WriteFileObservation": _render_write_result,
    "TaskTrackerObservation": _render_tasks_result,
    "ThinkObservation": _render_think_result,
    "MCPToolObservation": _render_mcp_result,
    "DelegateObservation": _render_delegate_result,
    "TaskObservation": _render_delegate_result,
}

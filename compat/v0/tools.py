"""What the agent does and sees, from the engine's kinds to V0's: one table of actions, one of observations.

Pure functions over hostile values. A kind that no table knows is shown as a call of the tool that it names.
"""

import difflib
import posixpath
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from compat.v0.values import listing, mapping, parts_images, parts_text, text, whole

RISKS: Final = {"UNKNOWN": -1, "LOW": 0, "MEDIUM": 1, "HIGH": 2}
OUTPUT_LENGTH: Final = 30_000
DIFF_LENGTH: Final = 200_000
"""Beyond this many characters no diff is made: the contents are there, and difflib is not linear."""


@dataclass(frozen=True, slots=True)
class Told:
    """One V0 action or observation: its name, the sentence about it, its fields and its content."""

    name: str
    sentence: str
    fields: dict[str, Any]
    content: str = ""
    more: dict[str, Any] | None = None


# --- Actions ----------------------------------------------------------------------

Fields = dict[str, Any]


def action_of(event: Fields) -> Told:
    """The V0 action of an ``ActionEvent``'s payload."""
    action = mapping(event.get("action"))
    kind = text(action.get("kind"))
    thought = parts_text(event.get("thought"))
    risk = RISKS.get(text(event.get("security_risk")), -1)
    make = ACTIONS.get(kind) or (_browse_interactive if kind.startswith("Browser") else None)
    told = make(action) if make else _tool_call(event, action)
    common = {"thought": thought} | ({"security_risk": risk} if told.name not in RISKLESS else {})
    return Told(told.name, told.sentence, common | told.fields, more=told.more)


RISKLESS: Final = {"think", "finish", "delegate", "task_tracking"}


def _run(action: Fields) -> Told:
    command = text(action.get("command"))
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
    return Told("run", f"Runs: {command}", fields, more=more)


def _file(action: Fields) -> Told:
    path, command = text(action.get("path")), text(action.get("command"))
    if command == "view":
        return _read(path, action.get("view_range"))
    fields = {
        "path": path,
        "command": command,
        "file_text": _optional(action.get("file_text")),
        "old_str": _optional(action.get("old_str")),
        "new_str": _optional(action.get("new_str")),
        "insert_line": line if type(line := action.get("insert_line")) is int else None,
        "content": "",
        "start": 1,
        "end": -1,
        "impl_source": "oh_aci",
    }
    return Told("edit", f"Edits {path} ({command})", fields)


def _read(path: str, view_range: Any = None) -> Told:
    lines = [n for n in listing(view_range) if type(n) is int]
    fields = {
        "path": path,
        "start": 0,
        "end": -1,
        "impl_source": "oh_aci",
        "view_range": lines if len(lines) == 2 else None,
    }
    return Told("read", f"Reads {path}", fields)


def _write(action: Fields) -> Told:
    path = text(action.get("file_path"))
    content = text(action.get("content"))
    return Told(
        "write", f"Writes {path}", {"path": path, "content": content, "start": 0, "end": -1}
    )


def _replace(action: Fields) -> Told:
    return _file(
        {
            "path": action.get("file_path"),
            "command": "str_replace",
            "old_str": action.get("old_string"),
            "new_str": action.get("new_string"),
        }
    )


def _tasks(action: Fields) -> Told:
    command = text(action.get("command")) or "view"
    tasks = task_list(action.get("task_list"))
    sentence = f"Plans {len(tasks)} tasks" if command == "plan" else "Looks at the tasks"
    return Told("task_tracking", sentence, {"command": command, "task_list": tasks})


def task_list(value: Any) -> list[Fields]:
    """Tasks with the id that V0 wants: their place, from 1."""
    return [
        {
            "id": str(place),
            "title": text(task.get("title")),
            "notes": text(task.get("notes")),
            "status": text(task.get("status")) or "todo",
        }
        for place, task in enumerate((mapping(one) for one in listing(value)), start=1)
    ]


def _think(action: Fields) -> Told:
    thought = text(action.get("thought"))
    return Told("think", f"Thinks: {thought}", {"thought": thought})


def _finish(action: Fields) -> Told:
    message = text(action.get("message"))
    return Told("finish", message or "Done.", {"final_thought": message, "outputs": {}})


def _browse(action: Fields) -> Told:
    url = text(action.get("url"))
    return Told("browse", f"Opens {url}", {"url": url, "return_axtree": False})


def _browse_interactive(action: Fields) -> Told:
    name = text(action.get("kind")).removeprefix("Browser").removesuffix("Action")
    given = {key: value for key, value in action.items() if key not in ("kind", "thought")}
    call = f"{name}({', '.join(f'{key}={text(value)}' for key, value in given.items())})"
    fields = {"browser_actions": call, "browsergym_send_msg_to_user": "", "return_axtree": False}
    return Told("browse_interactive", f"In the browser: {call}", fields)


def _delegate(action: Fields) -> Told:
    agent = text(action.get("agent")) or text(action.get("subagent_type")) or "agent"
    inputs = {key: value for key, value in action.items() if key != "kind"}
    return Told("delegate", f"Asks {agent}", {"agent": agent, "inputs": inputs})


def _tool_call(event: Fields, action: Fields) -> Told:
    name = text(event.get("tool_name")) or text(action.get("kind"))
    data = action.get("data")
    arguments = (
        data
        if action.get("kind") == "MCPToolAction" and isinstance(data, dict)
        else {key: value for key, value in action.items() if key != "kind"}
    )
    return Told("call_tool_mcp", f"Calls {name}", {"name": name, "arguments": arguments})


def _optional(value: Any) -> str | None:
    return None if value is None else text(value)


ACTIONS: Final[dict[str, Callable[[Fields], Told]]] = {
    "TerminalAction": _run,
    "ExecuteBashAction": _run,
    "FileEditorAction": _file,
    "StrReplaceEditorAction": _file,
    "PlanningFileEditorAction": _file,
    "ReadFileAction": lambda action: _read(text(action.get("file_path"))),
    "WriteFileAction": _write,
    "EditAction": _replace,
    "TaskTrackerAction": _tasks,
    "ThinkAction": _think,
    "FinishAction": _finish,
    "BrowserNavigateAction": _browse,
    "DelegateAction": _delegate,
    "TaskAction": _delegate,
}

# --- Observations -----------------------------------------------------------------


def observation_of(event: Fields, action: Fields) -> Told | None:
    """The V0 observation of an ``ObservationEvent``'s payload; ``action`` is the payload that it answers.

    None for what V0 has no observation of.
    """
    observation = mapping(event.get("observation"))
    kind = text(observation.get("kind"))
    if kind == "FinishObservation":
        return None
    asked = mapping(action.get("action"))
    make = OBSERVATIONS.get(kind) or (_browsed if kind.startswith("Browser") else None)
    return make(observation, asked) if make else _tool_result(event, observation, asked)


def _ran(observation: Fields, asked: Fields) -> Told:
    found = mapping(observation.get("metadata"))
    code = found.get("exit_code", observation.get("exit_code"))
    code = whole(code, -1)
    metadata = {
        "exit_code": code,
        "pid": whole(found.get("pid"), -1),
        "username": _optional(found.get("username")),
        "hostname": _optional(found.get("hostname")),
        "working_dir": _optional(found.get("working_dir")),
        "py_interpreter_path": _optional(found.get("py_interpreter_path")),
        "prefix": text(found.get("prefix")),
        "suffix": text(found.get("suffix")),
    }
    command = text(observation.get("command") or asked.get("command"))
    output = shortened(_content(observation))
    fields = {"command": command, "metadata": metadata, "hidden": False}
    sentence = f"Ran: {command} (exit {code})"
    is_good = code == 0 and observation.get("is_error") is not True
    return Told("run", sentence, fields, output, {"success": is_good})


def shortened(output: str) -> str:
    """An output cut in its middle to V0's length."""
    if len(output) <= OUTPUT_LENGTH:
        return output
    half = OUTPUT_LENGTH // 2 - 40
    left_out = len(output) - 2 * half
    return f"{output[:half]}\n[… {left_out} characters left out …]\n{output[-half:]}"


def _edited(observation: Fields, asked: Fields) -> Told:
    path = text(observation.get("path") or asked.get("path") or asked.get("file_path"))
    command = text(observation.get("command") or asked.get("command"))
    content = _content(observation)
    if observation.get("is_error") is True or observation.get("error"):
        return Told("error", content, {"error_id": ""}, content or text(observation.get("error")))
    if command == "view":
        return Told("read", f"Read {path}", {"path": path, "impl_source": "oh_aci"}, content)
    old, new = _optional(observation.get("old_content")), _optional(observation.get("new_content"))
    fields = {
        "path": path,
        "prev_exist": observation.get("prev_exist") is True,
        "old_content": old,
        "new_content": new,
        "impl_source": "oh_aci",
        "diff": diff(path, old or "", new or ""),
    }
    return Told("edit", f"Edited {path}", fields, content)


def diff(path: str, old: str, new: str) -> str:
    """A unified diff, or nothing where the texts are too long to compare in passing."""
    if len(old) + len(new) > DIFF_LENGTH:
        return ""
    name = posixpath.basename(path) or "file"
    lines = difflib.unified_diff(old.splitlines(), new.splitlines(), name, name, lineterm="")
    return "\n".join(lines)


def _file_read(observation: Fields, asked: Fields) -> Told:
    return _edited(observation | {"command": "view"}, asked)


def _file_written(observation: Fields, asked: Fields) -> Told:
    path = text(observation.get("file_path") or asked.get("file_path"))
    return Told("write", f"Wrote {path}", {"path": path}, _content(observation))


def _tracked(observation: Fields, asked: Fields) -> Told:
    command = text(observation.get("command") or asked.get("command")) or "view"
    fields = {"command": command, "task_list": task_list(observation.get("task_list"))}
    return Told("task_tracking", "The tasks", fields, _content(observation))


def _thought(observation: Fields, asked: Fields) -> Told:
    return Told("think", "Noted.", {}, _content(observation))


def _called(observation: Fields, asked: Fields) -> Told:
    name = text(observation.get("tool_name"))
    arguments = mapping(asked.get("data"))
    content = _content(observation)
    return Told("mcp", f"{name} answered", {"name": name, "arguments": arguments}, content)


def _browsed(observation: Fields, asked: Fields) -> Told:
    failed = observation.get("is_error") is True
    content = _content(observation)
    data = observation.get("screenshot_data")
    images = parts_images(observation.get("content"))
    screenshot = f"data:image/png;base64,{data}" if isinstance(data, str) and data else ""
    if screenshot.startswith("data:image/png;base64,data:"):
        screenshot = text(data)
    url = text(asked.get("url"))
    fields: Fields = {
        "url": url,
        "trigger_by_action": text(asked.get("kind")),
        "screenshot": screenshot or (images[0] if images else ""),
        "screenshot_path": None,
        "set_of_marks": "",
        "error": failed,
        "goal_image_urls": [],
        "open_pages_urls": [url] if url else [],
        "active_page_index": -1,
        "dom_object": {},
        "axtree_object": {},
        "extra_element_properties": {},
        "last_browser_action": text(asked.get("kind")),
        "last_browser_action_error": content if failed else "",
        "focused_element_bid": "",
        "filter_visible_only": False,
    }
    return Told("browse", f"Saw {url}" if url else "Saw the page", fields, content)


def _delegated(observation: Fields, asked: Fields) -> Told:
    content = _content(observation)
    return Told("delegate", "The other agent answered", {"outputs": {"content": content}}, content)


def _tool_result(event: Fields, observation: Fields, asked: Fields) -> Told:
    name = text(event.get("tool_name")) or text(observation.get("kind"))
    arguments = {key: value for key, value in asked.items() if key != "kind"}
    fields = {"name": name, "arguments": arguments}
    return Told("mcp", f"{name} answered", fields, _content(observation))


def _content(observation: Fields) -> str:
    """The text of an observation, in any of the shapes that the engine's versions have."""
    return parts_text(observation.get("content")) or text(
        observation.get("output") or observation.get("error")
    )


OBSERVATIONS: Final[dict[str, Callable[[Fields, Fields], Told]]] = {
    "TerminalObservation": _ran,
    "ExecuteBashObservation": _ran,
    "FileEditorObservation": _edited,
    "StrReplaceEditorObservation": _edited,
    "PlanningFileEditorObservation": _edited,
    "EditObservation": _edited,
    "ReadFileObservation": _file_read,
    "WriteFileObservation": _file_written,
    "TaskTrackerObservation": _tracked,
    "ThinkObservation": _thought,
    "MCPToolObservation": _called,
    "DelegateObservation": _delegated,
    "TaskObservation": _delegated,
}

"""Repairs the tool calls of chunks and completions in which servers deviate from OpenAI's API.

The engine (openhands-agent-server 1.58.2) joins the parts of a call by its ``index``, and drops a call without an
``id``. Known deviations: no index (Gemini, older Ollama); the index 0 for all parallel calls (Gemini, Ollama); no id,
an empty one or the text ``null`` (llama.cpp, Mistral); a new id in each part (older vLLM); the name in each part;
arguments as an object instead of a text.
"""

import json
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

Json = dict[str, Any]


@dataclass(slots=True)
class _Call:
    """A call of a choice: the server's index, the index for the caller, the id, and what has arrived."""

    key: int | None
    index: int
    identity: str
    name: str = ""
    arguments: str = ""

    @property
    def has_all_arguments(self) -> bool:
        try:
            json.loads(self.arguments)
        except (ValueError, RecursionError):
            return False
        return True


class ToolCalls:
    """The tool calls of one response."""

    def __init__(self) -> None:
        self._calls: dict[Any, list[_Call]] = {}

    @property
    def are_whole(self) -> bool:
        """Whether the arguments of all calls are complete. A call may have none."""
        calls = [call for calls in self._calls.values() for call in calls]
        return all(call.has_all_arguments or not call.arguments.strip() for call in calls)

    def repair(self, body: Json) -> bool:
        """Repair a chunk or a completion in place; return whether anything was changed."""
        is_changed = False
        for choice in body["choices"]:
            if not isinstance(choice, dict):
                continue
            calls = self._calls.setdefault(_as_index(choice.get("index")), [])
            for name in ("delta", "message"):
                message = choice.get(name)
                parts = message.get("tool_calls") if isinstance(message, dict) else None
                for part in parts if isinstance(parts, list) else ():
                    if isinstance(part, dict):
                        is_changed |= _repair_part(calls, part)
                if parts:
                    break
        return is_changed


def _repair_part(calls: list[_Call], part: Json) -> bool:
    function = part.get("function")
    function = dict(function) if isinstance(function, dict) else {}
    arguments = function.get("arguments")
    if isinstance(arguments, dict | list):
        function["arguments"] = arguments = json.dumps(arguments)
    name = function.get("name")
    name = name if isinstance(name, str) else ""
    identity = part.get("id")
    identity = identity if isinstance(identity, str) and identity not in ("", "null") else ""
    key = _as_index(part.get("index"))
    call = _find(calls, key, name, identity)
    repaired: Json = part | ({"function": function} if function else {})
    if call is None:
        used = {other.index for other in calls}
        index = key if key is not None and key not in used else max(used, default=-1) + 1
        call = _Call(key, index, identity or f"call_{uuid4().hex[:24]}", name)
        calls.append(call)
        repaired |= {"id": call.identity, "type": part.get("type") or "function"}
    else:
        if part.get("id") is not None and identity != call.identity:
            repaired["id"] = None
        if name and name == call.name:
            del function["name"]
        else:
            call.name += name
    repaired["index"] = call.index
    call.arguments += arguments if isinstance(arguments, str) else ""
    is_changed = repaired != part
    part |= repaired
    return is_changed


def _find(calls: list[_Call], key: int | None, name: str, identity: str) -> _Call | None:
    """Return the call to which a part belongs; None for the first part of a new call."""
    same_key = [call for call in calls if key is None or call.key == key]
    if not same_key:
        return None
    call = same_key[-1]
    if not name or identity == call.identity:
        return call
    # The name begins a call, unless the one before is not complete.
    can_begin = call.has_all_arguments or (identity and not call.arguments)
    return None if can_begin else call


def _as_index(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None

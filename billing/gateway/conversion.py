"""Converts a chat completion to the chunks of a stream, and chunks to a chat completion."""

from collections.abc import Iterator
from typing import Any

Json = dict[str, Any]


def is_completion(body: Json) -> bool:
    """Return whether a body has whole messages instead of deltas."""
    choices = body.get("choices")
    return isinstance(choices, list) and any(
        isinstance(choice, dict)
        and isinstance(choice.get("message"), dict)
        and not choice.get("delta")
        for choice in choices
    )


def has_delta(body: Json) -> bool:
    """Return whether a chunk has a part of an answer, more than its role."""
    choices = body.get("choices")
    deltas = (
        [c.get("delta") for c in choices or () if isinstance(c, dict)]
        if isinstance(choices, list)
        else []
    )
    return any(
        value
        for delta in deltas
        if isinstance(delta, dict)
        for name, value in delta.items()
        if name != "role"
    )


def split_completion(body: Json) -> Iterator[Json]:
    """Yield a completion as chunks: for each choice its message and its end, then the usage and all other fields."""
    rest = {name: value for name, value in body.items() if name not in ("choices", "object")}
    head: Json = {name: body[name] for name in ("id", "created", "model") if name in body}
    head["object"] = "chat.completion.chunk"
    # A part of an answer can have the form of a whole message.
    is_part = body.get("object") == "chat.completion.chunk"
    for position, choice in enumerate(body["choices"]):
        if not isinstance(choice, dict):
            continue
        index = choice.get("index", position)
        others = {k: v for k, v in choice.items() if k not in ("message", "finish_reason", "index")}
        message = choice.get("message")
        delta = _to_delta(message if isinstance(message, dict) else {})
        yield head | {"choices": [others | {"index": index, "delta": delta, "finish_reason": None}]}
        reason = choice.get("finish_reason")
        if reason or not is_part:
            reason = reason or ("tool_calls" if delta.get("tool_calls") else "stop")
            yield head | {"choices": [{"index": index, "delta": {}, "finish_reason": reason}]}
    yield head | rest | {"choices": []}


def flatten_content(message: Json) -> bool:
    """Turn a content of parts into a text, and its thinking into ``reasoning_content``; return whether it can be.

    Mistral's reasoning models answer in parts, which the engine (openhands-agent-server 1.58.2) cannot join.
    """
    text = thinking = ""
    for part in message["content"]:
        if isinstance(part, str):
            text += part
        elif isinstance(part, dict) and isinstance(part.get("text"), str):
            text += part["text"]
        elif isinstance(part, dict) and part.get("type") == "thinking":
            inner = part.get("thinking")
            for piece in inner if isinstance(inner, list) else [inner]:
                words = piece.get("text") if isinstance(piece, dict) else piece
                thinking += words if isinstance(words, str) else ""
        else:
            return False
    message["content"] = text
    if thinking:
        message["reasoning_content"] = thinking
    return True


def _to_delta(message: Json) -> Json:
    delta: Json = {"role": "assistant"} | message
    calls = message.get("tool_calls")
    if isinstance(calls, list):
        # In a stream, each call has an index, by which its parts are joined.
        delta["tool_calls"] = [
            {"index": number} | call if isinstance(call, dict) else call
            for number, call in enumerate(calls)
        ]
    return delta


def join_chunks(chunks: list[Json]) -> Json:
    """Return the completion that the chunks of a stream make up. Their tool calls have an index."""
    body: Json = {}
    choices: dict[Any, Json] = {}
    for chunk in chunks:
        body |= {k: v for k, v in chunk.items() if k != "choices" and v is not None}
        parts = chunk.get("choices")
        for part in parts if isinstance(parts, list) else ():
            if isinstance(part, dict):
                _join_choice(choices, part)
    body["object"] = "chat.completion"
    body["choices"] = [choices[index] for index in sorted(choices, key=str)]
    return body


def _join_choice(choices: dict[Any, Json], part: Json) -> None:
    index = part.get("index", 0)
    index = index if isinstance(index, int) else 0
    empty: Json = {"role": "assistant", "content": None}
    choice = choices.setdefault(index, {"index": index, "message": empty, "finish_reason": "stop"})
    # Perplexity sends the whole text so far as ``message`` beside the delta.
    delta = part["delta"] if "delta" in part else part.get("message")
    if isinstance(delta, dict):
        _join_delta(choice["message"], delta)
    choice |= {k: v for k, v in part.items() if k not in ("delta", "message", "index") and v}
    choices[index] = choice


def _join_delta(message: Json, delta: Json) -> None:
    for name, value in delta.items():
        if name == "tool_calls" and isinstance(value, list):
            _join_calls(message.setdefault(name, []), value)
        elif name in ("role", "id", "type"):
            message[name] = value or message.get(name)
        elif isinstance(value, str) and isinstance(message.get(name), str):
            message[name] += value
        elif value is not None:
            message[name] = value


def _join_calls(calls: list[Json], parts: list[Any]) -> None:
    for part in parts:
        if not isinstance(part, dict):
            continue
        call = _find_call(calls, part.get("index"))
        call |= {k: v for k, v in part.items() if k in ("id", "type") and v}
        function = part.get("function")
        if isinstance(function, dict):
            for name in ("name", "arguments"):
                text = function.get(name)
                call["function"][name] += text if isinstance(text, str) else ""


def _find_call(calls: list[Json], index: Any) -> Json:
    """Return the call with this index, after adding it if there is none."""
    for call in calls:
        if call["index"] == index:
            return call
    calls.append({"index": index, "type": "function", "function": {"name": "", "arguments": ""}})
    return calls[-1]

"""The ``!directive`` language, with which a user message scripts the replies of the model step by step.

A reply depends only on the request. The newest user message with directives is the script, and the number of assistant
messages after this message is the position in the script. ``parse_script`` documents the directives.
"""

import hashlib
import json
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

Json = dict[str, Any]

DEFAULT_SCRIPT = """\
!run echo hello > hello.txt && cat hello.txt
!write {cwd}/notes.md Written by the scripted model.
!finish Created hello.txt and notes.md.
"""
PLAIN_REPLY = "Scripted reply"
SCRIPT_DONE = "Script complete."
CREATED = 1_700_000_000  # constant, so that equal requests get equal replies
MAX_SLEEP_SECONDS = 600.0
DIRECTIVE = re.compile(r"^[ \t]*!([a-z]+)(.*)$", re.MULTILINE)
STREAM_PIECE = re.compile(r"\S+\s*|\s+")
_CALL_ID = re.compile(r"call_(\d{1,9})_")
_REPORTED_CWD = re.compile(r"\[Current working directory: (.+?)\]")
ERROR_CODES = {
    400: "invalid_request_error",
    401: "invalid_api_key",
    404: "model_not_found",
    429: "rate_limit_exceeded",
}


class UnreadableScript(ValueError):
    """A directive in the user message cannot be parsed."""


@dataclass(frozen=True, slots=True)
class Failure:
    """An HTTP error in place of a reply. ``status`` 0 drops the connection, and ``times`` None means every time."""

    status: int
    times: int | None
    message: str


@dataclass(slots=True)
class Step:
    """One reply of the model: a text, tool calls as ``(name, arguments)``, and the failure and delays of the script.

    ``delay`` and ``chunk_delay`` are in seconds. ``usage`` contains the prompt, completion and cached tokens.
    """

    index: int = 0
    text: str = ""
    calls: list[tuple[str, Json]] = field(default_factory=list)
    failure: Failure | None = None
    delay: float | None = None
    chunk_delay: float | None = None
    usage: tuple[int, int, int] | None = None
    risk: str = "LOW"
    summary: str = "scripted step"


# --- Reading a script ---------------------------------------------------------------


def parse_script(text: str) -> list[Step]:
    """Parse the ``!directive`` lines of a message into the replies of the model. Other lines are ignored.

    Replies: ``!run COMMAND``, ``!write PATH TEXT``, ``!replace PATH OLD NEW`` (shell quoting), ``!tool NAME
    {JSON}``, ``!finish TEXT``, ``!say TEXT``. ``!also ACTION`` adds a call to the previous reply. These
    directives modify the next reply: ``!with TEXT``, ``!risk LOW|MEDIUM|HIGH``, ``!usage PROMPT COMPLETION
    [CACHED]``, ``!sleep SECONDS [CHUNK_SECONDS]``, ``!fail STATUS|drop [TIMES|always] [MESSAGE]``.
    ``{cwd}`` in an argument is the directory that the terminal reported last. Raise ``UnreadableScript``.
    """
    steps: list[Step] = []
    pending = Step()
    for word, line in DIRECTIVE.findall(text):
        rest = line.strip()
        try:
            if word == "also":
                name, _, argument = rest.lstrip("!").partition(" ")
                steps[-1].calls.append(_tool_call(name, argument.strip()))
            elif not _modify(pending, word, rest):
                if word == "say":
                    pending.text = _unescape(rest)
                else:
                    pending.calls.append(_tool_call(word, rest))
                steps.append(pending)
                pending = Step()
        except (ValueError, IndexError, TypeError, RecursionError) as error:
            raise UnreadableScript(f"'!{word} {rest}': {error}") from error
    if pending != Step():  # modifiers only, for example just "!fail 500"
        pending.text = pending.text or SCRIPT_DONE
        steps.append(pending)
    return steps


def _modify(step: Step, word: str, rest: str) -> bool:
    """Apply a directive that modifies the next reply. Return False for any other directive."""
    args = rest.split()
    match word:
        case "with":
            step.text = _unescape(rest)
        case "fail":
            step.failure = _failure(args)
        case "sleep":
            step.delay = _seconds(args[0])
            step.chunk_delay = _seconds(args[1]) if args[1:] else None
        case "usage":
            prompt, completion, *cached = map(int, args)
            step.usage = (prompt, completion, cached[0] if cached else 0)
        case "risk":
            step.risk = args[0].upper()
        case _:
            return False
    return True


def _failure(args: list[str]) -> Failure:
    status = 0 if args[0] == "drop" else int(args[0])
    if status and not 400 <= status <= 599:
        raise ValueError("the status of a failure must be from 400 to 599, or 'drop'")
    times = None if args[1:2] in ([], ["always"]) else int(args[1])
    return Failure(status, times, " ".join(args[2:]) or f"scripted failure {args[0]}")


def _seconds(text: str) -> float:
    seconds = float(text)
    if not 0 <= seconds <= MAX_SLEEP_SECONDS:
        raise ValueError(f"the duration of a sleep must be from 0 to {MAX_SLEEP_SECONDS:g} seconds")
    return seconds


def _tool_call(word: str, rest: str) -> tuple[str, Json]:
    match word:
        case "run":
            return "terminal", {"command": rest}
        case "write":
            path, _, content = rest.partition(" ")
            text = _unescape(content) + "\n"
            return "file_editor", {"command": "create", "path": path, "file_text": text}
        case "replace":
            path, old, new = shlex.split(rest)
            edit = {"path": path, "old_str": old, "new_str": new}
            return "file_editor", {"command": "str_replace"} | edit
        case "finish":
            return "finish", {"message": _unescape(rest)}
        case "tool":
            name, _, arguments = rest.partition(" ")
            return name, dict(json.loads(arguments or "{}"))
        case _:
            raise ValueError("unknown directive")


def _unescape(text: str) -> str:
    return text.replace("\\n", "\n").replace("\\t", "\t")


# --- From a request to a reply ------------------------------------------------------


def extract_texts(message: Json) -> list[str]:
    """Return the texts of a message. The content may be a text, a list of parts, or missing."""
    content = message.get("content") or ""
    parts = [{"text": content}] if isinstance(content, str) else content
    return [part["text"] for part in parts if isinstance(part.get("text"), str)]


def get_tools(request: Json) -> dict[str, Json]:
    """Return the tools that a request offers, as a dict from name to tool."""
    return {tool["function"]["name"]: tool["function"] for tool in request.get("tools") or []}


def choose_step(request: Json, default_script: str = DEFAULT_SCRIPT) -> Step:
    """Return the reply to a chat-completions request.

    If the request has no tools, such as a request for a title or summary, or if the newest message has no directives,
    the reply is plain text. After the last step of a script, the reply says that the script is done. Raise
    ``LookupError``, ``TypeError`` or ``AttributeError`` if the request does not have the API's shape.
    """
    tools = get_tools(request)
    if not tools:
        return Step(text=PLAIN_REPLY)
    messages: list[Json] = request["messages"]
    try:
        steps, replies = _find_script(messages, default_script)
    except UnreadableScript as error:
        return Step(text=f"The script cannot be read: {error}")
    index = find_next_index(replies)
    if index < len(steps):
        step = steps[index]
    elif "finish" in tools and steps:
        step = Step(calls=[("finish", {"message": SCRIPT_DONE})])
    else:
        step = Step(text=SCRIPT_DONE if steps else PLAIN_REPLY)
    step.index = index
    return fill_step(step, tools=tools, cwd=find_reported_cwd(messages))


def _find_script(messages: list[Json], default_script: str) -> tuple[list[Step], list[Json]]:
    """Return the steps of the current script, and the assistant messages that have followed the script so far."""
    # Agents merge unanswered user messages into one message with several parts, and condensers add
    # a summary after it, so the newest part with directives counts.
    scripts = [
        (position, part)
        for position, message in enumerate(messages)
        if message["role"] == "user"
        for part in extract_texts(message)
        if DIRECTIVE.search(part)
    ]
    start, script = scripts[-1] if scripts else (0, default_script)
    has_reply = any(message["role"] == "assistant" for message in messages)
    if messages[-1]["role"] == "user" and start < len(messages) - 1 and has_reply:
        return [], []  # the user has sent a later message without directives
    replies = [message for message in messages[start:] if message["role"] == "assistant"]
    return parse_script(script), replies


def find_next_index(replies: list[Json]) -> int:
    """Return the index of the script's next step, after the replies that the model has already sent."""
    # The id of a tool call contains the index of its step. The number of replies alone is not reliable, because the
    # engine may have condensed earlier replies.
    calls = replies[-1].get("tool_calls") if replies else None
    match = _CALL_ID.match(calls[-1]["id"]) if calls else None
    return int(match[1]) + 1 if match else len(replies)


def find_reported_cwd(messages: list[Json]) -> str:
    """Return the working directory that the terminal tool reported last, or ``.`` if it reported none."""
    for message in reversed(messages):
        if message["role"] == "tool":
            matches = _REPORTED_CWD.findall("\n".join(extract_texts(message)))
            if matches:
                return str(matches[-1])
    return "."


def fill_step(step: Step, *, tools: dict[str, Json], cwd: str) -> Step:
    """Replace ``{cwd}`` in the step's tool calls and return the step.

    Also add the arguments ``security_risk`` and ``summary`` to tools that define them.
    """
    step.calls = [
        (name, _fill_arguments(arguments, tools.get(name, {}), step, cwd))
        for name, arguments in step.calls
    ]
    return step


def _fill_arguments(arguments: Json, tool: Json, step: Step, cwd: str) -> Json:
    result = {
        key: value.replace("{cwd}", cwd) if isinstance(value, str) else value
        for key, value in arguments.items()
    }
    properties = (tool.get("parameters") or {}).get("properties") or {}
    if "security_risk" in properties:
        result.setdefault("security_risk", step.risk)
    if "summary" in properties:
        result.setdefault("summary", step.summary)
    return result


# --- The reply on the wire ----------------------------------------------------------


def fingerprint(request: Json) -> str:
    """Return a hash of a request. It includes ``prompt_cache_key``, which differs between conversations."""
    identity = [request["messages"], request.get("prompt_cache_key")]
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:24]


def build_completion(step: Step, request: Json) -> Json:
    """Return the reply as a ``chat.completion`` object."""
    identity = fingerprint(request)
    message: Json = {"role": "assistant", "content": step.text or None}
    if step.calls:
        message["tool_calls"] = [
            {
                "id": f"call_{step.index}_{number}_{identity[:8]}",
                "type": "function",
                "function": {"name": name, "arguments": json.dumps(arguments)},
            }
            for number, (name, arguments) in enumerate(step.calls)
        ]
    # Without !usage, estimate one token per four characters.
    prompt, completion, cached = step.usage or (
        len(json.dumps(request["messages"])) // 4 + 1,
        len(json.dumps(message)) // 4 + 1,
        0,
    )
    finish_reason = "tool_calls" if step.calls else "stop"
    return {
        "id": f"chatcmpl-{identity}",
        "object": "chat.completion",
        "created": CREATED,
        "model": request.get("model", "scripted"),
        "choices": [{"index": 0, "message": message, "finish_reason": finish_reason}],
        "usage": {
            "prompt_tokens": prompt,
            "completion_tokens": completion,
            "total_tokens": prompt + completion,
            "prompt_tokens_details": {"cached_tokens": cached},
        },
    }


def iter_chunks(body: Json, *, include_usage: bool) -> Iterator[Json]:
    """Yield a completion in chunks, as OpenAI's API streams it."""
    choice = body["choices"][0]
    message = choice["message"]
    head = {key: body[key] for key in ("id", "created", "model")}
    head["object"] = "chat.completion.chunk"

    def chunk(delta: Json, finish_reason: str | None = None) -> Json:
        piece = {"index": 0, "delta": delta, "finish_reason": finish_reason}
        return head | {"choices": [piece]}

    yield chunk({"role": "assistant", "content": ""})
    for piece in STREAM_PIECE.findall(message["content"] or ""):
        yield chunk({"content": piece})
    for index, call in enumerate(message.get("tool_calls", ())):
        name, arguments = call["function"]["name"], call["function"]["arguments"]
        opening = {"index": index, **call, "function": {"name": name, "arguments": ""}}
        yield chunk({"tool_calls": [opening]})
        for piece in STREAM_PIECE.findall(arguments):
            delta = {"index": index, "function": {"arguments": piece}}
            yield chunk({"tool_calls": [delta]})
    yield chunk({}, choice["finish_reason"])
    if include_usage:
        yield head | {"choices": [], "usage": body["usage"]}


def encode_event(chunk: Json) -> bytes:
    """Return a chunk in the format of server-sent events."""
    return b"data: " + json.dumps(chunk).encode() + b"\n\n"


STREAM_END = b"data: [DONE]\n\n"


def build_error(
    status: int, message: str, *, code: str | None = None, kind: str | None = None
) -> Json:
    """Return the body of an error response in the format of OpenAI's API."""
    code = code or ERROR_CODES.get(status, "server_error")
    return {"error": {"message": message, "type": kind or code, "param": None, "code": code}}

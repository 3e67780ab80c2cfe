"""The demo model: answers without any key, by doing a small, honest, visible piece of work.

It understands no language. From an ordinary request it takes a file name and a content where the request
names them, then plans, looks around, writes the file, runs it, and says what it did and what it is. Lines
beginning with ``!`` play a script instead (``billing.gateway.script``). Every reply is a function of its request.
"""

import re
import shlex
from dataclasses import dataclass

from billing.gateway import script
from billing.gateway.script import Json, Step

SUMMARY_MARK = "[Summary by the demo model]"
ABOUT = (
    "I am the built-in demo model: I follow a fixed routine and understand nothing. "
    "Set a real model in Settings to get real work done."
)
MAX_REQUEST = 600
MAX_SHOWN = 1_500
_NUDGE = "Your last response did not include a function call"
_EXTENSIONS = "py|sh|txt|md|json|csv|html|css|js|ts|yaml|yml|toml|ini|cfg|log|sql|xml"
_FILE = re.compile(
    rf"(?<![\w./\\:-])([\w./][\w./-]{{0,120}}\.(?:{_EXTENSIONS}))(?![\w/-])", re.IGNORECASE
)
_FENCE = re.compile(r"```[\w+-]*[ \t]*\r?\n(.*?)```", re.DOTALL)
_CONTENT_WORDS = re.compile(
    r"\b(?:prints?|printing|says?|saying|echo(?:e?s|ing)?|outputs?|displays?|shows?|contain(?:s|ing)|reads?|reading"
    r"|with (?:the )?(?:contents?|text|words?|lines?))\b(?: only| just)?:?",
    re.IGNORECASE,
)
_QUOTED = re.compile(r"\s*(?:\"([^\"]+)\"|'([^']+)'|`([^`]+)`|“([^”]+)”)")
_LINK_WORDS = re.compile(
    r"(?: (?:in|into|to|as|from|using|with|inside|called|named|a|the|new|file|script))+$",
    re.IGNORECASE,
)
_METADATA = re.compile(
    r"\[(?:Current working directory|Python interpreter|Command finished with exit code|The command)\b"
)
_END = re.compile(
    r"\r?\n|[.!?](?=\s|$)|,? (?:and|then)(?: then)? (?:run|execute|show|cat|print|open|start|test|finish)\b",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class Job:
    """What one request comes down to: a file, what is in it, and the command that shows it."""

    path: str
    content: str

    def command(self, *, python: str = "python3") -> str:
        """The command that runs the file, or shows it."""
        program = {"py": python, "sh": "sh"}.get(self.path.lower().rpartition(".")[2], "cat")
        return f"{program} {shlex.quote(self.path)}"


def reply(request: Json) -> Step:
    """The model's reply to a chat-completions request.

    Raises ``LookupError``, ``TypeError`` or ``AttributeError`` when the request is not of the API's shape.
    """
    messages: list[Json] = request["messages"]
    tools = script.tools_of(request)
    if not tools:
        return Step(text=_without_tools(messages))
    start = _turn_start(messages)
    texts = script.text_parts(messages[start]) if start is not None else []
    if any(script.DIRECTIVE.search(text) for text in texts):
        return script.choose_step(request)
    replies = [message for message in messages[start or 0 :] if message["role"] == "assistant"]
    step = _work(
        job_of("\n".join(texts), number=_turn_number(messages, start)),
        index=script.next_index(replies),
        results=_results(messages[start or 0 :]),
        tools=tools,
        cwd=script.reported_cwd(messages),
        is_first=start is None or not any(m["role"] == "assistant" for m in messages[:start]),
    )
    return script.filled(step, tools=tools, cwd="{cwd}")  # a request's own {cwd} stays as it is


# --- Where in the conversation we are -----------------------------------------------


def _turn_start(messages: list[Json]) -> int | None:
    """Where the newest request of the person stands: summaries and the engine's nudges are not requests."""
    for position in range(len(messages) - 1, -1, -1):
        if messages[position]["role"] == "user" and _is_request(messages[position]):
            return position
    return None


def _is_request(message: Json) -> bool:
    text = "\n".join(script.text_parts(message)).lstrip()
    return not text.startswith((SUMMARY_MARK, _NUDGE))


def _turn_number(messages: list[Json], start: int | None) -> int:
    """One for the first request, two for the next, …: follow-ups write a file of their own."""
    before = messages[: start or 0]
    requests = [m for m in before if m["role"] == "user" and _is_request(m)]
    return 1 + len(requests)


def _results(messages: list[Json]) -> dict[int, str]:
    """What the tools answered in this turn, by the index of the step that called them."""
    found: dict[int, str] = {}
    for message in messages:
        match = re.match(r"call_(\d{1,9})_", message.get("tool_call_id") or "")
        if message["role"] == "tool" and match:
            found[int(match[1])] = "\n".join(script.text_parts(message))
    return found


def _without_tools(messages: list[Json]) -> str:
    """Titles and summaries are asked for without tools."""
    asked = "\n".join(text for message in messages for text in script.text_parts(message))
    if "title" in asked[:2_000].lower():
        return "🤖 Demo conversation"
    if "summar" in asked[:2_000].lower():
        return f"{SUMMARY_MARK} Earlier steps were carried out; their files are in the working directory."
    return ABOUT


# --- What to do ---------------------------------------------------------------------


def job_of(request: str, *, number: int = 1) -> Job:
    """The file, content and command for a request; ``demo.py`` about the request where it names no file."""
    request = request.strip()[:20_000]
    named = _FILE.search(request)
    fence = _FENCE.search(request)
    if named is None:
        path = "demo.py" if number == 1 else f"demo_{number}.py"
        return Job(path, _about(request))
    path = _inside(named[1])
    if fence:
        content = fence[1]
    else:
        before = _LINK_WORDS.sub("", _content(request[: named.start()]))
        text = _content(request[named.end() :]) or before
        content = _program(path, text or request[:MAX_REQUEST])
    return Job(path, content)


def _inside(path: str) -> str:
    """A path below the working directory, whatever the request named."""
    parts = [part for part in path.split("/") if part not in ("", ".")]
    return parts[-1] if ".." in parts or path.startswith("/") else "/".join(parts)


def _content(text: str) -> str:
    """What the file is to say: the quoted text, or the rest of the sentence, after a word like ``prints``."""
    found = _CONTENT_WORDS.search(text)
    if not found:
        return ""
    rest = text[found.end() : found.end() + MAX_REQUEST]
    if quoted := _QUOTED.match(rest):
        return next(group for group in quoted.groups() if group)
    return _END.split(rest.lstrip(), maxsplit=1)[0].strip(" ,;:")


def _program(path: str, text: str) -> str:
    if path.lower().endswith(".py"):
        return f"print({text!r})\n"
    if path.lower().endswith(".sh"):
        return f"echo {shlex.quote(text)}\n"
    return text + "\n"


def _about(request: str) -> str:
    shown = request[:MAX_REQUEST]
    return (
        '"""Written by the built-in demo model: prints the request and some facts."""\n\n'
        "import os\nimport platform\nimport sys\n\n"
        f"REQUEST = {shown!r}\n\n"
        'print("You asked:", REQUEST)\n'
        'print("That is", len(REQUEST.split()), "words and", len(REQUEST), "characters.")\n'
        'print("Python", platform.python_version(), "on", platform.system(), platform.machine())\n'
        'print("Working directory:", os.getcwd())\n'
        'print("Files here:", ", ".join(sorted(os.listdir("."))[:20]))\n'
        "sys.stdout.flush()\n"
    )


# --- Step by step -------------------------------------------------------------------


def _work(
    job: Job,
    *,
    index: int,
    results: dict[int, str],
    tools: dict[str, Json],
    cwd: str,
    is_first: bool,
) -> Step:
    """The reply number ``index`` of a turn."""
    rejected = results.get(index - 1, "")
    if rejected.startswith("Action rejected"):
        reason = rejected.partition(":")[2].strip()
        return _finish(index, tools, f"You rejected that step ({reason}), so I stop here. {ABOUT}")
    if not {"terminal", "file_editor"} <= tools.keys():
        return _finish(index, tools, f"I need the tools terminal and file_editor. {ABOUT}")
    steps = _steps(job, results, tools, cwd=cwd, is_first=is_first)
    if index < len(steps):
        steps[index].index = index
        return steps[index]
    ran = max(place for place, step in enumerate(steps) if step.summary == f"Run {job.path}")
    command = str(steps[ran].calls[0][1]["command"])
    return _finish(index, tools, _report(job, command, results.get(ran, "")))


def _steps(
    job: Job, results: dict[int, str], tools: dict[str, Json], *, cwd: str, is_first: bool
) -> list[Step]:
    """The turn, as far as it is known: what the look around found decides about the rest."""
    hello = "Hello! I am the built-in demo model, here to show how this works. " if is_first else ""
    folder, _, name = job.path.rpartition("/")
    look = f"pwd && ls -A1 {shlex.quote(folder)} 2>/dev/null" if folder else "pwd && ls -A1"
    steps = [
        _plan(job, done=0, text=f"{hello}My plan: write `{job.path}`, run it, and report."),
        _call("I look at where I am first.", "Look around", "terminal", command=look),
    ]
    if "task_tracker" not in tools:
        steps.pop(0)
    if name in results.get(len(steps) - 1, "").splitlines():
        path, kept = job.path, f"{job.path}.bak"
        keep = f"mv -f {shlex.quote(path)} {shlex.quote(kept)}"
        text = f"`{path}` exists already; I keep the old one as `{kept}`."
        steps.append(_call(text, "Keep the old file", "terminal", command=keep))
    write = {"command": "create", "path": f"{cwd}/{job.path}", "file_text": job.content}
    steps += [
        _call(f"Now I write `{job.path}`.", f"Write {job.path}", "file_editor", **write),
        _call("And I run it.", f"Run {job.path}", "terminal", command=job.command()),
    ]
    if "[Command finished with exit code 127]" in results.get(len(steps) - 1, ""):
        command = job.command(python="python")
        text = "There is no python3 here; I try python."
        steps.append(_call(text, f"Run {job.path}", "terminal", command=command))
    if "task_tracker" in tools:
        steps.append(_plan(job, done=3, text="I tick off the plan."))
    return steps


def _call(text: str, summary: str, tool: str, **arguments: object) -> Step:
    return Step(text=text, calls=[(tool, dict(arguments))], summary=summary)


def _plan(job: Job, *, done: int, text: str) -> Step:
    titles = ["Look around", f"Write {job.path}", f"Run {job.path}"]
    statuses = ["done" if place < done else "todo" for place in range(len(titles))]
    if not done:
        statuses[0] = "in_progress"
    tasks = [
        {"title": title, "notes": "", "status": status}
        for title, status in zip(titles, statuses, strict=True)
    ]
    summary = "Finish the plan" if done else "Make a plan"
    return _call(text, summary, "task_tracker", command="plan", task_list=tasks)


def _finish(index: int, tools: dict[str, Json], message: str) -> Step:
    if "finish" not in tools:
        return Step(index=index, text=message)
    return Step(
        index=index,
        text="I am done.",
        calls=[("finish", {"message": message})],
        summary="Finish",
    )


def _report(job: Job, command: str, result: str) -> str:
    """What was done, said from what the terminal answered."""
    lines = result.splitlines()
    output = "\n".join(line for line in lines if not _METADATA.match(line)).strip()
    shown = f", which printed:\n\n```\n{output[:MAX_SHOWN]}\n```\n\n" if output else ".\n\n"
    is_right = "[Command finished with exit code 0]" in lines
    trouble = "" if is_right else "The command did not report success. "
    return f"I wrote `{job.path}` and ran `{command}`{shown}{trouble}{ABOUT}"

"""The demo model, which works without an API key and does a small, visible piece of real work.

The demo model understands no language. It searches the request for a file name and for the content of the file. Then it
makes a plan, looks at the folder, writes the file, runs the file, and reports that it is only a demo. If a request
contains lines that begin with ``!``, the demo model follows this script instead (``billing.gateway.script``). Each
reply depends only on the request, so nothing is stored between calls.
"""

import re
import shlex
from dataclasses import dataclass

from billing.gateway import script
from billing.gateway.script import Json, Step

SUMMARY_MARK = "[Summary by the demo model]"
ABOUT = (
    "I am the built-in demo model: I follow a fixed routine and do not understand your request. "
    "Set a real model in Settings to get real work done."
)
MAX_REQUEST = 600
"""The maximum number of characters that are copied from the request into a file."""
MAX_SHOWN = 1_500
"""The maximum number of characters of output in the report."""
# The engine sends this text as a user message after a reply without a tool call.
_REMINDER = "Your last response did not include a function call"
_EXTENSIONS = "py|sh|txt|md|json|csv|html|css|js|ts|yaml|yml|toml|ini|cfg|log|sql|xml"
# A file name with a known extension, not part of a URL or of a longer path.
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
# Lines that the terminal tool adds to the output of a command.
_METADATA = re.compile(
    r"\[(?:Current working directory|Python interpreter|Command finished with exit code|The command)\b"
)
_END = re.compile(
    r"\r?\n|[.!?](?=\s|$)|,? (?:and|then)(?: then)? (?:run|execute|show|cat|print|open|start|test|finish)\b",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class Job:
    """The work that the demo model does for a request: a file, its content, and the command that runs or shows it."""

    path: str
    content: str

    def command(self, *, python: str = "python3") -> str:
        """Return the command that runs a Python or shell file, or prints a file of another type."""
        program = {"py": python, "sh": "sh"}.get(self.path.lower().rpartition(".")[2], "cat")
        return f"{program} {shlex.quote(self.path)}"


def reply(request: Json) -> Step:
    """Return the model's reply to a chat-completions request.

    Raise ``LookupError``, ``TypeError`` or ``AttributeError`` if the request does not have the API's shape.
    """
    messages: list[Json] = request["messages"]
    tools = script.get_tools(request)
    if not tools:
        return Step(text=_reply_without_tools(messages))
    start = _find_turn_start(messages)
    texts = script.extract_texts(messages[start]) if start is not None else []
    if any(script.DIRECTIVE.search(text) for text in texts):
        return script.choose_step(request)
    replies = [message for message in messages[start or 0 :] if message["role"] == "assistant"]
    step = _work(
        plan_job("\n".join(texts), number=_count_turn(messages, start)),
        index=script.find_next_index(replies),
        results=_collect_results(messages[start or 0 :]),
        tools=tools,
        cwd=script.find_reported_cwd(messages),
        is_first=start is None or not any(m["role"] == "assistant" for m in messages[:start]),
    )
    return script.fill_step(step, tools=tools, cwd="{cwd}")  # keep a literal {cwd} in the request


# --- Where in the conversation we are -----------------------------------------------


def _find_turn_start(messages: list[Json]) -> int | None:
    """Return the index of the user's newest request. Summaries and the engine's reminders are not requests."""
    for position in range(len(messages) - 1, -1, -1):
        if messages[position]["role"] == "user" and _is_request(messages[position]):
            return position
    return None


def _is_request(message: Json) -> bool:
    text = "\n".join(script.extract_texts(message)).lstrip()
    return not text.startswith((SUMMARY_MARK, _REMINDER))


def _count_turn(messages: list[Json], start: int | None) -> int:
    """Return the number of the turn, from 1. It becomes part of the file name if the request names no file."""
    before = messages[: start or 0]
    requests = [m for m in before if m["role"] == "user" and _is_request(m)]
    return 1 + len(requests)


def _collect_results(messages: list[Json]) -> dict[int, str]:
    """Return the results of the tools in this turn, by the index of the step that called the tool."""
    results: dict[int, str] = {}
    for message in messages:
        match = re.match(r"call_(\d{1,9})_", message.get("tool_call_id") or "")
        if message["role"] == "tool" and match:
            results[int(match[1])] = "\n".join(script.extract_texts(message))
    return results


def _reply_without_tools(messages: list[Json]) -> str:
    """Return the reply to a request without tools, by which engines request titles and summaries."""
    prompt = "\n".join(text for message in messages for text in script.extract_texts(message))
    if "title" in prompt[:2_000].lower():
        return "🤖 Demo conversation"
    if "summar" in prompt[:2_000].lower():
        return f"{SUMMARY_MARK} Earlier steps were carried out; their files are in the working directory."
    return ABOUT


# --- What to do ---------------------------------------------------------------------


def plan_job(request: str, *, number: int = 1) -> Job:
    """Return the job for a request. If it names no file, the job is a ``demo.py`` that prints facts about it."""
    request = request.strip()[:20_000]
    name = _FILE.search(request)
    fence = _FENCE.search(request)
    if name is None:
        path = "demo.py" if number == 1 else f"demo_{number}.py"
        return Job(path, _write_about(request))
    path = _make_relative(name[1])
    if fence:
        content = fence[1]
    else:
        before = _LINK_WORDS.sub("", _find_content(request[: name.start()]))
        text = _find_content(request[name.end() :]) or before
        content = _write_program(path, text or request[:MAX_REQUEST])
    return Job(path, content)


def _make_relative(path: str) -> str:
    """Return a path inside the working directory: of an absolute path or a path with ``..``, only the file name."""
    parts = [part for part in path.split("/") if part not in ("", ".")]
    return parts[-1] if ".." in parts or path.startswith("/") else "/".join(parts)


def _find_content(text: str) -> str:
    """Return the text after a word like ``prints``: the quoted text, or else the rest of the sentence."""
    match = _CONTENT_WORDS.search(text)
    if not match:
        return ""
    rest = text[match.end() : match.end() + MAX_REQUEST]
    if quoted := _QUOTED.match(rest):
        return next(group for group in quoted.groups() if group)
    return _END.split(rest.lstrip(), maxsplit=1)[0].strip(" ,;:")


def _write_program(path: str, text: str) -> str:
    if path.lower().endswith(".py"):
        return f"print({text!r})\n"
    if path.lower().endswith(".sh"):
        return f"echo {shlex.quote(text)}\n"
    return text + "\n"


def _write_about(request: str) -> str:
    excerpt = request[:MAX_REQUEST]
    return (
        '"""Written by the built-in demo model: prints the request and some facts."""\n\n'
        "import os\nimport platform\nimport sys\n\n"
        f"REQUEST = {excerpt!r}\n\n"
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
    """Return the reply number ``index`` of a turn, from 0."""
    rejected = results.get(index - 1, "")
    if rejected.startswith("Action rejected"):
        reason = rejected.partition(":")[2].strip()
        return _finish(index, tools, f"You rejected the step ({reason}), so I stop here. {ABOUT}")
    if not {"terminal", "file_editor"} <= tools.keys():
        return _finish(
            index,
            tools,
            f"I need the terminal and file_editor tools, which this agent does not have. {ABOUT}",
        )
    steps = _plan_steps(job, results, tools, cwd=cwd, is_first=is_first)
    if index < len(steps):
        steps[index].index = index
        return steps[index]
    run_index = max(
        position for position, step in enumerate(steps) if step.summary == f"Run {job.path}"
    )
    command = str(steps[run_index].calls[0][1]["command"])
    return _finish(index, tools, _report(job, command, results.get(run_index, "")))


def _plan_steps(
    job: Job, results: dict[int, str], tools: dict[str, Json], *, cwd: str, is_first: bool
) -> list[Step]:
    """Return the steps of a turn. Whether the file exists and the first command works decides about more steps.

    The results of earlier steps show this, so the list of steps can grow from reply to reply.
    """
    hello = "Hello! I am the built-in demo model, here to show how this works. " if is_first else ""
    folder, _, name = job.path.rpartition("/")
    look = f"pwd && ls -A1 {shlex.quote(folder)} 2>/dev/null" if folder else "pwd && ls -A1"
    steps = [
        _plan(job, done=0, text=f"{hello}My plan: write `{job.path}`, run it, and report."),
        _call("First I look at the working directory.", "Look around", "terminal", command=look),
    ]
    if "task_tracker" not in tools:
        steps.pop(0)  # the plan
    # The last step so far is the look at the folder: its result lists the files.
    if name in results.get(len(steps) - 1, "").splitlines():
        path, backup = job.path, f"{job.path}.bak"
        rename = f"mv -f {shlex.quote(path)} {shlex.quote(backup)}"
        text = f"`{path}` already exists, so I rename the old file to `{backup}`."
        steps.append(_call(text, "Keep the old file", "terminal", command=rename))
    write = {"command": "create", "path": f"{cwd}/{job.path}", "file_text": job.content}
    steps += [
        _call(f"Now I write `{job.path}`.", f"Write {job.path}", "file_editor", **write),
        _call("Then I run it.", f"Run {job.path}", "terminal", command=job.command()),
    ]
    # 127: the shell did not find the command.
    if "[Command finished with exit code 127]" in results.get(len(steps) - 1, ""):
        command = job.command(python="python")
        text = "python3 is not installed, so I try python."
        steps.append(_call(text, f"Run {job.path}", "terminal", command=command))
    if "task_tracker" in tools:
        steps.append(_plan(job, done=3, text="I mark the plan as done."))
    return steps


def _call(text: str, summary: str, tool: str, **arguments: object) -> Step:
    return Step(text=text, calls=[(tool, dict(arguments))], summary=summary)


def _plan(job: Job, *, done: int, text: str) -> Step:
    titles = ["Look around", f"Write {job.path}", f"Run {job.path}"]
    statuses = ["done" if position < done else "todo" for position in range(len(titles))]
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
    """Return the final report, based on the terminal's output."""
    lines = result.splitlines()
    output = "\n".join(line for line in lines if not _METADATA.match(line)).strip()
    printed = f", which printed:\n\n```\n{output[:MAX_SHOWN]}\n```\n\n" if output else ".\n\n"
    has_succeeded = "[Command finished with exit code 0]" in lines
    warning = "" if has_succeeded else "The command did not report success. "
    return f"I wrote `{job.path}` and ran `{command}`{printed}{warning}{ABOUT}"

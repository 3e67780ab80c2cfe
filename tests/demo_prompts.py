"""``python -m tests.demo_prompts FILE``: let the demo model answer the requests of a file, with the engine's real tools.

Each line of the file is a request; if a line contains only ``---``, such lines separate requests of several lines. A line
that begins with ``>>`` follows in the conversation of the request before it. Every conversation gets its own folder with
files of somebody else (``FOREIGN``). For each request this prints whether it was carried out ("task"), answered in words
("words") or declined, the files that were made, the foreign files that changed, and the last message.

``--repository`` makes the folder a Git repository first, and ``--empty`` leaves the foreign files out.
"""

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from billing.gateway import demo, script
from tests.prepare import engine_dir

FOREIGN = {
    "a.py": 'def add(a, b):\n    """Add two numbers."""\n    return a + b\n\n\ndef greet(name):\n    return "Hello, " + name\n',
    "app.py": "def average(values):\n    return sum(values) / (len(values) - 1)  # TODO: wrong\n\n\n"
    'if __name__ == "__main__":\n    print(average([2, 4, 6]))\n',
    "notes.txt": "Buy milk.\nTODO call Bob.\n",
    "data.csv": "name,age,city\nAnn,31,Berlin\nBob,45,Paris\nCid,,Rome\n",
    "index.html": "<!doctype html><title>Mine</title><h1>Mine</h1>\n",
    "primes.py": "# mine\n",
    "fizzbuzz.py": "# mine\n",
    "hello.py": "# mine\n",
    "todo.html": "<p>mine</p>\n",
    "test_app.py": "# mine\n",
    "shop/basket.py": "# mine\n",
    "README.md": "# Mine\n\nA project.\n",
    "my notes/plan b.txt": "mine\n",
    ".env": "SECRET=1\n",
}
"""The files of somebody else in the folder of a conversation, by their paths."""
TOOLS = [
    {
        "type": "function",
        "function": {"name": name, "parameters": {"type": "object", "properties": {}}},
    }
    for name in ("terminal", "file_editor", "task_tracker", "finish", "think")
]
MAX_STEPS = 30


@dataclass
class Outcome:
    """The result of a request: the kind of reply, the files, the calls and their results."""

    kind: str
    message: str
    made: list[str]
    harmed: list[str]
    calls: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    results: list[str] = field(default_factory=list)
    seconds: float = 0.0


class Tools:
    """The engine's real tools in a process of their own, which starts with the first call."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None
        self._folder: Path | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._process and self._process.stdin and self._process.stdout:
            self._process.stdin.close()
            self._process.wait(60)
            self._process.stdout.close()

    def carry_out(self, folder: Path, tool: str, arguments: dict[str, Any]) -> str:
        """Carry out one tool call in a folder, and return the text that the model sees."""
        if self._process is None:
            self._process = subprocess.Popen(
                [str(engine_dir() / "bin" / "python"), str(Path(__file__).with_name("demo_tools.py"))],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
                env={"PATH": os.environ["PATH"], "HOME": str(folder.parent), "TERM": "xterm", "LANG": "C.UTF-8"},
            )  # fmt: skip
        if folder != self._folder:
            self._send({"folder": str(folder)})
            self._folder = folder
        self._send({"tool": tool, "arguments": arguments})
        assert self._process.stdout
        return str(json.loads(self._process.stdout.readline())["text"])

    def _send(self, line: dict[str, Any]) -> None:
        assert self._process
        assert self._process.stdin
        self._process.stdin.write(json.dumps(line) + "\n")
        self._process.stdin.flush()


class Sandbox:
    """A conversation with the demo model in a folder."""

    def __init__(
        self,
        tools: Tools,
        folder: Path,
        *,
        foreign: dict[str, str] = FOREIGN,
        repository: bool = False,
    ) -> None:
        self.tools, self.folder = tools, folder
        self.messages: list[dict[str, Any]] = [{"role": "system", "content": "You are an agent."}]
        for name, content in foreign.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content, encoding="utf-8")
        if repository:
            git = ["git", "-C", str(folder), "-c", "user.name=T", "-c", "user.email=t@example.com"]
            subprocess.run([*git, "init", "-q"], check=True)
            subprocess.run([*git, "add", "-A"], check=True)
            subprocess.run([*git, "commit", "-qm", "Start"], check=True)
        self._state = self._read_state()

    def begin(self) -> None:
        """Begin another conversation in the folder."""
        self.messages = self.messages[:1]
        self._state = self._read_state()

    def ask(self, text: str) -> Outcome:
        """Send a message, carry out the calls of the demo model until it is done, and return what it did."""
        began = time.monotonic()
        self.messages.append({"role": "user", "content": [{"type": "text", "text": text}]})
        outcome = Outcome("words", "", [], [])
        for _ in range(MAX_STEPS):
            request = {"messages": self.messages, "tools": TOOLS}
            step = demo.reply(request, site="http://127.0.0.1:8000")
            message = script.build_completion(step, request)["choices"][0]["message"]
            self.messages.append(message)
            calls = message.get("tool_calls") or []
            if not calls:
                outcome.message = message["content"]
                declined = (
                    "cannot do this" in outcome.message or "这个请求我做不了" in outcome.message
                )
                outcome.kind = "declined" if declined else "words"
                break
            outcome.kind = "task"
            for call in calls:
                name, arguments = (
                    call["function"]["name"],
                    json.loads(call["function"]["arguments"]),
                )
                outcome.calls.append((name, arguments))
                result = (
                    self.tools.carry_out(self.folder, name, arguments)
                    if name in {"terminal", "file_editor"}
                    else "ok"
                )
                outcome.results.append(result)
                self.messages.append(
                    {"role": "tool", "tool_call_id": call["id"], "content": result}
                )
            if calls[-1]["function"]["name"] == "finish":
                outcome.message = arguments["message"]
                break
        else:
            outcome.message = "(the demo model did not finish)"
        state = self._read_state()
        outcome.made = sorted(state.keys() - self._state.keys())
        outcome.harmed = sorted(
            name for name, value in self._state.items() if state.get(name) != value
        )
        self._state = state
        outcome.seconds = time.monotonic() - began
        return outcome

    def _read_state(self) -> dict[str, str]:
        """Return a digest of every file of the folder, by its path."""
        return {
            str(path.relative_to(self.folder)): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in sorted(self.folder.rglob("*"))
            if path.is_file() and ".git" not in path.relative_to(self.folder).parts
        }


def read_requests(text: str) -> list[list[str]]:
    """Return the conversations of a file, each as a list of messages."""
    lines = text.splitlines()
    blocks = f"\n{text}\n".split("\n---\n") if "---" in lines else lines
    conversations: list[list[str]] = []
    for block in (block.strip("\n") for block in blocks if block.strip()):
        if block.startswith(">>") and conversations:
            conversations[-1].append(block.removeprefix(">>").strip())
        else:
            conversations.append([block])
    return conversations


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("file", type=Path)
    parser.add_argument(
        "--repository", action="store_true", help="make the folder a Git repository first"
    )
    parser.add_argument("--empty", action="store_true", help="begin with an empty folder")
    parser.add_argument(
        "--brief", action="store_true", help="print only the first line of each last message"
    )
    options = parser.parse_args()
    counts = {"task": 0, "words": 0, "declined": 0}
    harmed = 0
    root = Path(tempfile.mkdtemp(prefix="demo-"))
    with Tools() as tools:
        for number, conversation in enumerate(
            read_requests(options.file.read_text(encoding="utf-8")), 1
        ):
            folder = root / str(number) / "project"
            folder.mkdir(parents=True)
            sandbox = Sandbox(
                tools,
                folder,
                foreign={} if options.empty else FOREIGN,
                repository=options.repository,
            )
            for text in conversation:
                outcome = sandbox.ask(text)
                counts[outcome.kind] += 1
                harmed += len(outcome.harmed)
                print(f"=== {number}. {text}")
                print(
                    f"--- {outcome.kind}, {len(outcome.calls)} calls, {outcome.seconds:.1f} s; made: "
                    f"{', '.join(outcome.made) or 'nothing'}; foreign files changed: {', '.join(outcome.harmed) or 'none'}"
                )  # fmt: skip
                print(
                    outcome.message.splitlines()[0] if options.brief else outcome.message,
                    end="\n\n",
                    flush=True,
                )
    shutil.rmtree(root)
    print(
        ", ".join(f"{kind} {count}" for kind, count in counts.items()),
        f"; foreign files changed: {harmed}",
    )
    sys.exit(bool(harmed))


if __name__ == "__main__":
    main()

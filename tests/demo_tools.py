"""The engine's own tools as a program: reads a tool call a line, carries it out, and prints what the model would see.

Only the engine's Python can run this file: ``<engine>/bin/python tests/demo_tools.py``. It imports nothing of this
project. The calls and the results are JSON: ``{"tool", "arguments"}`` and ``{"text"}``.
"""

import json
import os
import sys

os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")
os.environ.setdefault("OPENHANDS_SUPPRESS_BANNER", "1")
sys.stdout, replies = sys.stderr, sys.stdout  # the engine logs to the standard output

from openhands.tools.file_editor.definition import FileEditorAction  # noqa: E402
from openhands.tools.file_editor.impl import FileEditorExecutor  # noqa: E402
from openhands.tools.terminal.definition import TerminalAction  # noqa: E402
from openhands.tools.terminal.impl import TerminalExecutor  # noqa: E402


def main() -> None:
    """Carry out the calls of the standard input until it ends. ``{"folder"}`` begins another conversation there."""
    terminal = editor = None
    for line in sys.stdin:
        call = json.loads(line)
        if "folder" in call:
            if terminal:
                terminal.close()
            terminal = TerminalExecutor(working_dir=call["folder"])
            editor = FileEditorExecutor(workspace_root=call["folder"])
            continue
        extra = {"security_risk", "summary"}
        arguments = {k: v for k, v in call["arguments"].items() if k not in extra}
        if call["tool"] == "terminal":
            observation = terminal(TerminalAction(**arguments))
        else:
            observation = editor(FileEditorAction(**arguments))
        text = "\n".join(part.text for part in observation.to_llm_content if hasattr(part, "text"))
        print(json.dumps({"text": text}), file=replies, flush=True)
    if terminal:
        terminal.close()
    os._exit(0)  # threads of the engine would keep the process


if __name__ == "__main__":
    main()

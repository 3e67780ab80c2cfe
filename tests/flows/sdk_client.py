"""Drives one conversation through this server with the OpenHands SDK; run by the engine's own Python.

Arguments: the server's address, the key, the conversation's id or ``new``. Prints one JSON object.
"""

import json
import logging
import sys
import tempfile
from pathlib import Path

logging.disable(logging.WARNING)

from openhands.sdk import LLM, Agent, Tool  # noqa: E402
from openhands.sdk.conversation.impl.remote_conversation import RemoteConversation  # noqa: E402
from openhands.sdk.workspace import RemoteWorkspace  # noqa: E402
from openhands.tools import file_editor, task_tracker, terminal  # noqa: E402, F401 - register their events

host, key, wanted = sys.argv[1:4]
workspace = RemoteWorkspace(host=host, api_key=key, working_dir="/workspace/project")
seen = []


def note(event):
    seen.append((event.id, event.kind))


if wanted == "new":
    agent = Agent(
        llm=LLM(model="openai/x", api_key="x", usage_id="agent"), tools=[Tool(name="terminal")]
    )
    conversation = RemoteConversation(agent, workspace, callbacks=[note], visualizer=None)
else:
    conversation = RemoteConversation.attach(workspace, wanted, callbacks=[note], visualizer=None)

told = {"id": str(conversation.id), "before": str(conversation.state.execution_status.value)}
conversation.send_message("Please write hello.py that prints 'hello from here' and run it")
conversation.run(timeout=180)
told["after"] = conversation.state.execution_status.value
told["events"] = [[event.id, event.kind, event.source] for event in conversation.state.events]
told["seen"] = seen
told["cost"] = conversation.conversation_stats.get_combined_metrics().accumulated_cost
told["prompt_tokens"] = (
    conversation.conversation_stats.get_combined_metrics().accumulated_token_usage.prompt_tokens
)
told["agent"] = conversation.state.agent.llm.model
if key.startswith("ocs_"):
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder, "read")
        told["read"] = workspace.file_download("/workspace/project/hello.py", target).success
        told["text"] = target.read_text() if told["read"] else ""
        source = Path(folder, "notes.txt")
        source.write_text("from the SDK")
        told["written"] = workspace.file_upload(source, "/workspace/project/notes.txt").success
        again = Path(folder, "again")
        workspace.file_download("/workspace/project/notes.txt", again)
        told["back"] = again.read_text()
    told["changes"] = [str(change.path) for change in workspace.git_changes("/workspace/project")]
    diff = workspace.git_diff("/workspace/project/hello.py")
    told["diff"] = diff.modified
conversation.send_message("Say thank you")
conversation.run(timeout=180)
told["second"] = conversation.state.execution_status.value
conversation.close()
print(json.dumps(told))

"""A program that drives a conversation on this server with the OpenHands SDK. The engine's Python runs it.

Arguments: the server's address, the key, and the conversation's id or ``new``. Prints a JSON object.
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

host, key, conversation_id = sys.argv[1:4]
workspace = RemoteWorkspace(host=host, api_key=key, working_dir="/workspace/project")
received = []


def record_event(event):
    received.append((event.id, event.kind))


if conversation_id == "new":
    agent = Agent(
        llm=LLM(model="openai/x", api_key="x", usage_id="agent"), tools=[Tool(name="terminal")]
    )
    conversation = RemoteConversation(agent, workspace, callbacks=[record_event], visualizer=None)
else:
    conversation = RemoteConversation.attach(
        workspace, conversation_id, callbacks=[record_event], visualizer=None
    )

result = {"id": str(conversation.id), "before": str(conversation.state.execution_status.value)}
conversation.send_message("Please write hello.py that prints 'hello from here' and run it")
conversation.run(timeout=180)
result["after"] = conversation.state.execution_status.value
result["events"] = [[event.id, event.kind, event.source] for event in conversation.state.events]
result["seen"] = received
result["cost"] = conversation.conversation_stats.get_combined_metrics().accumulated_cost
result["prompt_tokens"] = (
    conversation.conversation_stats.get_combined_metrics().accumulated_token_usage.prompt_tokens
)
result["agent"] = conversation.state.agent.llm.model
if key.startswith("ocs_"):
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder, "read")
        result["read"] = workspace.file_download("/workspace/project/hello.py", target).success
        result["text"] = target.read_text() if result["read"] else ""
        source = Path(folder, "notes.txt")
        source.write_text("from the SDK")
        result["written"] = workspace.file_upload(source, "/workspace/project/notes.txt").success
        again = Path(folder, "again")
        workspace.file_download("/workspace/project/notes.txt", again)
        result["back"] = again.read_text()
    result["changes"] = [str(change.path) for change in workspace.git_changes("/workspace/project")]
    diff = workspace.git_diff("/workspace/project/hello.py")
    result["diff"] = diff.modified
conversation.send_message("Say thank you")
conversation.run(timeout=180)
result["second"] = conversation.state.execution_status.value
conversation.close()
print(json.dumps(result))

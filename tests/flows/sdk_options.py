"""A program that sets the options of a conversation with the OpenHands SDK. The engine's Python runs it.

Arguments: the server's address and the key. Prints a JSON object.
"""

import json
import logging
import sys

import httpx

logging.disable(logging.CRITICAL)

from openhands.sdk import LLM, Agent, Tool  # noqa: E402
from openhands.sdk.conversation.impl.remote_conversation import RemoteConversation  # noqa: E402
from openhands.sdk.security.confirmation_policy import AlwaysConfirm  # noqa: E402
from openhands.sdk.security.llm_analyzer import LLMSecurityAnalyzer  # noqa: E402
from openhands.sdk.workspace import RemoteWorkspace  # noqa: E402
from openhands.tools import file_editor, task_tracker, terminal  # noqa: E402, F401 - register their events

host, key = sys.argv[1:3]
agent = Agent(
    llm=LLM(model="openai/x", api_key="x", usage_id="agent"),
    tools=[Tool(name="terminal"), Tool(name="file_editor")],
)


def create(working_dir="/workspace/project", **options):
    workspace = RemoteWorkspace(host=host, api_key=key, working_dir=working_dir)
    return RemoteConversation(agent, workspace, visualizer=None, **options)


def refusal(call):
    try:
        call()
    except httpx.HTTPStatusError as error:
        return [error.response.status_code, error.response.json()["error"]]
    return None


conversation = create(max_iteration_per_run=50, tags={"team": "a"})
conversation.set_confirmation_policy(AlwaysConfirm())
conversation.set_security_analyzer(LLMSecurityAnalyzer())
conversation.send_message("Please write hello.py that prints 'hello from here' and run it")
conversation.run(timeout=180)
state = conversation.state
result = {
    "id": str(conversation.id),
    "status": state.execution_status.value,
    "policy": type(state.confirmation_policy).__name__,
    "observations": [e.kind for e in state.events if e.kind == "ObservationEvent"],
}
result["rejected"] = refusal(lambda: conversation.reject_pending_actions("Not now"))
result["secrets"] = refusal(lambda: conversation.update_secrets({"A": "b"}))
result["plugins"] = refusal(lambda: create(user_id="u1"))
result["folder"] = refusal(lambda: create(working_dir="/home/me"))
print(json.dumps(result))

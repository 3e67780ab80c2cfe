"""The OpenHands SDK of the engine's environment, driving conversations on this server."""

import json
import os
import subprocess
from pathlib import Path

import pytest

from tests.fakes.stack import Stack, figure

pytestmark = [
    pytest.mark.engine,
    pytest.mark.contract,
    pytest.mark.slow,
    pytest.mark.timeout(400),
]
CLIENT = Path(__file__).with_name("sdk_client.py")
OPTIONS = Path(__file__).with_name("sdk_options.py")


def run_client(stack: Stack, key: str, conversation_id: str) -> dict:
    """Run ``sdk_client.py``. Return its result."""
    return run_program(CLIENT, stack, key, conversation_id)


def run_program(program: Path, stack: Stack, *arguments: str) -> dict:
    """Run a program in the engine's Python. Return its result, the JSON in its last line."""
    python = Path(os.environ["ENGINE_DIR"]) / "bin" / "python"
    home = stack.folder / "sdk-home"
    home.mkdir(exist_ok=True)
    completed = subprocess.run(
        [str(python), str(program), stack.url, *arguments],
        env={
            "PATH": os.environ["PATH"],
            "HOME": str(home),
            "OPENHANDS_SUPPRESS_BANNER": "1",
            "LITELLM_LOCAL_MODEL_COST_MAP": "True",
            "TZ": "UTC",
        },
        cwd=home,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=350,
        check=False,
    )
    assert completed.returncode == 0, completed.stdout[-2000:] + completed.stderr[-6000:]
    return json.loads(completed.stdout.strip().splitlines()[-1])


def test_sdk_with_a_conversation_key_runs_the_agent_and_reads_files_back(stack):
    talk = stack.owner.converse(title="SDK")
    [record] = stack.owner.get("app-conversations", ids=str(talk.id))
    talk.wait_ready()

    result = run_client(stack, record["session_api_key"], str(talk.id))

    figure("the SDK by a conversation key", events=len(result["events"]), seen=len(result["seen"]))
    assert (result["after"], result["second"]) == ("finished", "finished")
    assert result["read"]
    assert "hello from here" in result["text"]
    assert (result["written"], result["back"]) == (True, "from the SDK")
    assert {"hello.py", "notes.txt"} <= set(result["changes"])
    assert result["diff"].strip() == result["text"].strip()
    assert result["prompt_tokens"] > 0
    users = [event for event in result["events"] if event[1:] == ["MessageEvent", "user"]]
    assert len(users) == 1
    assert len({event[0] for event in result["events"]}) == len(result["events"])
    assert talk.deliveries() == [
        "Please write hello.py that prints 'hello from here' and run it",
        "Say thank you",
    ]


@pytest.mark.slow
def test_sdk_with_an_api_key_creates_a_conversation_that_other_users_cannot_see(stack):
    result = run_client(stack, stack.owner.key, "new")

    assert (result["after"], result["second"]) == ("finished", "finished")
    response = stack.stranger.call("GET", f"app-conversations?ids={result['id']}", expect=200)
    assert response.json() == [None]


def test_sdk_options_are_applied_or_refused(stack):
    result = run_program(OPTIONS, stack, stack.owner.key)

    record = stack.owner.get(f"conversations/{result['id']}")
    assert (result["status"], result["rejected"]) == ("waiting_for_confirmation", None), result
    assert (result["policy"], result["observations"]) == ("AlwaysConfirm", [])
    assert record["confirmation_policy"] == "always"
    assert result["secrets"][0] == 501
    assert result["plugins"][0] == 422
    assert result["plugins"][1].startswith("user_id: ")
    assert result["folder"][0] == 422
    assert result["folder"][1].startswith("workspace.working_dir: ")

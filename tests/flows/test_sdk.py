"""The OpenHands SDK, of the engine's own environment, drives conversations through this server."""

import json
import os
import subprocess
from pathlib import Path

import pytest

from tests.fakes.stack import Stack, figure

pytestmark = [pytest.mark.engine, pytest.mark.timeout(400)]
CLIENT = Path(__file__).with_name("sdk_client.py")


def drive(stack: Stack, key: str, wanted: str) -> dict:
    """Run the client in the engine's Python; what it saw."""
    python = Path(os.environ["ENGINE_DIR"]) / "bin" / "python"
    home = stack.folder / "sdk-home"
    home.mkdir(exist_ok=True)
    done = subprocess.run(
        [str(python), str(CLIENT), stack.url, key, wanted],
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
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-6000:]
    return json.loads(done.stdout.strip().splitlines()[-1])


def test_sdk_with_a_conversation_key_runs_the_agent_and_reads_files_back(stack):
    talk = stack.owner.converse(title="SDK")
    [record] = stack.owner.get("app-conversations", ids=str(talk.id))
    talk.wait_ready()

    told = drive(stack, record["session_api_key"], str(talk.id))

    figure("the SDK by a conversation key", events=len(told["events"]), seen=len(told["seen"]))
    assert (told["after"], told["second"]) == ("finished", "finished")
    assert told["read"]
    assert "hello from here" in told["text"]
    assert (told["written"], told["back"]) == (True, "from the SDK")
    assert {"hello.py", "notes.txt"} <= set(told["changes"])
    assert told["diff"].strip() == told["text"].strip()
    assert told["prompt_tokens"] > 0
    users = [event for event in told["events"] if event[1:] == ["MessageEvent", "user"]]
    assert len(users) == 1
    assert len({event[0] for event in told["events"]}) == len(told["events"])
    assert talk.deliveries() == [
        "Please write hello.py that prints 'hello from here' and run it",
        "Say thank you",
    ]


@pytest.mark.slow
def test_sdk_with_an_api_key_creates_a_conversation_that_other_users_cannot_see(stack):
    told = drive(stack, stack.owner.key, "new")

    assert (told["after"], told["second"]) == ("finished", "finished")
    answer = stack.stranger.call("GET", f"app-conversations?ids={told['id']}", expect=200)
    assert answer.json() == [None]

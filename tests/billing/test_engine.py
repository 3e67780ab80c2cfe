"""The real engine with the gateway: the demo model, a model server that fails, and a reached cost limit."""

import asyncio
import os
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx2
import pytest
from django.conf import settings

from accounts.models import UserSettings
from billing.models import ConversationUsage
from tests.billing.conftest import wait_for_calls
from tests.waiting import wait_until_async

pytestmark = [
    pytest.mark.django_db(transaction=True),
    pytest.mark.engine,
    pytest.mark.contract,
    pytest.mark.slow,
]
ENGINE = Path(settings.ENGINE_DIR) / "bin" / "agent-server"
KEY = "engine-session-key"


@pytest.fixture
async def engine(tmp_path: Path, unused_tcp_port: int) -> AsyncIterator[httpx2.AsyncClient]:
    """An agent server with its own folder."""
    if not ENGINE.exists():
        pytest.skip(f"the agent engine is not installed in {settings.ENGINE_DIR}")
    home = tmp_path / "home"
    home.mkdir()
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(home),
        "TZ": "UTC",
        "OH_SESSION_API_KEYS_0": KEY,
        "OH_SECRET_KEY": "0" * 32,
        "OH_CONVERSATIONS_PATH": str(tmp_path / "conversations"),
        "OH_BASH_EVENTS_DIR": str(tmp_path / "bash"),
        "OH_WORKSPACE_PATH": str(tmp_path / "project"),
        "OH_ENABLE_VSCODE": "0",
        "OH_LEASE_TTL_SECONDS": "0",
        "TMUX_TMPDIR": str(tmp_path),
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",
        "OPENHANDS_SUPPRESS_BANNER": "1",
        "ANONYMIZED_TELEMETRY": "false",
    }
    command = [str(ENGINE), "--host", "127.0.0.1", "--port", str(unused_tcp_port)]
    with (tmp_path / "engine.log").open("wb") as log:
        process = subprocess.Popen(
            command, env=environment, cwd=tmp_path, stdin=subprocess.DEVNULL, stdout=log, stderr=log
        )
    base_url = f"http://127.0.0.1:{unused_tcp_port}"
    headers = {"X-Session-API-Key": KEY}
    async with httpx2.AsyncClient(base_url=base_url, headers=headers, timeout=60) as client:
        await _wait_until_ready(client)
        yield client
    process.terminate()
    await asyncio.to_thread(process.wait, 20)
    tmux = ["tmux", "kill-server"]
    subprocess.run(tmux, env=environment, check=False, stderr=subprocess.DEVNULL)


async def _wait_until_ready(client: httpx2.AsyncClient) -> None:
    async def is_ready() -> bool:
        try:
            return (await client.get("/ready")).status_code == 200
        except httpx2.TransportError:
            return False

    await wait_until_async(is_ready, "the engine to start", seconds=120, pause=0.5)


async def _start(
    engine, gateway, *, conversation_id: UUID, token: str, text: str, folder: Path
) -> None:
    llm = {
        "model": "openai/demo",
        "base_url": str(gateway.base_url.join("/api/llm/v1")),
        "api_key": token,
        "usage_id": "agent",
        "stream": True,
        "num_retries": 2,
        "retry_min_wait": 1,
        "retry_max_wait": 2,
    }
    body = {
        "conversation_id": str(conversation_id),
        "agent": {
            "kind": "Agent",
            "llm": llm,
            "tools": [{"name": "terminal"}, {"name": "file_editor"}, {"name": "task_tracker"}],
        },
        "workspace": {"kind": "LocalWorkspace", "working_dir": str(folder)},
        "initial_message": {"role": "user", "content": [{"type": "text", "text": text}]},
        "confirmation_policy": {"kind": "NeverConfirm"},
        "security_analyzer": {"kind": "LLMSecurityAnalyzer"},
        "autotitle": False,
    }
    (await engine.post("/api/conversations", json=body)).raise_for_status()


async def _wait_for_turns(
    engine: httpx2.AsyncClient, conversation_id: UUID, *, turns: int
) -> list[dict[str, Any]]:
    """Wait until the agent has finished this number of turns, and return the events."""
    address = f"/api/conversations/{conversation_id}"

    async def read_events() -> list[dict[str, Any]] | None:
        status = (await engine.get(address)).json()["execution_status"]
        assert status != "error"
        page = await engine.get(f"{address}/events/search", params={"limit": 100})
        events: list[dict[str, Any]] = page.json()["items"]
        is_done = status == "finished" and _tool_names(events).count("finish") == turns
        return events if is_done else None

    events = await wait_until_async(
        read_events, f"the agent to finish {turns} turns", seconds=120, pause=0.25
    )
    return events or []


def _tool_names(events: list[dict[str, Any]]) -> list[str]:
    return [event["tool_name"] for event in events if event["kind"] == "ActionEvent"]


ROUTINE = ["task_tracker", "terminal", "file_editor", "terminal", "task_tracker", "finish"]


@pytest.mark.timeout(300)
async def test_engine_does_a_request_and_its_follow_up_and_usage_matches(
    live, engine, token, conversation_id, tmp_path: Path
):
    folder = tmp_path / "project"
    folder.mkdir(exist_ok=True)
    await _start(
        engine,
        live,
        conversation_id=conversation_id,
        token=token,
        text="Please create hello.py that prints “hello from the demo” and run it.",
        folder=folder,
    )
    events = await _wait_for_turns(engine, conversation_id, turns=1)

    assert _tool_names(events) == ROUTINE
    assert (folder / "hello.py").read_text() == "print('hello from the demo')\n"
    assert not [event for event in events if event["kind"] == "AgentErrorEvent"]
    last = [event for event in events if event["kind"] == "ActionEvent"][-1]
    assert "hello from the demo\n```" in last["action"]["message"]
    first = next(event for event in events if event["kind"] == "ActionEvent")
    assert "built-in demo model" in first["thought"][0]["text"]

    async def say(text: str) -> None:
        message = {"role": "user", "content": [{"type": "text", "text": text}], "run": True}
        path = f"/api/conversations/{conversation_id}/events"
        (await engine.post(path, json=message)).raise_for_status()

    await say("Now write hello.py that prints bye, and run it.")
    events = await _wait_for_turns(engine, conversation_id, turns=2)

    assert _tool_names(events)[len(ROUTINE) :] == ROUTINE
    assert (folder / "hello.py").read_text() == "print('hello from the demo')\n"
    assert (folder / "hello_2.py").read_text() == "print('bye')\n"

    # A declined request is one message without a tool call, and the engine's turn ends with it.
    await say("Fix the bug in hello.py")
    calls = await wait_for_calls(conversation_id, count=13)
    events = await _wait_for_turns(engine, conversation_id, turns=2)
    assert len(_tool_names(events)) == 2 * len(ROUTINE)
    # The engine makes each working directory a Git repository.
    names = {path.name for path in folder.iterdir()} - {".git"}
    assert names == {"hello.py", "hello_2.py"}
    assert [call.outcome for call in calls] == ["answered"] * 13
    usage = await ConversationUsage.objects.aget(pk=conversation_id)
    stats = (await engine.get(f"/api/conversations/{conversation_id}")).json()["stats"]
    reported = stats["usage_to_metrics"]["agent"]["accumulated_token_usage"]
    assert (reported["prompt_tokens"], reported["completion_tokens"]) == (
        usage.prompt_tokens,
        usage.completion_tokens,
    )


async def _wait_for_error(engine: httpx2.AsyncClient, conversation_id: UUID) -> dict[str, Any]:
    """Wait until the run has failed, and return the event that says why."""
    address = f"/api/conversations/{conversation_id}"

    async def read_error() -> dict[str, Any] | None:
        page = await engine.get(f"{address}/events/search", params={"limit": 100})
        kinds = ("ConversationErrorEvent",)
        return next((e for e in page.json()["items"] if e["kind"] in kinds), None)

    error = await wait_until_async(read_error, "the run to fail", seconds=120, pause=0.25)
    return error or {}


@pytest.mark.timeout(300)
async def test_engine_repeats_calls_that_fail_inside_the_stream_and_finishes(
    live, engine, token, access, provider, conversation_id, tmp_path: Path
):
    folder = tmp_path / "project"
    folder.mkdir(exist_ok=True)
    beginning = b'data: {"choices": [{"index": 0, "delta": {"content": "I will"}}]}\n\n'
    answers = [
        (200, "text/event-stream", beginning),  # a clean end without finish_reason and [DONE]
        (200, "text/event-stream", b'data: {"error": {"code": 429, "message": "Slow down"}}\n\n'),
    ]
    provider.answer = lambda _request: answers.pop(0) if answers else None
    await _start(
        engine,
        live,
        conversation_id=conversation_id,
        token=token,
        text="!run echo one\n!finish Done.",
        folder=folder,
    )
    # The engine makes 2 attempts per call here, so the second failure stops the run.
    error = await _wait_for_error(engine, conversation_id)
    assert "Slow down" in error["detail"]
    calls = await wait_for_calls(conversation_id, count=2)
    assert [(call.outcome, call.status) for call in calls] == [("failed", 502), ("failed", 429)]

    message = {
        "role": "user",
        "content": [{"type": "text", "text": "!run echo one\n!finish Done."}],
        "run": True,
    }
    answers.append((200, "text/event-stream", beginning))
    (
        await engine.post(f"/api/conversations/{conversation_id}/events", json=message)
    ).raise_for_status()
    events = await _wait_for_turns(engine, conversation_id, turns=1)
    assert _tool_names(events) == ["terminal", "finish"]
    calls = await wait_for_calls(conversation_id, count=5)
    assert [call.outcome for call in calls] == ["failed"] * 3 + ["answered"] * 2


@pytest.mark.timeout(300)
async def test_reached_cost_limit_stops_the_run_with_the_reason_in_the_conversation(
    live, engine, alice, token, access, provider, conversation_id, tmp_path: Path
):
    folder = tmp_path / "project"
    folder.mkdir(exist_ok=True)
    await UserSettings.objects.acreate(
        user=alice,
        organization=access.organization,
        values={"max_budget_per_task_micros": 1},
    )
    await _start(
        engine,
        live,
        conversation_id=conversation_id,
        token=token,
        text="!usage 1000000 0\n!run echo one\n!run echo two\n!finish Done.",
        folder=folder,
    )
    error = await _wait_for_error(engine, conversation_id)
    assert "has cost $1.00 and has reached its cost limit of $0.000001" in error["detail"]
    assert "raise the maximum cost per conversation in Settings" in error["detail"]
    assert len(provider.requests) == 1  # the engine does not repeat the refused call
    usage = await ConversationUsage.objects.aget(pk=conversation_id)
    assert (usage.calls, usage.cost_micros) == (1, 1_000_000)

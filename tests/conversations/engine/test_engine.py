"""The client and the provider against the real engine, with a scripted model."""

import asyncio
import contextlib
import json
import os
import secrets
import signal
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from django.conf import settings
from msgspec.structs import replace

from conversations.engine import payloads
from conversations.engine.client import CommandResult, EngineClient
from conversations.engine.errors import (
    EngineMissing,
    EngineRefused,
    EngineUnreachable,
    FrameTooLarge,
)
from conversations.engine.following import follow
from conversations.engine.payloads import Delta, Durable, Frame, Sync, Transient, Unknown
from conversations.sandboxes import members
from conversations.sandboxes.provider import Handle, SandboxSpec, State, get_provider
from tests.fakes.dials import build_dial
from tests.fakes.engine import require_engine
from tests.fakes.scripted_llm import ScriptedLLM
from tests.waiting import wait_until

pytestmark = [pytest.mark.engine, pytest.mark.contract, pytest.mark.timeout(300)]
provider = get_provider("process")
TOKEN = "conversation-token"
ENDED = {"finished", "error", "stuck", "paused", "idle", "waiting_for_confirmation"}


@dataclass
class RunningSandbox:
    """A running sandbox and the scripted model of its engine."""

    spec: SandboxSpec
    handle: Handle
    model: ScriptedLLM
    workspace: str

    @property
    def client(self) -> EngineClient:
        return EngineClient(self.dial, self.spec.session_key)

    def dial(self) -> socket.socket:
        return provider.dial(self.handle)

    def create_conversation(self, **options: Any) -> UUID:
        """Create a conversation in the engine; return its id."""
        conversation_id = uuid4()
        body = payloads.build_start_request(
            conversation_id=conversation_id,
            model="scripted",
            gateway_url=self.model.base_url,
            token=TOKEN,
            workspace=self.workspace,
            **options,
        )
        self.client.start_conversation(body)
        return conversation_id

    def send_and_wait(
        self, conversation_id: UUID, text: str, *, until: set[str] | None = None
    ) -> str:
        """Send a message, run the agent, wait for a status of ``until`` and return it."""
        self.client.send_message(conversation_id, text=text, run=True)
        return self.wait_for_status(conversation_id, until or ENDED)

    def wait_for_status(self, conversation_id: UUID, until: set[str]) -> str:
        """Wait for a status of ``until`` and return it."""

        def read_status() -> str | None:
            info = self.client.get_conversation(conversation_id)
            assert info is not None
            status = info["execution_status"]
            return status if status in until else None

        return wait_until(read_status, f"a status of {until}", seconds=90, pause=0.1)

    def read_kinds(self, conversation_id: UUID) -> list[str]:
        return [durable.event.kind for durable in self.client.iter_events(conversation_id)]


def wait_for_state(handle: Handle, state: State) -> Any:
    """Wait for a state; fail early if the sandbox failed, and with the engine's log if time is up."""
    deadline = time.monotonic() + 150
    while (observed := provider.inspect(handle)).state != state:
        assert time.monotonic() < deadline, (
            observed,
            (Path(handle["dir"]) / "engine.log").read_text()[-2000:],
        )
        assert state == State.FAILED or observed.state != State.FAILED, observed
        time.sleep(0.2)
    return observed


@pytest.fixture(scope="module")
def sandbox() -> Iterator[RunningSandbox]:
    require_engine()
    spec = SandboxSpec(uuid4(), secrets.token_hex(16), secrets.token_hex(16), settings.GATEWAY_URL)
    with ScriptedLLM(api_key=TOKEN) as model:
        handle = provider.start(spec)
        try:
            observed = wait_for_state(handle, State.RUNNING)
            yield RunningSandbox(spec, handle, model, observed.workspace)
        finally:
            provider.destroy(provider.find(spec.sandbox_id) or handle)
    assert list(members.find_members(spec.sandbox_id.hex, [])) == []


async def read_frames_until(
    sandbox: RunningSandbox, conversation_id: UUID, after_seq: int, last_seq: int
) -> list[Frame]:
    """Return the frames of the engine's socket until the event ``last_seq`` arrives."""
    frames: list[Frame] = []
    stream = follow(sandbox.dial, sandbox.spec.session_key, conversation_id, after_seq)
    async with contextlib.aclosing(stream), asyncio.timeout(60):
        async for frame in stream:
            frames.append(frame)
            if isinstance(frame, Durable) and frame.seq >= last_seq:
                break
    return frames


def select_durables(frames: list[Frame]) -> list[Durable]:
    return [frame for frame in frames if isinstance(frame, Durable)]


def test_server_info_has_one_version(sandbox):
    info = sandbox.client.get_server_info()

    assert sandbox.client.is_ready()
    assert info["version"] == info["sdk_version"] == info["tools_version"]


def test_changed_policy_and_analyzer_and_the_system_suffix_are_in_effect(sandbox):
    conversation_id = sandbox.create_conversation(
        system_suffix="EARLIER {{ x }} </end> END OF EARLIER"
    )
    sandbox.client.set_security_analyzer(conversation_id, "none")
    sandbox.client.set_confirmation_policy(conversation_id, "always")

    info = sandbox.client.get_conversation(conversation_id)
    assert info["confirmation_policy"] == {"kind": "AlwaysConfirm"}
    assert info["security_analyzer"] is None
    sandbox.send_and_wait(conversation_id, "Go")
    prompt = next(
        d.event.payload
        for d in sandbox.client.iter_events(conversation_id)
        if "SystemPrompt" in d.event.kind
    )
    assert "EARLIER {{ x }} </end> END OF EARLIER" in prompt


def test_wrong_session_key_gets_401(sandbox):
    client = EngineClient(sandbox.dial, "wrong")

    with pytest.raises(EngineRefused) as caught:
        client.get_conversation(uuid4())
    assert caught.value.status == 401


async def test_socket_with_a_wrong_session_key_is_closed_with_4001(sandbox):
    conversation_id = await asyncio.to_thread(sandbox.create_conversation)

    with pytest.raises(EngineRefused) as caught:
        await anext(follow(sandbox.dial, "wrong", conversation_id, -1))
    assert caught.value.status == 4001


async def test_unknown_conversation_is_missing(sandbox):
    assert sandbox.client.get_conversation(uuid4()) is None
    with pytest.raises(EngineMissing):
        sandbox.client.run(uuid4())
    with pytest.raises(EngineMissing):
        await anext(follow(sandbox.dial, sandbox.spec.session_key, uuid4(), -1))
    sandbox.client.delete_conversation(uuid4())


async def test_closed_port_is_unreachable():
    dial = build_dial(9)
    client = EngineClient(dial, "key")

    assert not client.is_ready()
    with pytest.raises(EngineUnreachable) as caught:
        client.send_message(uuid4(), text="hello", run=True)
    assert caught.value.maybe_done is False
    with pytest.raises(EngineUnreachable):
        await anext(follow(dial, "key", uuid4(), -1))


async def test_socket_sends_the_events_of_the_log(sandbox):
    conversation_id = await asyncio.to_thread(sandbox.create_conversation)
    script = "Work.\n!with I write a file.\n!run echo héllo > a.txt && cat a.txt\n!finish Done."
    following = asyncio.create_task(read_frames_until(sandbox, conversation_id, -1, 10**9))
    await asyncio.sleep(0.5)
    status = await asyncio.to_thread(sandbox.send_and_wait, conversation_id, script)
    await asyncio.sleep(1)
    following.cancel()
    count = sandbox.client.count_events(conversation_id)

    frames = await read_frames_until(sandbox, conversation_id, -1, count - 1)
    resumed = await read_frames_until(sandbox, conversation_id, 4, count - 1)
    log = list(sandbox.client.iter_events(conversation_id))

    assert status == "finished"
    assert isinstance(frames[0], Transient | Sync)
    assert not any(isinstance(frame, Unknown) for frame in frames)
    assert (
        [one.seq for one in log]
        == list(range(count))
        == [one.seq for one in select_durables(frames)]
    )
    assert [one.event.event_id for one in log] == [
        one.event.event_id for one in select_durables(frames)
    ]
    for from_socket, from_log in zip(select_durables(frames), log, strict=True):
        assert json.loads(from_socket.event.payload) == json.loads(from_log.event.payload)
        assert from_socket.event.time is not None
        assert replace(from_socket.event, payload="") == replace(from_log.event, payload="")
    assert select_durables(resumed) == select_durables(frames)[5:]
    text = "".join(one.event.payload for one in select_durables(frames))
    assert "héllo" in text
    assert (Path(sandbox.workspace) / "a.txt").read_text() == "héllo\n"
    statuses = [s for one in log if (s := payloads.parse_execution_status(one.event))]
    assert (statuses[0], statuses[-1]) == ("running", "finished")
    assert any(payloads.parse_token_usage(one.event) for one in log)
    assert not find_pending_actions(log)


async def test_delta_frames_contain_the_text_while_it_is_written(sandbox):
    conversation_id = await asyncio.to_thread(sandbox.create_conversation)
    frames: list[Frame] = []

    async def read() -> None:
        stream = follow(sandbox.dial, sandbox.spec.session_key, conversation_id, -1)
        async with contextlib.aclosing(stream):
            async for frame in stream:
                frames.append(frame)  # noqa: PERF401  (frames before the cancellation count)

    following = asyncio.create_task(read())
    await asyncio.sleep(0.5)
    await asyncio.to_thread(
        sandbox.send_and_wait, conversation_id, "Talk.\n!say one two three four"
    )
    await asyncio.sleep(1)
    following.cancel()

    written = "".join(frame.content for frame in frames if isinstance(frame, Delta))
    assert written == "one two three four"
    messages = [one.event for one in select_durables(frames) if one.event.kind == "MessageEvent"]
    assert [payloads.parse_message_text(event) for event in messages][-1] == "one two three four"


async def test_event_too_large_for_the_socket_is_read_by_rest(sandbox):
    conversation_id = await asyncio.to_thread(sandbox.create_conversation)
    text = "é" * 2_500_000
    await asyncio.to_thread(sandbox.client.send_message, conversation_id, text=text, run=False)

    with pytest.raises(FrameTooLarge):
        await read_frames_until(sandbox, conversation_id, -1, 10**9)

    log = await asyncio.to_thread(lambda: list(sandbox.client.iter_events(conversation_id)))
    assert [t for one in log if (t := payloads.parse_message_text(one.event))] == [text]
    assert [one.seq for one in log] == list(range(len(log)))


def test_events_after_a_known_and_an_unknown_id_begin_after_the_seq(sandbox):
    conversation_id = sandbox.create_conversation()
    sandbox.send_and_wait(conversation_id, "Go.\n!run true\n!finish Done.")
    log = list(sandbox.client.iter_events(conversation_id))
    known = log[3]

    after = sandbox.client.iter_events(conversation_id, after_id=known.event.event_id, after_seq=3)
    unknown = sandbox.client.iter_events(conversation_id, after_id="x-never-there", after_seq=3)

    assert list(after) == log[4:]
    assert list(unknown) == log[4:]


def test_message_is_in_the_log_after_the_barrier(sandbox):
    """The barrier also works while the first message is sent and while a tool holds the lock."""
    conversation_id = sandbox.create_conversation()
    first = threading.Thread(
        target=sandbox.client.send_message,
        args=(conversation_id,),
        kwargs={"text": "first of all", "run": False},
    )
    first.start()
    time.sleep(0.02)

    sandbox.client.wait_for_messages(conversation_id)

    assert "first of all" in read_message_texts(sandbox, conversation_id)
    first.join()
    sandbox.client.send_message(conversation_id, text="Go.\n!run sleep 3\n!finish Done.", run=True)
    sandbox.wait_for_status(conversation_id, {"running"})
    wait_until(
        lambda: "ActionEvent" in sandbox.read_kinds(conversation_id),
        "the action of the agent",
        seconds=60,
    )
    late = [
        threading.Thread(
            target=sandbox.client.send_message,
            args=(conversation_id,),
            kwargs={"text": f"late {n}", "run": False},
        )
        for n in range(2)
    ]
    for thread in late:
        thread.start()
    time.sleep(0.5)
    before = read_message_texts(sandbox, conversation_id)

    sandbox.client.wait_for_messages(conversation_id)

    # The tool held the lock, so the messages were not in the log before the barrier.
    assert not any(text.startswith("late") for text in before)
    assert {"late 0", "late 1"} <= set(read_message_texts(sandbox, conversation_id))
    for thread in late:
        thread.join()
    sandbox.wait_for_status(conversation_id, ENDED)


def test_barrier_adds_no_event(sandbox):
    conversation_id = sandbox.create_conversation()
    sandbox.client.send_message(conversation_id, text="hello", run=False)
    before = sandbox.client.count_events(conversation_id)

    sandbox.client.wait_for_messages(conversation_id)

    assert sandbox.client.count_events(conversation_id) == before


def read_message_texts(sandbox: RunningSandbox, conversation_id: UUID) -> list[str]:
    parsed = [
        payloads.parse_message_text(one.event)
        for one in sandbox.client.iter_events(conversation_id)
    ]
    return [text for text in parsed if text is not None]


def test_interrupt_ends_a_running_tool(sandbox):
    conversation_id = sandbox.create_conversation()
    sandbox.client.send_message(conversation_id, text="Go.\n!run sleep 60\n!finish Done.", run=True)
    wait_until(
        lambda: "ActionEvent" in sandbox.read_kinds(conversation_id),
        "the action of the agent",
        seconds=60,
    )
    started_at = time.monotonic()

    sandbox.client.interrupt(conversation_id)

    assert sandbox.wait_for_status(conversation_id, {"paused"}) == "paused"
    assert time.monotonic() - started_at < 15
    sandbox.client.interrupt(conversation_id)


def test_run_of_a_running_conversation_changes_nothing(sandbox):
    conversation_id = sandbox.create_conversation()
    sandbox.client.send_message(conversation_id, text="Go.\n!run sleep 2\n!finish Done.", run=True)
    sandbox.wait_for_status(conversation_id, {"running"})

    sandbox.client.run(conversation_id)

    assert sandbox.wait_for_status(conversation_id, {"finished"}) == "finished"


def test_repeated_start_returns_the_same_conversation(sandbox):
    conversation_id = sandbox.create_conversation()
    sandbox.send_and_wait(conversation_id, "Go.\n!finish Done.")
    count = sandbox.client.count_events(conversation_id)
    body = payloads.build_start_request(
        conversation_id=conversation_id,
        model="scripted",
        gateway_url=sandbox.model.base_url,
        token=TOKEN,
        workspace=sandbox.workspace,
    )

    again = sandbox.client.start_conversation(body)

    assert UUID(again["id"]) == conversation_id
    assert sandbox.client.count_events(conversation_id) == count


def find_pending_actions(log: list[Durable]) -> set[str]:
    """Return the ids of the actions in a log that no event answers."""
    action_ids = {one.event.event_id for one in log if one.event.kind == "ActionEvent"}
    return action_ids - {payloads.parse_payload(one.event).get("action_id") for one in log}


def test_approved_action_is_executed(sandbox):
    conversation_id = sandbox.create_conversation(confirmation_policy="always")
    script = "Go.\n!run echo yes > confirmed.txt\n!finish Done."
    assert sandbox.send_and_wait(conversation_id, script, until={"waiting_for_confirmation"})
    assert len(find_pending_actions(list(sandbox.client.iter_events(conversation_id)))) == 1

    sandbox.client.answer_confirmation(conversation_id, accept=True)

    wait_until(
        (Path(sandbox.workspace) / "confirmed.txt").exists, "the file of the action", seconds=60
    )


def test_model_failure_is_reported_with_a_user_action(sandbox):
    conversation_id = sandbox.create_conversation()

    status = sandbox.send_and_wait(conversation_id, "Go.\n!fail 401 always No such key")

    wait_until(
        lambda: "ConversationErrorEvent" in sandbox.read_kinds(conversation_id),
        "the error of the conversation",
        seconds=60,
    )
    failures = [
        payloads.parse_run_failure(one.event) for one in sandbox.client.iter_events(conversation_id)
    ]
    (failure,) = [one for one in failures if one]
    assert status == "error"
    assert failure.user_action == "settings"


def test_files_and_commands_of_a_workspace(sandbox):
    client, project = sandbox.client, sandbox.workspace
    content = bytes(range(256)) * 1_000

    assert client.upload(f"{project}/deep/er/data.bin", content) == len(content)
    download = client.download(f"{project}/deep/er/data.bin")
    assert download.size == len(content)
    assert b"".join(download) == content
    result = client.execute("echo out; echo err >&2; exit 3", cwd=project)
    assert result == CommandResult(3, "out\n", "err\n")
    assert client.execute("sleep 5", cwd=project, timeout=1).timed_out
    with pytest.raises(EngineMissing):
        client.download(f"{project}/nothing")
    with pytest.raises(EngineRefused) as caught:
        client.download("relative")
    assert caught.value.status == 400


def test_environment_of_the_sandbox_has_no_secrets_of_the_server(sandbox):
    environment = sandbox.client.execute("env", cwd=sandbox.workspace).stdout

    assert "PATH=" in environment
    for secret in (
        settings.SECRET_KEY,
        settings.DATABASES["default"]["PASSWORD"] or "?no password?",
    ):
        assert secret not in environment
    assert "DATABASE_URL" not in environment


def test_killed_engine_is_resumed_with_its_log(sandbox):
    conversation_id = sandbox.create_conversation()
    sandbox.client.send_message(conversation_id, text="Go.\n!run sleep 45\n!finish Done.", run=True)
    wait_until(
        lambda: "ActionEvent" in sandbox.read_kinds(conversation_id),
        "the action of the agent",
        seconds=60,
    )
    time.sleep(1)
    before = list(sandbox.client.iter_events(conversation_id))
    tool = [p for p in members.find_members(sandbox.spec.sandbox_id.hex, []) if p.name() == "sleep"]
    assert tool

    os.kill(sandbox.handle["pid"], signal.SIGKILL)

    assert "SIGKILL" in wait_for_state(sandbox.handle, State.FAILED).detail
    with pytest.raises(EngineUnreachable):
        sandbox.client.get_conversation(conversation_id)
    sandbox.handle = provider.resume(sandbox.spec, sandbox.handle)
    assert [one for one in tool if members.is_running(one)] == []
    wait_for_state(sandbox.handle, State.RUNNING)
    sandbox.wait_for_status(conversation_id, {"error"})
    after = list(sandbox.client.iter_events(conversation_id))
    assert after[: len(before)] == before
    assert len(after) > len(before)
    assert sandbox.send_and_wait(conversation_id, "Again.\n!say back again") == "finished"


def test_stopped_sandbox_leaves_no_process_and_keeps_the_log(sandbox):
    conversation_id = sandbox.create_conversation()
    sandbox.send_and_wait(conversation_id, "Go.\n!run (sleep 300 &) ; echo started\n!finish Done.")
    before = list(sandbox.client.iter_events(conversation_id))
    found = members.find_members(sandbox.spec.sandbox_id.hex, [])
    names = {member.name() for member in found}
    assert len(found) >= 3
    assert any(name.startswith("tmux") for name in names), names

    provider.stop(sandbox.handle, grace_seconds=20)

    assert provider.inspect(sandbox.handle).state == State.STOPPED
    assert [member for member in found if members.is_running(member)] == []
    assert members.find_members(sandbox.spec.sandbox_id.hex, []) == set()
    assert list(Path(sandbox.handle["tmux"]).glob("tmux-*/openhands-*")) == []
    sandbox.handle = provider.resume(sandbox.spec, sandbox.handle)
    wait_for_state(sandbox.handle, State.RUNNING)
    assert list(sandbox.client.iter_events(conversation_id)) == before


def test_destroyed_sandbox_leaves_no_files_and_no_process(sandbox):
    assert Path(sandbox.handle["dir"]).exists()

    provider.destroy(sandbox.handle)

    assert not Path(sandbox.handle["dir"]).exists()
    assert not Path(sandbox.handle["tmux"]).exists()
    assert members.find_members(sandbox.spec.sandbox_id.hex, []) == set()
    assert provider.inspect(sandbox.handle).state == State.MISSING

"""The client and the provider against the real engine, with a scripted model."""

import asyncio
import contextlib
import json
import os
import secrets
import signal
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
from conversations.engine.client import (
    CommandResult,
    EngineClient,
    EngineMissing,
    EngineRefused,
    EngineUnreachable,
    FrameTooLarge,
    follow,
)
from conversations.engine.payloads import Delta, Durable, Frame, Sync, Transient, Unknown
from conversations.sandboxes import process
from conversations.sandboxes.provider import Handle, SandboxSpec, State, get_provider
from tests.fakes.engine import require_engine
from tests.fakes.scripted_llm import ScriptedLLM

pytestmark = [pytest.mark.engine, pytest.mark.timeout(300)]
provider = get_provider("process")
TOKEN = "conversation-token"
ENDED = {"finished", "error", "stuck", "paused", "idle", "waiting_for_confirmation"}


@dataclass
class Place:
    """A running sandbox and the model it talks to."""

    spec: SandboxSpec
    handle: Handle
    model: ScriptedLLM
    base_url: str
    workspace: str

    @property
    def client(self) -> EngineClient:
        return EngineClient(self.base_url, self.spec.session_key)

    def open(self, **options: Any) -> UUID:
        """A new conversation."""
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

    def say(self, conversation_id: UUID, text: str, *, until: set[str] | None = None) -> str:
        """Send a message, run, and wait for one of the states; returns the state."""
        self.client.send_message(conversation_id, text=text, run=True)
        return self.settle(conversation_id, until or ENDED)

    def settle(self, conversation_id: UUID, until: set[str]) -> str:
        deadline = time.monotonic() + 90
        while True:
            info = self.client.get_conversation(conversation_id)
            assert info is not None
            if info["execution_status"] in until:
                return info["execution_status"]
            assert time.monotonic() < deadline, info["execution_status"]
            time.sleep(0.1)

    def kinds(self, conversation_id: UUID) -> list[str]:
        return [durable.event.kind for durable in self.client.iter_events(conversation_id)]


def wait_for(handle: Handle, state: State) -> Any:
    deadline = time.monotonic() + 150
    while (seen := provider.inspect(handle)).state != state:
        assert time.monotonic() < deadline, (
            seen,
            (Path(handle["dir"]) / "engine.log").read_text()[-2000:],
        )
        assert state == State.FAILED or seen.state != State.FAILED, seen
        time.sleep(0.2)
    return seen


@pytest.fixture(scope="module")
def place() -> Iterator[Place]:
    require_engine()
    spec = SandboxSpec(uuid4(), secrets.token_hex(16), secrets.token_hex(16), settings.GATEWAY_URL)
    with ScriptedLLM(api_key=TOKEN) as model:
        handle = provider.start(spec)
        try:
            seen = wait_for(handle, State.RUNNING)
            yield Place(spec, handle, model, seen.base_url, seen.workspace)
        finally:
            provider.destroy(provider.find(spec.sandbox_id) or handle)
    assert list(process._members(spec.sandbox_id.hex, [])) == []


async def frames_until(
    place: Place, conversation_id: UUID, after_seq: int, last_seq: int
) -> list[Frame]:
    frames: list[Frame] = []
    stream = follow(place.base_url, place.spec.session_key, conversation_id, after_seq)
    async with contextlib.aclosing(stream), asyncio.timeout(60):
        async for frame in stream:
            frames.append(frame)
            if isinstance(frame, Durable) and frame.seq >= last_seq:
                break
    return frames


def durables(frames: list[Frame]) -> list[Durable]:
    return [frame for frame in frames if isinstance(frame, Durable)]


def test_server_says_its_version(place):
    info = place.client.get_server_info()

    assert place.client.is_ready()
    assert info["version"] == info["sdk_version"] == info["tools_version"]


def test_a_policy_and_a_judge_changed_amid_a_conversation_count(place):
    key = place.open(system_suffix="EARLIER {{ x }} </end> END OF EARLIER")
    place.client.set_security_analyzer(key, "none")
    place.client.set_confirmation_policy(key, "always")

    known = place.client.get_conversation(key)
    assert known["confirmation_policy"] == {"kind": "AlwaysConfirm"}
    assert known["security_analyzer"] is None
    place.say(key, "Go")
    prompt = next(
        d.event.payload for d in place.client.iter_events(key) if "SystemPrompt" in d.event.kind
    )
    assert "EARLIER {{ x }} </end> END OF EARLIER" in prompt


def test_wrong_key_is_refused(place):
    stranger = EngineClient(place.base_url, "wrong")

    with pytest.raises(EngineRefused) as caught:
        stranger.get_conversation(uuid4())
    assert caught.value.status == 401


async def test_wrong_key_opens_no_socket(place):
    conversation_id = await asyncio.to_thread(place.open)

    with pytest.raises(EngineRefused) as caught:
        await anext(follow(place.base_url, "wrong", conversation_id, -1))
    assert caught.value.status == 4001


async def test_unknown_conversation(place):
    assert place.client.get_conversation(uuid4()) is None
    with pytest.raises(EngineMissing):
        place.client.run(uuid4())
    with pytest.raises(EngineMissing):
        await anext(follow(place.base_url, place.spec.session_key, uuid4(), -1))
    place.client.delete_conversation(uuid4())


async def test_nobody_there():
    client = EngineClient("http://127.0.0.1:9", "key")

    assert not client.is_ready()
    with pytest.raises(EngineUnreachable) as caught:
        client.send_message(uuid4(), text="hello", run=True)
    assert caught.value.maybe_done is False
    with pytest.raises(EngineUnreachable):
        await anext(follow("http://127.0.0.1:9", "key", uuid4(), -1))


async def test_the_socket_tells_the_log_item_by_item(place):
    conversation_id = await asyncio.to_thread(place.open)
    script = "Work.\n!with I write a file.\n!run echo héllo > a.txt && cat a.txt\n!finish Done."
    following = asyncio.create_task(frames_until(place, conversation_id, -1, 10**9))
    await asyncio.sleep(0.5)
    status = await asyncio.to_thread(place.say, conversation_id, script)
    await asyncio.sleep(1)
    following.cancel()
    count = place.client.count_events(conversation_id)

    seen = await frames_until(place, conversation_id, -1, count - 1)
    resumed = await frames_until(place, conversation_id, 4, count - 1)
    log = list(place.client.iter_events(conversation_id))

    assert status == "finished"
    assert isinstance(seen[0], Transient | Sync)
    assert not any(isinstance(frame, Unknown) for frame in seen)
    assert [one.seq for one in log] == list(range(count)) == [one.seq for one in durables(seen)]
    assert [one.event.event_id for one in log] == [one.event.event_id for one in durables(seen)]
    for ours, theirs in zip(durables(seen), log, strict=True):
        assert json.loads(ours.event.payload) == json.loads(theirs.event.payload)
        assert ours.event.time is not None
        assert replace(ours.event, payload="") == replace(theirs.event, payload="")
    assert durables(resumed) == durables(seen)[5:]
    text = "".join(one.event.payload for one in durables(seen))
    assert "héllo" in text
    assert (Path(place.workspace) / "a.txt").read_text() == "héllo\n"
    statuses = [s for one in log if (s := payloads.parse_execution_status(one.event))]
    assert (statuses[0], statuses[-1]) == ("running", "finished")
    assert any(payloads.parse_token_usage(one.event) for one in log)
    assert not pending_actions(log)


async def test_live_frames_carry_the_text_as_it_is_written(place):
    conversation_id = await asyncio.to_thread(place.open)
    frames: list[Frame] = []

    async def read() -> None:
        stream = follow(place.base_url, place.spec.session_key, conversation_id, -1)
        async with contextlib.aclosing(stream):
            async for frame in stream:
                frames.append(frame)  # noqa: PERF401  (what came before the cancellation counts)

    following = asyncio.create_task(read())
    await asyncio.sleep(0.5)
    await asyncio.to_thread(place.say, conversation_id, "Talk.\n!say one two three four")
    await asyncio.sleep(1)
    following.cancel()

    written = "".join(frame.content for frame in frames if isinstance(frame, Delta))
    assert written == "one two three four"
    said = [one.event for one in durables(frames) if one.event.kind == "MessageEvent"]
    assert [payloads.parse_message_text(event) for event in said][-1] == "one two three four"


async def test_an_event_too_large_for_the_socket_comes_by_rest(place):
    conversation_id = await asyncio.to_thread(place.open)
    text = "é" * 2_500_000
    await asyncio.to_thread(place.client.send_message, conversation_id, text=text, run=False)

    with pytest.raises(FrameTooLarge):
        await frames_until(place, conversation_id, -1, 10**9)

    log = await asyncio.to_thread(lambda: list(place.client.iter_events(conversation_id)))
    assert [t for one in log if (t := payloads.parse_message_text(one.event))] == [text]
    assert [one.seq for one in log] == list(range(len(log)))


def test_events_after_one_that_we_have(place):
    conversation_id = place.open()
    place.say(conversation_id, "Go.\n!run true\n!finish Done.")
    log = list(place.client.iter_events(conversation_id))
    known = log[3]

    after = place.client.iter_events(conversation_id, after_id=known.event.event_id, after_seq=3)
    unknown = place.client.iter_events(conversation_id, after_id="x-never-there", after_seq=3)

    assert list(after) == log[4:]
    assert list(unknown) == log[4:]


def test_a_message_is_in_the_log_behind_the_barrier(place):
    """Also while a tool holds the lock, and while the first message of all wakes the conversation."""
    conversation_id = place.open()
    first = threading.Thread(
        target=place.client.send_message,
        args=(conversation_id,),
        kwargs={"text": "first of all", "run": False},
    )
    first.start()
    time.sleep(0.02)

    place.client.wait_for_messages(conversation_id)

    assert "first of all" in texts(place, conversation_id)
    first.join()
    place.client.send_message(conversation_id, text="Go.\n!run sleep 3\n!finish Done.", run=True)
    place.settle(conversation_id, {"running"})
    wait_until(lambda: "ActionEvent" in place.kinds(conversation_id))
    late = [
        threading.Thread(
            target=place.client.send_message,
            args=(conversation_id,),
            kwargs={"text": f"late {n}", "run": False},
        )
        for n in range(2)
    ]
    for thread in late:
        thread.start()
    time.sleep(0.5)
    before = texts(place, conversation_id)

    place.client.wait_for_messages(conversation_id)

    assert not any(
        text.startswith("late") for text in before
    )  # the lock was held, the test shows something
    assert {"late 0", "late 1"} <= set(texts(place, conversation_id))
    for thread in late:
        thread.join()
    place.settle(conversation_id, ENDED)


def test_the_barrier_leaves_no_trace(place):
    conversation_id = place.open()
    place.client.send_message(conversation_id, text="hello", run=False)
    before = place.client.count_events(conversation_id)

    place.client.wait_for_messages(conversation_id)

    assert place.client.count_events(conversation_id) == before


def texts(place: Place, conversation_id: UUID) -> list[str]:
    found = [
        payloads.parse_message_text(one.event) for one in place.client.iter_events(conversation_id)
    ]
    return [text for text in found if text is not None]


def wait_until(holds: Any) -> None:
    deadline = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_interrupt_ends_a_running_tool_at_once(place):
    conversation_id = place.open()
    place.client.send_message(conversation_id, text="Go.\n!run sleep 60\n!finish Done.", run=True)
    wait_until(lambda: "ActionEvent" in place.kinds(conversation_id))
    began = time.monotonic()

    place.client.interrupt(conversation_id)

    assert place.settle(conversation_id, {"paused"}) == "paused"
    assert time.monotonic() - began < 15
    place.client.interrupt(conversation_id)


def test_running_twice_is_harmless(place):
    conversation_id = place.open()
    place.client.send_message(conversation_id, text="Go.\n!run sleep 2\n!finish Done.", run=True)
    place.settle(conversation_id, {"running"})

    place.client.run(conversation_id)

    assert place.settle(conversation_id, {"finished"}) == "finished"


def test_asking_twice_for_a_conversation_makes_one(place):
    conversation_id = place.open()
    place.say(conversation_id, "Go.\n!finish Done.")
    count = place.client.count_events(conversation_id)
    body = payloads.build_start_request(
        conversation_id=conversation_id,
        model="scripted",
        gateway_url=place.model.base_url,
        token=TOKEN,
        workspace=place.workspace,
    )

    again = place.client.start_conversation(body)

    assert UUID(again["id"]) == conversation_id
    assert place.client.count_events(conversation_id) == count


def pending_actions(log: list[Durable]) -> set[str]:
    """The ids of the actions in a log that no event answers."""
    asked = {one.event.event_id for one in log if one.event.kind == "ActionEvent"}
    return asked - {payloads.parse_payload(one.event).get("action_id") for one in log}


def test_confirmation_is_asked_and_answered(place):
    conversation_id = place.open(confirmation_policy="always")
    script = "Go.\n!run echo yes > confirmed.txt\n!finish Done."
    assert place.say(conversation_id, script, until={"waiting_for_confirmation"})
    assert len(pending_actions(list(place.client.iter_events(conversation_id)))) == 1

    place.client.answer_confirmation(conversation_id, accept=True)

    wait_until((Path(place.workspace) / "confirmed.txt").exists)


def test_model_failure_says_why(place):
    conversation_id = place.open()

    status = place.say(conversation_id, "Go.\n!fail 401 always No such key")

    wait_until(lambda: "ConversationErrorEvent" in place.kinds(conversation_id))
    said = [
        payloads.parse_run_failure(one.event) for one in place.client.iter_events(conversation_id)
    ]
    (why,) = [one for one in said if one]
    assert status == "error"
    assert why.user_action == "settings"


def test_files_commands_and_changes(place):
    client, project = place.client, place.workspace
    place.open()  # makes the workspace a repository
    content = bytes(range(256)) * 1_000

    assert client.upload(f"{project}/deep/er/data.bin", content) == len(content)
    download = client.download(f"{project}/deep/er/data.bin")
    assert download.size == len(content)
    assert b"".join(download) == content
    ran = client.execute("echo out; echo err >&2; exit 3", cwd=project)
    assert ran == CommandResult(3, "out\n", "err\n")
    assert client.execute("sleep 5", cwd=project, timeout=1).timed_out
    assert ("ADDED", "deep/er/data.bin") in {
        (c.status, c.path) for c in client.list_git_changes(project)
    }
    client.upload(f"{project}/text.txt", "ünï\n".encode())
    assert client.get_git_diff(f"{project}/text.txt").modified == "ünï"
    assert b"".join(client.archive(project))[:2] == b"\x1f\x8b"
    with pytest.raises(EngineMissing):
        client.download(f"{project}/nothing")
    with pytest.raises(EngineRefused) as caught:
        client.download("relative")
    assert caught.value.status == 400


def test_the_agent_sees_none_of_this_servers_secrets(place):
    shown = place.client.execute("env", cwd=place.workspace).stdout

    for secret in (
        settings.SECRET_KEY,
        settings.DATABASES["default"]["PASSWORD"] or "?no password?",
    ):
        assert secret not in shown
    assert "DATABASE_URL" not in shown


def test_killed_in_the_middle_it_comes_back_with_its_log(place):
    conversation_id = place.open()
    place.client.send_message(conversation_id, text="Go.\n!run sleep 45\n!finish Done.", run=True)
    wait_until(lambda: "ActionEvent" in place.kinds(conversation_id))
    time.sleep(1)
    before = list(place.client.iter_events(conversation_id))
    tool = [p for p in process._members(place.spec.sandbox_id.hex, []) if p.name() == "sleep"]
    assert tool

    os.kill(place.handle["pid"], signal.SIGKILL)

    assert "SIGKILL" in wait_for(place.handle, State.FAILED).detail
    with pytest.raises(EngineUnreachable):
        place.client.get_conversation(conversation_id)
    place.handle = provider.resume(place.spec, place.handle)
    assert [one for one in tool if process._runs(one)] == []
    place.base_url = wait_for(place.handle, State.RUNNING).base_url
    place.settle(conversation_id, {"error"})
    after = list(place.client.iter_events(conversation_id))
    assert after[: len(before)] == before
    assert len(after) > len(before)
    assert place.say(conversation_id, "Again.\n!say back again") == "finished"


def test_stopped_it_leaves_no_process_and_keeps_the_log(place):
    conversation_id = place.open()
    place.say(conversation_id, "Go.\n!run (sleep 300 &) ; echo started\n!finish Done.")
    before = list(place.client.iter_events(conversation_id))
    members = process._members(place.spec.sandbox_id.hex, [])
    names = {member.name() for member in members}
    assert len(members) >= 3
    assert any(name.startswith("tmux") for name in names), names

    provider.stop(place.handle, grace_seconds=20)

    assert provider.inspect(place.handle).state == State.STOPPED
    assert [member for member in members if process._runs(member)] == []
    assert process._members(place.spec.sandbox_id.hex, []) == set()
    assert list(Path(place.handle["tmux"]).glob("tmux-*/openhands-*")) == []
    place.handle = provider.resume(place.spec, place.handle)
    place.base_url = wait_for(place.handle, State.RUNNING).base_url
    assert list(place.client.iter_events(conversation_id)) == before


def test_destroyed_nothing_is_left(place):
    provider.destroy(place.handle)

    assert not Path(place.handle["dir"]).exists()
    assert not Path(place.handle["tmux"]).exists()
    assert process._members(place.spec.sandbox_id.hex, []) == set()
    assert provider.inspect(place.handle).state == State.MISSING

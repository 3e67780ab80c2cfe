"""Starts of conversations in real sandboxes that get lost or meet a stop: what is left, and what the next one does."""

import os
import signal
import time
from dataclasses import replace

import pytest

from conversations import services
from conversations.models import Conversation
from conversations.sandboxes.bubblewrap import launching
from conversations.sandboxes.provider import State
from lib.json_files import write_json
from tests.conversations.conftest import list_queued_jobs
from tests.conversations.sandboxes.box import Box

TOO_LATE = (
    "The engine did not answer within 2 seconds, so its sandbox was stopped. If this machine is busy, try again "
    "later, or raise SANDBOX_START_SECONDS."
)
KEEPER_ENDED = "The process that watches the sandbox ended, so the sandbox ended too."
only_bubblewrap = pytest.mark.parametrize("provider_name", ["bubblewrap"], indirect=True)


@pytest.fixture
def conversation(alice, provider_name, settings) -> Conversation:
    """Return a new conversation whose sandbox is of the provider under test."""
    settings.SANDBOX_PROVIDER = provider_name
    return services.create_conversation(user=alice)


@pytest.fixture
def box(make_box, conversation) -> Box:
    """Return the conversation's sandbox. Its fake engine answers ``/ready`` only."""
    box = make_box()
    box.spec = replace(box.spec, sandbox_id=conversation.sandbox_id)
    return box


def attempt(conversation: Conversation, box: Box) -> float:
    """Carry out a job that starts the conversation. Return its duration in seconds."""
    began = time.monotonic()
    services.start_conversation(conversation_id=conversation.pk)
    conversation.refresh_from_db()
    box.handle = conversation.sandbox.handle
    return time.monotonic() - began


def assert_fails_and_is_tried_again(conversation: Conversation, detail: str) -> None:
    task = conversation.start_tasks.get()
    assert (conversation.status, task.attempts, task.finished_at) == ("starting", 1, None)
    # The start keeps its slot until the next attempt.
    assert (conversation.sandbox.observed, conversation.sandbox.detail) == ("starting", detail)
    assert list_queued_jobs("start_conversation")[-1] == {"conversation_id": str(conversation.pk)}


def assert_next_attempt_is_a_new_run(conversation: Conversation, box: Box) -> None:
    earlier = box.handle
    attempt(conversation, box)
    assert (conversation.sandbox.run, box.handle["run"] != earlier["run"]) == (2, True)
    assert box.inspect().state == State.RUNNING


def test_engine_that_never_answers_is_stopped_and_started_anew(conversation, box, settings):
    settings.SANDBOX_START_SECONDS = 2
    box.instruct("busy")

    assert attempt(conversation, box) < 20

    assert_fails_and_is_tried_again(conversation, TOO_LATE)
    assert box.inspect().state == State.STOPPED
    assert box.processes() == []
    settings.SANDBOX_START_SECONDS = 60
    (box.project / "busy").unlink()
    assert_next_attempt_is_a_new_run(conversation, box)


@pytest.mark.slow
def test_last_attempt_leaves_no_sandbox(conversation, box, settings):
    settings.SANDBOX_START_SECONDS = 2
    box.instruct("busy")

    for _ in range(3):
        attempt(conversation, box)

    assert (conversation.status, conversation.status_detail) == ("failed", TOO_LATE)
    assert conversation.sandbox.run == 3
    assert box.processes() == []


@only_bubblewrap
@pytest.mark.parametrize(
    ("number", "seconds", "detail"),
    [(signal.SIGKILL, 60, KEEPER_ENDED), (signal.SIGSTOP, 2, TOO_LATE)],
    ids=["killed", "hanging"],
)
def test_keeper_that_is_lost_right_after_its_start_is_noticed(
    conversation, box, settings, monkeypatch, number, seconds, detail
):
    """The keeper still waits for its request, so it has started nothing and written nothing."""

    def write_and_lose(path, value):
        write_json(path, value)
        if path.name == "run.json":
            os.kill(value["pid"], number)

    settings.SANDBOX_START_SECONDS = seconds
    with monkeypatch.context() as patch:
        patch.setattr(launching, "write_json", write_and_lose)
        assert attempt(conversation, box) < 20

    assert_fails_and_is_tried_again(conversation, detail)
    assert (box.folder / "engine.log").read_bytes() == b""
    assert (box.folder / "keeper.log").read_bytes() == b""
    settings.SANDBOX_START_SECONDS = 60
    assert_next_attempt_is_a_new_run(conversation, box)


def test_stop_that_comes_late_does_not_end_a_newer_start(conversation, box, monkeypatch):
    """As if the worker had been frozen just before it stops the sandbox, and another one went on in its place."""
    attempt(conversation, box)
    earlier, provider = box.handle, box.provider
    stop = provider.stop

    def stop_late(handle, *, grace_seconds):
        monkeypatch.undo()
        services.stop_sandbox(conversation_id=conversation.pk)
        services.wake(conversation_id=conversation.pk)
        attempt(conversation, box)
        stop(handle, grace_seconds=grace_seconds)

    monkeypatch.setattr(provider, "stop", stop_late)
    services.stop_sandbox(conversation_id=conversation.pk)

    assert (conversation.status, conversation.sandbox.run) == ("running", 2)
    assert box.handle["run"] != earlier["run"]
    assert box.inspect().state == State.RUNNING


@pytest.mark.parametrize("is_first", [True, False], ids=["first run", "later run"])
def test_stop_ends_a_run_whose_handle_was_never_stored(conversation, box, is_first):
    """The worker was killed between the start of the sandbox and the storing of its handle."""
    if not is_first:
        attempt(conversation, box)
        box.stop()
    box.start()

    services.stop_sandbox(conversation_id=conversation.pk)

    assert box.inspect().state == State.STOPPED
    assert box.processes() == []

"""Failures of starts and of running sandboxes, and the sentence for each."""

import os
import shutil
import signal
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from conversations.sandboxes import folders
from conversations.sandboxes.bubblewrap import support
from conversations.sandboxes.provider import SandboxUnavailable, State, get_provider
from lib import engine_state, processes
from tests.conversations.sandboxes.box import list_alive
from tests.waiting import wait_until

INVALID_HANDLES = [{}, {"sandbox": "../etc", "dir": "/etc"}, {"pid": 1}]


def test_unknown_provider_is_refused():
    with pytest.raises(SandboxUnavailable, match="no sandbox provider named nope"):
        get_provider("nope")


def test_start_is_refused_without_an_engine(box, settings):
    shutil.rmtree(settings.ENGINE_DIR)

    with pytest.raises(SandboxUnavailable, match=r"is not installed on .* `manage") as caught:
        box.start()
    assert caught.value.is_permanent
    assert caught.value.status == 503


def test_start_is_postponed_while_the_engine_is_being_installed(box, settings):
    (settings.ENGINE_DIR / engine_state.MARKER).write_text("{}")
    with (
        processes.acquire_lock(engine_state.lock_path(settings.ENGINE_DIR)),
        pytest.raises(SandboxUnavailable, match="is being installed") as caught,
    ):
        box.start()
    assert not caught.value.is_permanent


def test_start_is_refused_on_a_full_disk(box, monkeypatch):
    monkeypatch.setattr(folders.shutil, "disk_usage", lambda _: SimpleNamespace(free=1_000))

    with pytest.raises(SandboxUnavailable, match=r"The disk of .* is full\. Free some space"):
        box.start()


def test_start_is_refused_if_the_folder_cannot_be_created(box, settings, tmp_path):
    (tmp_path / "file").write_text("")
    settings.SANDBOX_DIR = tmp_path / "file" / "sandboxes"

    with pytest.raises(SandboxUnavailable, match="Not a directory"):
        box.start()


def test_start_is_refused_if_the_folder_is_not_writable(box, settings):
    settings.SANDBOX_DIR = Path("/sys/openhands-sandboxes")

    with pytest.raises(
        SandboxUnavailable, match=r"may not write to SANDBOX_DIR.* Correct its permissions"
    ):
        box.start()


def test_resume_is_refused_after_the_files_were_deleted(box):
    box.start()
    box.provider.destroy(box.handle)

    with pytest.raises(SandboxUnavailable, match="files were deleted") as caught:
        box.resume()
    assert caught.value.is_permanent


@pytest.mark.parametrize("provider_name", ["bubblewrap"], indirect=True)
def test_start_is_refused_with_a_remedy_without_bubblewrap(box, monkeypatch):
    monkeypatch.setattr(support, "find_bwrap", lambda: "")
    monkeypatch.setattr(support, "_known", [])
    refusal = support.probe()

    with pytest.raises(SandboxUnavailable) as caught:
        box.start()

    assert caught.value.is_permanent
    assert caught.value.detail == f"{refusal.cause} {refusal.remedy}"
    assert refusal.remedy


@pytest.mark.parametrize("provider_name", ["bubblewrap"], indirect=True)
def test_missing_interpreter_of_the_engine_is_reported(box, settings):
    (settings.ENGINE_DIR / "bin" / "python").unlink()

    box.start(State.FAILED)

    detail = box.inspect().detail
    assert "bin/python" in detail
    assert "No such file" in detail


def test_killed_engine_is_reported_with_its_signal(box):
    box.start()

    box.engine().kill()

    assert "The engine was killed by SIGKILL" in box.wait_for(State.FAILED).detail
    wait_until(lambda: not box.engines(), "the engine to end", seconds=5)


def test_ended_engine_is_reported_with_its_status_and_error_line(box):
    box.instruct("die", "ERROR: [Errno 98] address already in use")

    box.start(State.FAILED)

    assert box.inspect().detail == (
        "The engine ended with status 3: ERROR: [Errno 98] address already in use"
    )


def test_open_connections_add_nothing_to_the_log_of_an_ended_engine(box):
    """The reason why the engine ended must stay the last line of its log."""
    box.start()
    log = box.folder / "engine.log"
    links = [box.provider.dial(box.handle) for _ in range(3)]
    before = log.read_text()

    box.engine().kill()
    box.wait_for(State.FAILED)
    for link in links:
        link.close()

    assert log.read_text() == before


def test_ended_engine_leaves_no_zombie(box):
    box.start()
    pid = box.engine().pid
    os.kill(pid, signal.SIGKILL)

    wait_until(lambda: not psutil.pid_exists(pid), "the engine to be reaped", seconds=5)


def test_failed_sandbox_is_resumed_with_its_files(box):
    first = box.start()
    box.run("echo kept > work.txt")
    box.engine().kill()
    box.wait_for(State.FAILED)

    second = box.resume()

    assert second["run"] != first["run"]
    assert box.run("cat work.txt") == "kept\n"
    earlier = box.provider.inspect(first)
    assert (earlier.state, earlier.detail) == (
        State.STOPPED,
        "The sandbox was started again after this run.",
    )


@pytest.mark.parametrize("provider_name", ["bubblewrap"], indirect=True)
def test_killed_keeper_ends_the_sandbox_and_is_reported(box):
    box.instruct("daemon")
    box.start()
    members = [*box.wait_for_daemons(), *box.processes()]

    os.kill(box.handle["pid"], signal.SIGKILL)

    assert list_alive(members) == []
    observed = box.wait_for(State.FAILED)
    assert (
        observed.detail == "The process that watches the sandbox ended, so the sandbox ended too."
    )
    with pytest.raises(ConnectionError):
        box.provider.dial(box.handle)
    box.resume()
    assert box.run("echo on") == "on\n"


@pytest.mark.parametrize("handle", INVALID_HANDLES)
def test_invalid_handle_is_missing_and_can_be_stopped_and_destroyed(box, handle):
    assert box.provider.inspect(handle).state == State.MISSING
    box.provider.stop(handle, grace_seconds=1)
    box.provider.destroy(handle)


@pytest.mark.parametrize("handle", INVALID_HANDLES)
def test_dial_of_an_invalid_handle_is_refused(box, handle):
    with pytest.raises(ConnectionError):
        box.provider.dial(handle)

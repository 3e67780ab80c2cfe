"""Starts: one engine, its environment, its keys, its log and its readiness."""

import json
import os
import signal
import stat
import sys
import threading
import time
from pathlib import Path

import pytest

from conversations.sandboxes import engine_log
from conversations.sandboxes.provider import Handle, State
from tests.conversations.sandboxes.box import (
    SECRET_KEY,
    SESSION_KEY,
    read_command,
)
from tests.waiting import wait_until


def test_started_sandbox_runs_and_has_a_workspace(box):
    box.start()

    assert box.run("pwd -P").strip() == box.inspect().workspace
    assert json.loads(json.dumps(box.handle)) == box.handle
    box.run("echo hello > file")
    assert (box.project / "file").read_text() == "hello\n"


def test_start_of_a_running_sandbox_returns_its_handle(box):
    first = box.start()

    assert box.provider.start(box.spec) == first
    assert box.provider.resume(box.spec, first) == first
    assert box.provider.find(box.spec.sandbox_id) == first
    assert len(box.engines()) == 1


def test_unknown_sandbox_is_not_found(box):
    assert box.provider.find(box.spec.sandbox_id) == {}


def test_concurrent_starts_start_one_engine(box):
    handles: list[Handle] = []
    threads = [
        threading.Thread(target=lambda: handles.append(box.provider.start(box.spec)))
        for _ in range(6)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    box.start()

    assert handles == [box.handle] * 6
    assert len(box.engines()) == 1


def test_two_sandboxes_run_independently(make_box):
    one, other = make_box(), make_box()
    one.start()
    other.start()

    one.stop()

    assert other.inspect().state == State.RUNNING
    assert other.run("echo on").strip() == "on"


def test_sandbox_is_starting_until_its_engine_is_ready(box):
    box.instruct("busy")
    box.start(State.STARTING)
    wait_until(box.engines, "the engine to start")
    time.sleep(1)
    assert box.inspect().state == State.STARTING

    (box.project / "busy").unlink()

    box.wait_for(State.RUNNING)


def test_environment_has_no_variables_of_the_server(box, monkeypatch):
    for name in ("DATABASE_URL", "SECRET_KEY", "OPENAI_API_KEY", "PYTHONPATH", "LD_LIBRARY_PATH"):
        monkeypatch.setenv(name, "/leak")
    box.start()

    environment = box.call()[1]["environment"]

    assert "/leak" not in environment.values()
    assert not set(environment) & {"DATABASE_URL", "REDIS_URL", "SECRET_KEY", "OPENAI_API_KEY"}
    assert environment["OH_SANDBOX_ID"] == box.spec.sandbox_id.hex
    assert environment["TZ"] == "UTC"
    assert str(Path(sys.prefix) / "bin") not in environment["PATH"].split(os.pathsep)


def test_engine_gets_its_keys(box):
    box.start()

    assert box.call(key="another-key")[0] == 401
    status, answer = box.call()
    assert (status, answer["length_of_secret_key"]) == (200, len(SECRET_KEY))


def test_keys_are_neither_in_the_handle_nor_in_the_arguments(box):
    box.start()

    commands = [" ".join(read_command(process)) for process in box.processes()]

    assert any("openhands.agent_server" in command for command in commands)
    for text in (json.dumps(box.handle), repr(box.spec), *commands):
        assert SESSION_KEY not in text
        assert SECRET_KEY not in text


@pytest.mark.parametrize("provider_name", ["bubblewrap"], indirect=True)
def test_keys_are_in_no_environment_and_in_no_file(box):
    box.start()
    files = [path for path in box.folder.rglob("*") if path.is_file()]

    def find_keys() -> list[str]:
        texts = {str(path): path.read_text(errors="replace") for path in files if path.exists()}
        texts |= {str(path): path.read_bytes().decode() for path in environments}
        return [path for path, text in texts.items() if SESSION_KEY in text or SECRET_KEY in text]

    # An ordinary user cannot read the environment of a process that is not dumpable.
    environments = [
        path
        for process in box.processes()
        if os.access(path := Path(f"/proc/{process.pid}/environ"), os.R_OK)
    ]
    assert len(environments) >= 2
    assert len(files) > 5
    wait_until(lambda: not find_keys(), "the file with the keys to be deleted", seconds=5)


@pytest.mark.parametrize("provider_name", ["bubblewrap"], indirect=True)
@pytest.mark.parametrize("how", ["stop", "die", "kill"])
def test_keys_are_in_no_file_after_an_early_end(box, how):
    keys = box.folder / "tmp" / ".engine.json"
    if how == "die":
        box.instruct("die", "an error")
        box.start(State.FAILED)
    else:
        box.handle = box.provider.start(box.spec)
        wait_until(keys.exists, "the file with the keys", pause=0.002)
        if how == "kill":
            os.kill(box.handle["pid"], signal.SIGKILL)
            box.wait_for(State.FAILED)
        box.stop(0)

    assert not keys.exists()


def test_folders_are_private(box):
    box.start()

    for path in (box.folder, box.project, box.folder / "home"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o700
    assert stat.S_IMODE((box.folder / "engine.log").stat().st_mode) == 0o600


def test_sandbox_with_a_long_path_runs(box, settings, tmp_path):
    settings.SANDBOX_DIR = tmp_path / ("long" * 20) / ("path" * 20)

    box.start()

    assert box.run("echo yes").strip() == "yes"


def test_log_of_earlier_runs_is_cut_to_its_tail(box):
    box.folder.mkdir(parents=True)
    log = box.folder / "engine.log"
    log.write_bytes(b"a" * 3_000_000 + b"the end\n")

    box.start()

    assert log.stat().st_size < engine_log.LOG_TAIL_BYTES + 10_000
    assert b"the end\n" in log.read_bytes()


def test_log_is_cut_while_the_engine_runs(box):
    box.start()
    log = box.folder / "engine.log"
    with log.open("ab") as file:
        file.write(b"b" * (engine_log.LOG_MAX_BYTES + 1))

    box.inspect()

    assert log.stat().st_size == engine_log.LOG_TAIL_BYTES

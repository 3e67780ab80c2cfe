import json
import os
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from uuid import UUID, uuid4

import psutil
import pytest

from conversations.sandboxes import process
from conversations.sandboxes.provider import (
    Handle,
    Observed,
    SandboxSpec,
    SandboxUnavailable,
    State,
    get_provider,
)
from lib import engine_home
from tests.fakes.engine import fake_engine

provider = get_provider("process")


@pytest.fixture
def spec(settings, tmp_path, monkeypatch) -> Iterator[SandboxSpec]:
    """A sandbox of a stand-in engine; whatever a test leaves running ends with it."""
    settings.SANDBOX_DIR = tmp_path / "sandboxes"
    settings.ENGINE_DIR = fake_engine(tmp_path / "engine")
    settings.ALLOW_PROCESS_SANDBOX = True
    ready = engine_home.Status("ready", "1", str(settings.ENGINE_DIR), "")
    monkeypatch.setattr(engine_home, "status", lambda: ready)
    spec = SandboxSpec(uuid4(), "session-key", "secret-key", "http://127.0.0.1:1")
    yield spec
    if handle := provider.find(spec.sandbox_id):
        provider.destroy(handle)
    assert marked(spec.sandbox_id) == []


def folder(spec: SandboxSpec) -> Path:
    from django.conf import settings

    return settings.SANDBOX_DIR / spec.sandbox_id.hex


def ask(spec: SandboxSpec, what: str, words: str = "yes") -> None:
    """Tell the stand-in engine what to do at its next start."""
    (folder(spec) / "project").mkdir(parents=True, exist_ok=True)
    (folder(spec) / "project" / what).write_text(words)


def wait_for(handle: Handle, *states: State, seconds: float = 20) -> Observed:
    deadline = time.monotonic() + seconds
    while (seen := provider.inspect(handle)).state not in states:
        assert time.monotonic() < deadline, seen
        time.sleep(0.05)
    return seen


def marked(sandbox_id: UUID) -> list[psutil.Process]:
    return list(process._members(sandbox_id.hex, []))


def daemons(spec: SandboxSpec) -> list[int]:
    names = [folder(spec) / "project" / f"daemon{n}.pid" for n in (1, 2)]
    deadline = time.monotonic() + 20
    while not all(name.exists() and name.read_text() for name in names):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return [int(name.read_text()) for name in names]


class TestStart:
    def test_runs_and_answers(self, spec):
        handle = provider.start(spec)

        seen = wait_for(handle, State.RUNNING)

        assert seen.base_url == f"http://127.0.0.1:{handle['port']}"
        assert seen.workspace == str(folder(spec) / "project")
        assert json.loads(json.dumps(handle)) == handle

    def test_of_one_that_runs_gives_its_handle(self, spec):
        first = provider.start(spec)

        assert provider.start(spec) == first
        assert provider.resume(spec, first) == first
        assert provider.find(spec.sandbox_id) == first
        assert len(marked(spec.sandbox_id)) == 1

    def test_by_many_at_once_starts_one(self, spec):
        handles: list[Handle] = []
        threads = [
            threading.Thread(target=lambda: handles.append(provider.start(spec))) for _ in range(6)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

        assert handles == [handles[0]] * 6
        assert len(marked(spec.sandbox_id)) == 1

    def test_is_starting_until_it_is_ready(self, spec):
        ask(spec, "busy")
        handle = provider.start(spec)
        time.sleep(1)
        assert provider.inspect(handle).state == State.STARTING

        (folder(spec) / "project" / "busy").unlink()

        wait_for(handle, State.RUNNING)

    def test_environment_is_made_from_nothing(self, spec, monkeypatch):
        for name in ("DATABASE_URL", "SECRET_KEY", "HTTPS_PROXY", "OPENAI_API_KEY", "PYTHONPATH"):
            monkeypatch.setenv(name, "leak")
        wait_for(provider.start(spec), State.RUNNING)

        environment = json.loads((folder(spec) / "environment.json").read_text())

        assert "leak" not in environment.values()
        # What a C library or a shell adds by itself is not ours.
        own = set(environment) - {"PWD", "OLDPWD", "SHLVL", "_", "LC_CTYPE"}
        names = process._environment(spec, folder(spec), tmux="t", run="r").keys()
        assert own == set(names)
        assert environment["OH_SESSION_API_KEYS_0"] == "session-key"
        assert environment["TZ"] == "UTC"
        assert str(Path(sys.prefix) / "bin") not in environment["PATH"].split(os.pathsep)

    def test_keys_are_neither_in_the_handle_nor_in_the_arguments(self, spec):
        handle = provider.start(spec)

        command = " ".join(psutil.Process(handle["pid"]).cmdline())
        for secret in ("session-key", "secret-key"):
            assert secret not in json.dumps(handle)
            assert secret not in command
            assert secret not in repr(spec)

    def test_folders_are_private(self, spec):
        provider.start(spec)

        for path in (folder(spec), folder(spec) / "project", folder(spec) / "home"):
            assert stat.S_IMODE(path.stat().st_mode) == 0o700
        assert stat.S_IMODE((folder(spec) / "engine.log").stat().st_mode) == 0o600

    def test_terminals_get_a_short_folder_where_the_path_is_long(self, spec, settings, tmp_path):
        settings.SANDBOX_DIR = tmp_path / ("long" * 20)

        handle = provider.start(spec)

        assert handle["tmux"] == f"/tmp/oh-{spec.sandbox_id.hex}"
        provider.destroy(handle)
        assert not Path(handle["tmux"]).exists()

    def test_log_of_earlier_runs_keeps_its_tail(self, spec):
        folder(spec).mkdir(parents=True)
        log = folder(spec) / "engine.log"
        log.write_bytes(b"a" * 3_000_000 + b"the end\n")

        provider.start(spec)

        assert log.stat().st_size < process.LOG_TAIL_BYTES + 10_000
        assert b"the end\n" in log.read_bytes()

    def test_log_is_cut_while_it_runs(self, spec):
        handle = provider.start(spec)
        log = folder(spec) / "engine.log"
        with log.open("ab") as file:
            file.write(b"b" * (process.LOG_MAX_BYTES + 1))

        provider.inspect(handle)

        assert log.stat().st_size == process.LOG_TAIL_BYTES


class TestRefusals:
    def test_where_it_is_not_allowed(self, spec, settings):
        settings.ALLOW_PROCESS_SANDBOX = False

        with pytest.raises(SandboxUnavailable, match="do not isolate") as caught:
            provider.start(spec)
        assert caught.value.status == 503

    def test_without_an_engine(self, spec, monkeypatch):
        missing = engine_home.Status(
            "missing", "1", "/e", "The agent engine is not installed in /e."
        )
        monkeypatch.setattr(engine_home, "status", lambda: missing)

        with pytest.raises(SandboxUnavailable, match=r"not installed in /e\. Run `manage"):
            provider.start(spec)

    def test_on_a_full_disk(self, spec, monkeypatch):
        monkeypatch.setattr(process.shutil, "disk_usage", lambda _: SimpleNamespace(free=1_000))

        with pytest.raises(SandboxUnavailable, match=r"The disk of .* is full"):
            provider.start(spec)

    def test_where_nothing_can_be_written(self, spec, settings, tmp_path):
        (tmp_path / "file").write_text("")
        settings.SANDBOX_DIR = tmp_path / "file" / "sandboxes"

        with pytest.raises(SandboxUnavailable, match="Not a directory"):
            provider.start(spec)

    def test_unknown_provider(self):
        with pytest.raises(SandboxUnavailable, match="no sandbox provider named nope"):
            get_provider("nope")

    def test_resume_without_data(self, spec):
        handle = provider.start(spec)
        provider.destroy(handle)

        with pytest.raises(SandboxUnavailable, match="files were deleted"):
            provider.resume(spec, handle)


class TestEnds:
    def test_killed_says_by_what(self, spec):
        handle = provider.start(spec)
        wait_for(handle, State.RUNNING)

        os.kill(handle["pid"], signal.SIGKILL)

        seen = wait_for(handle, State.FAILED)
        assert "killed by SIGKILL" in seen.detail
        assert seen.base_url == ""

    def test_status_and_the_line_that_matters(self, spec):
        ask(spec, "die", "ERROR: [Errno 98] address already in use")

        seen = wait_for(provider.start(spec), State.FAILED)

        assert seen.detail == (
            "The engine ended with status 3: ERROR: [Errno 98] address already in use"
        )

    def test_no_zombie_stays(self, spec):
        ask(spec, "die", "x")
        handle = provider.start(spec)
        wait_for(handle, State.FAILED)

        deadline = time.monotonic() + 5
        while psutil.pid_exists(handle["pid"]):
            assert time.monotonic() < deadline
            time.sleep(0.02)

    def test_another_process_with_its_pid_is_not_it(self, spec):
        handle = provider.start(spec)
        os.kill(handle["pid"], signal.SIGKILL)
        wait_for(handle, State.FAILED)
        other = subprocess.Popen(["sleep", "600"])
        try:
            # In the middle of its exec nothing is told of a process, and its age is all there is to go by.
            deadline = time.monotonic() + 5
            while psutil.Process(other.pid).cmdline() != ["sleep", "600"]:
                assert time.monotonic() < deadline
                time.sleep(0.01)
            reused = handle | {"pid": other.pid}

            assert provider.inspect(reused).state == State.FAILED
            provider.stop(reused, grace_seconds=1)
            assert other.poll() is None
        finally:
            other.kill()
            other.wait()

    def test_a_set_clock_does_not_make_it_another(self, spec):
        handle = provider.start(spec)
        wait_for(handle, State.RUNNING)

        seen = provider.inspect(handle | {"created": handle["created"] - 3_600})

        assert seen.state == State.RUNNING

    def test_another_server_on_its_port_is_not_it(self, spec):
        ask(spec, "busy")
        handle = provider.start(spec)
        with socket.socket() as other:
            other.bind(("127.0.0.1", 0))
            other.listen()

            assert (
                provider.inspect(handle | {"port": other.getsockname()[1]}).state == State.STARTING
            )

    @pytest.mark.parametrize("handle", [{}, {"sandbox": "../etc", "dir": "/etc"}, {"pid": 1}])
    def test_handles_of_nothing(self, spec, handle):
        assert provider.inspect(handle).state == State.MISSING
        provider.stop(handle, grace_seconds=1)
        provider.destroy(handle)


class TestStop:
    def test_leaves_no_process_and_keeps_the_data(self, spec):
        ask(spec, "daemon")
        handle = provider.start(spec)
        pids = [*daemons(spec), handle["pid"]]
        wait_for(handle, State.RUNNING)

        provider.stop(handle, grace_seconds=5)

        assert [pid for pid in pids if psutil.pid_exists(pid) and is_alive(pid)] == []
        assert provider.inspect(handle).state == State.STOPPED
        assert (folder(spec) / "project" / "daemon").exists()
        provider.stop(handle, grace_seconds=5)

    def test_waits_no_longer_than_its_grace(self, spec):
        ask(spec, "stubborn")
        handle = provider.start(spec)
        wait_for(handle, State.RUNNING)
        began = time.monotonic()

        provider.stop(handle, grace_seconds=0.5)

        assert 0.5 <= time.monotonic() - began < 5
        assert provider.inspect(handle).state == State.STOPPED

    def test_then_resume_keeps_data_and_ends_what_was_left(self, spec):
        ask(spec, "daemon")
        first = provider.start(spec)
        left = daemons(spec)
        os.kill(first["pid"], signal.SIGKILL)
        wait_for(first, State.FAILED)
        (folder(spec) / "project" / "daemon").unlink()
        (folder(spec) / "project" / "work.txt").write_text("kept")

        second = provider.resume(spec, first)

        wait_for(second, State.RUNNING)
        assert [pid for pid in left if is_alive(pid)] == []
        assert second["run"] != first["run"]
        assert provider.inspect(first) == Observed(
            State.STOPPED,
            "",
            str(folder(spec) / "project"),
            "The sandbox was started again after this run.",
        )
        assert (folder(spec) / "project" / "work.txt").read_text() == "kept"

    def test_start_while_it_stops_starts_another_run(self, spec):
        ask(spec, "stubborn")
        first = provider.start(spec)
        wait_for(first, State.RUNNING)
        stopping = threading.Thread(
            target=provider.stop, args=(first,), kwargs={"grace_seconds": 1}
        )
        stopping.start()
        time.sleep(0.3)

        second = provider.start(spec)

        stopping.join()
        assert second["run"] != first["run"]
        wait_for(second, State.RUNNING)


def is_alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


class TestDestroy:
    def test_removes_everything(self, spec, settings):
        ask(spec, "daemon")
        handle = provider.start(spec)
        pids = [*daemons(spec), handle["pid"]]
        locked = folder(spec) / "project" / "locked" / "deep"
        locked.mkdir(parents=True)
        (locked / "file").write_text("x")
        (locked / "file").chmod(0)
        locked.chmod(0)
        locked.parent.chmod(0o500)

        provider.destroy(handle)

        assert [pid for pid in pids if is_alive(pid)] == []
        assert [path.name for path in settings.SANDBOX_DIR.iterdir()] == [".locks"]
        assert list((settings.SANDBOX_DIR / ".locks").iterdir()) == []
        assert provider.inspect(handle).state == State.MISSING
        assert provider.find(spec.sandbox_id) == {}
        provider.destroy(handle)

    def test_goes_on_where_it_was_cut_off(self, spec, settings):
        handle = provider.start(spec)
        provider.stop(handle, grace_seconds=0)
        folder(spec).rename(settings.SANDBOX_DIR / f"{spec.sandbox_id.hex}.removed")

        provider.destroy(handle)

        assert [path.name for path in settings.SANDBOX_DIR.iterdir()] == [".locks"]

    def test_follows_no_links(self, spec, tmp_path):
        treasure = tmp_path / "treasure"
        treasure.mkdir(mode=0o750)
        (treasure / "gold").write_text("x")
        handle = provider.start(spec)
        (folder(spec) / "project" / "link").symlink_to(treasure)

        provider.destroy(handle)

        assert (treasure / "gold").read_text() == "x"
        assert stat.S_IMODE(treasure.stat().st_mode) == 0o750

    def test_removes_nothing_but_a_sandbox(self, spec, tmp_path):
        treasure = tmp_path / "treasure"
        treasure.mkdir()
        handle = provider.start(spec)

        provider.destroy(handle | {"dir": str(treasure)})

        assert treasure.exists()

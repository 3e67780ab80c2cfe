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

from conversations.sandboxes import engine_log, members, process
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
from tests.waiting import wait_until

provider = get_provider("process")


@pytest.fixture
def spec(settings, tmp_path, monkeypatch) -> Iterator[SandboxSpec]:
    """Return the spec of a sandbox with the fake engine; destroy the sandbox after the test."""
    settings.SANDBOX_DIR = tmp_path / "sandboxes"
    settings.ENGINE_DIR = fake_engine(tmp_path / "engine")
    settings.ALLOW_PROCESS_SANDBOX = True
    ready = engine_home.Status("ready", "1", str(settings.ENGINE_DIR), "")
    monkeypatch.setattr(engine_home, "status", lambda: ready)
    spec = SandboxSpec(uuid4(), "session-key", "secret-key", "http://127.0.0.1:1")
    yield spec
    if handle := provider.find(spec.sandbox_id):
        provider.destroy(handle)
    assert find_processes(spec.sandbox_id) == []


def get_folder(spec: SandboxSpec) -> Path:
    from django.conf import settings

    return settings.SANDBOX_DIR / spec.sandbox_id.hex


def instruct_engine(spec: SandboxSpec, instruction: str, text: str = "yes") -> None:
    """Write an instruction that the fake engine reads at its next start."""
    (get_folder(spec) / "project").mkdir(parents=True, exist_ok=True)
    (get_folder(spec) / "project" / instruction).write_text(text)


def wait_for_state(handle: Handle, *states: State, seconds: float = 20) -> Observed:
    def inspect() -> Observed | None:
        observed = provider.inspect(handle)
        return observed if observed.state in states else None

    return wait_until(inspect, f"a state of {states}", seconds=seconds)


def find_processes(sandbox_id: UUID) -> list[psutil.Process]:
    return list(members.find_members(sandbox_id.hex, []))


def wait_for_daemons(spec: SandboxSpec) -> list[int]:
    """Wait for the two daemons that the fake engine leaves; return their process ids."""
    names = [get_folder(spec) / "project" / f"daemon{n}.pid" for n in (1, 2)]
    wait_until(
        lambda: all(name.exists() and name.read_text() for name in names),
        "the ids of the daemons",
    )
    return [int(name.read_text()) for name in names]


class TestStart:
    def test_started_sandbox_runs_and_has_a_workspace(self, spec):
        handle = provider.start(spec)

        observed = wait_for_state(handle, State.RUNNING)

        assert observed.workspace == str(get_folder(spec) / "project")
        assert json.loads(json.dumps(handle)) == handle

    def test_start_of_a_running_sandbox_returns_its_handle(self, spec):
        first = provider.start(spec)

        assert provider.start(spec) == first
        assert provider.resume(spec, first) == first
        assert provider.find(spec.sandbox_id) == first
        assert len(find_processes(spec.sandbox_id)) == 1

    def test_concurrent_starts_start_one_engine(self, spec):
        handles: list[Handle] = []
        threads = [
            threading.Thread(target=lambda: handles.append(provider.start(spec))) for _ in range(6)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

        assert handles == [handles[0]] * 6
        assert len(find_processes(spec.sandbox_id)) == 1

    def test_sandbox_is_starting_until_its_engine_is_ready(self, spec):
        instruct_engine(spec, "busy")
        handle = provider.start(spec)
        time.sleep(1)
        assert provider.inspect(handle).state == State.STARTING

        (get_folder(spec) / "project" / "busy").unlink()

        wait_for_state(handle, State.RUNNING)

    def test_environment_has_no_variables_of_the_server(self, spec, monkeypatch):
        for name in ("DATABASE_URL", "SECRET_KEY", "HTTPS_PROXY", "OPENAI_API_KEY", "PYTHONPATH"):
            monkeypatch.setenv(name, "leak")
        wait_for_state(provider.start(spec), State.RUNNING)

        environment = json.loads((get_folder(spec) / "environment.json").read_text())

        assert "leak" not in environment.values()
        # A C library or a shell adds these variables by itself.
        own = set(environment) - {"PWD", "OLDPWD", "SHLVL", "_", "LC_CTYPE"}
        names = process._environment(spec, get_folder(spec), tmux="t", run="r").keys()
        assert own == set(names)
        assert environment["OH_SESSION_API_KEYS_0"] == "session-key"
        assert environment["TZ"] == "UTC"
        assert str(Path(sys.prefix) / "bin") not in environment["PATH"].split(os.pathsep)

    def test_keys_are_neither_in_the_handle_nor_in_the_arguments(self, spec):
        handle = provider.start(spec)
        wait_for_state(handle, State.RUNNING)

        command = " ".join(psutil.Process(handle["pid"]).cmdline())
        assert f"--port {handle['port']}" in command
        for secret in ("session-key", "secret-key"):
            assert secret not in json.dumps(handle)
            assert secret not in command
            assert secret not in repr(spec)

    def test_folders_are_private(self, spec):
        provider.start(spec)

        for path in (get_folder(spec), get_folder(spec) / "project", get_folder(spec) / "home"):
            assert stat.S_IMODE(path.stat().st_mode) == 0o700
        assert stat.S_IMODE((get_folder(spec) / "engine.log").stat().st_mode) == 0o600

    def test_tmux_gets_a_short_folder_if_the_path_is_long(self, spec, settings, tmp_path):
        settings.SANDBOX_DIR = tmp_path / ("long" * 20)

        handle = provider.start(spec)

        assert handle["tmux"] == f"/tmp/oh-{spec.sandbox_id.hex}"
        provider.destroy(handle)
        assert not Path(handle["tmux"]).exists()

    def test_log_of_earlier_runs_is_cut_to_its_tail(self, spec):
        get_folder(spec).mkdir(parents=True)
        log = get_folder(spec) / "engine.log"
        log.write_bytes(b"a" * 3_000_000 + b"the end\n")

        provider.start(spec)

        assert log.stat().st_size < engine_log.LOG_TAIL_BYTES + 10_000
        assert b"the end\n" in log.read_bytes()

    def test_log_is_cut_while_the_engine_runs(self, spec):
        handle = provider.start(spec)
        log = get_folder(spec) / "engine.log"
        with log.open("ab") as file:
            file.write(b"b" * (engine_log.LOG_MAX_BYTES + 1))

        provider.inspect(handle)

        assert log.stat().st_size == engine_log.LOG_TAIL_BYTES


class TestRefusals:
    def test_start_is_refused_if_process_sandboxes_are_not_allowed(self, spec, settings):
        settings.ALLOW_PROCESS_SANDBOX = False

        with pytest.raises(SandboxUnavailable, match="do not isolate") as caught:
            provider.start(spec)
        assert caught.value.status == 503

    def test_start_is_refused_without_an_engine(self, spec, monkeypatch):
        missing = engine_home.Status(
            "missing", "1", "/e", "The agent engine is not installed in /e."
        )
        monkeypatch.setattr(engine_home, "status", lambda: missing)

        with pytest.raises(SandboxUnavailable, match=r"not installed in /e\. Run `manage"):
            provider.start(spec)

    def test_start_is_refused_on_a_full_disk(self, spec, monkeypatch):
        monkeypatch.setattr(process.shutil, "disk_usage", lambda _: SimpleNamespace(free=1_000))

        with pytest.raises(SandboxUnavailable, match=r"The disk of .* is full"):
            provider.start(spec)

    def test_start_is_refused_if_the_folder_cannot_be_created(self, spec, settings, tmp_path):
        (tmp_path / "file").write_text("")
        settings.SANDBOX_DIR = tmp_path / "file" / "sandboxes"

        with pytest.raises(SandboxUnavailable, match="Not a directory"):
            provider.start(spec)

    def test_unknown_provider_is_refused(self):
        with pytest.raises(SandboxUnavailable, match="no sandbox provider named nope"):
            get_provider("nope")

    def test_resume_is_refused_after_the_files_were_deleted(self, spec):
        handle = provider.start(spec)
        provider.destroy(handle)

        with pytest.raises(SandboxUnavailable, match="files were deleted"):
            provider.resume(spec, handle)


class TestEndOfEngine:
    def test_killed_engine_is_reported_as_failed_with_its_signal(self, spec):
        handle = provider.start(spec)
        wait_for_state(handle, State.RUNNING)

        os.kill(handle["pid"], signal.SIGKILL)

        observed = wait_for_state(handle, State.FAILED)
        assert "killed by SIGKILL" in observed.detail

    def test_ended_engine_is_reported_as_failed_with_its_status_and_error_line(self, spec):
        instruct_engine(spec, "die", "ERROR: [Errno 98] address already in use")

        observed = wait_for_state(provider.start(spec), State.FAILED)

        assert observed.detail == (
            "The engine ended with status 3: ERROR: [Errno 98] address already in use"
        )

    def test_ended_engine_leaves_no_zombie(self, spec):
        instruct_engine(spec, "die", "x")
        handle = provider.start(spec)
        wait_for_state(handle, State.FAILED)

        wait_until(
            lambda: not psutil.pid_exists(handle["pid"]), "the process to be reaped", seconds=5
        )

    def test_another_process_with_the_same_pid_is_not_the_engine(self, spec):
        handle = provider.start(spec)
        os.kill(handle["pid"], signal.SIGKILL)
        wait_for_state(handle, State.FAILED)
        other = subprocess.Popen(["sleep", "600"])
        try:
            # During exec a process has no command line, and only its age could be compared.
            wait_until(
                lambda: psutil.Process(other.pid).cmdline() == ["sleep", "600"], "the exec of sleep"
            )
            reused = handle | {"pid": other.pid}

            assert provider.inspect(reused).state == State.FAILED
            provider.stop(reused, grace_seconds=1)
            assert other.poll() is None
        finally:
            other.kill()
            other.wait()

    def test_engine_is_recognized_after_the_clock_was_set(self, spec):
        handle = provider.start(spec)
        wait_for_state(handle, State.RUNNING)

        observed = provider.inspect(handle | {"created": handle["created"] - 3_600})

        assert observed.state == State.RUNNING

    def test_another_server_on_the_same_port_is_not_the_engine(self, spec):
        instruct_engine(spec, "busy")
        handle = provider.start(spec)
        with socket.socket() as other:
            other.bind(("127.0.0.1", 0))
            other.listen()

            assert (
                provider.inspect(handle | {"port": other.getsockname()[1]}).state == State.STARTING
            )

    @pytest.mark.parametrize("handle", [{}, {"sandbox": "../etc", "dir": "/etc"}, {"pid": 1}])
    def test_invalid_handle_is_missing_and_can_be_stopped_and_destroyed(self, spec, handle):
        assert provider.inspect(handle).state == State.MISSING
        provider.stop(handle, grace_seconds=1)
        provider.destroy(handle)


def end_sandbox(how: str, handle: Handle) -> None:
    if how == "stop":
        provider.stop(handle, grace_seconds=1)
    elif how == "destroy":
        provider.destroy(handle)
    else:
        os.kill(handle["pid"], signal.SIGKILL)
        wait_for_state(handle, State.FAILED)


class TestDial:
    def test_dialled_socket_is_blocking_and_reaches_the_engine(self, spec):
        handle = provider.start(spec)
        wait_for_state(handle, State.RUNNING)

        with provider.dial(handle) as connection:
            assert connection.gettimeout() is None
            connection.sendall(b"GET /ready HTTP/1.0\r\n\r\n")
            assert connection.makefile("rb").readline().split()[1] == b"200"

    @pytest.mark.parametrize("how", ["stop", "destroy", "kill"])
    def test_dial_of_an_ended_sandbox_is_refused_although_its_port_is_in_use(self, spec, how):
        handle = provider.start(spec)
        wait_for_state(handle, State.RUNNING)
        provider.dial(handle).close()

        end_sandbox(how, handle)

        with socket.create_server(("127.0.0.1", handle["port"])) as other:
            other.settimeout(0.2)
            with pytest.raises(ConnectionError, match="does not run"):
                provider.dial(handle)
            with pytest.raises(TimeoutError):
                other.accept()

    def test_resumed_sandbox_is_dialled_by_its_new_handle_only(self, spec):
        first = provider.start(spec)
        wait_for_state(first, State.RUNNING)
        provider.stop(first, grace_seconds=1)
        second = provider.resume(spec, first)
        wait_for_state(second, State.RUNNING)

        provider.dial(second).close()
        with pytest.raises(ConnectionError):
            provider.dial(first)

    def test_port_of_another_program_is_not_dialled(self, spec):
        handle = provider.start(spec)
        wait_for_state(handle, State.RUNNING)
        with socket.create_server(("127.0.0.1", 0)) as other:
            other.settimeout(0.2)
            port = other.getsockname()[1]
            with pytest.raises(ConnectionError):
                provider.dial(handle | {"port": port})
            with pytest.raises(ConnectionError):
                provider.dial(handle, port)
            with pytest.raises(TimeoutError):
                other.accept()

    def test_port_of_a_process_of_the_sandbox_is_dialled(self, spec):
        handle = provider.start(spec)
        wait_for_state(handle, State.RUNNING)
        serve = "import socket; s = socket.create_server(('127.0.0.1', 0)); print(s.getsockname()[1], flush=True); s.accept()[0].sendall(b'hello')"
        agent = subprocess.Popen(
            [sys.executable, "-c", serve],
            env={"OH_SANDBOX_ID": spec.sandbox_id.hex},
            stdout=subprocess.PIPE,
        )
        try:
            with provider.dial(handle, int(agent.stdout.readline())) as connection:
                assert connection.recv(5) == b"hello"
        finally:
            agent.kill()
            agent.communicate()

    @pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
    def test_repeated_dial_does_not_read_the_sockets_of_the_machine(self, spec, monkeypatch):
        handle = provider.start(spec)
        wait_for_state(handle, State.RUNNING)
        provider.dial(handle).close()
        monkeypatch.delattr(psutil.Process, "net_connections")

        provider.dial(handle).close()

    @pytest.mark.parametrize("handle", [{}, {"sandbox": "../etc", "dir": "/etc"}, {"pid": 1}])
    def test_dial_of_an_invalid_handle_is_refused(self, handle):
        with pytest.raises(ConnectionError):
            provider.dial(handle)

    def test_sandboxes_reach_this_server_at_the_gateway_url(self, settings):
        assert provider.gateway_url() == settings.GATEWAY_URL


class TestStop:
    def test_stop_leaves_no_process_and_keeps_the_files(self, spec):
        instruct_engine(spec, "daemon")
        handle = provider.start(spec)
        pids = [*wait_for_daemons(spec), handle["pid"]]
        wait_for_state(handle, State.RUNNING)

        provider.stop(handle, grace_seconds=5)

        assert [pid for pid in pids if psutil.pid_exists(pid) and is_alive(pid)] == []
        assert provider.inspect(handle).state == State.STOPPED
        assert (get_folder(spec) / "project" / "daemon").exists()
        provider.stop(handle, grace_seconds=5)

    def test_stop_waits_no_longer_than_its_grace_period(self, spec):
        instruct_engine(spec, "stubborn")
        handle = provider.start(spec)
        wait_for_state(handle, State.RUNNING)
        started_at = time.monotonic()

        provider.stop(handle, grace_seconds=0.5)

        assert 0.5 <= time.monotonic() - started_at < 5
        assert provider.inspect(handle).state == State.STOPPED

    def test_resume_keeps_the_files_and_ends_leftover_processes(self, spec):
        instruct_engine(spec, "daemon")
        first = provider.start(spec)
        leftover_pids = wait_for_daemons(spec)
        os.kill(first["pid"], signal.SIGKILL)
        wait_for_state(first, State.FAILED)
        (get_folder(spec) / "project" / "daemon").unlink()
        (get_folder(spec) / "project" / "work.txt").write_text("kept")

        second = provider.resume(spec, first)

        wait_for_state(second, State.RUNNING)
        assert [pid for pid in leftover_pids if is_alive(pid)] == []
        assert second["run"] != first["run"]
        assert provider.inspect(first) == Observed(
            State.STOPPED,
            str(get_folder(spec) / "project"),
            "The sandbox was started again after this run.",
        )
        assert (get_folder(spec) / "project" / "work.txt").read_text() == "kept"

    def test_start_during_a_stop_starts_another_run(self, spec):
        instruct_engine(spec, "stubborn")
        first = provider.start(spec)
        wait_for_state(first, State.RUNNING)
        stopping = threading.Thread(
            target=provider.stop, args=(first,), kwargs={"grace_seconds": 1}
        )
        stopping.start()
        time.sleep(0.3)

        second = provider.start(spec)

        stopping.join()
        assert second["run"] != first["run"]
        wait_for_state(second, State.RUNNING)


def is_alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


class TestDestroy:
    def test_destroy_removes_all_processes_and_files(self, spec, settings):
        instruct_engine(spec, "daemon")
        handle = provider.start(spec)
        pids = [*wait_for_daemons(spec), handle["pid"]]
        locked = get_folder(spec) / "project" / "locked" / "deep"
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

    def test_interrupted_destroy_is_completed(self, spec, settings):
        handle = provider.start(spec)
        provider.stop(handle, grace_seconds=0)
        get_folder(spec).rename(settings.SANDBOX_DIR / f"{spec.sandbox_id.hex}.removed")

        provider.destroy(handle)

        assert [path.name for path in settings.SANDBOX_DIR.iterdir()] == [".locks"]

    def test_destroy_follows_no_symlinks(self, spec, tmp_path):
        outside = tmp_path / "outside"
        outside.mkdir(mode=0o750)
        (outside / "file").write_text("x")
        handle = provider.start(spec)
        (get_folder(spec) / "project" / "link").symlink_to(outside)

        provider.destroy(handle)

        assert (outside / "file").read_text() == "x"
        assert stat.S_IMODE(outside.stat().st_mode) == 0o750

    def test_destroy_removes_no_other_folder(self, spec, tmp_path):
        outside = tmp_path / "outside"
        outside.mkdir()
        handle = provider.start(spec)

        provider.destroy(handle | {"dir": str(outside)})

        assert outside.exists()

"""The process provider: what it does besides the contract of all providers in ``contract``."""

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from conversations.sandboxes import process
from conversations.sandboxes.provider import SandboxUnavailable, State
from tests.conversations.sandboxes.box import SESSION_KEY, end_sandbox
from tests.waiting import wait_until

pytestmark = pytest.mark.parametrize("provider_name", ["process"], indirect=True)


def test_environment_has_only_the_variables_of_the_provider(box):
    box.start()

    environment = box.call()[1]["environment"]

    # A C library or a shell adds these variables by itself.
    own = set(environment) - {"PWD", "OLDPWD", "SHLVL", "_", "LC_CTYPE"}
    names = process._environment(box.spec, box.folder, tmux="t", run="r").keys()
    assert own == set(names)
    assert environment["OH_SESSION_API_KEYS_0"] == SESSION_KEY


def test_tmux_gets_a_short_folder_if_the_path_is_long(box, settings, tmp_path):
    settings.SANDBOX_DIR = tmp_path / ("long" * 20)

    handle = box.start()

    assert handle["tmux"] == f"/tmp/oh-{box.spec.sandbox_id.hex}"
    box.provider.destroy(handle)
    assert not Path(handle["tmux"]).exists()


def test_start_is_refused_if_process_sandboxes_are_not_allowed(box, settings):
    settings.ALLOW_PROCESS_SANDBOX = False

    with pytest.raises(SandboxUnavailable, match="do not isolate") as caught:
        box.start()
    assert caught.value.status == 503


def test_another_process_with_the_same_pid_is_not_the_engine(box):
    handle = box.start()
    os.kill(handle["pid"], signal.SIGKILL)
    box.wait_for(State.FAILED)
    other = subprocess.Popen(["sleep", "600"])
    try:
        # During exec a process has no command line, and only its age could be compared.
        wait_until(
            lambda: psutil.Process(other.pid).cmdline() == ["sleep", "600"], "the exec of sleep"
        )
        reused = handle | {"pid": other.pid}

        assert box.provider.inspect(reused).state == State.FAILED
        box.provider.stop(reused, grace_seconds=1)
        assert other.poll() is None
    finally:
        other.kill()
        other.wait()


def test_engine_is_recognized_after_the_clock_was_set(box):
    handle = box.start()

    observed = box.provider.inspect(handle | {"created": handle["created"] - 3_600})

    assert observed.state == State.RUNNING


def test_another_server_on_the_same_port_is_not_the_engine(box):
    box.instruct("busy")
    handle = box.start(State.STARTING)
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]

        assert box.provider.inspect(handle | {"port": port}).state == State.STARTING


@pytest.mark.parametrize("how", ["stop", "destroy", "kill"])
def test_dial_of_an_ended_sandbox_is_refused_although_its_port_is_in_use(box, how):
    handle = box.start()
    box.provider.dial(handle).close()

    end_sandbox(how, box)

    with socket.create_server(("127.0.0.1", handle["port"])) as other:
        other.settimeout(0.2)
        with pytest.raises(ConnectionError, match="does not run"):
            box.provider.dial(handle)
        with pytest.raises(TimeoutError):
            other.accept()


def test_resumed_sandbox_is_dialled_by_its_new_handle_only(box):
    first = box.start()
    box.stop()
    second = box.resume()

    box.provider.dial(second).close()
    with pytest.raises(ConnectionError):
        box.provider.dial(first)


def test_port_of_another_program_is_not_dialled_as_the_engine(box):
    handle = box.start()
    with socket.create_server(("127.0.0.1", 0)) as other:
        other.settimeout(0.2)
        with pytest.raises(ConnectionError):
            box.provider.dial(handle | {"port": other.getsockname()[1]})
        with pytest.raises(TimeoutError):
            other.accept()


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
def test_repeated_dial_does_not_read_the_sockets_of_the_machine(box, monkeypatch):
    box.start()
    box.provider.dial(box.handle).close()
    monkeypatch.delattr(psutil.Process, "net_connections")

    box.provider.dial(box.handle).close()


def test_sandboxes_reach_this_server_at_the_gateway_url(box, settings):
    assert box.provider.gateway_url() == settings.GATEWAY_URL

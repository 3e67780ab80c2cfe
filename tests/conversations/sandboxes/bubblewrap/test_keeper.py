"""Real sandboxes whose engine is replaced by a small program, so that a test decides what happens inside."""

import errno
import os
import tempfile
from pathlib import Path
from uuid import uuid4

import pytest

from conversations.sandboxes.bubblewrap import launching as module
from conversations.sandboxes.bubblewrap import support
from conversations.sandboxes.provider import SandboxSpec, SandboxUnavailable, State, get_provider
from lib import engine_state
from tests import prepare
from tests.waiting import wait_until

pytestmark = [
    pytest.mark.skipif(not support.probe().is_usable, reason=support.probe().cause),
    pytest.mark.engine,
]
only_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root changes the user")
provider = get_provider("bubblewrap")


@pytest.fixture
def start(settings, tmp_path, monkeypatch):
    """Return a function that starts a sandbox which runs a Python program, and destroy the sandbox afterwards."""
    settings.SANDBOX_DIR = tmp_path / "sandboxes"
    settings.ENGINE_DIR = prepare.engine_dir()
    ready = engine_state.Status("ready", "1", str(settings.ENGINE_DIR), "")
    monkeypatch.setattr(engine_state, "status", lambda: ready)
    build = module._build_request
    spec = SandboxSpec(uuid4(), "session-key", "s" * 40, "http://127.0.0.1:1")

    def start(program):
        def build_request(*arguments, **options):
            request = build(*arguments, **options)
            request["start"]["command"] = ["/usr/bin/python3", "-c", program]
            return request

        monkeypatch.setattr(module, "_build_request", build_request)
        return provider.start(spec)

    yield start
    if handle := provider.find(spec.sandbox_id):
        provider.destroy(handle)


def wait_for_end(handle):
    def inspect():
        observed = provider.inspect(handle)
        return observed if observed.state == State.FAILED else None

    return wait_until(inspect, "the sandbox's end", seconds=30)


def read_log(handle):
    return (Path(handle["dir"]) / "engine.log").read_text()


def test_kernel_prefers_the_sandbox_when_it_ends_processes(start):
    program = "for pid in 1, 'self': print(open(f'/proc/{pid}/oom_score_adj').read().strip())"
    handle = start(program)

    wait_for_end(handle)

    assert read_log(handle).split() == ["800", "800"]


# The path of the file is longer than the kernel accepts.
IN_DEEP_FOLDERS = """
for _ in range(30):
    os.mkdir("d" * 200)
    os.chdir("d" * 200)
open("file", "wb").write(b"z" * 19_000_000)
"""
# Programs inherit this file from the engine as their standard error.
IN_THE_LOG = 'os.write(2, b"z" * 19_000_000)'


@pytest.mark.parametrize("program", [IN_DEEP_FOLDERS, IN_THE_LOG])
def test_hidden_bytes_count(start, settings, program):
    settings.SANDBOX_DISK_MEGABYTES = 20
    # A single file may have 20 MB.
    program += "\nopen('/workspace/project/more', 'wb').write(b'z' * 15_000_000)"
    handle = start(f"import os, time\nos.chdir('/workspace/project')\n{program}\ntime.sleep(60)")

    assert "used more than their 20 MB" in wait_for_end(handle).detail


@only_root
def test_start_completes_what_an_earlier_one_was_killed_in(start):
    handle = start("print('once')")
    wait_for_end(handle)
    folder = Path(handle["dir"])
    uid = (folder / "project").stat().st_uid
    # As if the first start had been killed before it gave these folders to the sandbox's user.
    (folder / "owner.json").unlink()
    for name in ("home", "tmux"):
        os.chown(folder / name, 0, 0)
    (folder / "home/file").write_text("text")

    second = start(
        "open('/workspace/home/file', 'a').write('more'); open('/workspace/tmux/new', 'w')"
    )
    wait_for_end(second)

    assert (folder / "home/file").read_text() == "textmore"
    assert (folder / "tmux/new").stat().st_uid == uid


@only_root
def test_folder_of_another_user_gets_a_user_id_of_its_own(start):
    handle = start("print('once')")
    wait_for_end(handle)
    folder = Path(handle["dir"])
    for name in module._DATA:
        os.chown(folder / name, 1234, 1234)

    second = start("open('/workspace/home/new', 'w')")
    wait_for_end(second)

    assert (folder / "home/new").stat().st_uid in module.staging.find_uids()


@only_root
def test_sandboxes_may_be_in_a_closed_folder_of_usr(start, settings):
    with tempfile.TemporaryDirectory(prefix="oh-test-", dir="/usr/local") as place:
        settings.SANDBOX_DIR = Path(place) / "sandboxes"
        handle = start(f"import os; print(os.listdir('{place}'))")

        wait_for_end(handle)
        assert read_log(handle).split() == ["[]"]
        provider.destroy(handle)


def test_worker_that_cannot_record_the_run_leaves_no_keeper(start, monkeypatch):
    write, pids = module.write_json, []

    def fill_the_disk(path, value):
        if path.name == "run.json":
            pids.append(value["pid"])
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        write(path, value)

    monkeypatch.setattr(module, "write_json", fill_the_disk)

    with pytest.raises(SandboxUnavailable, match="is full"):
        start("import time; time.sleep(60)")

    assert not Path(f"/proc/{pids[0]}").exists()

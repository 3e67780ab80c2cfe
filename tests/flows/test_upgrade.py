"""A conversation of a release without isolation continues in an isolated sandbox."""

import json
from pathlib import Path

import psutil
import pytest

from tests.fakes.stack import Stack, Talk
from tests.waiting import wait_until

pytestmark = [pytest.mark.engine, pytest.mark.slow, pytest.mark.timeout(600)]
PROCESS = {"SANDBOX_PROVIDER": "process", "ALLOW_PROCESS_SANDBOX": "true"}


@pytest.fixture
def old_stack():
    """Return a running server whose sandboxes are plain processes."""
    stack = Stack(environment=PROCESS).start()
    yield stack
    stack.stop()


def upgrade(stack: Stack) -> None:
    """Restart the server with the settings of a new installation, while engines may run."""
    for name in PROCESS:
        del stack.environment[name]
    pids = {name: stack.pid(name) for name in stack.roles}
    for name in stack.roles:
        stack.kill(name)
    wait_until(lambda: all(stack.pid(name) != pids[name] for name in stack.roles), "the new server")
    stack.wait_web()


def read_output(talk: Talk, after: int) -> str:
    """Return the output of the commands that the agent ran after an event."""
    observations = [e for e in talk.events(after=after) if e["kind"] == "ObservationEvent"]
    return json.dumps([event["payload"]["observation"] for event in observations])


@pytest.mark.parametrize("is_stopped", [True, False])
def test_conversation_of_a_plain_process_continues_isolated_with_its_files_and_history(
    old_stack, is_stopped
):
    talk = old_stack.owner.converse(title="Before")
    talk.wait_ready(seconds=240)
    talk.do("!run echo kept-by-the-upgrade > note.txt\n!finish Written.")
    before, row = talk.record(), talk.sandbox()
    engine = psutil.Process(talk.engine_pid())
    assert row["provider"] == "process"
    if is_stopped:
        talk.post("sandbox/pause")
        wait_until(lambda: not engine.is_running(), "the engine to end", seconds=60)
    upgrade(old_stack)
    # The reconciliation, which the worker runs every minute, stops an engine that still runs.
    old_stack.python(
        "import django; django.setup()\n"
        "from conversations import services\n"
        "services.reconcile_sandboxes()"
    )
    talk.wait(lambda record: record["status"] in ("stopped", "paused"), seconds=120)

    talk.do("!run cat note.txt; id -un; ls /root /proc/1\n!finish Read.", seconds=300)

    after = talk.sandbox()
    assert (after["provider"], after["run"]) == ("bubblewrap", row["run"] + 1)
    assert after["workspace"] == row["workspace"]
    assert not engine.is_running() or engine.status() == psutil.STATUS_ZOMBIE
    output = read_output(talk, before["last_seq"])
    assert "kept-by-the-upgrade" in output
    assert "agent" in output
    assert Path(talk.project(), "note.txt").read_text() == "kept-by-the-upgrade\n"
    talk.compare_logs(seconds=30)
    assert talk.events()[0]["seq"] == 1
    sandbox = talk.owner.get(f"{talk.path}/sandbox")
    assert (sandbox["provider"], sandbox["isolation"]["word"]) == ("bubblewrap", "Isolated")

    def is_measured() -> bool:
        return talk.owner.get(f"{talk.path}/sandbox")["usage"] is not None

    wait_until(is_measured, "the keeper to measure the sandbox", seconds=30)

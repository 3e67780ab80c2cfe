"""A conversation with the real engine and the real services, once for each provider. The tests build on one another."""

import json
import time
from collections.abc import Iterator

import psutil
import pytest

from conversations.sandboxes.bubblewrap import support
from tests.conversations.sandboxes.box import find_processes, list_alive
from tests.conversations.sandboxes.conftest import PROVIDERS
from tests.fakes.stack import Stack, Talk, figure
from tests.waiting import wait_until

pytestmark = [pytest.mark.slow, pytest.mark.engine, pytest.mark.timeout(600)]


@pytest.fixture(scope="module", params=PROVIDERS)
def talk(request) -> Iterator[Talk]:
    """A conversation on a server of its own whose sandboxes are of one provider."""
    if request.param == "bubblewrap" and not support.probe().is_usable:
        pytest.skip(f"needs bubblewrap: {support.probe().cause}")
    environment = {"SANDBOX_PROVIDER": request.param, "ALLOW_PROCESS_SANDBOX": "true"}
    # On a busy machine, the 8 s of processor time of a start take minutes.
    stack = Stack(environment=environment | {"SANDBOX_START_SECONDS": "280"}).start()
    try:
        began = time.monotonic()
        talk = stack.owner.converse(title="Work")
        talk.wait_ready(seconds=280)
        figure("start", provider=request.param, seconds=round(time.monotonic() - began, 1))
        yield talk
    except BaseException:
        print("\n".join(stack.tail(name) for name in stack.roles))
        raise
    finally:
        stack.stop()


def read_provider(talk: Talk) -> str:
    provider: str = talk.sandbox()["provider"]
    return provider


def test_phases_of_the_start_are_recorded(talk):
    task = talk.record()["start_task"]

    names = [phase["phase"] for phase in task["phases"]]
    assert names == ["WORKING", "WAITING_FOR_SANDBOX", "STARTING_CONVERSATION", "READY"]
    assert all(phase["started_at"] <= phase["finished_at"] for phase in task["phases"])
    assert talk.sandbox()["run"] == 1


def test_message_is_delivered_and_answered_and_its_files_are_read(talk):
    talk.do("!run mkdir notes && echo hello > notes/hello.txt\n!finish Done.")

    assert len(talk.deliveries()) == 1
    assert talk.compare_logs() > 3
    listing = talk.owner.call("GET", f"{talk.path}/files?path=notes").json()["entries"]
    assert [entry["name"] for entry in listing] == ["hello.txt"]
    path = f"{talk.path}/files/content?path=notes/hello.txt"
    assert talk.owner.call("GET", path, expect=200).content == b"hello\n"


def test_stopped_sandbox_leaves_no_process_and_is_resumed_with_the_same_history(talk):
    before, pid = talk.rows(), talk.engine_pid()
    members = list(find_processes(talk.sandbox()["id"]))
    assert pid in [process.pid for process in members]

    began = time.monotonic()
    talk.post("sandbox/pause")
    talk.wait(lambda record: record["status"] == "paused")
    stopped = time.monotonic()
    alive = list_alive(members)
    talk.do("!run cat notes/hello.txt\n!finish Again.")

    assert alive == []
    assert talk.rows()[: len(before)] == before
    assert "hello" in json.dumps(talk.events(after=before[-1]["seq"]))
    assert len(talk.deliveries()) == 2
    talk.compare_logs()
    assert talk.engine_pid() != pid
    figure(
        "stop and resume",
        provider=read_provider(talk),
        seconds_to_stop=round(stopped - began, 1),
        seconds_to_finish=round(time.monotonic() - stopped, 1),
    )


def test_engine_killed_during_a_run_is_started_again(talk):
    run = talk.sandbox()["run"]
    message = talk.say("!run echo begun && sleep 60\n!finish Done.")
    wait_until(
        lambda: any(e["kind"] == "ActionEvent" for e in talk.events(after=message["seq"])),
        "the agent to run the command",
        seconds=90,
    )
    members = list(find_processes(talk.sandbox()["id"]))

    killed = talk.kill_engine()
    talk.wait(lambda record: record["status"] != "running", seconds=20)
    talk.wait_ready(seconds=280)
    seconds = round(time.monotonic() - killed, 1)

    assert list_alive(members) == []
    assert talk.sandbox()["run"] == run + 1
    talk.do("!run cat notes/hello.txt\n!finish On.")
    talk.compare_logs()
    notices = [e for e in talk.events(after=message["seq"]) if e["kind"] == "SandboxNotice"]
    assert len(notices) == 1
    assert "SIGKILL" in json.dumps(notices)
    figure("engine killed", provider=read_provider(talk), seconds_to_ready=seconds)


def test_sandbox_survives_the_restart_of_the_worker(talk):
    stack, pid, run = talk.stack, talk.engine_pid(), talk.sandbox()["run"]
    first = stack.pid("worker")

    stack.kill("worker")
    talk.do("!run cat notes/hello.txt\n!finish Survived.")

    assert stack.pid("worker") != first
    assert talk.engine_pid() == pid
    assert talk.sandbox()["run"] == run
    talk.compare_logs()


def test_deleted_conversation_leaves_no_process_and_no_file(talk):
    sandbox = talk.sandbox()
    members = list(find_processes(sandbox["id"]))
    folder = talk.stack.folder / "sandboxes" / sandbox["id"].hex
    assert folder.exists()
    assert psutil.Process(talk.engine_pid()) in members

    talk.owner.call("DELETE", talk.path, expect=204)

    wait_until(lambda: not folder.exists(), "the sandbox's folder to be deleted")
    assert list_alive(members) == []

"""A conversation with the real engine: its run, our log, access of another user, idle stop and deletion."""

import json
import re
import time
from pathlib import Path
from uuid import UUID, uuid4

import psutil
import pytest

from conversations.api.v1 import urls
from tests.fakes.stack import Stack, Talk, closing_code, figure, state_of
from tests.waiting import wait_until

pytestmark = [pytest.mark.engine, pytest.mark.contract, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def talk(stack: Stack) -> Talk:
    began = time.monotonic()
    talk = stack.owner.converse(title="Work")
    record = talk.wait_ready()
    figure("a conversation is created", seconds_to_ready=round(time.monotonic() - began, 2))
    assert [phase["phase"] for phase in record["start_task"]["phases"]][-1] == "READY"
    return talk


def list_routes(conversation_id: UUID) -> list[tuple[str, str]]:
    """Return the method and path of every route of a conversation, from the URL conf."""
    routes = []
    for pattern in urls.urlpatterns:
        path = str(pattern.pattern)
        if "<uuid:pk>" in path:
            path = path.replace("<uuid:pk>", str(conversation_id))
            path = re.sub("<int:[a-z_]+>", "1", path)
            path = re.sub("<uuid:[a-z_]+>", str(conversation_id), path)
            view = pattern.callback
            methods = [m for m in ("get", "post", "put", "patch", "delete") if hasattr(view.cls, m)]
            actions = getattr(view, "actions", methods)
            routes += [(method.upper(), path) for method in actions]
    return routes


def has_ended(pid: int) -> bool:
    return not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


def has_row(talk: Talk) -> bool:
    query = "SELECT 1 FROM conversations_conversation WHERE id = %s"
    return bool(talk.stack.sql(query, talk.id))


def test_agent_runs_a_request_and_our_log_equals_the_engines(talk):
    before = talk.record()["last_seq"]
    with talk.owner.socket(talk.id, after=before) as socket:
        began = time.monotonic()
        message = talk.say("Please write hello.py that prints 'hello from here' and run it")
        seconds: dict[str, float] = {}
        seqs = []
        while "finished" not in seconds:
            frame = json.loads(socket.recv(timeout=60))
            if frame["type"] != "event":
                continue
            seqs.append(frame["seq"])
            event = frame["event"]
            passed = round(time.monotonic() - began, 2)
            seconds.setdefault("echo", passed)
            if event["source"] != "user":
                seconds.setdefault("first_event", passed)
            if event["kind"] == "ActionEvent":
                seconds.setdefault("first_action", passed)
            if state_of(event) == "finished":
                seconds["finished"] = passed
    count = talk.compare_logs()
    talk.wait_status("finished")

    assert seqs[0] == message["seq"]
    assert seqs == list(range(before + 1, before + 1 + len(seqs)))
    content = talk.owner.call("GET", f"{talk.path}/files/content?path=hello.py", expect=200).content
    assert b"hello from here" in content
    [output] = [
        event["payload"]["observation"]["content"][0]["text"]
        for event in talk.events()
        if event["kind"] == "ObservationEvent"
        and "hello.py" in (event["payload"]["observation"].get("command") or "")
        and event["payload"]["observation"]["kind"] == "TerminalObservation"
    ]
    assert "hello from here" in output
    assert "hello.py" in [
        entry["name"] for entry in talk.owner.get(f"{talk.path}/files")["entries"]
    ]
    assert "hello.py" in [
        item["path"] for item in talk.owner.get(f"{talk.path}/git/changes")["items"]
    ]
    figure(
        "an agent runs",
        engine_events=count,
        differences=0,
        **{f"seconds_to_{k}": v for k, v in seconds.items()},
    )


def test_other_user_gets_404_for_every_route_of_a_conversation(stack, talk):
    stranger, secret = stack.stranger, "hello from here"

    responses = {route: stranger.call(*route, json={}) for route in list_routes(talk.id)}

    assert len(responses) >= 16
    assert {response.status_code for response in responses.values()} == {404}
    assert not any(
        secret in response.text or talk.id.hex in response.text for response in responses.values()
    )
    assert stranger.get("conversations")["items"] == []
    with stranger.socket(talk.id) as socket:
        assert closing_code(socket) == (4404, [])
    figure("a stranger looks", routes=len(responses), found=0)


def test_interrupt_pauses_a_long_command_and_resume_continues(talk):
    message = talk.say("!run echo begun && sleep 30\n!run echo went on\n!finish Done.")
    wait_until(
        lambda: any(e["kind"] == "ActionEvent" for e in talk.events(after=message["seq"])),
        "the agent to run the command",
        seconds=60,
    )
    time.sleep(1)

    began = time.monotonic()
    talk.post("interrupt")
    talk.wait_status("paused")
    seconds = round(time.monotonic() - began, 2)
    before = talk.record()["last_seq"]
    talk.post("resume")
    talk.wait_status("finished", after=before)

    assert seconds < 8
    outputs = [
        e["payload"]["observation"]
        for e in talk.events(after=message["seq"])
        if e["kind"] == "ObservationEvent"
    ]
    assert any("went on" in json.dumps(output) for output in outputs)
    talk.compare_logs()
    figure("stop", seconds_to_paused=seconds)


@pytest.mark.slow
def test_message_starts_an_idle_sandbox_again(stack, talk):
    pid = talk.engine_pid()
    stack.sql("UPDATE conversations_sandbox SET active_at = now() - interval '1 day'")
    stack.python(  # the worker does this every minute; the test does not wait for it
        "import django; django.setup()\n"
        "from conversations import services\n"
        "services.reconcile_sandboxes()"
    )
    talk.wait(lambda record: record["status"] == "stopped", seconds=30)
    wait_until(lambda: has_ended(pid), "the engine to end", seconds=20)
    refused = talk.owner.call("GET", f"{talk.path}/files")

    began = time.monotonic()
    talk.do("!run cat hello.py\n!finish Awake.", seconds=120)

    assert refused.status_code == 409
    assert talk.engine_pid() != pid
    talk.compare_logs()
    figure("a sleeping sandbox is woken", seconds_to_finished=round(time.monotonic() - began, 1))


def test_deleted_conversation_loses_its_process_files_and_rows(talk):
    row = talk.sandbox()
    folder, pid = Path(row["handle"]["dir"]), row["handle"]["pid"]
    assert has_row(talk)
    assert (folder / "project" / "hello.py").exists()
    with talk.owner.socket(talk.id, after=talk.record()["last_seq"]) as socket:
        assert json.loads(socket.recv(timeout=10))["type"] == "status"

        talk.owner.call("DELETE", talk.path, expect=204)

        code, frames = closing_code(socket)
    assert code == 4403
    assert {frame["type"] for frame in frames} <= {"ping", "status", "event"}
    talk.owner.call("GET", talk.path, expect=404)
    wait_until(lambda: not has_row(talk), "the conversation's row to be deleted")
    assert not folder.exists()
    assert has_ended(pid)
    for table in ("event", "lease", "outgoingmessage", "starttask"):
        assert not talk.stack.sql(
            f"SELECT 1 FROM conversations_{table} WHERE conversation_id = %s", talk.id
        )
    assert not talk.stack.sql("SELECT 1 FROM conversations_sandbox WHERE id = %s", row["id"])


def test_repeated_creation_with_one_idempotency_key_creates_one_conversation(stack):
    key = {"Idempotency-Key": str(uuid4())}
    body = {"title": "Once"}

    first = stack.owner.converse(headers=key, **body)
    repeated = stack.owner.call("POST", "conversations", json=body, headers=key)
    other = stack.owner.call("POST", "conversations", json={"title": "Twice"}, headers=key)

    assert (repeated.status_code, repeated.json()["id"]) == (201, str(first.id))
    assert other.status_code == 409
    titles = [row["title"] for row in stack.owner.get("conversations")["items"]]
    assert titles.count("Once") == 1
    assert "Twice" not in titles
    stack.owner.call("DELETE", first.path, expect=204)

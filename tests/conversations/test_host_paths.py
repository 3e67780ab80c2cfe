"""No path of the server in the answers of any protocol, for a sandbox that runs in a folder of the server."""

import pytest

from conversations import services
from conversations.models import Sandbox
from tests.conversations.conftest import ingest, make_frame

pytestmark = pytest.mark.django_db


@pytest.fixture
def host_folder(settings, running):
    """The folder on the server in which the sandbox of ``running`` runs, as without isolation."""
    folder = f"{settings.SANDBOX_DIR}/{running.sandbox_id.hex}"
    Sandbox.objects.update(workspace=f"{folder}/project")
    running.sandbox.refresh_from_db()
    ingest(
        running,
        make_frame(
            0,
            kind="ActionEvent",
            tool_name="terminal",
            thought=[{"type": "text", "text": f"Look into {folder}/project"}],
            action={"kind": "TerminalAction", "command": f"cat {folder}/project/a.py"},
        ),
        make_frame(
            1,
            kind="ObservationEvent",
            source="environment",
            action_id="event-0",
            observation={
                "kind": "TerminalObservation",
                "content": [{"type": "text", "text": f"{folder}/home"}],
                "metadata": {"working_dir": f"{folder}/project", "exit_code": 0},
            },
        ),
        make_frame(
            2,
            kind="ConversationStateUpdateEvent",
            source="environment",
            key="full_state",
            value={
                "persistence_dir": f"{folder}/conversations",
                "workspace": {"working_dir": f"{folder}/project"},
                "execution_status": "idle",
            },
        ),
    )
    return folder


@pytest.mark.parametrize(
    "path",
    [
        "/api/v1/conversations/{id}",
        "/api/v1/conversations/{id}/events",
        "/api/v1/conversations/{id}/trajectory?format=json",
        "/api/v1/conversations/{id}/trajectory?format=markdown",
        "/api/v1/conversations/{id}/trajectory?format=html",
        "/api/v1/app-conversations?ids={id}",
        "/api/v1/events/search?conversation_id__eq={id}",
        "/api/v1/sandboxes/search",
        "/api/conversations/{id}",
        "/api/conversations/{id}/events",
        "/api/conversations/{id}/events/search",
        "/api/conversations/{id}/trajectory",
        "/api/conversations/{id}/config",
        "/api/conversations/{id}/git/diff?path=missing.py",
        "/api/conversations/{id}/select-file?file=missing.py",
        "/api/conversations/{id}/git/changes",
        "/api/v1/conversations/{id}/git/changes",
        "/api/v1/conversations/{id}/git/diff?path=missing.py",
        "/conversations/{id}",
    ],
)
def test_answers_contain_no_path_of_the_server(
    api, client, alice, engine, running, host_folder, settings, path
):
    client.force_login(alice)
    failure = {"detail": f"fatal: {host_folder}/project: no such path"}
    for name in ("git/diff", "git/changes", "bash/execute_bash_command", "file/download"):
        for method in ("GET", "POST"):
            engine.answers[f"{method} /api/{name}"] = (500, failure)
    caller = client if path.startswith("/conversations") else api

    response = caller.get(path.format(id=running.pk))

    body = (
        b"".join(response.streaming_content) if response.streaming else response.content
    ).decode()
    assert str(settings.SANDBOX_DIR) not in body
    assert running.sandbox_id.hex not in body.replace(f'"{running.sandbox_id.hex}"', "")


def test_record_of_the_engine_shows_the_path_inside_the_sandbox(api, running, host_folder, alice):
    key = services.conversation_key(conversation=running, user=alice)

    record = api.get(f"/api/conversations/{running.pk}", headers={"X-Session-API-Key": key}).json()

    assert record["workspace"]["working_dir"] == "/workspace/project"
    assert record["persistence_dir"] is None
    assert host_folder not in str(record)


def test_events_show_the_path_inside_the_sandbox(api, running, host_folder):
    body = api.get(f"/api/v1/events/search?conversation_id__eq={running.pk}").json()

    action, result, state = body["items"]
    assert action["action"]["command"] == "cat /workspace/project/a.py"
    assert result["observation"]["metadata"]["working_dir"] == "/workspace/project"
    assert state["value"]["persistence_dir"] == "/workspace/conversations"


def test_failed_start_names_the_setting_and_not_the_folder(conversation, sandboxes, settings):
    from conversations.models import StartTask
    from conversations.sandboxes.provider import SandboxImpossible

    def fail(*_, **__):
        raise SandboxImpossible(f"The disk of {settings.SANDBOX_DIR} is full.")

    sandboxes.start = fail
    services.start_conversation(conversation_id=conversation.pk)

    conversation.refresh_from_db()
    task = StartTask.objects.get(conversation=conversation)
    assert conversation.status_detail == "The disk of SANDBOX_DIR is full."
    assert str(settings.SANDBOX_DIR) not in f"{task.error} {task.phases}"

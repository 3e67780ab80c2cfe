"""The engine's routes for files and Git, for the conversation of the request's key."""

from types import SimpleNamespace

import pytest
from django.core.files.uploadedfile import SimpleUploadedFile
from rest_framework.test import APIClient

from compat.engine.files import workspace_path
from conversations import services
from tests.conversations.conftest import list_queued_jobs

pytestmark = pytest.mark.django_db
DIFF = services.FileDiff(
    path="a",
    original=None,
    modified="new",
    encoding="utf-8",
    original_encoding=None,
    original_size=None,
    modified_size=3,
    diff="",
)


class Content(list):
    """The chunks of a file."""

    size = None

    def __init__(self, *chunks):
        super().__init__(chunks)


@pytest.fixture
def client(running, alice):
    """A client with a key to the running conversation as its only credential."""
    running.sandbox.workspace = "/srv/box/project"
    running.sandbox.save(update_fields=["workspace"])
    key = services.conversation_key(conversation=running, user=alice)
    return APIClient(headers={"X-Session-API-Key": key})


@pytest.mark.parametrize(
    ("path", "relative"),
    [
        ("a.txt", "a.txt"),
        ("/srv/box/project/a.txt", "a.txt"),
        ("/srv/box/project", ""),
        ("/srv/box/projects/a.txt", "/srv/box/projects/a.txt"),
        ("/workspace/project/a.txt", "a.txt"),
        ("//workspace/project/a.txt", "a.txt"),
        ("/workspace/project/site/a.txt", "a.txt"),
        ("/workspace/project/sites/a.txt", "sites/a.txt"),
        ("/workspace/project/site", ""),
        ("/srv/box/project/site/a.txt", "site/a.txt"),
        ("/workspace/a.txt", "a.txt"),
        ("/etc/passwd", "/etc/passwd"),
        ("../a.txt", "../a.txt"),
    ],
)
def test_client_path_becomes_relative_to_the_workspace(path, relative):
    conversation = SimpleNamespace(
        sandbox=SimpleNamespace(workspace="/srv/box/project"), repository={"full_name": "octo/site"}
    )

    assert workspace_path(path, conversation) == relative


def test_file_is_downloaded_as_an_attachment(client, running, monkeypatch):
    monkeypatch.setattr(services, "read_file", lambda **call: Content(call["path"].encode(), b"!"))

    response = client.get("/api/file/download?path=/workspace/project/a.txt")

    assert b"".join(response) == b"a.txt!"
    names = ("Content-Type", "Content-Disposition", "X-Content-Type-Options")
    assert [response.headers[name] for name in names] == [
        "application/octet-stream",
        "attachment",
        "nosniff",
    ]
    assert response.headers["Content-Security-Policy"] == "sandbox; default-src 'none'"


@pytest.mark.parametrize(
    "url", ["/api/file/upload?path=/workspace/project/a", "/api/file/upload//workspace/project/a"]
)
def test_upload_writes_the_file_and_returns_its_size(client, running, monkeypatch, url):
    written = []

    def write_file(*, conversation_id, path, content, by):
        written.append((conversation_id, path, content.read()))
        return 3

    monkeypatch.setattr(services, "write_file", write_file)

    response = client.post(url, {"file": SimpleUploadedFile("a", b"abc")}, format="multipart")

    assert (response.status_code, response.json()) == (200, {"success": True, "file_size": 3})
    assert written == [(running.pk, "a", b"abc")]


def test_upload_without_a_file_is_422(client):
    response = client.post("/api/file/upload?path=a", {}, format="multipart")

    assert response.status_code == 422
    assert response.json()["error"].startswith("file: ")


@pytest.mark.parametrize("url", ["/api/git/changes?path=.", "/api/git/changes/workspace/project"])
def test_changes_keep_the_words_of_the_engine(client, monkeypatch, url):
    changes = [{"status": "ADDED", "path": "a"}, {"status": "MOVED", "path": "b"}]
    monkeypatch.setattr(services, "git_changes", lambda **_: changes)

    assert client.get(url).json() == changes


@pytest.mark.parametrize("url", ["/api/git/diff?path=a", "/api/git/diff/a"])
def test_diff_shows_the_texts_after_and_before(client, monkeypatch, url):
    monkeypatch.setattr(services, "git_diff", lambda **_: DIFF)

    assert client.get(url).json() == {
        "modified": "new",
        "original": None,
        "encoding": "utf-8",
    }


def test_diff_without_a_path_is_422(client):
    response = client.get("/api/git/diff")

    assert response.status_code == 422
    assert response.json()["error"] == "path: This parameter is required."


def test_api_key_names_no_workspace_and_is_422(api, running):
    response = api.get("/api/file/download?path=a")

    assert response.status_code == 422
    assert response.json()["error"] == (
        "Send the conversation's `session_api_key` in the header X-Session-API-Key."
    )


def test_key_of_a_deleted_conversation_is_401(client, running):
    assert (
        client.get("/api/file/download").status_code == 422
    )  # the key is valid, the path is missing

    services.delete_conversation(conversation_id=running.pk)

    assert client.get("/api/file/download?path=a").status_code == 401


def test_viewer_downloads_but_does_not_upload(running, alice, bob, monkeypatch):
    services.set_sharing(
        conversation_id=running.pk, by=running.created_by, visibility="organization"
    )
    running.refresh_from_db()  # the change revoked earlier keys
    bob.memberships.filter(organization=alice.personal_organization).update(role="viewer")
    key = services.conversation_key(conversation=running, user=bob)
    viewer = APIClient(headers={"X-Session-API-Key": key})
    monkeypatch.setattr(services, "read_file", lambda **_: Content(b"x"))

    assert b"".join(viewer.get("/api/file/download?path=a")) == b"x"
    upload = viewer.post("/api/file/upload?path=a", {"file": SimpleUploadedFile("a", b"x")})
    assert upload.status_code == 403


def test_interrupt_route_equals_a_pause(client, running):
    response = client.post(f"/api/conversations/{running.pk}/interrupt", {}, format="json")

    assert (response.status_code, response.json()) == (200, {"success": True})
    assert len(list_queued_jobs("interrupt_agent")) == 1

"""The V0 routes for the files of a workspace: status codes and full bodies."""

import io
from datetime import UTC, datetime

import pytest
from django.core.files.uploadedfile import SimpleUploadedFile

from compat.v0 import files
from conversations import services
from conversations.services.files import DirectoryEntry
from conversations.services.workspace_access import PathOutside
from tests.conftest import key_client

pytestmark = pytest.mark.django_db
ROUTES = ("list-files", "select-file?file=a", "zip-directory", "git/changes", "git/diff?path=a")


def build_path(conversation, rest):
    return f"/api/conversations/{conversation.pk.hex}/{rest}"


def make_entry(path, kind="file"):
    name = path.rpartition("/")[2]
    return DirectoryEntry(name, path, kind, 1, datetime(2026, 11, 22, tzinfo=UTC))


@pytest.fixture
def workspace(monkeypatch):
    """The functions of ``services`` that read files, replaced by ``results``. ``paths`` records their paths."""

    class Workspace:
        results = {}  # noqa: RUF012 - one test, one class
        paths = []  # noqa: RUF012

        def replace(self, name, result):
            self.paths = []

            def read(*, conversation_id, path="", **_):
                self.paths.append(path)
                if isinstance(result, Exception):
                    raise result
                return result

            monkeypatch.setattr(services, name, read)

    return Workspace()


def test_folder_is_listed_with_slashes_and_without_hidden_names(api, running, workspace):
    names = [make_entry("src", "directory"), make_entry(".git", "directory"), make_entry("a.txt")]
    workspace.replace("list_files", [*names, make_entry("src/node_modules", "directory")])

    response = api.get(build_path(running, "list-files"))

    assert (response.status_code, response.json()) == (200, ["src/", "a.txt"])
    assert workspace.paths == [""]


@pytest.mark.parametrize(
    ("path", "relative"),
    [
        ("src", "src"),
        ("/workspace", ""),
        ("/workspace/src", "src"),
        ("/workspaces/src", "/workspaces/src"),
        ("/etc", "/etc"),
    ],
)
def test_absolute_path_of_the_workspace_becomes_relative(api, running, workspace, path, relative):
    workspace.replace("list_files", [])

    assert api.get(build_path(running, f"list-files?path={path}")).json() == []
    assert workspace.paths == [relative]


def test_path_outside_the_workspace_is_400(api, running, workspace):
    workspace.replace("list_files", PathOutside())

    response = api.get(build_path(running, "list-files?path=/etc"))

    assert (response.status_code, response.json()["code"]) == (400, "path-outside")


def test_text_file_is_returned_as_code(api, running, workspace):
    workspace.replace("read_file", iter(["é".encode()[:1], "é".encode()[1:], b"\n"]))

    response = api.get(build_path(running, "select-file?file=/workspace/a.txt"))

    assert (response.status_code, response.json()) == (200, {"code": "é\n"})
    assert workspace.paths == ["a.txt"]


@pytest.mark.parametrize("content", [b"a\0b", b"\xff\xfe"], ids=["nul", "not-utf-8"])
def test_binary_file_is_415(api, running, workspace, content):
    workspace.replace("read_file", iter([content]))

    response = api.get(build_path(running, "select-file?file=a.bin"))

    sentence = (
        "This file is not a text file, so it cannot be shown. Download the workspace instead."
    )
    assert response.status_code == 415
    assert (response.json()["code"], response.json()["error"]) == ("binary-file", sentence)


def test_large_file_is_413_and_the_rest_is_not_read(api, running, workspace, monkeypatch):
    monkeypatch.setattr(files, "VIEW_MAX_BYTES", 3)
    chunks = (chunk for chunk in (b"ab", b"cd", b"ef"))
    workspace.replace("read_file", chunks)

    response = api.get(build_path(running, "select-file?file=a.txt"))

    assert response.status_code == 413
    assert response.json()["error"].startswith("This file is larger than 3 bytes")
    assert list(chunks) == []  # closed after the second of three chunks


@pytest.mark.parametrize("route", ["select-file", "git/diff"])
def test_missing_path_parameter_is_422(api, running, route):
    response = api.get(build_path(running, route))

    name = "file" if route == "select-file" else "path"
    assert response.status_code == 422
    assert response.json()["error"].startswith(f"{name}: ")


def test_archive_is_sent_as_an_attachment(api, running, monkeypatch):
    formats = []

    def download_archive(*, conversation_id, format):  # noqa: A002 - the service's own name
        formats.append((conversation_id, format))
        return services.Archive(io.BytesIO(b"PKzip"), 2)

    monkeypatch.setattr(services, "download_archive", download_archive)

    response = api.get(build_path(running, "zip-directory"))

    assert b"".join(response) == b"PKzip"
    assert formats == [(running.pk, "zip")]
    assert response.headers["Content-Type"] == "application/zip"
    assert (response.headers["Content-Length"], response.headers["X-Archive-Left-Out"]) == (
        "5",
        "2",
    )
    assert response.headers["Content-Disposition"] == 'attachment; filename="workspace.zip"'
    assert response.headers["Content-Security-Policy"] == "sandbox; default-src 'none'"


def test_changes_have_the_letters_of_git_status(api, running, monkeypatch):
    words = ("ADDED", "UPDATED", "DELETED", "MOVED", "UNKNOWN")
    changes = [{"status": word, "path": word.lower()} for word in words]
    monkeypatch.setattr(services, "git_changes", lambda **_: changes)

    assert api.get(build_path(running, "git/changes")).json() == [
        {"status": letter, "path": word.lower()}
        for letter, word in zip("AMDRU", words, strict=True)
    ]


def test_diff_has_null_for_a_text_that_did_not_exist(api, running, workspace):
    diff = services.FileDiff(
        path="new.txt",
        original=None,
        modified="new",
        encoding="utf-8",
        original_encoding=None,
        original_size=None,
        modified_size=3,
        diff="",
    )
    workspace.replace("git_diff", diff)

    response = api.get(build_path(running, "git/diff?path=/workspace/new.txt"))

    assert response.json() == {"modified": "new", "original": None, "encoding": "utf-8"}
    assert workspace.paths == ["new.txt"]


@pytest.mark.parametrize("route", ROUTES)
def test_other_user_gets_404_for_files(running, charlie, route):
    response = key_client(charlie).get(build_path(running, route))

    assert (response.status_code, response.json()["code"]) == (404, "not-found")


def write_all(*, conversation_id, files, by):
    """Take the place of ``services.write_files``, and write nothing."""
    for path, content in files:
        yield services.WrittenFile(path, len(content.read()))


class TestUpload:
    def upload(self, client, conversation, **files):
        return client.post(build_path(conversation, "upload-files"), files, format="multipart")

    def test_upload_without_files_is_422(self, api, running):
        response = self.upload(api, running)

        assert response.status_code == 422
        assert response.json()["error"] == "files: Send at least one file."

    def test_upload_accepts_the_field_name_with_brackets(self, api, running, monkeypatch):
        monkeypatch.setattr(services, "write_files", write_all)

        response = self.upload(api, running, **{"files[]": SimpleUploadedFile("a.txt", b"x")})

        assert response.json() == {"uploaded_files": ["/workspace/a.txt"], "skipped_files": []}

    def test_files_above_the_limit_are_skipped(self, api, running, monkeypatch):
        monkeypatch.setattr(services, "write_files", write_all)
        monkeypatch.setattr(files, "UPLOAD_FILES_MAX", 1)
        both = [SimpleUploadedFile(name, b"x") for name in ("a.txt", "b.txt")]

        assert self.upload(api, running, files=both).json() == {
            "uploaded_files": ["/workspace/a.txt"],
            "skipped_files": [
                {"name": "b.txt", "reason": "At most 1 files can be uploaded at a time."}
            ],
        }

    def test_file_that_the_sandbox_rejects_is_skipped_with_its_reason(
        self, api, running, monkeypatch
    ):
        monkeypatch.setattr(
            services, "write_files", lambda **_: iter([PathOutside("The path is a folder.")])
        )

        response = self.upload(api, running, files=[SimpleUploadedFile("a", b"x")])

        assert response.json() == {
            "uploaded_files": [],
            "skipped_files": [{"name": "a", "reason": "The path is a folder."}],
        }

    def test_upload_without_a_running_sandbox_is_409(self, api, conversation):
        response = self.upload(api, conversation, files=[SimpleUploadedFile("a", b"x")])

        assert (response.status_code, response.json()["code"]) == (409, "sandbox-not-running")

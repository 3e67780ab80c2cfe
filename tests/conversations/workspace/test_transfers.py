"""Uploads, and the errors of all file routes by their cause."""

import gc
import os
import socket
import subprocess
import threading
import time

import pytest
from django.core.files.uploadedfile import SimpleUploadedFile
from rest_framework.test import APIClient

from conversations import services
from conversations.engine import workspace as engine_workspace
from conversations.services import engine_requests, workspace_access
from tests.conversations.workspace.conftest import run_without_power
from tests.fakes.dials import build_dial

pytestmark = [
    pytest.mark.engine,
    pytest.mark.contract,
    pytest.mark.django_db,
    pytest.mark.timeout(300),
]


def put(box, path, content=b"x"):
    return box.api.put(
        box.url("files/content", path=path), content, content_type="application/octet-stream"
    )


def upload(box, *files, field="file", url="", **fields):
    parts = [SimpleUploadedFile(name, content) for name, content in files]
    return box.api.post(url or box.url("files/upload"), fields | {field: parts}, format="multipart")


def contents(box, folder="."):
    return {path.name: path.read_bytes() for path in (box.folder / folder).iterdir()}


class TestEqualNames:
    def test_files_of_one_upload_are_all_kept(self, box):
        box.write("folder/image-2.png", b"older")
        files = [(name, name.encode() + b"%d" % at) for at, name in enumerate(["image.png"] * 3)]
        files += [
            ("image-2.png", b"own"),
            ("noext", b"1"),
            ("noext", b"2"),
            (".rc", b"1"),
            (".rc", b"2"),
        ]

        response = upload(box, *files, path="folder")

        assert response.status_code == 201, response.content
        # `image-2.png` is taken when the second file arrives, and so is `image-4.png` never needed.
        assert contents(box, "folder") == {
            "image.png": b"image.png0",
            "image-2.png": b"own",
            "image-3.png": b"image.png1",
            "image-4.png": b"image.png2",
            "noext": b"1",
            "noext-2": b"2",
            ".rc": b"1",
            ".rc-2": b"2",
        }
        body = response.json()
        assert (body["path"], body["size"]) == ("folder/image.png", 10)
        assert [one["path"].partition("/")[2] for one in body["files"]] == [
            *("image.png", "image-3.png", "image-4.png", "image-2.png"),
            *("noext", "noext-2", ".rc", ".rc-2"),
        ]

    @pytest.mark.parametrize("field", ["files", "files[]"])
    def test_v0_upload_keeps_and_reports_them(self, box, field):
        response = upload(
            box,
            ("image.png", b"1"),
            ("image.png", b"2"),
            ("other.txt", b"3"),
            field=field,
            url=box.v0_url("upload-files"),
        )

        names = ("image.png", "image-2.png", "other.txt")
        assert response.json() == {
            "uploaded_files": [f"{box.folder}/{name}" for name in names],
            "skipped_files": [],
        }
        assert contents(box) == dict(zip(names, (b"1", b"2", b"3"), strict=True))

    def test_names_that_the_disk_takes_for_equal_are_numbered(self, box):
        # A link has the effect of a disk on which `A.txt` and `a.txt` are one file.
        (box.folder / "A.txt").symlink_to("a.txt")

        response = upload(box, ("a.txt", b"1"), ("A.txt", b"2"))

        assert contents(box) == {"a.txt": b"1", "A.txt": b"1", "a-2.txt": b"2"}
        assert [one["path"] for one in response.json()["files"]] == ["a.txt", "a-2.txt"]

    def test_names_that_the_disk_keeps_apart_are_kept(self, box):
        names = ["a.txt", "A.txt", "\u00e9", "e\u0301"]

        upload(box, *((name, name.encode()) for name in names))

        assert contents(box) == {name: name.encode() for name in names}

    def test_longest_names_get_a_number_too(self, box):
        names = ["L" * 251 + ".txt", "\u0436" * 127]

        response = upload(box, *((name, b"1") for name in names), *((name, b"2") for name in names))

        assert response.status_code == 201, response.content
        assert contents(box) == {
            names[0]: b"1",
            names[1]: b"1",
            "L" * 249 + "-2.txt": b"2",
            "\u0436" * 126 + "-2": b"2",
        }

    def test_file_of_an_earlier_upload_is_replaced_and_keeps_its_permissions(self, box):
        upload(box, ("run.sh", b"1"))
        (box.folder / "run.sh").chmod(0o754)

        assert upload(box, ("run.sh", b"2")).status_code == 201

        assert contents(box) == {"run.sh": b"2"}
        assert (box.folder / "run.sh").stat().st_mode & 0o777 == 0o754

    def test_engine_route_refuses_two_files_for_one_path(self, box, alice):
        key = services.conversation_key(conversation=box.conversation, user=alice)
        client = APIClient(headers={"X-Session-API-Key": key})
        parts = [SimpleUploadedFile("a", b"1"), SimpleUploadedFile("a", b"2")]

        response = client.post("/api/file/upload?path=a", {"file": parts}, format="multipart")

        assert response.status_code == 422
        assert contents(box) == {}


class TestCauses:
    def test_empty_file_is_written_by_every_route(self, box, alice):
        key = services.conversation_key(conversation=box.conversation, user=alice)
        engine = APIClient(headers={"X-Session-API-Key": key})
        part = SimpleUploadedFile("c", b"")

        assert upload(box, ("a", b"")).json()["files"] == [{"path": "a", "size": 0}]
        upload(box, ("b", b""), field="files", url=box.v0_url("upload-files"))
        assert engine.post("/api/file/upload?path=c", {"file": part}).status_code == 200

        assert contents(box) == dict.fromkeys("abc", b"")

    @pytest.mark.parametrize("name", ["", ".", ".."])
    def test_part_without_a_name_is_explained(self, box, name):
        body = f'--B\r\nContent-Disposition: form-data; name="file"; filename="{name}"\r\n\r\nx\r\n--B--\r\n'
        kind = "multipart/form-data; boundary=B"

        response = box.api.generic("POST", box.url("files/upload"), body, content_type=kind)

        assert response.status_code == 400
        assert "each with a file name" in response.json()["error"]

    @pytest.mark.parametrize("size", [0, 300_000])
    def test_upload_that_was_cut_off_stores_nothing(self, box, alice, size):
        def part(name, field="file"):
            return (
                f'--B\r\nContent-Disposition: form-data; name="{field}"; filename="{name}"\r\n\r\n'
            )

        key = services.conversation_key(conversation=box.conversation, user=alice)
        engine = APIClient(headers={"X-Session-API-Key": key})
        for client, url, field in (
            (box.api, box.url("files/upload"), "file"),
            (box.api, box.v0_url("upload-files"), "files"),
            (engine, "/api/file/upload?path=a", "file"),
        ):
            body = f"{part('whole', field)}x\r\n{part('cut', field)}" + "x" * size
            response = client.generic(
                "POST", url, body, content_type="multipart/form-data; boundary=B"
            )
            assert response.status_code in (400, 422), response.content
            assert "ended before its last part" in response.content.decode()
        assert contents(box) == {}

    def test_path_that_ends_with_a_slash_names_no_file(self, box):
        for path in ("new/", "new/."):
            response = put(box, path)
            assert (response.status_code, response.json()["code"]) == (409, "not-a-file")
            assert "ends with a slash" in response.json()["error"]
        assert contents(box) == {}

    def test_put_on_something_that_is_no_file_is_409_with_an_explanation(self, box, alice):
        box.write("folder/a")
        box.write("file")
        os.mkfifo(box.folder / "pipe")
        (box.folder / "loop").symlink_to("loop")
        key = services.conversation_key(conversation=box.conversation, user=alice)
        engine = APIClient(headers={"X-Session-API-Key": key})
        expected = {
            "folder": ("not-a-file", "This path is a folder. Enter the path of a file."),
            "file/inner": ("not-a-folder", "A part of this path is a file"),
            "file/in/ner": ("not-a-folder", "A part of this path is a file"),
            "pipe": ("not-a-file", "This path is a socket, a pipe or a device"),
        }

        for path, (code, sentence) in expected.items():
            responses = [
                put(box, path),
                upload(box, (path.rpartition("/")[2], b"x"), path=path.rpartition("/")[0]),
            ]
            part = SimpleUploadedFile("a", b"x")
            responses.append(engine.post(f"/api/file/upload?path={path}", {"file": part}))
            for response in responses:
                assert (response.status_code, response.json()["code"]) == (409, code), path
                assert response.json()["error"].startswith(sentence)
        assert put(box, "").json()["code"] == "not-a-file"
        assert contents(box, "folder") == {"a": b"x"}

    def test_folder_and_pipe_cannot_be_read_and_a_file_cannot_be_listed(self, box):
        box.write("folder/a")
        os.mkfifo(box.folder / "pipe")

        for path in ("folder", "", "pipe"):
            response = box.get("files/content", path=path)
            assert (response.status_code, response.json()["code"]) == (409, "not-a-file")
        response = box.get("files", path="folder/a")
        assert (response.status_code, response.json()["code"]) == (409, "not-a-folder")
        response = box.get("files/content", path="folder/a/b")
        assert (response.status_code, response.json()["code"]) == (404, "no-such-file")

    def test_name_that_is_too_long_is_400(self, box):
        for response in (put(box, "x" * 256), box.get("files/content", path="x" * 256)):
            assert (response.status_code, response.json()["code"]) == (400, "name-too-long")
        assert contents(box) == {}

    def test_permissions_are_409(self, box, monkeypatch):
        run_without_power(monkeypatch)
        (box.folder / "closed").mkdir(0o500)
        box.write("secret").chmod(0)

        for response in (put(box, "closed/a"), box.get("files/content", path="secret")):
            assert (response.status_code, response.json()["code"]) == (409, "file-not-permitted")

    def test_deleted_workspace_is_404(self, box):
        box.folder.rmdir()

        response = box.get("files")

        assert (response.status_code, response.json()["code"]) == (404, "no-such-file")
        assert "folder of the workspace does not exist" in response.json()["error"]

    def test_full_disk_is_507_and_keeps_the_old_file(self, box, tmp_path):
        if os.geteuid() != 0:
            pytest.skip("only root can mount a small disk")
        mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(box.folder)]
        if subprocess.run(mount, capture_output=True, check=False).returncode:
            pytest.skip("this machine does not allow to mount a small disk")
        try:
            box.write("a", b"old")
            responses = [put(box, "a", bytes(200_000)), upload(box, ("a", bytes(200_000)))]
            v0 = upload(
                box, ("a", bytes(200_000)), field="files", url=box.v0_url("upload-files")
            ).json()

            for response in responses:
                assert (response.status_code, response.json()["code"]) == (507, "disk-full")
            assert v0["skipped_files"] == [
                {"name": "a", "reason": workspace_access.SandboxDiskFull.sentence}
            ]
            assert contents(box) == {"a": b"old"}
        finally:
            subprocess.run(["umount", str(box.folder)], check=True)

    def test_engine_that_does_not_answer_is_504_and_not_stopped(self, box, monkeypatch):
        with socket.create_server(("127.0.0.1", 0)) as silent:
            monkeypatch.setattr(
                "conversations.services.engines.find_dial",
                lambda _: build_dial(silent.getsockname()[1]),
            )
            real = engine_workspace.EngineClient._client
            monkeypatch.setattr(
                engine_workspace.EngineClient, "_client", lambda self, read: real(self, 0.5)
            )
            for name in ("files", "git/changes", "git/diff", "files/content", "archive"):
                response = box.get(
                    name, **({"path": "a"} if "/" in name and name != "git/changes" else {})
                )
                assert (response.status_code, response.json()["code"]) == (504, "sandbox-silent")
                assert "does not answer" in response.json()["error"]
            assert put(box, "a").status_code == 504
            v0 = upload(box, ("a", b"x"), field="files", url=box.v0_url("upload-files"))
            assert v0.status_code == 504

    def test_command_that_does_not_end_is_504(self, box, monkeypatch):
        os.mkdir(box.folder / ".git")
        monkeypatch.setattr(engine_workspace, "READ_SECONDS", 1)
        monkeypatch.setattr(engine_workspace, "build_command", lambda *_: "sleep 30")

        response = box.get("files")

        assert (response.status_code, response.json()["code"]) == (504, "sandbox-silent")
        assert "did not finish" in response.json()["error"]

    def test_lost_connection_is_502_and_a_refused_one_is_not_running(self, box, monkeypatch):
        with socket.create_server(("127.0.0.1", 0)) as server:

            def reset():
                while True:
                    try:
                        connection, _ = server.accept()
                    except OSError:
                        return
                    connection.recv(10)
                    connection.close()

            threading.Thread(target=reset, daemon=True).start()
            dial = build_dial(server.getsockname()[1])
            monkeypatch.setattr("conversations.services.engines.find_dial", lambda _: dial)
            response = box.get("files")
            assert (response.status_code, response.json()["code"]) == (502, "sandbox-trouble")
            server.shutdown(socket.SHUT_RDWR)
        response = box.get("files")
        assert (response.status_code, response.json()["code"]) == (409, "sandbox-not-running")

    @pytest.mark.parametrize(
        ("output", "code"),
        [
            ("not json", 502),
            ("[]", 502),
            ('{"entries": 7}', 502),
            ('{"entries": [{"name": 1}], "total": 1, "next": null}', 502),
            ("{" * 100_000, 502),
            ("", 502),
        ],
    )
    def test_strange_result_is_502_without_a_path(self, box, monkeypatch, output, code):
        (box.folder.parent / "out").write_text(output)
        monkeypatch.setattr(
            engine_workspace, "build_command", lambda *_: f"cat {box.folder.parent}/out; exit 0"
        )

        response = box.get("files")

        assert (response.status_code, response.json()["code"]) == (code, "sandbox-trouble")
        assert str(box.folder) not in response.text


@pytest.mark.parametrize("is_growing", [True, False])
def test_file_that_changes_meanwhile_is_downloaded_whole(box, is_growing):
    path = box.write("live.log", bytes(500_000))
    done = threading.Event()

    def change():
        while not done.is_set():
            with open(path, "r+b") as file:
                if is_growing:
                    file.seek(0, os.SEEK_END)
                    file.write(bytes(5_000))
                else:
                    file.truncate(100_000)
                    file.truncate(500_000)
            time.sleep(0.001)

    thread = threading.Thread(target=change)
    thread.start()
    try:
        response = box.get("files/content", path="live.log")
        assert len(b"".join(response)) == int(response.headers["Content-Length"]) >= 100_000
    finally:
        done.set()
        thread.join()
    assert os.listdir(box.folder.parent) == ["project"]


def test_upload_that_fails_leaves_the_old_file(box, monkeypatch):
    box.write("a", b"old")
    monkeypatch.setattr(
        "conversations.engine.client.EngineClient.upload",
        lambda *_: (_ for _ in ()).throw(
            engine_workspace.EngineRefused(500, "[Errno 28] No space")
        ),
    )

    response = put(box, "a", b"new")

    assert (response.status_code, response.json()["code"]) == (507, "disk-full")
    assert contents(box) == {"a": b"old"}


@pytest.mark.slow
def test_reader_sees_no_part_of_a_file_that_is_replaced(box):
    sizes = [300_000, 500_000]
    seen = set()
    done = threading.Event()
    box.write("a", bytes(sizes[0]))

    def read():
        while not done.is_set():
            seen.add((box.folder / "a").stat().st_size)
            time.sleep(0.001)

    thread = threading.Thread(target=read)
    thread.start()
    try:
        for size in sizes * 2:
            assert put(box, "a", bytes(size)).status_code == 200
    finally:
        done.set()
        thread.join()

    assert seen <= set(sizes)


class TestDownloadsThatWait:
    def open(self, box):
        return services.read_file(conversation_id=box.conversation.pk, path="big.bin")

    def test_download_occupies_a_place_of_its_sandbox_until_it_is_closed(self, box):
        box.write("big.bin", b"x" * 3_000_000)
        files = [self.open(box) for _ in range(engine_requests.PER_SANDBOX)]

        with pytest.raises(engine_requests.SandboxBusy):
            self.open(box)
        refused = box.get("files/content", path="big.bin")
        files.pop().close()
        read = sum(map(len, self.open(box)))
        # A file that nobody closes frees its place when Python collects it.
        forgotten = [self.open(box)]
        forgotten[0]._download.close()
        forgotten.clear()
        gc.collect()
        after = self.open(box)

        assert (refused.status_code, refused.json()["code"]) == (503, "sandbox-busy")
        assert read == 3_000_000
        for file in (*files, after):
            file.close()
        assert not engine_requests._waiting

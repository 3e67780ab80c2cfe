"""Archives: complete, or with a list of what is left out; within limits; never an empty file with status 200."""

import io
import os
import socket
import stat
import tarfile
import threading
import zipfile
from datetime import UTC, datetime

import pytest

from conversations import services
from conversations.engine.inside import archives as frames
from tests.conversations.workspace.conftest import run_without_power

pytestmark = [pytest.mark.engine, pytest.mark.django_db, pytest.mark.timeout(300)]
FORMATS = ["zip", "tar.gz"]


def download(box, kind, **query):
    """Return the archive's entries by name (content, target of a link, or None for a folder) and the response."""
    response = box.get("archive", format=kind, **query)
    assert response.status_code == 200, response.content
    data = b"".join(response)
    assert response.headers["Content-Length"] == str(len(data))
    return read(data, kind), response


def read(data, kind):
    if kind == "zip":
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            assert archive.testzip() is None
            return {
                info.filename.rstrip("/"): None if info.is_dir() else archive.read(info)
                for info in archive.infolist()
            }
    with tarfile.open(fileobj=io.BytesIO(data), mode="r:gz") as archive:
        return {
            member.name: archive.extractfile(member).read()
            if member.isfile()
            else os.fsencode(member.linkname)
            if member.issym()
            else None
            for member in archive
        }


def below(entries):
    """Return the entries of the workspace, relative to it."""
    return {
        name.removeprefix("project/"): content
        for name, content in entries.items()
        if name != "LEFT-OUT.txt"
    }


@pytest.mark.parametrize("kind", FORMATS)
def test_archive_is_complete(box, kind):
    names = ["a.txt", "dist/out.js", "build/x", "node_modules/p/i.js", ".venv/cfg", "x.pyc", ".env"]
    names += ["release notes.md", "привет.txt", "new\nline", "-rf", "~", "target/t", ".next/n"]
    for name in names:
        box.write(name, name)
    (box.folder / "empty folder").mkdir()
    (box.folder / "folder link").symlink_to("dist")
    (box.folder / "dist" / "up").symlink_to("../a.txt")
    (box.folder / "a.txt").chmod(0o755)
    os.link(box.folder / "a.txt", box.folder / "hard link")
    box.write("zero")
    (box.folder / "zero").write_bytes(b"")

    entries, response = download(box, kind)

    folders = {name.rpartition("/")[0] for name in names} | {"node_modules", "empty folder"}
    assert below(entries) == {
        **{name: name.encode() for name in names},
        **dict.fromkeys(folders - {""}),
        "folder link": b"dist",
        "dist/up": b"../a.txt",
        "hard link": b"a.txt",
        "zero": b"",
    }
    assert "LEFT-OUT.txt" not in entries
    assert response.headers["X-Archive-Left-Out"] == "0"
    assert not [name for name in os.listdir(box.folder.parent) if "transfer" in name]


@pytest.mark.parametrize("kind", FORMATS)
def test_times_that_a_format_cannot_store_do_not_break_the_archive(box, kind):
    years = {"1901": -2_177_452_800, "1970": 0, "1979": 315_532_799, "2107": 4_354_819_199}
    years |= {"2150": 5_680_281_600, "2400": 13_569_465_600}
    for name, seconds in years.items():
        os.utime(box.write(name), (seconds, seconds))
    earliest = (box.folder / "1901").stat().st_mtime  # the disk may store less

    response = box.get("archive", format=kind)
    data = b"".join(response)

    assert below(read(data, kind)) == dict.fromkeys(years, b"x")
    if kind == "zip":
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            stored = {one.filename[8:]: one.date_time for one in archive.infolist()}
        assert stored["1979"] == (1980, 1, 1, 0, 0, 0)
        assert stored["2150"] == (2107, 12, 31, 23, 59, 58)
    else:
        with tarfile.open(fileobj=io.BytesIO(data)) as archive:
            assert datetime.fromtimestamp(archive.getmember("project/2150").mtime, UTC).year == 2150
            assert archive.getmember("project/1901").mtime == earliest


@pytest.mark.parametrize("kind", FORMATS)
def test_entries_that_are_left_out_are_listed_and_counted(box, kind):
    box.write("kept")
    box.commit()
    box.write("sub/.git/config", "[remote]")
    os.mkfifo(box.folder / "a pipe")
    os.chdir(box.folder)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("a socket")
    targets = {
        "absolute": "/etc/passwd",
        "above": "../x",
        "far": "sub/../../x",
        "hidden": "sub/link/..",
    }
    for name, target in targets.items():
        (box.folder / name).symlink_to(target)

    entries, response = download(box, kind)

    assert below(entries) == {"kept": b"x", "sub": None}
    lines = entries["LEFT-OUT.txt"].decode().splitlines()
    assert lines[0] == "8 entries of the workspace are not in this archive."
    left_out = {line.partition(": ")[0] for line in lines[2:]}
    assert left_out == {".git", "sub/.git", "a pipe", "a socket", *targets}
    assert response.headers["X-Archive-Left-Out"] == "8"


@pytest.mark.parametrize("kind", FORMATS)
def test_unreadable_entries_are_listed(box, kind, monkeypatch):
    run_without_power(monkeypatch)
    box.write("kept")
    box.write("closed").chmod(0)
    (box.folder / "closed folder").mkdir(0)

    entries, _ = download(box, kind)

    assert below(entries) == {"kept": b"x", "closed folder": None}
    text = entries["LEFT-OUT.txt"].decode()
    assert "closed: The file cannot be read: Permission denied." in text
    assert "closed folder: The folder cannot be read: Permission denied." in text


@pytest.mark.parametrize("kind", FORMATS)
def test_names_that_are_not_utf8_are_kept(box, kind):
    box.write(b"caf\xe9.txt", "latin")
    box.write("caf\\xe9.txt", "text")

    response = box.get("archive", format=kind)
    entries = read(b"".join(response), kind)

    if kind == "zip":
        # The name as text is in the archive already, so one of both files is listed as left out.
        assert set(entries) == {"project/caf\\xe9.txt", "LEFT-OUT.txt"}
        assert response.headers["X-Archive-Left-Out"] == "1"
    else:
        assert entries == {"project/caf\udce9.txt": b"latin", "project/caf\\xe9.txt": b"text"}


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("is_sparse", [True, False])
def test_limit_counts_uncompressed_bytes_and_the_error_names_it(box, kind, is_sparse, settings):
    settings.ARCHIVE_MAX_BYTES = 1_000_000
    box.write("small")
    with open(box.write("big/zeros"), "wb") as file:
        file.truncate(1_000_000) if is_sparse else file.write(bytes(1_000_000))

    responses = [box.get("archive", format=kind)]
    if kind == "zip":
        responses.append(box.api.get(box.v0_url("zip-directory")))

    for response in responses:
        assert (response.status_code, response.json()["code"]) == (413, "too-large")
        error = response.json()["error"]
        assert "have 1,000,001 bytes, and an archive may contain 1,000,000 bytes" in error
        assert "The largest entry is big with 1,000,000 bytes." in error
    (box.folder / "small").unlink()
    assert below(download(box, kind)[0])["big/zeros"] == bytes(1_000_000)


def test_dependencies_can_be_left_out(box, settings):
    settings.ARCHIVE_MAX_BYTES = 1_000
    box.write("src/a")
    box.write("src/node_modules/big", bytes(2_000))

    assert box.get("archive").status_code == 413
    entries, response = download(box, "zip", dependencies="false")

    assert below(entries) == {"src": None, "src/a": b"x"}
    assert (
        b"src/node_modules: Dependencies and caches were not requested." in entries["LEFT-OUT.txt"]
    )
    assert response.headers["X-Archive-Left-Out"] == "1"


@pytest.mark.parametrize("kind", FORMATS)
def test_files_that_change_while_they_are_read_do_not_break_the_archive(box, kind):
    done = threading.Event()
    path = box.write("log", bytes(3_000_000))
    box.write("zz last", "end")

    def change():
        while not done.is_set():
            with open(path, "r+b") as file:
                file.truncate(1_000)
                file.truncate(3_000_000)
            box.write(f"new {os.urandom(2).hex()}").unlink(missing_ok=True)

    thread = threading.Thread(target=change)
    thread.start()
    try:
        entries, _ = download(box, kind)
    finally:
        done.set()
        thread.join()

    assert entries["project/zz last"] == b"end"
    assert len(entries["project/log"]) <= 3_000_000


def test_workspace_without_files_has_an_archive(box):
    assert download(box, "zip")[0] == {}
    assert download(box, "tar.gz")[0] == {}


def test_v0_archive_is_complete_too(box):
    box.write("dist/a")
    (box.folder / "link").symlink_to("dist/a")

    response = box.api.get(box.v0_url("zip-directory"))
    data = b"".join(response)

    assert below(read(data, "zip")) == {"dist": None, "dist/a": b"x", "link": b"dist/a"}
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        assert stat.S_ISLNK(archive.getinfo("project/link").external_attr >> 16)
    assert response.headers["Content-Length"] == str(len(data))


class Hostile:
    """A sandbox that sends made-up frames."""

    def __init__(self, *records, end=b""):
        import gzip
        import json

        data = b""
        for header, content in records:
            text = json.dumps(header).encode()
            data += len(text).to_bytes(4, "big") + text
            if content is not None:
                data += len(content).to_bytes(4, "big") + content + bytes(4)
        self.data = gzip.compress(data + end)


@pytest.fixture
def send_frames(box, monkeypatch):
    """Let the sandbox send the frames of ``Hostile``; return the response."""

    def send(hostile, kind="tar.gz"):
        path = box.folder.parent / "frames"
        path.write_bytes(hostile.data)
        result = {"path": str(path), "temporary": "", "left_out": [], "left_out_count": 0}
        monkeypatch.setattr(
            "conversations.engine.workspace.Workspace.run", lambda *_, **__: dict(result)
        )
        return box.get("archive", format=kind)

    return send


def header(name, kind="file", **more):
    return {"name": frames.paths.to_ascii(name), "kind": kind, "mode": 0o7777, "mtime": 0} | more


@pytest.mark.parametrize("kind", FORMATS)
def test_hostile_sandbox_cannot_place_entries_outside(send_frames, kind):
    links = {b"up": b"..", b"up2": b"a/../..", b"abs": b"/tmp", b"ok": b"a", b"self": b"."}
    hostile = Hostile(
        *((header(name), b"x") for name in (b"../x", b"/x", b"a/../../x", b"", b"a//b", b"n\0l")),
        *(
            (header(name, "link", target=frames.paths.to_ascii(to)), None)
            for name, to in links.items()
        ),
        (header(b"ok/through"), b"x"),
        (header(b"OK/through"), b"x"),
        (header(b"good"), b"x"),
        (header(b"good"), b"y"),
    )

    response = send_frames(hostile, kind)
    data = b"".join(response)
    entries = read(data, kind)

    assert below(entries) == {"ok": b"a", "self": b".", "good": b"x"}
    assert response.headers["X-Archive-Left-Out"] == "12"


@pytest.mark.parametrize(
    "hostile",
    [
        Hostile((header(b"a"), b"x"), end=b"\0\0\0\x05ab"),
        Hostile(end=b"\xff\xff\xff\xff"),
        Hostile(({"name": 7}, None)),
        Hostile((header(b"a"), None)),
    ],
)
@pytest.mark.parametrize("kind", FORMATS)
def test_broken_frames_are_an_error_before_the_response(send_frames, hostile, kind):
    response = send_frames(hostile, kind)

    assert (response.status_code, response.json()["code"]) == (502, "sandbox-trouble")


@pytest.mark.parametrize("kind", FORMATS)
def test_hostile_sandbox_cannot_exceed_the_limit(send_frames, settings, kind):
    settings.ARCHIVE_MAX_BYTES = 100_000

    response = send_frames(
        Hostile((header(b"a"), bytes(60_000)), (header(b"b"), bytes(60_000))), kind
    )

    assert (response.status_code, response.json()["code"]) == (413, "too-large")


def test_download_that_is_not_read_leaves_nothing_behind(box):
    box.write("a")

    archive = services.download_archive(conversation_id=box.conversation.pk, format="zip")
    archive.close()
    file = services.read_file(conversation_id=box.conversation.pk, path="a")
    file.close()

    assert os.listdir(box.folder.parent) == ["project"]

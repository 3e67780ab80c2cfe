"""Folders in pages, and files with any name: read, written and listed in all views."""

import os
import time

import pytest
from rest_framework.test import APIClient

from conversations import services

pytestmark = [pytest.mark.engine, pytest.mark.django_db, pytest.mark.timeout(300)]
NAMES = [
    *("~tilde.txt", "~", "~root", "$HOME", "${HOME}", "`id`", "$(id)", "*", "?", "[a-z]", "a;b"),
    *("quote'.txt", 'quote".txt', "back\\slash", "new\nline", "tab\t", "-rf", "--", "#x", "a&b"),
    *("percent%20.txt", "plus+.txt", " blanks ", "привет.txt", "e\u0301", "\N{GRINNING FACE}", "!"),
    *("..dots", "...", "a:b", "a=b", "CON", "\x01\x7f"),
]


@pytest.mark.parametrize(
    "names", [NAMES[:4], pytest.param(NAMES, marks=pytest.mark.slow)], ids=["some", "all"]
)
def test_file_with_any_name_is_written_listed_and_read(box, names):
    for name in names:
        response = box.api.put(
            box.url("files/content", path=f"in {name}/{name}"),
            name.encode(),
            content_type="application/octet-stream",
        )
        assert response.status_code == 200, (name, response.content)
        assert (box.folder / f"in {name}" / name).read_bytes() == name.encode()

    listed = {entry["path"] for entry in box.get("files").json()["entries"]}
    assert listed == {f"in {name}" for name in names}
    for name in names:
        [entry] = box.get("files", path=f"in {name}").json()["entries"]
        assert (entry["name"], entry["path"]) == (name, f"in {name}/{name}")
        response = box.get("files/content", path=entry["path"])
        assert b"".join(response) == name.encode()
        assert response.headers["Content-Length"] == str(len(name.encode()))


def test_tilde_name_is_read_in_every_view(box, alice):
    box.write("~tilde.txt", "text")
    key = services.conversation_key(conversation=box.conversation, user=alice)
    engine = APIClient(headers={"X-Session-API-Key": key})

    assert b"".join(box.get("files/content", path="~tilde.txt")) == b"text"
    assert box.api.get(box.v0_url("select-file", file="~tilde.txt")).json() == {"code": "text"}
    assert box.api.get(box.v0_url("list-files")).json() == ["~tilde.txt"]
    download = engine.get("/api/file/download?path=/workspace/project/~tilde.txt")
    assert b"".join(download) == b"text"


def test_folder_is_sorted_before_it_is_cut_into_pages(box):
    for number in range(2_602):
        (box.folder / f"File {number:04}").touch()
    (box.folder / "file 0000").touch()
    (box.folder / "zzz").mkdir()
    names = ["zzz", "File 0000", "file 0000", *(f"File {number:04}" for number in range(1, 2_602))]

    first = box.get("files").json()
    second = box.get("files", cursor=first["next"]).json()

    assert (first["total"], second["total"]) == (2_604, 2_604)
    assert [entry["name"] for entry in first["entries"]] == names[:2_000]
    assert [entry["name"] for entry in second["entries"]] == names[2_000:]
    assert second["next"] is None
    assert box.api.get(box.v0_url("list-files")).json() == ["zzz/", *names[1:]]

    # A deleted entry does not move the next page.
    (box.folder / "File 0001").unlink()
    third = box.get("files", limit="3", cursor=first["next"]).json()
    assert [entry["name"] for entry in third["entries"]] == names[2_000:2_003]


@pytest.mark.parametrize("cursor", ["x", "AAAA", "W10", "bnVsbA"])
def test_malformed_cursor_is_refused(box, cursor):
    response = box.get("files", cursor=cursor)

    assert (response.status_code, response.json()["code"]) == (400, "malformed-cursor")


def test_listed_name_that_is_not_utf8_opens_the_file(box):
    box.write(b"caf\xe9/cr\xe8me.txt", "old")

    [folder] = box.get("files").json()["entries"]
    [entry] = box.get("files", path=folder["path"]).json()["entries"]

    assert b"".join(box.get("files/content", path=entry["path"])) == b"old"
    response = box.api.put(
        box.url("files/content", path=entry["path"]), b"new", content_type="text/plain"
    )
    assert (response.status_code, response.json()["size"]) == (200, 3)
    raw = os.path.join(os.fsencode(box.folder), b"caf\xe9", b"cr\xe8me.txt")
    with open(raw, "rb") as file:
        assert file.read() == b"new"
    assert os.listdir(os.path.dirname(raw)) == [b"cr\xe8me.txt"]


@pytest.mark.parametrize("seconds", [0, -1, 5_680_281_600, 99_999_999_999])
def test_any_time_of_modification_is_listed(box, seconds):
    path = box.write("a")
    os.utime(path, (seconds, seconds))
    stored = path.stat().st_mtime  # the disk may store less

    [entry] = box.get("files").json()["entries"]

    year = time.gmtime(min(stored, 253_402_128_000)).tm_year
    assert entry["modified_at"].startswith(str(year))


def test_links_are_listed_and_stay_inside(box):
    box.write("folder/a", "text")
    (box.folder / "inside").symlink_to("folder/a")
    (box.folder / "outside").symlink_to("/etc/passwd")
    (box.folder / "loop").symlink_to("loop")
    (box.folder / "dangling").symlink_to("nowhere")

    types = {entry["name"]: entry["type"] for entry in box.get("files").json()["entries"]}

    assert types == {"folder": "directory"} | dict.fromkeys(
        ("dangling", "inside", "loop", "outside"), "link"
    )
    assert b"".join(box.get("files/content", path="inside")) == b"text"
    answers = {
        "outside": (400, "path-outside"),
        "loop": (409, "not-a-file"),
        "dangling": (404, "no-such-file"),
    }
    for name, answer in answers.items():
        response = box.get("files/content", path=name)
        assert (response.status_code, response.json()["code"]) == answer, name

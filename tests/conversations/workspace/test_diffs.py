"""Diffs of files in all encodings and sizes, and of paths that are no changed files."""

import os
import socket

import pytest
from rest_framework.test import APIClient

from conversations import services
from conversations.services import changes

pytestmark = [pytest.mark.engine, pytest.mark.django_db, pytest.mark.timeout(300)]


@pytest.mark.parametrize(
    ("encoding", "name"),
    [
        ("utf-8", "utf-8"),
        pytest.param("utf-8-sig", "utf-8-sig", marks=pytest.mark.slow),
        ("latin-1", "iso-8859-1"),
        ("cp1252", "windows-1252"),
        ("utf-16", "utf-16"),
        pytest.param("utf-16-le", "utf-16-le", marks=pytest.mark.slow),
        pytest.param("utf-16-be", "utf-16-be", marks=pytest.mark.slow),
        pytest.param("utf-32", "utf-32", marks=pytest.mark.slow),
    ],
)
def test_diff_states_the_encoding_and_shows_the_text(box, encoding, name):
    dash = "" if encoding == "latin-1" else "\N{EN DASH}"  # ISO 8859-1 has no such character
    if encoding in ("utf-16-le", "utf-16-be"):
        dash = ""  # without a mark, only Western text is recognized
    before, after = f"caf\u00e9 {dash}\nsame\n", f"caf\u00e9 {dash} cr\u00e8me\nsame\n"
    box.write("menu.txt", before.encode(encoding))
    box.commit()
    box.write("menu.txt", after.encode(encoding))

    diff = box.diff("menu.txt")

    assert (diff["encoding"], diff["original_encoding"]) == (name, name)
    assert (diff["original"], diff["modified"]) == (before, after)
    assert f"-caf\u00e9 {dash}\n+caf\u00e9 {dash} cr\u00e8me\n same\n" in diff["diff"]
    v0 = box.api.get(box.v0_url("git/diff", path="menu.txt")).json()
    assert v0 == {"modified": after, "original": before, "encoding": name}


def test_file_that_got_another_encoding_has_both(box):
    box.write("a", "caf\u00e9\n".encode("latin-1"))
    box.commit()
    box.write("a", "caf\u00e9\n")

    diff = box.diff("a")

    assert (diff["original_encoding"], diff["encoding"]) == ("iso-8859-1", "utf-8")
    assert diff["original"] == diff["modified"] == "caf\u00e9\n"
    assert (diff["original_size"], diff["modified_size"]) == (5, 6)


@pytest.mark.parametrize(
    "data", [b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", b"\0\1\2", b"\x01\x02\xff\xfe\x80", b"a\0b\0c"]
)
def test_binary_file_is_not_shown_as_emptied(box, alice, data):
    box.write("a.png", data)
    box.commit()
    box.write("a.png", data + b"more")

    diff = box.diff("a.png")

    assert diff == {
        "path": "a.png",
        "original": None,
        "modified": None,
        "encoding": "binary",
        "original_encoding": "binary",
        "original_size": len(data),
        "modified_size": len(data) + 4,
        "diff": "Binary files a/a.png and b/a.png differ\n",
    }
    key = services.conversation_key(conversation=box.conversation, user=alice)
    texts = {
        "original": f"Binary file, {len(data)} bytes\n",
        "modified": f"Binary file, {len(data) + 4} bytes\n",
        "encoding": "binary",
    }
    assert box.api.get(box.v0_url("git/diff", path="a.png")).json() == texts
    engine = APIClient(headers={"X-Session-API-Key": key})
    assert engine.get("/api/git/diff?path=a.png").json() == texts


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("a\r\nb\r\n", "a\nb\n"),
        ("a\rb\r", "a\nb\n"),
        ("a\nb", "a\nb\n"),
        ("a\x0cb\n", "a\nb\n"),
        ("a\u2028b\n", "a\u2029b\n"),
        ("a\x0bb\x1cc\n", "a b c\n"),
        ("", "\n"),
        ("\n\n", ""),
    ],
)
def test_line_ends_and_separators_are_kept(box, before, after):
    box.write("a", before)
    box.commit()
    box.write("a", after)

    diff = box.diff("a")

    assert (diff["original"], diff["modified"]) == (before, after)
    assert diff["diff"].startswith("--- a/a\n+++ b/a\n@@ ")


def test_line_ends_that_git_converts_are_no_change(box):
    box.write(".gitattributes", "*.txt text eol=crlf\n*.utf16 working-tree-encoding=UTF-16\n")
    box.write("a.txt", "one\r\ntwo\r\n")
    box.write("b.utf16", "one\n".encode("utf-16"))
    box.commit()
    box.write("a.txt", "one\r\nTWO\r\n")
    box.write("b.utf16", "two\n".encode("utf-16"))

    assert box.diff("a.txt")["diff"].endswith("@@ -1,2 +1,2 @@\n one\r\n-two\r\n+TWO\r\n")
    diff = box.diff("b.utf16")
    assert (diff["original"], diff["modified"]) == ("one\n", "two\n")


@pytest.mark.parametrize(
    "size", [1_300_000, pytest.param(changes.DIFF_MAX_BYTES, marks=pytest.mark.slow)]
)
def test_large_text_has_a_diff(box, size):
    text = "0123456789abcdef\n" * (size // 17)
    box.write("large.txt", text)
    box.commit()
    box.write("large.txt", text[:-17] + "changed\n")

    diff = box.diff("large.txt")

    assert diff["modified"] == text[:-17] + "changed\n"
    assert diff["diff"].endswith("-0123456789abcdef\n+changed\n")
    v0 = box.api.get(box.v0_url("git/diff", path="large.txt")).json()
    assert v0["original"] == text


@pytest.mark.parametrize("version", ["original", "modified"])
def test_text_above_the_limit_is_413_with_the_limit(box, version):
    large = b"x" * (changes.DIFF_MAX_BYTES + 1)
    box.write("large.txt", large if version == "original" else b"small")
    box.commit()
    box.write("large.txt", b"small" if version == "original" else large)

    for response in (
        box.get("git/diff", path="large.txt"),
        box.api.get(box.v0_url("git/diff", path="large.txt")),
    ):
        assert (response.status_code, response.json()["code"]) == (413, "too-large")
        assert "5,242,881 bytes" in response.json()["error"]
        assert "5,242,880 bytes" in response.json()["error"]


def test_paths_that_have_no_diff_are_refused_by_cause_and_without_a_path(box):
    box.write("folder/a")
    box.commit()
    os.mkfifo(box.folder / "a pipe")
    listener = socket.socket(socket.AF_UNIX)
    os.chdir(box.folder)
    listener.bind("a socket")
    listener.close()
    (box.folder / "out").symlink_to("/etc")
    expected = {
        "missing": (404, "no-such-file"),
        "folder/missing": (404, "no-such-file"),
        "no/such/folder": (404, "no-such-file"),
        "folder": (409, "not-a-file"),
        "a pipe": (409, "not-a-file"),
        "a socket": (409, "not-a-file"),
        "out/passwd": (400, "path-outside"),
        "../x": (400, "path-outside"),
        "x" * 300: (400, "name-too-long"),
    }

    for path, answer in expected.items():
        for response in (
            box.get("git/diff", path=path),
            box.api.get(box.v0_url("git/diff", path=path)),
        ):
            assert (response.status_code, response.json()["code"]) == answer, path
            assert str(box.folder) not in response.text


def test_unchanged_file_has_no_difference(box):
    box.write("a", "text\n")
    box.commit()

    diff = box.diff("a")

    assert (diff["original"], diff["modified"], diff["diff"]) == ("text\n", "text\n", "")

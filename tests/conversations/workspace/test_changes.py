"""The list of changed files, in all views: names, kinds of changes and repositories in repositories."""

import os
import shutil
import subprocess

import pytest
from rest_framework.test import APIClient

from conversations import services

pytestmark = [pytest.mark.engine, pytest.mark.django_db, pytest.mark.timeout(300)]
NAMES = [
    "release notes.md",
    "привет.txt",
    "tab\there.txt",
    "line\nbreak.txt",
    'quote".txt',
    "apostrophe's.txt",
    "back\\slash.txt",
    "-leading.txt",
    "--help",
    ":(glob)*.txt",
    ":!excluded.txt",
    "*.txt",
    "~tilde.txt",
    "$HOME",
    "`id`.txt",
    " blank at both ends ",
    "folder with blank/ä ö/日本語.txt",
    "R100 old new",
    "rtl \u202e.txt",
    "trailing blank ",
    "trailing dot.",
    "x" * 255,
    "c#?%41&:",
    "e\u0301.txt",
]


def test_changed_file_with_any_name_is_listed_and_its_diff_opens(box):
    for name in NAMES:
        box.write(name, "old\n")
    box.commit()
    for name in NAMES:
        box.write(name, "new\n")

    assert box.changes() == dict.fromkeys(NAMES, "UPDATED")
    for name in NAMES:
        diff = box.diff(name)
        assert (diff["original"], diff["modified"]) == ("old\n", "new\n"), name
        assert diff["diff"].endswith("@@ -1 +1 @@\n-old\n+new\n"), diff


def test_every_view_lists_the_same_changes(box, alice):
    box.write("release notes.md", "old\n")
    box.write("gone away.txt")
    box.commit()
    box.write("release notes.md", "new\n")
    box.write("привет.txt")
    (box.folder / "gone away.txt").unlink()
    expected = {"gone away.txt": "D", "release notes.md": "M", "привет.txt": "A"}
    words = {"D": "DELETED", "M": "UPDATED", "A": "ADDED"}
    key = services.conversation_key(conversation=box.conversation, user=alice)
    engine_client = APIClient(headers={"X-Session-API-Key": key})

    v0 = box.api.get(box.v0_url("git/changes"))
    engine = engine_client.get("/api/git/changes?path=/workspace/project")

    assert box.changes() == {path: words[letter] for path, letter in expected.items()}
    assert {item["path"]: item["status"] for item in v0.json()} == expected
    assert {item["path"]: item["status"] for item in engine.json()} == box.changes()
    texts = {"modified": "new\n", "original": "old\n", "encoding": "utf-8"}
    assert box.api.get(box.v0_url("git/diff", path="release notes.md")).json() == texts
    for url in (
        "/api/git/diff?path=/workspace/project/release%20notes.md",
        "/api/git/diff//workspace/project/release%20notes.md",
    ):
        assert engine_client.get(url).json() == texts


def test_name_that_is_not_utf8_is_listed_and_the_listed_path_opens_the_diff(box):
    box.write(b"caf\xe9.txt", "old\n")
    box.commit()
    box.write(b"caf\xe9.txt", "new\n")

    [path] = box.changes()

    assert path == "caf\ufffd.txt"
    assert box.diff(path)["modified"] == "new\n"
    # A second file with the same text would make the path ambiguous.
    box.write(b"caf\xe8.txt")
    response = box.get("git/diff", path=path)
    assert (response.status_code, response.json()["code"]) == (409, "name-ambiguous")


def test_kinds_of_changes_have_the_words_of_the_engine(box):
    for name in ("kept", "changed", "deleted", "old name", "copied", "becomes link", "mode"):
        box.write(name, f"{name}\n" * 20)
    (box.folder / "a link").symlink_to("kept")
    box.commit()
    box.write("changed", "new")
    (box.folder / "deleted").unlink()
    box.git("mv", "old name", "new name")
    box.write("copy", "copied\n" * 20)
    box.git("add", "copy")
    box.git("config", "diff.renames", "copies")
    (box.folder / "becomes link").unlink()
    (box.folder / "becomes link").symlink_to("kept")
    (box.folder / "a link").unlink()
    (box.folder / "a link").symlink_to("changed")
    (box.folder / "mode").chmod(0o755)
    box.write("untracked")

    assert box.changes() == {
        "changed": "UPDATED",
        "deleted": "DELETED",
        "old name": "DELETED",
        "new name": "ADDED",
        "copy": "ADDED",
        "becomes link": "UPDATED",
        "a link": "UPDATED",
        "mode": "UPDATED",
        "untracked": "ADDED",
    }
    assert box.diff("deleted")["modified"] is None
    assert box.diff("new name")["original"] is None
    link = box.diff("a link")
    assert (link["original"], link["modified"]) == ("kept", "changed")
    assert box.diff("becomes link")["modified"] == "kept"


def test_conflicts_are_listed_once(box):
    box.write("a b", "base\n")
    box.commit()
    box.git("checkout", "--quiet", "-b", "other")
    box.write("a b", "theirs\n")
    box.commit()
    box.git("checkout", "--quiet", "main")
    box.write("a b", "ours\n")
    box.commit()
    subprocess.run(["git", "merge", "other"], cwd=box.folder, capture_output=True, check=False)

    items = box.get("git/changes").json()

    assert items == {"items": [{"status": "UPDATED", "path": "a b"}], "total": 1}
    assert "<<<<<<<" in box.diff("a b")["modified"]


@pytest.mark.parametrize("target", ["other", "/etc", "nowhere", "folder"])
def test_file_in_a_folder_that_became_a_link_is_deleted(box, target):
    box.write("folder/inner/a file", "old\n")
    box.write("other/inner/a file", "another\n")
    box.commit()
    shutil.rmtree(box.folder / "folder")
    (box.folder / "folder").symlink_to(target)

    assert box.changes() == {"folder": "ADDED", "folder/inner/a file": "DELETED"}
    diff = box.diff("folder/inner/a file")
    assert (diff["original"], diff["modified"]) == ("old\n", None)


def test_file_that_was_removed_from_the_index_only_is_not_new(box):
    box.write("a", "text")
    box.commit()
    box.git("rm", "--quiet", "--cached", "a")

    assert box.changes() == {"a": "UPDATED"}


def test_changed_mode_has_a_diff(box):
    box.write("run", "text\n")
    box.write("both", "old\n")
    box.commit()
    box.write("both", "new\n")
    for name in ("run", "both"):
        (box.folder / name).chmod(0o755)

    modes = "old mode 100644\nnew mode 100755\n"
    assert box.diff("run")["diff"] == modes
    assert box.diff("both")["diff"] == f"{modes}--- a/both\n+++ b/both\n@@ -1 +1 @@\n-old\n+new\n"


def test_settings_of_the_repository_do_not_break_the_list(box):
    box.write("a", "old\n")
    box.write("b.bin", "old\n")
    box.write(".gitattributes", "*.bin filter=broken\n")
    box.commit()
    box.write("a", "new\n")
    box.write("b.bin", "new\n")
    for name in ("clean", "smudge"):
        box.git("config", f"filter.broken.{name}", "no-such-program")
    for name, value in {
        "filter.broken.required": "true",
        "diff.orderFile": "/no/such/file",
        "diff.noprefix": "true",
        "color.ui": "always",
    }.items():
        box.git("config", name, value)

    assert box.changes() == {"a": "UPDATED", "b.bin": "UPDATED"}
    for name in ("a", "b.bin"):
        assert box.diff(name)["diff"] == f"--- a/{name}\n+++ b/{name}\n@@ -1 +1 @@\n-old\n+new\n"


def test_repository_without_a_commit_lists_all_files_as_added(box):
    box.git("init", "--quiet")
    box.write("staged file")
    box.git("add", "staged file")
    box.write("untracked file", "é")

    assert box.changes() == {"staged file": "ADDED", "untracked file": "ADDED"}
    assert box.diff("untracked file")["modified"] == "é"
    assert box.diff("staged file")["original"] is None


def test_workspace_without_a_repository_has_no_changes(box):
    box.write("a file")

    assert box.get("git/changes").json() == {"items": [], "total": 0}
    diff = box.diff("a file")
    assert (diff["original"], diff["modified"], diff["diff"]) == (None, None, "")


def test_nested_repositories_are_listed_with_their_folders(box):
    box.write("root file", "old")
    box.commit()
    box.write("root file", "new")
    for folder in ("with blank", "deep/er"):
        box.write(f"{folder}/kept")
        box.write(f"{folder}/changed", "old")
        box.commit(cwd=folder)
        box.write(f"{folder}/changed", "new")

    assert box.changes() == {
        "root file": "UPDATED",
        "with blank/changed": "UPDATED",
        "deep/er/changed": "UPDATED",
    }
    assert box.diff("with blank/changed")["original"] == "old"


def test_repositories_below_a_plain_folder_are_found(box):
    box.write("group/site/a file", "old")
    box.commit(cwd="group/site")
    box.write("group/site/a file", "new")

    assert box.changes() == {"group/site/a file": "UPDATED"}
    assert box.diff("group/site/a file")["original"] == "old"


def test_submodule_shows_its_own_changes_and_its_moved_commit(box, tmp_path):
    source = tmp_path / "source"
    source.mkdir()
    (source / "inner file").write_text("old")
    for command in (["init", "--quiet"], ["add", "."], ["commit", "--quiet", "-m", "First"]):
        subprocess.run(
            ["git", "-c", "user.name=T", "-c", "user.email=t@e.x", *command], cwd=source, check=True
        )
    box.commit()
    box.git(
        "-c", "protocol.file.allow=always", "submodule", "--quiet", "add", str(source), "the sub"
    )
    box.commit()
    first = box.git("rev-parse", "HEAD", cwd="the sub").strip()
    box.write("the sub/inner file", "new")
    assert box.changes() == {"the sub/inner file": "UPDATED"}
    box.commit(cwd="the sub")
    second = box.git("rev-parse", "HEAD", cwd="the sub").strip()

    assert box.changes()["the sub"] == "UPDATED"
    diff = box.diff("the sub")
    assert diff["original"] == f"Subproject commit {first}\n"
    assert diff["modified"] == f"Subproject commit {second}\n"


def test_work_that_was_committed_is_compared_with_the_branch_on_origin(box, tmp_path):
    box.write("a file", "old")
    box.commit()
    subprocess.run(
        ["git", "clone", "--quiet", "--bare", str(box.folder), str(tmp_path / "origin")], check=True
    )
    box.git("remote", "add", "origin", str(tmp_path / "origin"))
    box.git("fetch", "--quiet")
    box.git("checkout", "--quiet", "-b", "work")
    box.write("a file", "new")
    box.commit()

    assert box.changes() == {"a file": "UPDATED"}
    assert box.diff("a file")["original"] == "old"


def test_broken_repository_is_explained_without_a_path(box):
    box.write("a file")
    box.commit()
    (box.folder / ".git" / "index").write_bytes(b"broken")

    response = box.get("git/changes")

    assert (response.status_code, response.json()["code"]) == (409, "git-failed")
    assert str(box.folder) not in response.text


@pytest.mark.parametrize("damage", ["HEAD", "a file to nowhere", "a link to nowhere", "bare"])
def test_broken_repository_is_not_shown_as_unchanged(box, damage):
    box.write("a file")
    box.commit()
    if damage == "HEAD":
        box.write(".git/HEAD", "garbage\n")
    elif damage == "bare":
        box.git("config", "core.bare", "true")
    else:
        shutil.rmtree(box.folder / ".git")
        if damage == "a file to nowhere":
            box.write(".git", "gitdir: /no/such/folder\n")
        else:
            (box.folder / ".git").symlink_to("/no/such/folder")

    for response in (box.get("git/changes"), box.get("git/diff", path="a file")):
        assert (response.status_code, response.json()["code"]) == (409, "git-failed")
        assert "Git cannot read the repository in the workspace" in response.json()["error"]


def test_empty_folder_with_the_name_of_gits_data_is_no_repository(box):
    (box.folder / ".git").mkdir()
    box.write("a file")

    assert box.changes() == {}


def test_changes_do_not_run_programs_of_the_repository_and_do_not_lock_it(box):
    box.write("a file", "old")
    box.commit()
    box.write("a file", "new")
    box.write("run.sh", f"#!/bin/sh\ntouch {box.folder}/ran\n")
    os.chmod(box.folder / "run.sh", 0o755)
    for name in ("core.fsmonitor", "diff.external", "diff.x.textconv"):
        box.git("config", name, str(box.folder / "run.sh"))
    box.write(".gitattributes", "* diff=x\n")
    before = (box.folder / ".git" / "index").stat().st_mtime_ns

    box.changes()
    box.diff("a file")

    assert not (box.folder / "ran").exists()
    assert (box.folder / ".git" / "index").stat().st_mtime_ns == before

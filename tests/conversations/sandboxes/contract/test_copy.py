"""Copies of one sandbox's project into another sandbox."""

import contextlib
import ctypes
import socket
import stat
import threading
import time
from pathlib import Path

import pytest

from conversations.sandboxes.provider import SandboxUnavailable
from tests.conversations.sandboxes.box import Box

SECRET = "a secret of the machine"


@pytest.fixture
def outside(tmp_path):
    """A folder outside of all sandboxes with a file that no copy may contain."""
    folder = tmp_path / "outside"
    folder.mkdir()
    (folder / "file").write_text(SECRET)
    return folder


def exchange(one: Path, other: Path) -> None:
    """Exchange two names in one step, so that both always exist (renameat2, RENAME_EXCHANGE)."""
    if ctypes.CDLL(None).renameat2(-100, bytes(one), -100, bytes(other), 2):
        # The other program may be replacing a name right now.
        time.sleep(0.001)


def list_secrets(box: Box) -> list[str]:
    """Return the files in a project that contain the secret, without following links."""
    return [
        str(path)
        for path in box.project.rglob("*")
        if path.is_file() and not path.is_symlink() and SECRET in path.read_text(errors="replace")
    ]


def test_copy_keeps_links_and_modes_and_skips_sockets_and_pipes(make_box, outside):
    source, target = make_box(), make_box()
    source.start()
    target.start()
    source.run(
        f"mkdir folder empty && echo text > folder/file && echo run > program && chmod 755 program"
        f" && ln -s {outside} link && ln -s {outside}/file link-to-file && ln -s folder/file inner"
        f" && mkfifo pipe && printf x > \"$(printf 'a\\nb')\" && echo hidden > .hidden"
    )
    with socket.socket(socket.AF_UNIX) as server, contextlib.chdir(source.project):
        server.bind("socket")

    assert source.provider.copy_workspace(source.handle, target.handle) is True

    names = sorted(path.name for path in target.project.iterdir())
    expected = [".hidden", "a\nb", "empty", "folder", "inner", "link", "link-to-file", "program"]
    assert names == expected
    assert (target.project / "link").readlink() == outside
    assert (target.project / "inner").read_text() == "text\n"
    assert stat.S_IMODE((target.project / "program").stat().st_mode) == 0o755
    assert list_secrets(target) == []
    assert target.run("cat folder/file && ./program; echo more >> folder/file").startswith("text\n")
    assert source.run("cat folder/file") == "text\n"


@pytest.mark.parametrize("provider_name", ["bubblewrap"], indirect=True)
@pytest.mark.parametrize("where", ["source", "target"])
def test_link_swapped_in_during_a_copy_leads_nowhere(make_box, outside, where):
    source, target = make_box(), make_box()
    source.start()
    target.start()
    source.run("mkdir swapped && for n in $(seq 300); do echo $n > swapped/file$n; done")
    target.run("mkdir swapped")
    project = (source if where == "source" else target).project
    (project / "link").symlink_to(outside)
    is_over = threading.Event()
    swaps = 0

    def swap() -> None:
        nonlocal swaps
        while not is_over.is_set():
            exchange(project / "link", project / "swapped")
            swaps += 1

    swapper = threading.Thread(target=swap)
    swapper.start()
    try:
        for _ in range(8):
            # A file that vanished may be an error. Only the result matters here.
            with contextlib.suppress(SandboxUnavailable):
                source.provider.copy_workspace(source.handle, target.handle)
    finally:
        is_over.set()
        swapper.join()

    assert swaps > 100
    assert [path.name for path in outside.iterdir()] == ["file"]
    assert (outside / "file").read_text() == SECRET
    assert list_secrets(target) == []


@pytest.mark.parametrize("provider_name", ["bubblewrap"], indirect=True)
def test_copy_onto_a_folder_in_place_of_a_file_is_refused_with_the_name(make_box):
    source, target = make_box(), make_box()
    source.start()
    target.start()
    source.run("echo text > name")
    target.run("mkdir -p name/full")

    with pytest.raises(SandboxUnavailable, match=r"could not be copied: tar: \./name: .*[^.]\.$"):
        source.provider.copy_workspace(source.handle, target.handle)


def test_copy_of_a_sandbox_without_files_returns_false(make_box):
    source, target = make_box(), make_box()
    target.start()

    assert target.provider.copy_workspace({}, target.handle) is False
    source.start()
    source.provider.destroy(source.handle)
    assert target.provider.copy_workspace(source.handle, target.handle) is False

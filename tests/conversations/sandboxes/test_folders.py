"""The removal of a sandbox's folder."""

import os
from pathlib import Path

from conversations.sandboxes.folders import remove


def test_folders_that_are_nested_very_deep_are_removed(tmp_path):
    previous = os.open(".", os.O_RDONLY)
    top = tmp_path / "sandbox"
    top.mkdir()
    os.chdir(top)
    try:
        for _ in range(3_000):
            Path("d").mkdir()
            os.chdir("d")
        Path("file").write_text("text")
        Path("link").symlink_to("/usr")
        Path().chmod(0)
    finally:
        os.fchdir(previous)
        os.close(previous)

    remove(top)

    assert not top.exists()

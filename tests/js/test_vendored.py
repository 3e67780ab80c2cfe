"""The packages in ``static/js/vendor`` are unchanged, and their versions and licenses are named."""

import hashlib
import re

import pytest

from tests.prepare import ROOT

FOLDERS = sorted(path for path in (ROOT / "static" / "js" / "vendor").iterdir() if path.is_dir())


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda path: path.name)
def test_vendored_file_has_the_noted_checksum_version_and_license(folder):
    note = (folder / "README.md").read_text()
    (script,) = folder.glob("*.js")
    content = script.read_bytes()

    version = re.search(r"^# (\S+) (\S+)$", note, re.MULTILINE)
    assert version is not None
    assert version[1] == folder.name
    assert f"{folder.name} {version[2]} " in content[:200].decode()
    assert hashlib.sha256(content).hexdigest() in note
    assert version[2] in (folder / "LICENSE").read_text()

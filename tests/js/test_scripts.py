"""The scripts of the pages: their tests, run by Node.js, their syntax, and the absence of unsafe DOM calls."""

import re
import shutil
import subprocess

import pytest

from tests.prepare import ROOT

NODE = shutil.which("node")
SCRIPTS = sorted((ROOT / "static" / "js").rglob("*.js"))
needs_node = pytest.mark.skipif(NODE is None, reason="Node.js is not installed")


@needs_node
@pytest.mark.parametrize(
    "path", sorted((ROOT / "tests" / "js").glob("*.test.js")), ids=lambda path: path.name
)
def test_node_test_file_passes(path):
    result = subprocess.run(
        [NODE, "--test", path], cwd=ROOT, capture_output=True, text=True, check=False, timeout=120
    )

    assert result.returncode == 0, result.stdout + result.stderr
    assert int(re.search(r"^# pass (\d+)$", result.stdout, re.MULTILINE)[1]) >= 1, result.stdout


@needs_node
@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_script_parses(path):
    result = subprocess.run(
        [NODE, "--check", path], capture_output=True, text=True, check=False, timeout=60
    )

    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_script_never_parses_text_as_markup_or_code(path):
    # Texts of agents and users are set as text nodes only.
    forbidden = re.compile(
        r"\.(?:innerHTML|outerHTML)\s*=|insertAdjacentHTML|document\.write|\beval\(|new Function"
    )

    assert not forbidden.search(path.read_text())

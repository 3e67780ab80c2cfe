"""The browser's scripts: what they compute, by node's own test runner; and that all of them parse."""

import re
import shutil
import subprocess

import pytest

from tests.prepare import ROOT

NODE = shutil.which("node")
SCRIPTS = sorted((ROOT / "static" / "js").rglob("*.js"))
needs_node = pytest.mark.skipif(
    NODE is None, reason="there is no node here to run the scripts' tests"
)


@needs_node
@pytest.mark.parametrize(
    "path", sorted((ROOT / "tests" / "js").glob("*.test.js")), ids=lambda path: path.name
)
def test_scripts_compute_what_they_should(path):
    done = subprocess.run(
        [NODE, "--test", path], cwd=ROOT, capture_output=True, text=True, check=False, timeout=120
    )

    assert done.returncode == 0, done.stdout + done.stderr
    assert int(re.search(r"^# pass (\d+)$", done.stdout, re.MULTILINE)[1]) >= 1, done.stdout


@needs_node
@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_scripts_parse(path):
    done = subprocess.run(
        [NODE, "--check", path], capture_output=True, text=True, check=False, timeout=60
    )

    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_scripts_never_make_markup_of_text(path):
    """Text of agents and people is set as text; one word of these would make it markup or code."""
    forbidden = re.compile(
        r"\.(?:innerHTML|outerHTML)\s*=|insertAdjacentHTML|document\.write|\beval\(|new Function"
    )

    assert not forbidden.search(path.read_text())

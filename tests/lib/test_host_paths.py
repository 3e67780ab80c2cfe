"""Removal of the server's folders from texts."""

import json

import pytest

from lib.host_paths import hide_host_folder, hide_host_paths
from lib.problems import Problem

SANDBOX = "0192f0c1d2e37abc8def0123456789ab"


@pytest.mark.parametrize("folder", ["/srv/data/sandboxes", "/srv/über/my boxes", '/srv/a"b'])
def test_folder_of_a_sandbox_becomes_its_path_inside(settings, folder):
    settings.SANDBOX_DIR = folder
    host = f"{folder}/{SANDBOX}"

    assert hide_host_paths(f"in {host}/project/a.py, {host}") == (
        "in /workspace/project/a.py, /workspace"
    )
    for ascii_only in (True, False):
        text = json.dumps({"path": f"{host}/project", host: [host]}, ensure_ascii=ascii_only)
        for form in (text, text.replace("/", "\\/")):
            assert json.loads(hide_host_paths(form)) == {
                "path": "/workspace/project",
                "/workspace": ["/workspace"],
            }
    # A JSON text inside a JSON text, such as the arguments of a tool call.
    nested = json.dumps({"arguments": json.dumps({"path": f"{host}/x"})})
    if '"' not in folder and folder.isascii():
        assert json.loads(json.loads(hide_host_paths(nested))["arguments"]) == {
            "path": "/workspace/x"
        }


def test_resolved_folder_is_hidden_too(settings, tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    settings.SANDBOX_DIR = tmp_path / "link"

    for name in ("real", "link"):
        assert hide_host_paths(f"{tmp_path}/{name}/{SANDBOX}/project") == "/workspace/project"


@pytest.mark.parametrize(
    "text",
    ["/data/x.csv", "/srv/sandboxes/readme", f"/srv/sandboxes/{SANDBOX}ff", f"/other/{SANDBOX}"],
)
def test_other_paths_stay(settings, text):
    settings.SANDBOX_DIR = "/srv/sandboxes"

    assert hide_host_paths(text) == text


def test_sentences_of_problems_name_the_setting(settings):
    settings.SANDBOX_DIR = "/srv/sandboxes"

    assert hide_host_folder("The disk of /srv/sandboxes is full.") == (
        "The disk of SANDBOX_DIR is full."
    )
    assert Problem(f"fatal: /srv/sandboxes/{SANDBOX}/project/x").detail == (
        "fatal: /workspace/project/x"
    )

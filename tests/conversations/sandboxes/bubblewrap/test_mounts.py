"""The plan of mounts, for installations in unusual places."""

import subprocess
import sys
from pathlib import Path

import pytest

from conversations.sandboxes.bubblewrap import mounts


@pytest.fixture
def engine_dir(tmp_path):
    """Return a virtual environment whose interpreter is reached through a link in a user's ``bin`` folder."""
    program = Path(sys.executable).resolve()
    links = tmp_path / "user/.local/bin"
    links.mkdir(parents=True)
    (links / "python3").symlink_to(program)
    command = [links / "python3", "-m", "venv", "--without-pip", tmp_path / "engine"]
    subprocess.run(command, check=True)
    return tmp_path / "engine"


def plan(engine_dir, tmp_path, **changes):
    (tmp_path / "etc").mkdir(exist_ok=True)
    arguments = {
        "folders": [],
        "etc": tmp_path / "etc",
        "engine_dir": engine_dir,
        "read_only": [],
        "protected": [],
    }
    return mounts.plan_mounts(**(arguments | changes))


def test_folder_beside_a_link_to_python_is_not_mounted(engine_dir, tmp_path):
    links = tmp_path / "user/.local/bin"

    made = plan(engine_dir, tmp_path)

    assert not [mount for mount in made.own if Path(mount.source).is_relative_to(tmp_path / "user")]
    assert str(links / "python3") in [path for _, path in made.links]


def test_protected_folder_is_hidden_wherever_it_is_mounted(engine_dir, tmp_path):
    data = tmp_path / "machine/data"
    data.mkdir(parents=True)
    (tmp_path / "link").symlink_to("machine")

    made = plan(engine_dir, tmp_path, read_only=[tmp_path / "link"], protected=[data])

    assert made.hidden == [str(tmp_path / "link/data")]


def test_protected_folder_in_the_installation_of_python_is_hidden(engine_dir, tmp_path):
    prefix = tmp_path / "installation"
    (prefix / "lib/python3.12").mkdir(parents=True)
    (prefix / "lib/python3.12/os.py").touch()
    (prefix / "bin").mkdir()
    (prefix / "data").mkdir()
    (engine_dir / "pyvenv.cfg").write_text(f"home = {prefix}/bin\n")

    made = plan(engine_dir, tmp_path, protected=[prefix / "data"])
    arguments = mounts.build_arguments(made, {})

    assert made.hidden == [str(prefix / "data")]
    assert arguments.index(str(prefix)) < arguments.index(str(prefix / "data"))


def test_engine_below_tmp_is_mounted_after_tmp(engine_dir, tmp_path):
    own_tmp = mounts.Mount(str(tmp_path / "private"), str(tmp_path.parent), writable=True)

    made = plan(engine_dir, tmp_path, folders=[own_tmp])

    arguments = mounts.build_arguments(made, {})
    assert arguments.index(str(tmp_path.parent)) < arguments.index(str(engine_dir))
    assert str(engine_dir) in made.readable()

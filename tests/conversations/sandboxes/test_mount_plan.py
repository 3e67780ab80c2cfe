"""The order in which the folders of a sandbox are mounted."""

import sys
from pathlib import Path

from conversations.sandboxes.bubblewrap.mounts import Mount, build_arguments, plan_mounts


def test_private_tmp_is_mounted_before_folders_below_tmp(tmp_path):
    # The data of tests and of some servers is below /tmp. A sandbox's own /tmp must not cover it.
    engine = tmp_path / "engine"
    (engine / "bin").mkdir(parents=True)
    (engine / "bin" / "python").symlink_to(sys.executable)
    (engine / "pyvenv.cfg").write_text(f"home = {Path(sys.executable).parent}\n")
    (tmp_path / "etc").mkdir()
    project = Mount("/tmp/data/s/project", "/tmp/data/s/project", writable=True)
    private = Mount("/tmp/data/s/tmp", "/tmp", writable=True)

    plan = plan_mounts(
        folders=[project, private],
        etc=tmp_path / "etc",
        engine_dir=engine,
        read_only=[],
        protected=[],
    )

    targets = [mount.target for mount in plan.own]
    assert targets[0] == "/tmp"
    assert targets.count("/tmp") == 1
    assert {str(engine), "/tmp/data/s/project"} <= set(targets[1:])
    arguments = build_arguments(plan, {})
    assert arguments.index("/tmp") < arguments.index("/tmp/data/s/project")

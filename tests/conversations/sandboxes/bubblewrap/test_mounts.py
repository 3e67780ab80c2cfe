from pathlib import Path

from conversations.sandboxes.bubblewrap.mounts import Mount, build_arguments, plan_mounts
from tests.fakes.engine import fake_engine


def test_engine_below_tmp_is_mounted_after_tmp(tmp_path):
    engine = fake_engine(tmp_path / "engine")
    (tmp_path / "etc").mkdir()

    plan = plan_mounts(
        folders=[Mount(str(tmp_path / "private"), str(tmp_path.parent), writable=True)],
        etc=tmp_path / "etc",
        engine_dir=engine,
        read_only=[],
        protected=[],
    )

    arguments = build_arguments(plan, {})
    assert arguments.index(str(tmp_path.parent)) < arguments.index(str(engine))
    assert Path(engine) in [Path(path) for path in plan.readable()]

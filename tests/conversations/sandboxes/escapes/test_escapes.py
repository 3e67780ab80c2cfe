"""The escape table as a slow test: no attempt that succeeds from a plain process succeeds from a sandbox."""

import os
import shutil
import sys

import pytest

from conversations.sandboxes.bubblewrap import support
from tests.conversations.sandboxes.escapes import table, world

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not sys.platform.startswith("linux") or os.geteuid() != 0 or not shutil.which("unshare"),
        reason="needs root and namespaces",
    ),
    pytest.mark.skipif(
        "ENGINE_DIR" not in os.environ, reason="ENGINE_DIR names no installed engine"
    ),
]


@pytest.mark.timeout(1900)  # a whole server and real waits; ``run_world`` ends it earlier
@pytest.mark.parametrize(("user", "uid"), [("root", 0), ("user", world.ORDINARY_UID)])
def test_attempts_that_a_plain_process_allows_are_refused_in_a_sandbox(user: str, uid: int) -> None:
    if not support.probe().is_usable:
        pytest.skip("this kernel refuses namespaces")

    result = world.run_world("tests.conversations.sandboxes.escapes.server", uid=uid)

    assert table.find_open({user: result}) == []
    controls = sum(row["succeeded"] for row in result["rows"]["process"].values())
    assert controls > (110 if uid == 0 else 70), "too few attempts succeed from a plain process"

"""Processes of this machine."""

import subprocess
import sys

import psutil
import pytest

from conversations.sandboxes.members import find_members
from lib.processes import all_processes


@pytest.fixture
def child():
    """A process whose id belonged to a process that psutil has found before, and that has ended since."""
    environment = {"OH_SANDBOX_ID": "box"}
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], env=environment)
    [former] = [process for process in psutil.process_iter() if process.pid == child.pid]
    former._ident = (child.pid, former.create_time() - 60)
    yield child
    child.kill()
    child.wait()


def test_new_process_with_a_former_id_is_found(child):
    with pytest.raises(psutil.NoSuchProcess):
        next(process for process in psutil.process_iter() if process.pid == child.pid).ppid()

    [found] = [process for process in all_processes() if process.pid == child.pid]

    assert found.ppid() == psutil.Process().pid


def test_member_of_a_sandbox_with_a_former_id_is_found(child):
    assert {process.pid for process in find_members("box", [])} == {child.pid}

"""A conversation that is started while the agent engine is being installed, against the real roles and the real engine."""

import os
import shutil
import time
from pathlib import Path

import pytest

from lib import processes
from lib.engine_progress import Progress, write_progress
from lib.engine_state import MARKER, STAMP, lock_path
from tests.fakes.stack import Stack, figure
from tests.prepare import engine_dir

pytestmark = [pytest.mark.engine, pytest.mark.slow, pytest.mark.timeout(300)]


def copy_engine(folder: Path) -> None:
    """Copy the real engine, with links where the file system allows it. Without its stamp it may stand anywhere."""

    def link(source: str, target: str) -> None:
        try:
            os.link(source, target)
        except OSError:
            shutil.copy2(source, target)

    shutil.copytree(engine_dir(), folder, symlinks=True, copy_function=link)
    (folder / STAMP).unlink()


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "engine"
    folder.mkdir()
    (folder / MARKER).write_text("{}")
    return folder


def test_conversation_waits_for_the_installation_and_then_runs_by_itself(folder, tmp_path):
    copy_engine(tmp_path / "built")
    lock = processes.acquire_lock(lock_path(folder))
    stack = Stack(environment={"ENGINE_DIR": str(folder)}).start()
    try:
        write_progress(folder, Progress("fetching", 12, 194, 9, 4))
        talk = stack.owner.converse(message="Hello")
        talk.wait(lambda record: "12 of 194 packages" in record["start_task"]["detail"])

        write_progress(folder, Progress("installing", 120, 194, 300, 30, 15))
        sentence = "The agent engine is being installed: 120 of 194 packages, about 15 s left."
        waiting = talk.wait(lambda record: record["start_task"]["detail"] == sentence, seconds=20)
        [phase] = waiting["start_task"]["phases"]
        assert (phase["phase"], phase["percent"]) == ("WORKING", 66)
        assert stack.owner.get(f"{talk.path}/sandbox")["detail"] == sentence
        time.sleep(4)  # several attempts, which do not count
        record = talk.record()
        assert (record["status"], record["start_task"]["attempts"]) == ("starting", 0)

        folder.rename(tmp_path / "unfinished")
        (tmp_path / "built").rename(folder)
        lock.close()
        ready_at = time.monotonic()
        started = talk.wait(lambda record: len(record["start_task"]["phases"]) > 1, pause=0.2)
        seconds = time.monotonic() - ready_at
        figure("conversation-after-installation", seconds_until_start=round(seconds, 1))
        # It looks every second. The rest is the time of a busy machine.
        assert seconds < 15
        assert started["start_task"]["detail"] == ""
        talk.wait_ready()
        record = talk.wait_status("finished")
        assert len(record["start_task"]["phases"]) == 4
    finally:
        lock.close()
        stack.stop()

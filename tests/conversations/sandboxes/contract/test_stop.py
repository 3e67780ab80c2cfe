"""Stops, resumes and removals."""

import stat
import threading
import time

from conversations.sandboxes.provider import State
from tests.conversations.sandboxes.box import list_alive


def test_stop_leaves_no_process_and_keeps_the_files(box):
    box.instruct("daemon")
    box.start()
    members = [*box.wait_for_daemons(), *box.processes()]
    started_at = time.monotonic()

    box.stop(30)

    assert time.monotonic() - started_at < 15
    assert list_alive(members) == []
    assert box.inspect().state == State.STOPPED
    assert box.inspect().detail == ""
    assert (box.project / "daemon").exists()
    box.stop()


def test_stop_waits_no_longer_than_its_grace_period(box):
    box.instruct("stubborn")
    box.start()
    started_at = time.monotonic()

    box.stop(0.5)

    assert 0.5 <= time.monotonic() - started_at < 5
    assert box.inspect().state == State.STOPPED
    assert box.processes() == []


def test_resume_keeps_the_files_and_ends_leftover_processes(box):
    box.instruct("daemon")
    box.start()
    leftover = box.wait_for_daemons()
    box.engine().kill()
    box.wait_for(State.FAILED)
    (box.project / "daemon").unlink()
    (box.project / "work.txt").write_text("kept")

    box.resume()

    assert list_alive(leftover) == []
    assert box.run("cat work.txt") == "kept"


def test_stopped_sandbox_is_resumed_and_can_change_its_files(box):
    first = box.start()
    box.run("mkdir folder && echo one > folder/file")
    box.stop()

    second = box.resume()

    assert second["run"] != first["run"]
    box.run("echo two >> folder/file && rm -r folder && echo three > file")
    assert (box.project / "file").read_text() == "three\n"


def test_start_during_a_stop_starts_another_run(box):
    box.instruct("stubborn")
    first = box.start()
    stopping = threading.Thread(
        target=box.provider.stop, args=(first,), kwargs={"grace_seconds": 1}
    )
    stopping.start()
    time.sleep(0.3)

    second = box.start()

    stopping.join()
    assert second["run"] != first["run"]
    assert box.inspect().state == State.RUNNING


def test_stop_of_an_earlier_run_does_not_end_a_newer_one(box):
    first = box.start()
    box.stop()
    box.resume()
    engine = box.engine()

    box.provider.stop(first, grace_seconds=1)

    assert box.inspect().state == State.RUNNING
    assert box.engine() == engine


def test_destroy_removes_all_processes_and_files(box, settings):
    box.instruct("daemon")
    box.start()
    members = [*box.wait_for_daemons(), *box.processes()]
    box.run("mkdir -p locked/deep && echo x > locked/deep/file")
    box.run("chmod 0 locked/deep/file locked/deep && chmod 500 locked")

    box.provider.destroy(box.handle)

    assert list_alive(members) == []
    assert [path.name for path in settings.SANDBOX_DIR.iterdir()] == [".locks"]
    assert [
        one.name for one in (settings.SANDBOX_DIR / ".locks").iterdir() if one.name != "uid"
    ] == []
    assert box.inspect().state == State.MISSING
    assert box.provider.find(box.spec.sandbox_id) == {}
    box.provider.destroy(box.handle)


def test_interrupted_destroy_is_completed(box, settings):
    box.start()
    box.stop(0)
    box.folder.rename(settings.SANDBOX_DIR / f"{box.spec.sandbox_id.hex}.removed")

    box.provider.destroy(box.handle)

    assert [path.name for path in settings.SANDBOX_DIR.iterdir()] == [".locks"]


def test_destroy_follows_no_symlinks(box, tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir(mode=0o750)
    (outside / "file").write_text("x")
    box.start()
    box.run(f"ln -s {outside} link")

    box.provider.destroy(box.handle)

    assert (outside / "file").read_text() == "x"
    assert stat.S_IMODE(outside.stat().st_mode) == 0o750


def test_destroy_removes_no_other_folder(box, tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    box.start()

    box.provider.destroy(box.handle | {"dir": str(outside)})

    assert outside.exists()

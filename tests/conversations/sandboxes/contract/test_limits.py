"""The limits of memory, processes and disk. The process provider has none, so these tests are for the others."""

import contextlib
import http.client
import time

import pytest

from conversations.sandboxes.provider import State
from tests.waiting import wait_until

pytestmark = [
    pytest.mark.slow,
    pytest.mark.parametrize("provider_name", ["bubblewrap"], indirect=True),
]

GROW = """
import time
parts = []
for _ in range(200):
    parts.append(bytearray(b"x" * 5_000_000))
    time.sleep(0.03)
time.sleep(60)
"""
FORK = """
import os, pathlib, signal, time
children = []
try:
    while len(children) < 300:
        if (pid := os.fork()) == 0:
            time.sleep(600)
        children.append(pid)
except OSError as error:
    pathlib.Path("refusal").write_text(f"{len(children)} {error.strerror}")
for pid in children[:10]:
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
time.sleep(600)
"""


def test_sandbox_without_memory_is_ended_with_the_reason_and_can_be_resumed(box, settings):
    settings.SANDBOX_MEMORY_MEGABYTES = 150
    box.start()
    box.run("echo kept > file")

    box.attempt(box.write_program(GROW))

    assert box.wait_for(State.FAILED).detail == (
        "The sandbox used more than its 150 MB of memory, so it was stopped. Its files are kept. "
        "Let the agent use less memory at a time, or ask an administrator for a higher limit."
    )
    wait_until(lambda: not box.processes(), "the processes to end", seconds=5)
    box.resume()
    assert box.run("cat file") == "kept\n"


def test_processes_are_limited_and_other_sandboxes_are_not_affected(make_box, settings):
    settings.SANDBOX_MAX_PROCESSES = 60
    box, other = make_box(), make_box()
    box.start()

    box.run_python(FORK, ending=">/dev/null 2>&1 &")
    refusal = box.project / "refusal"
    wait_until(refusal.exists, "the limit to be reached")

    count, _, words = refusal.read_text().partition(" ")
    assert 20 < int(count) < 60
    assert words == "Resource temporarily unavailable"
    assert len(box.processes()) < 70
    other.start()
    assert other.run("echo on") == "on\n"
    assert box.run("echo on") == "on\n"
    started_at = time.monotonic()
    box.stop(0)
    assert time.monotonic() - started_at < 5
    assert box.processes() == []


def test_one_file_may_not_exceed_the_limit_of_the_disk(box, settings):
    settings.SANDBOX_DISK_MEGABYTES = 20
    box.start()

    # The sandbox may be ended before the command is, because such a file uses all of the disk's limit.
    with contextlib.suppress(OSError, http.client.HTTPException):
        box.call("head -c 30000000 /dev/zero > big")

    assert 0 < (box.project / "big").stat().st_size <= 20_000_000


def test_sandbox_with_too_many_files_is_ended_with_the_reason(box, settings):
    settings.SANDBOX_DISK_MEGABYTES = 20
    box.start()

    box.attempt("for n in 1 2 3; do head -c 12000000 /dev/zero > file$n; done")

    assert box.wait_for(State.FAILED).detail == (
        "The sandbox's files used more than their 20 MB, so it was stopped. Its files are kept. "
        "Start a new conversation, or ask an administrator for a higher limit."
    )
    assert (box.project / "file1").stat().st_size == 12_000_000

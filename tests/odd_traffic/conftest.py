"""The server process that receives the odd traffic, and the check of its log."""

import contextlib
import os
import re
import signal
import sys
from collections import Counter
from pathlib import Path

import pytest

from tests.fakes.processes import webs
from tests.waiting import wait_until

SCRIPT = Path(__file__).with_name("serve_and_report.py")
COMMAND = (sys.executable, "-W", "ignore", str(SCRIPT), "--fd", "{fd}")
SETTINGS = {
    "SOCKETS_PER_ADDRESS": "0",
    "STREAMS_PER_USER": "0",
    # Requests that never end are refused soon.
    "HEAD_SECONDS": "2",
    "BODY_SECONDS": "2",
}
FAULTS = re.compile(
    r"Traceback|was never (?:retrieved|awaited)"
    r"|^E (?!django\.security|engineio\.server: (?:Invalid|The client|Unexpected))",
    re.MULTILINE,
)
"""Errors in the log that odd input must not cause. Django and engineio write a line for some wrong requests."""


class Server:
    """A running web process: its port, and what it wrote to its log."""

    def __init__(self, url: str, log: Path, pid: int) -> None:
        self.port, self.log, self.pid = int(url.rpartition(":")[2]), log, pid

    def read_log(self) -> str:
        return self.log.read_text(errors="replace")

    @contextlib.contextmanager
    def expect_quiet_log(self):
        """Fail if the process writes an error or a traceback to its log during the block."""
        before = len(self.read_log())
        yield
        written = self.read_log()[before:]
        if found := FAULTS.search(written):
            place = max(0, found.start() - 600)
            raise AssertionError(written[place : found.end() + 6_000])

    def count_tasks(self) -> Counter[str]:
        """Return the running asyncio tasks by the name of their coroutine."""
        before = self.read_log().count("end of tasks")
        os.kill(self.pid, signal.SIGUSR1)
        wait_until(lambda: self.read_log().count("end of tasks") > before, "the list of tasks")
        names = self.read_log().rpartition("end of tasks")[0].rpartition("tasks:\n")[2]
        return Counter(names.split())


@pytest.fixture(scope="package")
def process(django_db_setup, django_db_blocker, tmp_path_factory):
    folder = tmp_path_factory.mktemp("odd")
    with (
        django_db_blocker.unblock(),
        webs(1, folder, command=COMMAND, **SETTINGS) as [url],
    ):
        log = folder / "web0.log"
        yield Server(url, log, int(re.search(r"pid (\d+)", log.read_text())[1]))


@pytest.fixture
def server(process, transactional_db):
    """The server process; every test begins with empty tables."""
    return process

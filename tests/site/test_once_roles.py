"""Roles of the supervisor that run once."""

import subprocess
import sys

from tests.prepare import ROOT

RUN = """
import sys, time
from pathlib import Path
from openhands_site.operating import supervisor

supervisor.BACKOFF_SECONDS = (0.1, 0.1)
code = (
    "import os, signal, sys; from pathlib import Path; log = Path(sys.argv[1]);"
    "runs = log.read_text() if log.exists() else ''; log.write_text(runs + 'x');"
    "len(runs) < int(sys.argv[2]) and os.kill(os.getpid(), signal.SIGKILL); sys.exit(int(sys.argv[3]))"
)
log, kills, status = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
done = []
role = supervisor.ProcessRole(
    "engine", [sys.executable, "-c", code, str(log), kills, status], once=True, on_done=lambda: done.append(1)
)
runner = supervisor.Supervisor(
    [role], environment={}, say=lambda name, line: None, record=log.with_suffix(".json")
)
deadline = time.monotonic() + 30
while not done and time.monotonic() < deadline:
    runner.turn(0.05)
for _ in range(10):
    runner.turn(0.05)
print(len(log.read_text()), len(done))
"""


def run_role(tmp_path, *, kills: int, status: int) -> str:
    """Run a role that is killed in its first runs; return the number of its runs and of calls of ``on_done``."""
    arguments = [str(tmp_path / "log"), str(kills), str(status)]
    done = subprocess.run(
        [sys.executable, "-c", RUN, *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.strip()


def test_role_that_runs_once_is_started_again_after_a_signal_and_not_after_a_failure(tmp_path):
    assert run_role(tmp_path, kills=1, status=1) == "2 1"


def test_role_that_is_killed_again_and_again_is_given_up(tmp_path):
    assert run_role(tmp_path, kills=99, status=0) == "3 1"

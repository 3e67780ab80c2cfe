"""The supervisor of ``quickstart``: which roles it starts when, and how."""

import json
import os
import subprocess
import sys
import textwrap

import pytest

from openhands_site.operating.supervisor import ProcessRole, Supervisor
from tests.prepare import ROOT
from tests.waiting import wait_until

SLEEP = [sys.executable, "-c", "import os, time; print(os.nice(0), flush=True); time.sleep(60)"]


@pytest.fixture
def start(tmp_path):
    """Return a function that returns a supervisor of roles and the lines that they print. It is stopped at the end."""
    supervisors = []

    def make(*roles, **options):
        lines = []
        supervisors.append(
            Supervisor(
                roles,
                environment=dict(os.environ),
                say=lambda name, line: lines.append((name, line)),
                record=tmp_path / "running.json",
                **options,
            )
        )
        return supervisors[-1], lines

    yield make
    for supervisor in supervisors:
        supervisor.interrupts = 2  # do not wait
        supervisor.stop()


def test_role_that_waits_starts_when_it_is_released_and_lets_others_go_first(start):
    early, late = ProcessRole("early", SLEEP), ProcessRole("late", SLEEP, waits=True, niceness=7)
    supervisor, lines = start(early, late)

    def turn():
        supervisor.turn(0.05)
        return lines

    wait_until(turn, "the first line")
    supervisor.turn(0.05)
    assert [name for name, _ in lines] == ["early"]
    assert late.process is None

    supervisor.release()
    wait_until(lambda: len(turn()) == 2, "the second line")
    usual = os.nice(0)
    assert lines == [("early", str(usual)), ("late", str(min(usual + 7, 19)))]


@pytest.fixture
def list_starts(start, monkeypatch):
    """Return a function that lists how a role that ends at once was started: by a fork or by its command."""

    def fork(run, **options):
        command = [sys.executable, "-c", "print('fork')"]  # a real process in place of the fork
        return subprocess.Popen(command, stdout=subprocess.PIPE)

    monkeypatch.setattr("openhands_site.operating.forking.can_fork", lambda: True)
    monkeypatch.setattr("openhands_site.operating.forking.fork", fork)
    monkeypatch.setattr("openhands_site.operating.supervisor.BACKOFF_SECONDS", (0,))

    def run(count, **options):
        command = [sys.executable, "-c", "print('command')"]
        supervisor, lines = start(ProcessRole("role", command, run=lambda: None), **options)

        def turn():
            supervisor.turn(0.05)
            return [line for _, line in lines if line in ("fork", "command")]

        wait_until(lambda: len(turn()) >= count, f"{count} starts")
        return turn()[:count]

    return run


def test_role_whose_forks_end_soon_is_started_by_its_command(list_starts):
    assert list_starts(4) == ["fork", "fork", "command", "command"]


def test_role_that_ran_for_long_is_forked_again(list_starts, monkeypatch):
    monkeypatch.setattr("openhands_site.operating.supervisor.STEADY_SECONDS", 0)

    assert list_starts(4) == ["fork"] * 4


def test_role_is_restarted_by_its_command_when_a_fork_is_not_up_to_date(list_starts):
    assert list_starts(2, is_current=lambda: False) == ["fork", "command"]


WAIT = """
import json, os, signal, subprocess, sys, time
from pathlib import Path
from openhands_site.operating import supervisor

code = "import time; time.sleep(60)"
role = supervisor.ProcessRole("role", [sys.executable, "-c", code])
runner = supervisor.Supervisor(
    [role], environment=dict(os.environ), say=lambda *_: None, record=Path(sys.argv[1], "running.json")
)
runner.watch_signals()
runner.turn(0.1)

def pause(cause):
    cause()
    began = time.monotonic()
    runner.turn(20)
    return time.monotonic() - began

# A child that is no role, and has no output that the supervisor reads.
service = lambda: subprocess.Popen(["sleep", "0.3"])
ended = pause(service)
quiet = time.monotonic()
runner.turn(0.5)
quiet = time.monotonic() - quiet
subprocess.Popen(["sh", "-c", "sleep 0.3; kill -TERM " + str(os.getpid())])
stopped = time.monotonic()
while not runner.stop_requested and time.monotonic() - stopped < 20:
    runner.turn(20)
stopped = time.monotonic() - stopped
runner.interrupts = 2
runner.stop()
print(json.dumps([ended, quiet, stopped]))
"""


def test_pause_ends_with_the_end_of_a_child_and_with_a_signal(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", WAIT, str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )

    ended, quiet, stopped = json.loads(done.stdout)
    assert 0.2 < ended < 5
    assert 0.4 < quiet < 5
    assert 0.2 < stopped < 5


def test_forked_child_does_not_wake_its_parent(tmp_path):
    script = """
        runner.watch_signals()
        child = forking.fork(report, title="a title", environment={})
        print(child.stdout.read().decode())
    """
    begin = WAIT.split("runner.watch_signals()", maxsplit=1)[0]
    report = "from openhands_site.operating import forking\n" + textwrap.dedent("""
        def report():
            print(signal.getsignal(signal.SIGCHLD) is signal.SIG_DFL, signal.set_wakeup_fd(-1))
    """)
    done = subprocess.run(
        [sys.executable, "-c", begin + report + textwrap.dedent(script), str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )

    assert done.stdout.strip() == "True -1"

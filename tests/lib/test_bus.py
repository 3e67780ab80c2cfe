"""Wake-ups survive the way through Redis, and what is not one of ours is ignored."""

import time
from uuid import uuid4

import pytest

from lib import bus

KEY = uuid4()


@pytest.mark.parametrize(
    "wakeup",
    [
        bus.LogAdvanced(KEY),
        bus.DeltaArrived(KEY, [{"item_id": "a", "kind": "text", "content": "x", "order": 0}]),
        bus.AccessChanged(KEY),
        bus.ManagerWake(),
    ],
    ids=lambda wakeup: type(wakeup).__name__,
)
def test_there_and_back(wakeup):
    assert bus.decode(bus.encode(wakeup)) == wakeup


@pytest.mark.parametrize(
    "message",
    [
        {"type": "of.a.newer.version", "conversation": str(KEY)},
        {"type": "log.advanced", "conversation": "no uuid"},
        {"type": "log.advanced"},
        {},
        None,
        "log.advanced",
    ],
)
def test_what_we_do_not_know_is_ignored(message):
    assert bus.decode(message) is None


def test_fields_of_a_newer_version_are_ignored():
    message = bus.encode(bus.LogAdvanced(KEY)) | {"shard": 3}

    assert bus.decode(message) == bus.LogAdvanced(KEY)


def test_waiting_wakeups_of_one_kind_are_one(monkeypatch):
    publisher = bus.Publisher()
    monkeypatch.setattr(publisher, "_start_sending", lambda: None)
    for _ in range(3):
        publisher.nudge("a", bus.LogAdvanced(KEY))
    publisher.nudge("a", bus.ManagerWake())

    assert len(publisher._nudges) == 2
    publisher._loop.call_soon_threadsafe(publisher._loop.stop)
    while publisher._loop.is_running():
        time.sleep(0.01)
    publisher._loop.close()

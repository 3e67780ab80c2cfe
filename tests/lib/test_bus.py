"""Encoding and decoding of the messages that processes send through Redis, and their coalescing."""

from uuid import uuid4

import pytest

from lib import bus
from tests.waiting import wait_until

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
def test_encoded_wakeup_is_decoded_to_an_equal_one(wakeup):
    assert bus.decode(bus.encode(wakeup)) == wakeup


@pytest.mark.parametrize(
    "message",
    [
        {"type": "unknown.type", "conversation": str(KEY)},
        {"type": "log.advanced", "conversation": "no uuid"},
        {"type": "log.advanced"},
        {},
        None,
        "log.advanced",
    ],
)
def test_unknown_message_is_decoded_to_none(message):
    assert bus.decode(message) is None


def test_fields_of_a_newer_version_are_ignored():
    message = bus.encode(bus.LogAdvanced(KEY)) | {"shard": 3}

    assert bus.decode(message) == bus.LogAdvanced(KEY)


def test_queued_wakeups_of_one_kind_are_coalesced(monkeypatch):
    publisher = bus.Publisher()
    monkeypatch.setattr(publisher, "_start_sending", lambda: None)
    for _ in range(3):
        publisher.nudge("a", bus.LogAdvanced(KEY))
    publisher.nudge("a", bus.ManagerWake())

    assert len(publisher._nudges) == 2
    publisher._loop.call_soon_threadsafe(publisher._loop.stop)
    wait_until(lambda: not publisher._loop.is_running(), "the publisher's loop to stop")
    publisher._loop.close()

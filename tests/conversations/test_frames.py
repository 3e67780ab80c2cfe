"""The frames that sockets send: their sizes and their cached messages."""

import gc
import json
from datetime import UTC, datetime

import pytest

from conversations.models import LoggedEvent
from conversations.realtime.frames import (
    PING,
    DeltaFrame,
    ResetFrame,
    StatusFrame,
    event_frame,
)
from lib.framing import encode_frame

AT = datetime(2026, 1, 2, 3, 4, 5, 120_000, tzinfo=UTC)


def build_event_frame(payload="{}", seq=7):
    return event_frame(LoggedEvent(seq, "e" * 36, "ActionEvent", "agent", payload, AT, AT))


@pytest.mark.parametrize("text", ["", "x" * 100, "x" * 100_000, "é" * 5_000, "語😀" * 5_000])
def test_estimated_size_of_an_event_frame_is_close_to_its_encoded_size(text):
    frame = build_event_frame(json.dumps({"text": text}, ensure_ascii=False))

    assert frame.wire == b""
    assert abs(frame.size - len(frame.encode())) < 64


@pytest.mark.parametrize(
    ("frame", "message"),
    [
        (PING, {"type": "ping"}),
        (StatusFrame({"id": 1}), {"type": "status", "conversation": {"id": 1}}),
        (ResetFrame(2, reset_to=9), {"type": "reset", "last_seq": 9, "epoch": 2}),
        (DeltaFrame({"kind": "text", "content": "é"}), {"type": "delta", "kind": "text", "content": "é"}),
    ],
)  # fmt: skip
def test_frame_without_an_event_has_the_exact_size_of_its_message(frame, message):
    assert json.loads(frame.with_exact_size().text) == message
    assert frame.size == len(frame.wire)
    assert frame.seq is None


def test_message_is_encoded_once_and_again_after_it_was_dropped():
    frame = build_event_frame()
    first = frame.encode()

    assert frame.encode() is first
    frame.drop_encoded()
    assert frame.wire == b""
    assert frame.encode() == first == encode_frame(frame.text.encode())


def test_message_of_each_protocol_is_built_once_and_cached_separately():
    frame, built = build_event_frame(), []

    def build():
        built.append(frame)
        return f"form {len(built)}"

    assert frame.cached_form("a") is None
    assert [frame.form_for("a", build), frame.form_for("a", build)] == ["form 1", "form 1"]
    assert frame.cache_form("b", "other") == "other"
    assert (frame.cached_form("a"), frame.cached_form("b"), frame.wire) == ("form 1", "other", b"")


def test_frames_are_not_tracked_by_the_garbage_collector():
    frame = build_event_frame()
    frame.cache_form("a", [[]])

    assert not gc.is_tracked(frame)
    assert not gc.is_tracked(frame.event)

"""A recorded conversation: the log of a run with the real engine, and the frames that a V0 client received."""

import json
from datetime import datetime
from pathlib import Path

from compat.v0.translation import Entry, Links, is_state_change, translate_event
from conversations.models import LoggedEvent

RECORDING = json.loads(
    (Path(__file__).resolve().parents[2] / "payloads/v0/recording.json").read_text()
)


def _load_event(wire):
    """Return the logged event of a recorded row."""
    times = {
        name: wire[name] and datetime.fromisoformat(wire[name])
        for name in ("engine_time", "received_at")
    }
    return LoggedEvent(**wire | times | {"payload": json.dumps(wire["payload"])})


def test_recorded_log_translates_to_the_recorded_frames():
    links = Links(echoes=set(RECORDING["echoes"]))
    entries = [Entry.of_event(_load_event(wire)) for wire in RECORDING["log"]]
    translated = [event for entry in entries if (event := translate_event(entry, links))]
    sent = [json.loads(frame[2:]) for frame in RECORDING["frames"] if frame.startswith("42")]

    events = [event for name, event in sent if "id" in event and "timestamp" in event]
    assert {name for name, _ in sent} == {"oh_event"}
    assert events == translated
    assert [event["id"] for event in events] == sorted({event["id"] for event in events})
    assert [event["extras"]["agent_state"] for event in events if is_state_change(event)][
        -1
    ] == "finished"


def test_connect_packet_precedes_every_recorded_event():
    first, *rest = RECORDING["frames"]

    assert first == '40{"sid":"…"}'
    assert {frame[:2] for frame in rest} == {"42", "2"}  # events, and the server's pings

"""Runs of the real engine with the scripted model: their message, and how they ended."""

import time

from tests.fakes.stack import Talk, state_of

FINAL_STATES = ("finished", "error")
REASON_KINDS = ("SandboxNotice", "ConversationErrorEvent", "AgentErrorEvent")
"""Kinds of the events that report why a run failed."""


def write_script(count: int, *, pause: float = 0.3) -> str:
    """Return a message that makes the scripted model run ``count`` commands and finish.

    Each command takes ``pause`` seconds. The first line makes the message unique.
    """
    lines = [f"!run sleep {pause}; echo step {number}" for number in range(count)]
    return "\n".join([f"Number {time.monotonic_ns()}.", *lines, "!finish Done."])


def find_run_end(talk: Talk, after: int) -> str | None:
    """Return how the run after an event ended, or None while it continues.

    The result is ``finished``, ``error``, or the kind of the event that reports why the run failed.
    """
    events = talk.events(after=after)
    if states := [state for event in events if (state := state_of(event)) in FINAL_STATES]:
        return states[-1]
    kinds = [event["kind"] for event in events if event["kind"] in REASON_KINDS]
    return kinds[-1] if kinds and talk.record()["execution_status"] == "error" else None

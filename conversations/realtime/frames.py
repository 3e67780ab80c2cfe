"""Frames: the messages to readers of a conversation, created once per process and shared by all readers.

A frame holds an event of the log, or a message that is not in the log. Each protocol encodes a frame for
its first reader and stores the encoded form on the frame for the other readers.
"""

from collections.abc import Callable
from typing import Any, Self, TypeVar

import msgspec
import orjson

from conversations.models.event import LoggedEvent
from lib import framing
from lib.api import dumps

T = TypeVar("T")
ENVELOPE_BYTES = 256
"""The approximate size of the envelope that a WebSocket message adds to an event's payload."""


class Frame(msgspec.Struct, gc=False, kw_only=True):
    """The base class of all frames.

    Garbage collection is off for them (``gc=False``): many are kept at a time, and none refers back to
    itself.
    """

    size: int = 0
    """The approximate bytes of the WebSocket message, known before the message is encoded."""
    seq: int | None = None
    """The event's number in the log; None for frames that are not in the log."""
    reset_to: int | None = None
    wire: bytes = b""
    """The WebSocket message that all sockets share; empty until ``encode`` creates it."""
    forms: dict[str, Any] | None = None
    """Encoded forms for other protocols, by the protocol's name."""

    def body(self) -> dict[str, Any]:
        """Return this server's own protocol message, as a dictionary for JSON."""
        raise NotImplementedError

    def encode(self) -> bytes:
        """Return the WebSocket message; it is encoded once and cached."""
        if not self.wire:
            self.wire = framing.framed(dumps(self.body()))
        return self.wire

    def with_exact_size(self) -> Self:
        """Encode the WebSocket message now to set the exact ``size``; return this frame.

        For frames that are not in the log: they are few, and their size cannot be estimated from a payload.
        """
        self.size = len(self.encode())
        return self

    @property
    def text(self) -> str:
        """The JSON text of the message, for protocols that do not use the shared WebSocket frame."""
        return framing.body_of(self.encode()).decode()

    def cached_form(self, protocol: str) -> Any:
        """Return the cached encoded form for a protocol, or None."""
        return None if self.forms is None else self.forms.get(protocol)

    def cache_form(self, protocol: str, form: T) -> T:
        """Cache this frame's encoded form for a protocol; return the form."""
        if self.forms is None:
            self.forms = {}
        self.forms[protocol] = form
        return form

    def form_for(self, protocol: str, make: Callable[[], T]) -> T:
        """Return this frame's encoded form for a protocol; ``make`` is called once to create it."""
        form: T | None = self.cached_form(protocol)
        return self.cache_form(protocol, make()) if form is None else form


class EventFrame(Frame):
    """An event of the log."""

    event: LoggedEvent

    def body(self) -> dict[str, Any]:
        return {"type": "event", "seq": self.seq, "event": self.event.to_wire()}

    def encode(self) -> bytes:
        if not self.wire:
            self.wire = framing.framed(_dumps(self.body()))
        return self.wire

    def json(self) -> bytes:
        """Return the event's JSON without the envelope, as in REST responses."""
        return _dumps(self.event.to_wire())

    def drop_wire(self) -> None:
        """Drop the cached WebSocket message to save memory; ``encode`` creates it again on demand."""
        self.wire = b""


class StatusFrame(Frame):
    """The conversation's record after a change."""

    record: dict[str, Any] | None

    def body(self) -> dict[str, Any]:
        return {"type": "status", "conversation": self.record}


class ResetFrame(Frame):
    """A notice that earlier cursors are invalid: the client reads the log again over REST."""

    epoch: int

    def body(self) -> dict[str, Any]:
        return {"type": "reset", "last_seq": self.reset_to, "epoch": self.epoch}


class DeltaFrame(Frame):
    """A piece of the message that the agent is writing now; deltas are never stored."""

    delta: dict[str, Any]

    def body(self) -> dict[str, Any]:
        return {"type": "delta"} | self.delta


class PingFrame(Frame):
    """A ping, which only keeps a connection open."""

    def body(self) -> dict[str, Any]:
        return {"type": "ping"}


PING = PingFrame().with_exact_size()


def event_frame(event: LoggedEvent) -> EventFrame:
    """Return the frame of an event, not yet encoded for any protocol."""
    payload = event.payload
    # In ASCII, the common case, characters are bytes, so nothing needs to be encoded to be counted.
    size = len(payload) if payload.isascii() else len(payload.encode())
    return EventFrame(event, seq=event.seq, size=size + ENVELOPE_BYTES)


def _dumps(value: dict[str, Any]) -> bytes:
    """Serialize like ``lib.api.dumps``, in half the time because all keys are known to be strings."""
    return orjson.dumps(value, option=orjson.OPT_UTC_Z)

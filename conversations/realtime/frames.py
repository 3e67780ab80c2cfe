"""Frames: the messages to readers of a conversation, created once per process and shared by all readers.

A frame contains an event of the log, or a message that is not in the log. Each protocol encodes a frame when the first
reader needs it, and caches the encoded form on the frame for the other readers.
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
"""The approximate number of bytes that a WebSocket message adds to an event's payload."""


class Frame(msgspec.Struct, gc=False, kw_only=True):
    """The base class of all frames.

    The garbage collector does not track frames (``gc=False``): a process keeps many frames at a time, and no frame is
    part of a reference cycle.
    """

    size: int = 0
    """The approximate size of the WebSocket message in bytes, known before the message is encoded."""
    seq: int | None = None
    """The event's number in the log; None for frames that are not in the log."""
    reset_to: int | None = None
    """The seq to which a reset frame moves the reader's cursor; None for all other frames."""
    wire: bytes = b""
    """The encoded WebSocket message, which all sockets share; empty until ``encode`` creates it."""
    forms: dict[str, Any] | None = None
    """The cached encoded forms for other protocols, by the name of the protocol."""

    def body(self) -> dict[str, Any]:
        """Return the frame as a message of this server's own protocol, ready to be serialized as JSON."""
        raise NotImplementedError

    def encode(self) -> bytes:
        """Return the encoded WebSocket message. It is encoded on first use and cached."""
        if not self.wire:
            self.wire = framing.encode_frame(dumps(self.body()))
        return self.wire

    def with_exact_size(self) -> Self:
        """Encode the WebSocket message, set ``size`` to its exact length, and return this frame.

        Use it for frames that are not in the log: they are few, and have no payload from which to estimate the size.
        """
        self.size = len(self.encode())
        return self

    @property
    def text(self) -> str:
        """The JSON text of the message, for protocols that cannot send the encoded WebSocket message."""
        return framing.decode_frame(self.encode()).decode()

    def cached_form(self, protocol: str) -> Any:
        """Return the cached encoded form for a protocol, or None if no form is cached."""
        return None if self.forms is None else self.forms.get(protocol)

    def cache_form(self, protocol: str, form: T) -> T:
        """Cache this frame's encoded form for a protocol; return the form."""
        if self.forms is None:
            self.forms = {}
        self.forms[protocol] = form
        return form

    def form_for(self, protocol: str, make: Callable[[], T]) -> T:
        """Return this frame's encoded form for a protocol. ``make`` builds it on first use; the result is cached."""
        form: T | None = self.cached_form(protocol)
        return self.cache_form(protocol, make()) if form is None else form


class EventFrame(Frame):
    """An event of the log."""

    event: LoggedEvent

    def body(self) -> dict[str, Any]:
        return {"type": "event", "seq": self.seq, "event": self.event.to_wire()}

    def encode(self) -> bytes:
        if not self.wire:
            self.wire = framing.encode_frame(_dumps(self.body()))
        return self.wire

    def json(self) -> bytes:
        """Return the event's JSON as in REST responses, without the envelope of a WebSocket message."""
        return _dumps(self.event.to_wire())

    def drop_encoded(self) -> None:
        """Drop the cached encoded forms of all protocols to save memory. They are created again on demand."""
        self.wire = b""
        self.forms = None


class StatusFrame(Frame):
    """The conversation's record, which a reader receives when it goes live and after each change."""

    record: dict[str, Any] | None

    def body(self) -> dict[str, Any]:
        return {"type": "status", "conversation": self.record}


class ResetFrame(Frame):
    """The message that tells a client that its cursor is invalid and that it must read the log again over REST."""

    epoch: int

    def body(self) -> dict[str, Any]:
        return {"type": "reset", "last_seq": self.reset_to, "epoch": self.epoch}


class DeltaFrame(Frame):
    """A delta: a piece of the text that the agent is streaming. Deltas are never stored."""

    delta: dict[str, Any]

    def body(self) -> dict[str, Any]:
        return {"type": "delta"} | self.delta


class PingFrame(Frame):
    """A ping. It has no content and only keeps the connection open."""

    def body(self) -> dict[str, Any]:
        return {"type": "ping"}


PING = PingFrame().with_exact_size()


def event_frame(event: LoggedEvent) -> EventFrame:
    """Return a new frame for an event. The frame is not encoded yet."""
    payload = event.payload
    # An ASCII text, the common case, has one byte per character, so it can be measured without encoding it.
    size = len(payload) if payload.isascii() else len(payload.encode())
    return EventFrame(event, seq=event.seq, size=size + ENVELOPE_BYTES)


def _dumps(value: dict[str, Any]) -> bytes:
    """Serialize like ``lib.api.dumps``, in half the time because all keys are known to be strings."""
    return orjson.dumps(value, option=orjson.OPT_UTC_Z)

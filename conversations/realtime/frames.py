"""Frames: what the readers of a conversation receive, made once in a process and shared by all of them.

A frame holds an event of the log, or what it carries from outside the log. Each protocol makes its own form of it when
its first reader needs that, and keeps the form beside it.
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
"""About what a WebSocket message adds to an event's payload."""


class Frame(msgspec.Struct, gc=False, kw_only=True):
    """The base of all frames. Many are kept, and none refers back to itself, so the garbage collector skips them."""

    size: int = 0
    """About the bytes of its WebSocket message, known before that is made."""
    seq: int | None = None
    """The place in the log; None for frames outside the log."""
    reset_to: int | None = None
    wire: bytes = b""
    """The WebSocket message that all sockets share; empty until ``encode`` makes it."""
    forms: dict[str, Any] | None = None
    """What other protocols keep beside it, by the protocol's name."""

    def body(self) -> dict[str, Any]:
        """Return the message of our own protocol."""
        raise NotImplementedError

    def encode(self) -> bytes:
        """Return the WebSocket message, and keep it."""
        if not self.wire:
            self.wire = framing.encode_frame(dumps(self.body()))
        return self.wire

    def sized(self) -> Self:
        """Make the WebSocket message now, to know the exact size: for frames outside the log, which are few."""
        self.size = len(self.encode())
        return self

    @property
    def text(self) -> str:
        """The JSON text of the message, for protocols that frame it in another way."""
        return framing.decode_frame(self.encode()).decode()

    def form(self, protocol: str) -> Any:
        """Return the form that a protocol keeps beside this frame, or None."""
        return None if self.forms is None else self.forms.get(protocol)

    def keep(self, protocol: str, form: T) -> T:
        """Keep a protocol's form of this frame for its other readers; return it."""
        if self.forms is None:
            self.forms = {}
        self.forms[protocol] = form
        return form

    def encoded(self, protocol: str, make: Callable[[], T]) -> T:
        """Return a protocol's form of this frame; ``make`` is called for its first reader."""
        form: T | None = self.form(protocol)
        return self.keep(protocol, make()) if form is None else form


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
        """Return the event alone, as REST gives it."""
        return _dumps(self.event.to_wire())

    def forget(self) -> None:
        """Drop the WebSocket message, which the next reader makes again."""
        self.wire = b""


class StatusFrame(Frame):
    """The conversation's record, which changed."""

    record: dict[str, Any] | None

    def body(self) -> dict[str, Any]:
        return {"type": "status", "conversation": self.record}


class ResetFrame(Frame):
    """Says that earlier cursors mean nothing: the client reads the log again over REST."""

    epoch: int

    def body(self) -> dict[str, Any]:
        return {"type": "reset", "last_seq": self.reset_to, "epoch": self.epoch}


class DeltaFrame(Frame):
    """A piece of what the agent is saying now, which is never stored."""

    delta: dict[str, Any]

    def body(self) -> dict[str, Any]:
        return {"type": "delta"} | self.delta


class PingFrame(Frame):
    """Says nothing; keeps a connection open."""

    def body(self) -> dict[str, Any]:
        return {"type": "ping"}


PING = PingFrame().sized()


def event_frame(event: LoggedEvent) -> EventFrame:
    """Return the frame of an event, which no protocol has encoded yet."""
    payload = event.payload
    size = len(payload) if payload.isascii() else len(payload.encode())
    return EventFrame(event, seq=event.seq, size=size + ENVELOPE_BYTES)


def _dumps(value: dict[str, Any]) -> bytes:
    """Like ``lib.api.dumps``, in half the time: all keys are strings."""
    return orjson.dumps(value, option=orjson.OPT_UTC_Z)

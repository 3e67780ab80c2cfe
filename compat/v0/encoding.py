"""The encoding of a conversation's frames as V0 packets, once for all V0 sockets of a process.

V0 is OpenHands' older protocol, a Socket.IO event in a WebSocket message. The encoder translates each event of the log
once. The sockets then send the same bytes.
"""

import asyncio
import json
from collections.abc import Iterable, Sequence
from typing import Any, Final

import msgspec

from compat.v0 import log, states, translation
from compat.v0.translation import Entry, Json, Links
from conversations.realtime.frames import EventFrame, Frame, StatusFrame
from conversations.realtime.subscription import FeedProtocol
from conversations.realtime.threads import run_in_thread
from lib import framing

PROTOCOL: Final = "V0"
"""The key under which a frame caches its V0 form."""
INLINE_BYTES: Final = 65_536
"""The size of events that are translated in the event loop. More would delay other sockets, so a thread does it."""


class EventForm(msgspec.Struct, gc=False):
    """The V0 form of an event of the log."""

    packet: bytes = b""
    """The WebSocket message; empty if V0 clients do not receive this event."""
    state: str | None = None
    """The agent's state, if the event is a change of state; else None."""
    reason: str = ""
    """The reason of the state."""


class RecordState(msgspec.Struct, frozen=True, gc=False):
    """The fields of a conversation's record that V0 clients receive outside the log."""

    agent_state: str
    title: str
    runtime_status: str

    @classmethod
    def of_record(cls, record: Json) -> "RecordState":
        return cls(
            states.map_agent_state(record), record["title"], states.map_runtime_status(record)
        )


def encode_packet(event: Json) -> bytes:
    """Return an ``oh_event``, the only event name that V0 servers send, as a WebSocket message."""
    # The same bytes as those of python-socketio's encoder.
    text = json.dumps(["oh_event", event], separators=(",", ":"))
    return framing.encode_frame(f"42{text}".encode())


def encode_state(state: str, *, reason: str) -> bytes:
    """Return the packet of an agent state that is not in the log."""
    return encode_packet(translation.build_state_frame(state, reason=reason))


def encode_record_changes(record: Json, known: RecordState | None, *, state: str) -> list[bytes]:
    """Return the packets for the changes of a record that are not in the log: the sandbox's state and the title.

    ``known`` is the record that the clients know, None if this is their first one. ``state`` is the last agent state
    that they received.
    """
    new = RecordState.of_record(record)
    packets = []
    if new.agent_state != state:
        packets.append(encode_state(new.agent_state, reason=record["status_detail"]))
    if known is not None and known.title != new.title:
        # In this status update ``message`` is the conversation's id. The web client loads the conversation again.
        update = {"message": record["id"].hex, "conversation_title": new.title}
        packets.append(encode_packet({"status_update": True, "type": "info"} | update))
    status = new.runtime_status
    if status != "STATUS$READY" and (known is None or known.runtime_status != status):
        kind = "error" if status == "STATUS$ERROR" else "info"
        update = {"id": status, "message": record["status_detail"]}
        packets.append(encode_packet({"status_update": True, "type": kind} | update))
    return packets


class V0Encoder:
    """The encoder of one conversation's frames for its V0 sockets (``subscription.Encoder``).

    The form of an event is an ``EventForm``, that of a status frame a list of packets. The links that a translation
    needs are bounded (``log.LINKS_MAX``).
    """

    def __init__(self, feed: FeedProtocol) -> None:
        self._feed = feed
        record = feed.reading.record if feed.reading else None
        self._known = RecordState.of_record(record) if record else None
        self._state = self._known.agent_state if self._known else ""
        # The links for the event after the seq ``_position``. They are loaded when the first event arrives.
        self._links: Links | None = None
        self._position = feed.seq
        # Of many sockets that need the same page, the first encodes it.
        self._lock = asyncio.Lock()

    async def encode_live(self, frames: Sequence[Frame]) -> None:
        """Encode new frames. Status frames become the packets for the changes since the previous status frame."""
        async with self._lock:
            await self._encode_live(frames)

    async def _encode_live(self, frames: Sequence[Frame]) -> None:
        events = [frame for frame in frames if isinstance(frame, EventFrame)]
        if events:
            first, last = events[0].event.seq, events[-1].event.seq
            if self._links is None or first != self._position + 1:
                self._links = await self._load_links(first - 1)
            await self._encode(events, self._links)
            self._position = last
        for frame in frames:
            if isinstance(frame, EventFrame):
                form: EventForm = frame.cached_form(PROTOCOL)
                self._state = self._state if form.state is None else form.state
            elif isinstance(frame, StatusFrame) and frame.record is not None:
                packets = encode_record_changes(frame.record, self._known, state=self._state)
                frame.cache_form(PROTOCOL, packets)
                self._known = RecordState.of_record(frame.record)
                self._state = self._known.agent_state

    async def encode_page(self, frames: Sequence[Frame]) -> None:
        """Encode the events of a page that have no form yet."""
        async with self._lock:
            events = [
                frame
                for frame in frames
                if isinstance(frame, EventFrame) and frame.cached_form(PROTOCOL) is None
            ]
            if events:
                links = await self._load_links(events[0].event.seq - 1)
                await self._encode(events, links)

    async def _load_links(self, seq: int) -> Links:
        """Return the links for a reader that starts after ``seq``. At the start of the log there are none."""
        if not seq:
            return Links()
        return await run_in_thread(log.load_links_at, self._feed.conversation_id, seq)

    async def _encode(self, frames: Sequence[EventFrame], links: Links) -> None:
        if sum(frame.size for frame in frames) > INLINE_BYTES:
            await run_in_thread(self._encode_now, frames, links)
            return
        entries = [Entry.of_event(frame.event) for frame in frames]
        if log.needs_lookup(entries, links):
            await run_in_thread(log.load_links, self._feed.conversation_id, entries, links)
        _cache_forms(frames, entries, links)

    def _encode_now(self, frames: Sequence[EventFrame], links: Links) -> None:
        entries = [Entry.of_event(frame.event) for frame in frames]
        log.load_links(self._feed.conversation_id, entries, links)
        _cache_forms(frames, entries, links)


def _cache_forms(frames: Iterable[EventFrame], entries: Iterable[Entry], links: Links) -> None:
    for frame, entry in zip(frames, entries, strict=True):
        frame.cache_form(PROTOCOL, _encode_event(entry, links))
    log.trim(links)


def _encode_event(entry: Entry, links: Links) -> EventForm:
    event: Any = translation.translate_event(entry, links)
    if event is None or translation.is_null(event):
        return EventForm()
    if not translation.is_state_change(event):
        return EventForm(encode_packet(event))
    extras = event["extras"]
    return EventForm(encode_packet(event), extras["agent_state"], extras["reason"])

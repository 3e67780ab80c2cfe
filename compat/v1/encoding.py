"""The encoding of a conversation's frames as V1 messages, once for all V1 sockets of a process.

V1 is OpenHands' newer protocol. The encoder encodes each event of the log once. The sockets then send the same bytes.
"""

import asyncio
from collections.abc import Sequence
from typing import Any
from uuid import UUID

import msgspec

from billing import services as billing
from compat.v1 import responses, translation
from compat.v1.translation import ENDED_STATES
from conversations.engine.payloads import build_analyzer, build_policy
from conversations.models import Conversation
from conversations.realtime.frames import DeltaFrame, EventFrame, Frame, StatusFrame
from conversations.realtime.subscription import FeedProtocol
from conversations.realtime.threads import run_in_thread
from lib import framing
from lib.batches import Batches
from lib.compiled import ids_in

PROTOCOL = "V1"
"""The key under which a frame caches its V1 form."""
INLINE_BYTES = 65_536
"""The size of events that are encoded in the event loop. More would delay other sockets, so a thread does it."""
SAFETY = {"confirmation_policy": build_policy, "security_analyzer": build_analyzer}
"""The fields of the state that say when the agent asks, each with the function that builds the engine's format."""


class EventForm(msgspec.Struct, gc=False):
    """The V1 form of an event of the log."""

    message: bytes = b""
    """The WebSocket message; empty if V1 clients do not receive this event."""
    status: str = ""
    """The agent's new state if the event reports one, else ``""``."""
    full_state: bytes = b""
    """If the event ends a run: the message with the full state, which follows the event; else empty."""


class State(msgspec.Struct, frozen=True):
    """The state of a conversation, with which a V1 socket begins."""

    fields: dict[str, Any]
    """The engine's ``ConversationInfo``."""
    message: bytes
    """The WebSocket message with the fields."""
    status: str
    """The agent's state."""
    last_seq: int
    pruned_seq: int


def encode_message(text: str) -> bytes:
    """Return a text as a WebSocket message."""
    return framing.encode_frame(text.encode())


def encode_full_state(state: State, status: str) -> bytes:
    """Return the message with a full state in which the agent has another state."""
    fields = state.fields | {"execution_status": status}
    return encode_message(translation.encode_state("full_state", fields))


def load_states(ids: Sequence[UUID]) -> dict[UUID, State | Exception]:
    """Return the state of each conversation. The answer for one that no longer exists is ``DoesNotExist``.

    The number of database queries depends only on the number of different creators.
    """
    rows = {
        row.pk: row
        for row in Conversation.objects.select_related("sandbox").filter(pk__in=ids_in(ids))
    }
    usage = billing.get_usage(list(rows))
    busy = responses.conversations_with_open_messages(list(rows))
    creator_settings: responses.CreatorSettings = {}
    states: dict[UUID, State | Exception] = {}
    for key in ids:
        row = rows.get(key)
        if row is None:
            states[key] = Conversation.DoesNotExist()
            continue
        fields = responses.serialize_runtime_info(
            row,
            usage.get(key),
            has_open_messages=key in busy,
            creator_settings=creator_settings,
        )
        message = encode_message(translation.encode_state("full_state", fields))
        states[key] = State(fields, message, row.execution_status, row.last_seq, row.pruned_seq)
    return states


async def _load_in_thread(ids: list[UUID]) -> dict[UUID, State | Exception]:
    return await run_in_thread(load_states, ids)


_states = Batches(_load_in_thread)


async def load_state(conversation_id: UUID) -> State:
    """Return the state of a conversation. Sockets that need it at the same time share database queries."""
    return await _states.ask(conversation_id)


class V1Encoder:
    """The encoder of one conversation's frames for its V1 sockets (``subscription.Encoder``).

    The form of an event is an ``EventForm``, that of a status frame a list of messages, and that of a delta a message.
    """

    def __init__(self, feed: FeedProtocol) -> None:
        self._feed = feed
        record = feed.reading.record if feed.reading else None
        self._status = record["execution_status"] if record else ""
        self._safety = build_safety(record) if record else {}
        # Of many sockets that need the same page, the first encodes it.
        self._lock = asyncio.Lock()

    async def encode_live(self, frames: Sequence[Frame]) -> None:
        """Encode new frames. Status frames become the messages for the changes since the previous status frame."""
        async with self._lock:
            await self._encode_live(frames)

    async def _encode_live(self, frames: Sequence[Frame]) -> None:
        await self._encode([frame for frame in frames if isinstance(frame, EventFrame)])
        for frame in frames:
            if isinstance(frame, EventFrame):
                form: EventForm = frame.cached_form(PROTOCOL)
                self._status = form.status or self._status
                if form.status in ENDED_STATES:
                    state = await load_state(self._feed.conversation_id)
                    form.full_state = encode_full_state(state, form.status)
            elif isinstance(frame, StatusFrame) and frame.record is not None:
                messages = await encode_record_changes(
                    frame.record, status=self._status, safety=self._safety
                )
                frame.cache_form(PROTOCOL, messages)
                self._status = frame.record["execution_status"]
                self._safety = build_safety(frame.record)

    async def encode_page(self, frames: Sequence[Frame]) -> None:
        """Encode the events of a page that have no form yet, without full states."""
        async with self._lock:
            await self._encode(
                [
                    frame
                    for frame in frames
                    if isinstance(frame, EventFrame) and frame.cached_form(PROTOCOL) is None
                ]
            )

    async def _encode(self, frames: Sequence[EventFrame]) -> None:
        # Which of the engine's copies of messages are not sent is found in the database.
        needs_lookup = any(translation.is_message_copy(frame.event) for frame in frames)
        if needs_lookup or sum(frame.size for frame in frames) > INLINE_BYTES:
            await run_in_thread(self._encode_now, frames)
        else:
            _cache_forms(frames, set())

    def _encode_now(self, frames: Sequence[EventFrame]) -> None:
        events = [frame.event for frame in frames]
        _cache_forms(frames, translation.find_copies(events, self._feed.conversation_id))


def _cache_forms(frames: Sequence[EventFrame], copies: set[str]) -> None:
    """Cache the form of each event. ``copies`` has the ids of the engine's copies of messages, which are not sent."""
    for frame in frames:
        event = frame.event
        is_sent = translation.is_kind_sent_to_v1(event) and event.event_id not in copies
        message = encode_message(translation.encode_event(event)) if is_sent else b""
        frame.cache_form(PROTOCOL, EventForm(message, translation.read_status(event)))


def encode_delta(frame: DeltaFrame) -> bytes:
    """Return the message of a delta; empty if V1 has no event for this kind of output. It is cached on the frame."""
    message: bytes | None = frame.cached_form(PROTOCOL)
    if message is None:
        text = translation.encode_delta(frame.delta)
        message = frame.cache_form(PROTOCOL, encode_message(text) if text else b"")
    return message


def build_safety(record: dict[str, Any]) -> dict[str, Any]:
    """Return the fields of ``SAFETY`` of a conversation's record, in the engine's format."""
    return {name: build(record[name]) for name, build in SAFETY.items()}


async def encode_record_changes(
    record: dict[str, Any], *, status: str, safety: dict[str, Any]
) -> list[bytes]:
    """Return the messages for changes of a record that no event reported.

    ``status`` and ``safety`` are what the clients know. If the record says that a run ended, the full state follows.
    """
    # The SDK reads these from the state that it received, so it would show an old policy (openhands-sdk 1.58.2).
    messages = [
        encode_message(translation.encode_state(name, value))
        for name, value in build_safety(record).items()
        if value != safety.get(name, value)
    ]
    new_status = record["execution_status"]
    if new_status != status:
        text = translation.encode_state("execution_status", new_status)
        messages.append(encode_message(text))
        if new_status in ENDED_STATES:
            state = await load_state(record["id"])
            messages.append(encode_full_state(state, new_status))
    return messages

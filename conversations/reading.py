"""What a log and its record look like now, for any number of conversations by one statement, ready to be sent."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cache, cached_property
from typing import Any
from uuid import UUID

import orjson
from django.db import connection, models

from billing.models import ConversationUsage
from conversations.models import Conversation, StartTask
from conversations.models.log import WIRE
from conversations.records import record_from
from openhands_site.lib import prepared
from openhands_site.lib.api import dumps

PAGE_BYTES = 4 * 1_048_576
"""A page ends with the event that goes beyond so many bytes of payload."""
PASSING = ("last_seq", "updated_at")
"""Fields of a record that move with every event, and are no news on their own."""


class Frame:
    """What every socket is sent: text made once. ``seq`` is None for frames outside the log."""

    __slots__ = ("message", "piece", "reset_to", "seq", "size", "text", "v1")

    def __init__(self, text: str, seq: int | None = None, reset_to: int | None = None) -> None:
        self.text = text
        self.seq = seq
        self.reset_to = reset_to
        self.size = len(text)
        self.message = {"type": "websocket.send", "text": text}
        """The one ASGI message that all sockets share."""
        self.piece: dict[str, Any] | None = None
        """The same for server-sent events, once somebody needed it."""
        self.v1: tuple[str, str] | None = None
        """The same for V1 clients (``compat.v1.sockets``), made when the first of them wants it."""


@dataclass(frozen=True)
class Reading:
    """What one look at a conversation gave; ``record`` is None for one that is gone."""

    epoch: int
    last_seq: int
    horizon: int
    updated_at: datetime | None
    record: dict[str, Any] | None
    frames: list[Frame]

    @property
    def is_gone(self) -> bool:
        return self.record is None

    @cached_property
    def news(self) -> dict[str, Any]:
        """What of the record is worth telling when it changes."""
        return {key: value for key, value in (self.record or {}).items() if key not in PASSING}

    @cached_property
    def status(self) -> Frame:
        """The record as sockets get it."""
        return Frame(text_of({"type": "status", "conversation": self.record}))


def read(places: Mapping[UUID, int | None], page: int) -> dict[UUID, Reading]:
    """Records, and the events behind each conversation's place: one statement for all of them.

    A place of None asks for no events. A page has at most ``page`` events and little more than
    ``PAGE_BYTES``; ``last_seq`` says whether there are more.
    """
    rows = prepared.fetch(_statement(), [list(places), list(places.values()), page, PAGE_BYTES])
    heads: dict[UUID, tuple] = {}
    events: dict[UUID, list[Frame]] = {key: [] for key in places}
    for row in rows:
        if row[0] is None:
            events[row[1]].append(_frame(row[2:9]))
        else:
            heads[row[0]] = row[9:]
    return {key: _reading(heads.get(key), events[key], place) for key, place in places.items()}


def read_events(conversation_id: UUID, after: int, page: int) -> list[Frame]:
    """A page of event frames behind ``after``."""
    return read({conversation_id: after}, page)[conversation_id].frames


def read_moved(known: dict[UUID, tuple[int, datetime | None]]) -> list[UUID]:
    """Which of the conversations are no longer as we know them."""
    rows = Conversation.objects.filter(pk__in=known, deleted_at=None)
    found = {pk: (seq, at) for pk, seq, at in rows.values_list("pk", "last_seq", "updated_at")}
    return [key for key, place in known.items() if found.get(key) != place]


def reset_frame(reading: Reading) -> Frame:
    """Says that cursors of before mean nothing: fetch the log anew over REST."""
    body = {"type": "reset", "last_seq": reading.last_seq, "epoch": reading.epoch}
    return Frame(text_of(body), reset_to=reading.last_seq)


def text_of(body: dict[str, Any]) -> str:
    """A frame's JSON."""
    return dumps(body).decode()


def event_of(frame: Frame) -> str:
    """The event alone, as REST gives it, out of its frame."""
    return frame.text[frame.text.index('"event":{') + 8 : -1]


def _frame(values: Sequence[Any]) -> Frame:
    event = dict(zip(WIRE, values, strict=True))
    event["payload"] = orjson.Fragment(event["payload"])
    return Frame(text_of({"type": "event", "seq": values[0], "event": event}), values[0])


def _reading(head: tuple | None, frames: list[Frame], place: int | None) -> Reading:
    if head is None:
        return Reading(0, place or 0, 0, None, None, [])
    parts: list[Any] = []
    for kind, start, readers in _parts():
        values = list(head[start : start + len(readers)])
        for index, read_value in enumerate(readers):
            for convert in read_value:
                values[index] = convert(values[index], None, connection)
        is_there = values[0] is not None
        parts.append(
            kind.from_db("default", [f.attname for f in _fields(kind)], values)
            if is_there
            else None
        )
    conversation, usage, start_task = parts
    return Reading(
        epoch=conversation.epoch,
        last_seq=conversation.last_seq,
        horizon=conversation.pruned_seq,
        updated_at=conversation.updated_at,
        record=record_from(conversation, usage, start_task),
        frames=frames,
    )


# --- The statement ------------------------------------------------------------------

Readers = list[list[Callable[..., Any]]]


def _fields(kind: type[models.Model]) -> Sequence[Any]:
    """A model's columns, its primary key first."""
    fields = kind._meta.concrete_fields  # noqa: SLF001 - the documented way to them
    return sorted(fields, key=lambda field: not field.primary_key)


@cache
def _parts() -> list[tuple[type[models.Model], int, Readers]]:
    """What stands in a head row behind the ids: which model, from where, and how its values are read."""
    parts: list[tuple[type[models.Model], int, Readers]] = []
    start = 0
    for kind in (Conversation, ConversationUsage, StartTask):
        readers = [field.get_db_converters(connection) for field in _fields(kind)]
        parts.append((kind, start, readers))
        start += len(readers)
    return parts


@cache
def _statement() -> str:
    names = {"c": Conversation, "u": ConversationUsage, "s": StartTask}
    head = ", ".join(f"{alias}.{f.column}" for alias, kind in names.items() for f in _fields(kind))
    nothing = ", ".join("NULL" for _, _, readers in _parts() for _ in readers)
    return f"""
WITH wanted AS MATERIALIZED (
    SELECT * FROM unnest(%s::uuid[], %s::bigint[]) AS wanted (id, place)
)
SELECT c.id AS head, c.id AS id, NULL::bigint AS seq, NULL AS event_id, NULL AS kind, NULL AS source,
    NULL AS payload, NULL::timestamptz AS engine_time, NULL::timestamptz AS received_at, {head}
FROM wanted
JOIN conversations_conversation AS c ON c.id = wanted.id AND c.deleted_at IS NULL
LEFT JOIN billing_conversationusage AS u ON u.conversation_id = c.id
LEFT JOIN LATERAL (
    SELECT * FROM conversations_starttask AS started WHERE started.conversation_id = c.id
    ORDER BY started.created_at DESC LIMIT 1
) AS s ON true
UNION ALL
SELECT NULL, wanted.id, e.seq, e.event_id, e.kind, e.source, e.payload, e.engine_time, e.received_at,
    {nothing}
FROM wanted CROSS JOIN LATERAL (
    SELECT page.*, sum(octet_length(page.payload)) OVER (ORDER BY page.seq) - octet_length(page.payload) AS before
    FROM (
        SELECT * FROM conversations_event AS event
        WHERE event.conversation_id = wanted.id AND event.seq > wanted.place
        ORDER BY event.seq LIMIT %s
    ) AS page
    ORDER BY page.seq
) AS e
WHERE e.before < %s"""  # noqa: S608 - names of our own columns

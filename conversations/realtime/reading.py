"""What a log and its record look like now, for any number of conversations by one statement, ready to be sent."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cache, cached_property
from typing import Any
from uuid import UUID

from django.db import connection, models

from billing.models import ConversationUsage
from conversations.log.records import serialize_record
from conversations.models import Conversation, StartTask
from conversations.models.event import COLUMNS, LoggedEvent
from conversations.realtime.frames import EventFrame, Frame, ResetFrame, StatusFrame, event_frame
from lib import prepared

PAGE_BYTES = 4 * 1_048_576
"""A page ends with the event that goes beyond so many bytes of payload."""
PASSING = ("last_seq", "updated_at")
"""Fields of a record that move with every event, and are no news on their own."""


@dataclass(frozen=True)
class Reading:
    """What one look at a conversation gave; ``record`` is None for one that is gone."""

    epoch: int
    last_seq: int
    horizon: int
    updated_at: datetime | None
    record: dict[str, Any] | None
    frames: list[EventFrame]

    @property
    def is_gone(self) -> bool:
        return self.record is None

    @cached_property
    def news(self) -> dict[str, Any]:
        """What of the record is worth telling when it changes."""
        return {key: value for key, value in (self.record or {}).items() if key not in PASSING}

    @cached_property
    def status(self) -> Frame:
        """The record as readers receive it."""
        return StatusFrame(self.record).sized()

    @property
    def reset(self) -> Frame:
        """The frame that sends a reader to the end of this log."""
        return ResetFrame(self.epoch, reset_to=self.last_seq).sized()


def read(places: Mapping[UUID, int | None], page: int) -> dict[UUID, Reading]:
    """Records, and the events behind each conversation's place: one statement for all of them.

    A place of None asks for no events. A page has at most ``page`` events and little more than
    ``PAGE_BYTES``; ``last_seq`` says whether there are more.
    """
    parameters = [list(places), list(places.values()), page, PAGE_BYTES]
    rows = prepared.fetch(_statement(), parameters, is_binary=True)
    found = {row[0]: row for row in rows}
    return {key: _reading(found.get(key), place) for key, place in places.items()}


def read_events(conversation_id: UUID, after: int, page: int) -> list[Frame]:
    """Return a page of event frames behind ``after``."""
    return list(read({conversation_id: after}, page)[conversation_id].frames)


def read_moved(known: dict[UUID, tuple[int, datetime | None]]) -> list[UUID]:
    """Which of the conversations are no longer as we know them."""
    rows = Conversation.objects.filter(pk__in=known, deleted_at=None)
    found = {pk: (seq, at) for pk, seq, at in rows.values_list("pk", "last_seq", "updated_at")}
    return [key for key, place in known.items() if found.get(key) != place]


def _frames(columns: Sequence[list[Any] | None]) -> list[EventFrame]:
    """Return the frames of events that come as a list of each of ``COLUMNS``, or None for no events."""
    if columns[0] is None:
        return []
    return [event_frame(LoggedEvent(*values)) for values in zip(*columns, strict=True)]


def _reading(row: tuple[Any, ...] | None, place: int | None) -> Reading:
    if row is None:
        return Reading(0, place or 0, 0, None, None, [])
    head, frames = row[: -len(COLUMNS)], _frames(row[-len(COLUMNS) :])
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
        record=serialize_record(conversation, usage, start_task),
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
    """One row a conversation: its record, and its events as an array of each column.

    A row an event would carry the record's many columns too, empty, and cost as much to take apart as all the rest.
    """
    names = {"c": Conversation, "u": ConversationUsage, "s": StartTask}
    head = ", ".join(_column(alias, f) for alias, kind in names.items() for f in _fields(kind))
    columns = ", ".join(f"array_agg(e.{name} ORDER BY e.seq) AS {name}" for name in COLUMNS)
    events = ", ".join(f"events.{name}" for name in COLUMNS)
    return f"""
WITH wanted AS MATERIALIZED (
    SELECT * FROM unnest(%s::uuid[], %s::bigint[]) AS wanted (id, place)
)
SELECT {head}, {events}
FROM wanted
JOIN conversations_conversation AS c ON c.id = wanted.id AND c.deleted_at IS NULL
LEFT JOIN billing_conversationusage AS u ON u.conversation_id = c.id
LEFT JOIN LATERAL (
    SELECT * FROM conversations_starttask AS started WHERE started.conversation_id = c.id
    ORDER BY started.created_at DESC LIMIT 1
) AS s ON true
CROSS JOIN LATERAL (
    SELECT {columns}
    FROM (
        SELECT page.*, sum(octet_length(page.payload)) OVER (ORDER BY page.seq) - octet_length(page.payload) AS before
        FROM (
            SELECT * FROM conversations_event AS event
            WHERE event.conversation_id = wanted.id AND event.seq > wanted.place
            ORDER BY event.seq LIMIT %s
        ) AS page
    ) AS e
    WHERE e.before < %s
) AS events"""  # noqa: S608 - names of our own columns


def _column(alias: str, field: "models.Field[Any, Any]") -> str:
    """A column as Django's readers want it: JSON as text, which in binary the driver would parse itself."""
    return f"{alias}.{field.column}" + ("::text" if isinstance(field, models.JSONField) else "")

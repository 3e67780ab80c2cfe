"""Functions that read the records and new events of many conversations with one SQL statement."""

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
"""The size of a page's payloads in bytes. The event that exceeds this size is the last event of the page."""
UNANNOUNCED = ("last_seq", "updated_at")
"""Fields of a record that change with every event. If only these fields change, no status frame is sent."""


@dataclass(frozen=True)
class Reading:
    """The state of a conversation when it was read.

    ``record`` is None if the conversation no longer exists. Events up to ``horizon`` were pruned. A cursor of another
    ``epoch`` is invalid: the log was restored from a backup in between.
    """

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
    def announced_fields(self) -> dict[str, Any]:
        """The fields of the record that cause a status frame when they change."""
        return {key: value for key, value in (self.record or {}).items() if key not in UNANNOUNCED}

    @cached_property
    def status(self) -> Frame:
        """The status frame with the record."""
        return StatusFrame(self.record).with_exact_size()

    @property
    def reset(self) -> Frame:
        """A reset frame, which moves a reader's cursor to the end of this log."""
        return ResetFrame(self.epoch, reset_to=self.last_seq).with_exact_size()


def read(places: Mapping[UUID, int | None], page: int) -> dict[UUID, Reading]:
    """Return a reading of each conversation in ``places``. Runs one SQL statement.

    ``places`` maps a conversation id to the seq after which to read events, or to None to read no events. A reading has
    at most ``page`` events, and ends early after the event with which its payloads reach ``PAGE_BYTES``. If
    ``last_seq`` is greater than the seq of the last event, more events follow.
    """
    parameters = [list(places), list(places.values()), page, PAGE_BYTES]
    rows = prepared.fetch(_statement(), parameters, binary_rows=True)
    row_of = {row[0]: row for row in rows}
    return {key: _build_reading(row_of.get(key), place) for key, place in places.items()}


def read_events(conversation_id: UUID, after: int, page: int) -> list[EventFrame]:
    """Return one page of event frames after the seq ``after``."""
    return read({conversation_id: after}, page)[conversation_id].frames


def read_pages(places: Sequence[tuple[UUID, int]], page: int) -> dict[tuple[UUID, int], Reading]:
    """Return a reading with one page of events for each place: a conversation id and the seq after which to read.

    Runs one SQL statement, or more if a conversation occurs several times.
    """
    found: dict[tuple[UUID, int], Reading] = {}
    left = list(places)
    while left:
        # A statement reads one page of each conversation.
        together = dict(reversed(left))
        readings = read(together, page)
        found |= {(key, after): readings[key] for key, after in together.items()}
        left = [place for place in left if place not in found]
    return found


def find_changed(known: dict[UUID, tuple[int, datetime | None]]) -> list[UUID]:
    """Return the ids of the conversations that changed since they were read. Deleted conversations are included.

    ``known`` maps a conversation id to the ``(last_seq, updated_at)`` of the last read.
    """
    seqs, times = zip(*known.values(), strict=True) if known else ((), ())
    parameters = [list(known), list(seqs), list(times)]
    return [row[0] for row in prepared.fetch(_CHANGED, parameters, binary_rows=True)]


_CHANGED = f"""
SELECT known.id FROM unnest(%s::uuid[], %s::bigint[], %s::timestamptz[]) AS known (id, last_seq, updated_at)
LEFT JOIN {Conversation._meta.db_table} AS c ON c.id = known.id AND c.deleted_at IS NULL
WHERE (c.last_seq, c.updated_at) IS DISTINCT FROM (known.last_seq, known.updated_at)"""  # noqa: S608, SLF001 - our own names


def _frames(columns: Sequence[list[Any] | None]) -> list[EventFrame]:
    """Return event frames from one list for each of ``COLUMNS``."""
    # Without rows, `array_agg` returns NULL instead of an empty array.
    if columns[0] is None:
        return []
    return [event_frame(LoggedEvent(*values)) for values in zip(*columns, strict=True)]


def _build_reading(row: tuple[Any, ...] | None, place: int | None) -> Reading:
    if row is None:
        return Reading(0, place or 0, 0, None, None, [])
    head, frames = row[: -len(COLUMNS)], _frames(row[-len(COLUMNS) :])
    parts: list[Any] = []
    for kind, start, readers in _parts():
        values = list(head[start : start + len(readers)])
        for index, read_value in enumerate(readers):
            # Apply the conversions that the ORM applies before it calls `from_db`.
            for convert in read_value:
                values[index] = convert(values[index], None, connection)
        has_row = values[0] is not None  # an outer join without a match has no primary key
        parts.append(
            kind.from_db("default", [f.attname for f in _fields(kind)], values) if has_row else None
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
    """Return a model's columns, the primary key first."""
    fields = kind._meta.concrete_fields  # noqa: SLF001 - Django documents ``_meta`` as public
    return sorted(fields, key=lambda field: not field.primary_key)


@cache
def _parts() -> list[tuple[type[models.Model], int, Readers]]:
    """Return the models of a result row, each with the index of its first column and its columns' converters."""
    parts: list[tuple[type[models.Model], int, Readers]] = []
    start = 0
    for kind in (Conversation, ConversationUsage, StartTask):
        readers = [field.get_db_converters(connection) for field in _fields(kind)]
        parts.append((kind, start, readers))
        start += len(readers)
    return parts


@cache
def _statement() -> str:
    """Return the SQL statement. It selects one row per conversation, with the events as one array per column.

    One row per event would repeat the record's many columns, and parsing these columns costs as much as parsing all
    events (ADR 12). ``before`` is the size of the earlier payloads in the page, so a page contains at least one event,
    however large the event is.
    """
    names = {"c": Conversation, "u": ConversationUsage, "s": StartTask}
    head = ", ".join(_column(alias, f) for alias, kind in names.items() for f in _fields(kind))
    columns = ", ".join(f"array_agg(e.{name} ORDER BY e.seq) AS {name}" for name in COLUMNS)
    events = ", ".join(f"events.{name}" for name in COLUMNS)
    return f"""
WITH requested AS MATERIALIZED (
    SELECT * FROM unnest(%s::uuid[], %s::bigint[]) AS requested (id, place)
)
SELECT {head}, {events}
FROM requested
JOIN conversations_conversation AS c ON c.id = requested.id AND c.deleted_at IS NULL
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
            WHERE event.conversation_id = requested.id AND event.seq > requested.place
            ORDER BY event.seq LIMIT %s
        ) AS page
    ) AS e
    WHERE e.before < %s
) AS events"""  # noqa: S608 - names of our own columns


def _column(alias: str, field: "models.Field[Any, Any]") -> str:
    """Return the SQL expression that selects a column.

    JSON is selected as text, because Django's converters expect text, and in a binary result the driver would decode
    JSON itself.
    """
    return f"{alias}.{field.column}" + ("::text" if isinstance(field, models.JSONField) else "")

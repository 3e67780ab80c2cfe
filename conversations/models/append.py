"""Append events to logs: all statements that insert into the table of events.

Each moves the counter of its conversation and adds the rows in one statement, hence in one round trip. Parameters
travel in binary, by one array a column (docs/adr/0030).
"""

import contextlib
from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import lru_cache
from typing import Any, NamedTuple
from uuid import UUID

import msgspec
from django.db import IntegrityError, transaction

from lib import prepared


class NewEvent(msgspec.Struct, frozen=True):
    """An event that is about to get its place in a log. ``payload`` is JSON text, kept as it came."""

    event_id: str
    kind: str
    source: str
    payload: str
    engine_seq: int | None = None
    engine_time: datetime | None = None


class NewEvents(NamedTuple):
    """Events of one conversation's engine, and the generation of the lease under which they were read."""

    conversation_id: UUID
    generation: int
    events: Sequence[NewEvent]


def append_locked(
    conversation_id: UUID, events: Sequence[NewEvent], *, at: datetime, values: Mapping[str, Any]
) -> tuple[int, Sequence[int]] | None:
    """Append to a conversation whose row the caller has locked, and write ``values`` into its columns.

    Return the log's new end and the rows' primary keys, or None for a conversation that is gone.
    """
    parameters = [conversation_id, len(events), at, *values.values(), at, *columns_of(events)]
    rows = prepared.fetch(_locked(tuple(values)), parameters)
    return (rows[0][0], rows[0][1] or ()) if rows else None


def append_fenced(new: NewEvents, *, at: datetime) -> tuple[UUID | None, datetime | None] | None:
    """Append what an engine said next, if the lease and the engine's index are still as the reader knew them.

    Return the sandbox and the time of its last use. Return None, having stored nothing, if they are not, or if the
    log has one of the ids.
    """
    first, newest = new.events[0].engine_seq, new.events[-1].engine_seq
    assert first is not None
    fence = (new.conversation_id, new.generation, first - 1)
    parameters = (len(new.events), newest, at, *fence, at, *columns_of(new.events))
    return next(iter(_fetch_unless_repeated(FENCED, parameters)), None)


def append_fenced_together(batches: Sequence[NewEvents], *, at: datetime) -> list[tuple[Any, ...]]:
    """Append like ``append_fenced`` for many conversations, in the caller's transaction.

    Return the conversation, its sandbox and the time of its last use for each batch that was stored. Skip
    conversations that another transaction has locked, so that we never wait while holding locks. Raise
    ``IntegrityError`` if a log has one of the ids.
    """
    heads = [
        [batch.conversation_id for batch in batches],
        [batch.generation for batch in batches],
        [batch.events[0].engine_seq for batch in batches],
        [len(batch.events) for batch in batches],
    ]
    keys = [batch.conversation_id for batch in batches for _ in batch.events]
    places = [place for batch in batches for place in range(1, len(batch.events) + 1)]
    columns = columns_of([event for batch in batches for event in batch.events])
    return prepared.fetch(FENCED_TOGETHER, [*heads, at, at, keys, places, *columns])


def append_published(
    conversation_id: UUID, events: Sequence[NewEvent], *, at: datetime
) -> tuple[int, int] | None:
    """Append to a run that another program publishes; return the log's new end and its epoch.

    Return None, having stored nothing, if it is no such run, or if the log has one of the ids.
    """
    parameters = (conversation_id, len(events), at, at, *columns_of(events))
    return next(iter(_fetch_unless_repeated(PUBLISHED, parameters)), None)


def copy_log(conversation_id: UUID, *, into: UUID, through_seq: int) -> None:
    """Copy the events up to ``through_seq`` into another, empty log, under new ids and without engine indexes."""
    with transaction.get_connection().cursor() as cursor:
        cursor.execute(_COPY, [into, conversation_id, through_seq])


def columns_of(events: Sequence[NewEvent]) -> list[Any]:
    """Return the parameters of a statement that hold the events."""
    return [
        [event.event_id for event in events],
        [event.kind for event in events],
        [str(event.source) for event in events],
        [event.payload for event in events],
        [event.engine_seq for event in events],
        [event.engine_time for event in events],
    ]


def _fetch_unless_repeated(statement: str, parameters: Sequence[Any]) -> list[tuple[Any, ...]]:
    """Run a statement that appends without looking first; return no rows if the log has one of the ids."""
    # Alone, the statement is its own transaction. Inside one, a repeated id must not break what surrounds us.
    is_within = transaction.get_connection().in_atomic_block
    try:
        with transaction.atomic() if is_within else contextlib.nullcontext():
            return prepared.fetch(statement, parameters)
    except IntegrityError:
        return []


# --- The statements -----------------------------------------------------------------

_ROWS = """
    INSERT INTO conversations_event (organization_id, conversation_id, seq, event_id, kind, source,
        payload, engine_seq, engine_time, received_at)
    SELECT moved.organization_id, moved.id, moved.last_seq - moved.news + new.place, new.event_id,
        new.kind, new.source, new.payload, new.engine_seq, new.engine_time, %s"""
_ADDED = f"""
added AS ({_ROWS}
    FROM moved, unnest(%b::text[], %b::text[], %b::text[], %b::text[], %b::bigint[], %b::timestamptz[])
        WITH ORDINALITY AS new (event_id, kind, source, payload, engine_seq, engine_time, place)
    RETURNING id, seq
)"""


@lru_cache(maxsize=32)
def _locked(columns: tuple[str, ...]) -> str:
    further = "".join(f", {column} = %s" for column in columns)
    return f"""
WITH news AS (SELECT %s::uuid AS id, %s::bigint AS count, %s::timestamptz AS at),
moved AS (
    UPDATE conversations_conversation AS c
    SET last_seq = c.last_seq + news.count, updated_at = news.at{further}
    FROM news WHERE c.id = news.id
    RETURNING c.id, c.organization_id, c.last_seq, news.count AS news
),{_ADDED}
SELECT last_seq, (SELECT array_agg(id ORDER BY seq) FROM added) FROM moved"""  # noqa: S608 - names of our own fields


FENCED = f"""
WITH held AS MATERIALIZED (
    SELECT c.id, %s::bigint AS news, %s::bigint AS newest, %s::timestamptz AS at
    FROM conversations_conversation AS c JOIN conversations_lease AS l ON l.conversation_id = c.id
    WHERE c.id = %s AND c.deleted_at IS NULL AND l.generation = %s AND c.engine_seq = %s
    FOR NO KEY UPDATE OF c FOR SHARE OF l
),
moved AS (
    UPDATE conversations_conversation AS c
    SET last_seq = c.last_seq + held.news, engine_seq = held.newest, updated_at = held.at
    FROM held WHERE c.id = held.id
    RETURNING c.id, c.organization_id, c.last_seq, c.sandbox_id, held.news
),{_ADDED}
SELECT moved.sandbox_id, s.active_at
FROM moved LEFT JOIN conversations_sandbox AS s ON s.id = moved.sandbox_id"""  # noqa: S608 - constants
"""PostgreSQL checks the row that ``held`` locks again once it has the lock. So a lease or an index that moved while we
waited gives no row, and then nothing is written."""

FENCED_TOGETHER = f"""
WITH batch AS (
    SELECT * FROM unnest(%b::uuid[], %b::bigint[], %b::bigint[], %b::bigint[])
        AS batch (id, generation, first, news)
),
held AS MATERIALIZED (
    SELECT c.id, batch.news
    FROM batch JOIN conversations_conversation AS c ON c.id = batch.id
    JOIN conversations_lease AS l ON l.conversation_id = c.id
    WHERE c.deleted_at IS NULL AND l.generation = batch.generation AND c.engine_seq = batch.first - 1
    FOR NO KEY UPDATE OF c SKIP LOCKED FOR SHARE OF l SKIP LOCKED
),
moved AS (
    UPDATE conversations_conversation AS c
    SET last_seq = c.last_seq + held.news, engine_seq = c.engine_seq + held.news, updated_at = %s
    FROM held WHERE c.id = held.id
    RETURNING c.id, c.organization_id, c.last_seq, c.sandbox_id, held.news
),
added AS ({_ROWS}
    FROM unnest(%b::uuid[], %b::bigint[], %b::text[], %b::text[], %b::text[], %b::text[], %b::bigint[],
        %b::timestamptz[])
        AS new (id, place, event_id, kind, source, payload, engine_seq, engine_time)
    JOIN moved ON moved.id = new.id
)
SELECT moved.id, moved.sandbox_id, s.active_at
FROM moved LEFT JOIN conversations_sandbox AS s ON s.id = moved.sandbox_id
"""  # noqa: S608 - constants

PUBLISHED = f"""
WITH news AS (SELECT %s::uuid AS id, %s::bigint AS count, %s::timestamptz AS at),
moved AS (
    UPDATE conversations_conversation AS c
    SET last_seq = c.last_seq + news.count, updated_at = news.at
    FROM news WHERE c.id = news.id AND c.is_external AND c.deleted_at IS NULL
    RETURNING c.id, c.organization_id, c.last_seq, c.epoch, news.count AS news
),{_ADDED}
SELECT last_seq, epoch FROM moved"""  # noqa: S608 - constants

_COPY = """
INSERT INTO conversations_event
  (organization_id, conversation_id, seq, event_id, kind, source, payload, engine_time, received_at)
SELECT organization_id, %s, seq, gen_random_uuid()::text, kind, source, payload, engine_time, received_at
FROM conversations_event WHERE conversation_id = %s AND seq <= %s
"""

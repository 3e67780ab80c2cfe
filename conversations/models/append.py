"""All SQL statements that insert events into logs.

Each statement advances the conversation's ``last_seq`` and inserts the events in one round trip. Its parameters are
binary arrays, one for each column, which cost far less CPU time than text parameters (ADR 11).

A fenced statement inserts events only if the caller's lease generation is current. The generation is raised whenever
a manager claims the conversation, so a manager that has lost its lease cannot write.
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
    """An event to append. ``payload`` is JSON text, stored byte for byte."""

    event_id: str
    kind: str
    source: str
    payload: str
    engine_seq: int | None = None
    engine_time: datetime | None = None


class NewEvents(NamedTuple):
    """Events of one conversation's engine, with the lease generation under which they were read."""

    conversation_id: UUID
    generation: int
    events: Sequence[NewEvent]


def append_locked(
    conversation_id: UUID, events: Sequence[NewEvent], *, at: datetime, values: Mapping[str, Any]
) -> tuple[int, Sequence[int]] | None:
    """Append events to a conversation whose row the caller has locked, and set the columns in ``values``.

    Return the new ``last_seq`` and the primary keys of the new events, or None if the conversation does not exist.
    """
    parameters = [conversation_id, len(events), at, *values.values(), at, *build_columns(events)]
    rows = prepared.fetch(_locked(tuple(values)), parameters)
    return (rows[0][0], rows[0][1] or ()) if rows else None


def append_fenced(new: NewEvents, *, at: datetime) -> tuple[UUID | None, datetime | None] | None:
    """Append an engine's next events if the lease generation is current and the events continue the log.

    Return the sandbox's id and the time of its last use. Return None and store nothing if the lease generation is
    stale, if the events do not continue the log, or if the log already contains one of the event ids.
    """
    # The fence: the conversation, the lease generation, and the engine index that the log must have reached.
    first, newest = new.events[0].engine_seq, new.events[-1].engine_seq
    assert first is not None
    fence = (new.conversation_id, new.generation, first - 1)
    parameters = (len(new.events), newest, at, *fence, at, *build_columns(new.events))
    return next(iter(_fetch_unless_repeated(FENCED, parameters)), None)


def append_fenced_together(batches: Sequence[NewEvents], *, at: datetime) -> list[tuple[Any, ...]]:
    """Append the next events of many conversations, each under its own lease, in the caller's transaction.

    For each batch that was stored, return the conversation's id, the sandbox's id and the time of the sandbox's last
    use. Skip conversations that another transaction has locked, so that this transaction never waits while it holds
    locks. Raise ``IntegrityError`` if a log already contains one of the event ids.
    """
    heads = [
        [batch.conversation_id for batch in batches],
        [batch.generation for batch in batches],
        [batch.events[0].engine_seq for batch in batches],
        [len(batch.events) for batch in batches],
    ]
    keys = [batch.conversation_id for batch in batches for _ in batch.events]
    places = [place for batch in batches for place in range(1, len(batch.events) + 1)]
    columns = build_columns([event for batch in batches for event in batch.events])
    return prepared.fetch(FENCED_TOGETHER, [*heads, at, at, keys, places, *columns])


def append_published(
    conversation_id: UUID, events: Sequence[NewEvent], *, at: datetime, most: int = 0
) -> tuple[int, int] | None:
    """Append events to an external run, which another program publishes; return the new ``last_seq`` and the epoch.

    Return None and store nothing if the conversation is not an external run, if its log already contains one of
    the event ids, or if it would then have more than ``most`` events (0: any number).
    """
    parameters = (conversation_id, len(events), at, most, at, *build_columns(events))
    return next(iter(_fetch_unless_repeated(PUBLISHED, parameters)), None)


def copy_log(conversation_id: UUID, *, into: UUID, through_seq: int) -> None:
    """Copy the events up to ``through_seq`` into another, empty log.

    The copies get new event ids and no engine index, because the other log has its own engine.
    """
    with transaction.get_connection().cursor() as cursor:
        cursor.execute(_COPY, [into, conversation_id, through_seq])


def build_columns(events: Sequence[NewEvent]) -> list[Any]:
    """Return the events as array parameters of a statement: one list for each column."""
    return [
        [event.event_id for event in events],
        [event.kind for event in events],
        [str(event.source) for event in events],
        [event.payload for event in events],
        [event.engine_seq for event in events],
        [event.engine_time for event in events],
    ]


def _fetch_unless_repeated(statement: str, parameters: Sequence[Any]) -> list[tuple[Any, ...]]:
    """Run an appending statement and return its rows, or no rows if the log already contains one of the event ids."""
    # Outside a transaction the statement is its own transaction. Inside one, a savepoint keeps a repeated id
    # from aborting the caller's transaction.
    is_within = transaction.get_connection().in_atomic_block
    try:
        with transaction.atomic() if is_within else contextlib.nullcontext():
            return prepared.fetch(statement, parameters)
    except IntegrityError:
        return []


# --- The statements -----------------------------------------------------------------

# In each statement, `moved` advances `last_seq` under the row lock, so that the order of `seq` is the order of commits.
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
"""After waiting for a lock, PostgreSQL evaluates the conditions of ``held`` again. So if the lease generation or the
engine index changed in the meantime, ``held`` has no row and nothing is written."""

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
WITH news AS (SELECT %s::uuid AS id, %s::bigint AS count, %s::timestamptz AS at, %s::bigint AS most),
moved AS (
    UPDATE conversations_conversation AS c
    SET last_seq = c.last_seq + news.count, updated_at = news.at
    FROM news WHERE c.id = news.id AND c.is_external AND c.deleted_at IS NULL
        AND (news.most = 0 OR c.last_seq + news.count <= news.most)
    RETURNING c.id, c.organization_id, c.last_seq, c.epoch, news.count AS news
),{_ADDED}
SELECT last_seq, epoch FROM moved"""  # noqa: S608 - constants

_COPY = """
INSERT INTO conversations_event
  (organization_id, conversation_id, seq, event_id, kind, source, payload, engine_time, received_at)
SELECT organization_id, %s, seq, gen_random_uuid()::text, kind, source, payload, engine_time, received_at
FROM conversations_event WHERE conversation_id = %s AND seq <= %s
"""

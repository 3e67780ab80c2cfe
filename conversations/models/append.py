"""Append events to a log: the statements that give each event its place."""

from collections.abc import Sequence
from datetime import datetime
from functools import lru_cache
from typing import Any

import msgspec


class NewEvent(msgspec.Struct, frozen=True):
    """An event that is about to get its place in a log. ``payload`` is JSON text, kept as it came."""

    event_id: str
    kind: str
    source: str
    payload: str
    engine_seq: int | None = None
    engine_time: datetime | None = None


ADDING = """
added AS (
    INSERT INTO conversations_event (organization_id, conversation_id, seq, event_id, kind, source,
        payload, engine_seq, engine_time, received_at)
    SELECT moved.organization_id, moved.id, moved.last_seq - moved.news + new.place, new.event_id,
        new.kind, new.source, new.payload, new.engine_seq, new.engine_time, %s
    FROM moved, unnest(%b::text[], %b::text[], %b::text[], %b::text[], %b::bigint[], %b::timestamptz[])
        WITH ORDINALITY AS new (event_id, kind, source, payload, engine_seq, engine_time, place)
    RETURNING id, seq
)"""
"""The rows of a batch, by one array a column. Its parameters: the time, then ``columns_of``."""


@lru_cache(maxsize=32)
def appending(columns: tuple[str, ...]) -> str:
    """Moves the counter (and writes further columns) and adds the rows; gives ``last_seq`` and their ids."""
    further = "".join(f", {column} = %s" for column in columns)
    return f"""
WITH news AS (SELECT %s::uuid AS id, %s::bigint AS count, %s::timestamptz AS at),
moved AS (
    UPDATE conversations_conversation AS c
    SET last_seq = c.last_seq + news.count, updated_at = news.at{further}
    FROM news WHERE c.id = news.id
    RETURNING c.id, c.organization_id, c.last_seq, news.count AS news
),{ADDING}
SELECT last_seq, (SELECT array_agg(id ORDER BY seq) FROM added) FROM moved"""  # noqa: S608 - names of our own fields


def columns_of(news: Sequence[NewEvent]) -> list[Any]:
    """The parameters of ``ADDING`` that hold the events."""
    return [
        [new.event_id for new in news],
        [new.kind for new in news],
        [str(new.source) for new in news],
        [new.payload for new in news],
        [new.engine_seq for new in news],
        [new.engine_time for new in news],
    ]

"""Parts of a log, together with the earlier events that a translation of the part may need. One SQL statement each."""

from collections.abc import Sequence
from datetime import datetime
from functools import cache
from operator import itemgetter
from typing import NamedTuple
from uuid import UUID

import msgspec

from conversations.models import Event, OutgoingMessage
from lib import prepared

ACTIONS_BEFORE = 20
"""The number of events before a part among which its actions are read. The results of actions follow soon."""
STATS_MAX = 3
"""The number of state updates before a part that may report tokens and cost. The newest one usually does."""
LAST = 2**62


class WindowRow(NamedTuple):
    """The columns of an event that a translation needs. ``received`` is a time as PostgreSQL writes it, in UTC.

    ``part`` says why the row was read.
    """

    part: int
    seq: int
    event_id: str
    kind: str
    source: str
    payload: str
    received: str


class Window(msgspec.Struct, gc=False):
    """A part of a log, in the order of the log.

    ``echoes`` are the ids of the engine's copies of messages that the log also holds as ``UserMessage`` (ADR 3), of
    this part. ``actions`` are the ``ActionEvent`` rows shortly before the part. ``stats`` are at most ``STATS_MAX``
    state updates before the part whose payload may report the totals of tokens and cost, newest first. A row has the
    columns of ``WindowRow``, but is a plain tuple, which takes less time to make.
    """

    events: list[WindowRow]
    echoes: set[str]
    actions: list[WindowRow]
    stats: list[WindowRow]


def read_window(
    conversation_id: UUID,
    *,
    first: int,
    last: int,
    limit: int,
    kinds: Sequence[str],
    states_searched: int,
    reverse: bool = False,
) -> Window:
    """Return the first events from seq ``first`` to ``last``, both inclusive, or with ``reverse`` the last ones.

    At most ``limit`` events of these ``kinds`` are returned. Of the state updates before them, ``states_searched`` are
    searched. Runs one database query. Does not check access.
    """
    values = {"pk": conversation_id, "first": first, "last": last, "limit": limit}
    statement = _statement(tuple(kinds), states_searched, "DESC" if reverse else "")
    parts: list[list[WindowRow]] = [[], [], [], []]
    for row in prepared.fetch(statement, values):
        parts[row[0]].append(row)
    events, echoes, actions, stats = parts
    if echoes:
        events += echoes
    events.sort(key=itemgetter(1))
    return Window(events, {row[2] for row in echoes}, actions, stats)


def format_received(text: str) -> str:
    """Return a ``WindowRow.received`` in ISO 8601, as Python writes a time."""
    if text[19:20] == ".":
        # PostgreSQL leaves out zeros at the end of a fraction.
        return f"{text[:10]}T{text[11:-3]:0<15}+00:00"
    return datetime.fromisoformat(text).isoformat()


_PAGE, _ECHO, _ACTION, _STATS = range(4)


@cache
def _statement(kinds: tuple[str, ...], states_searched: int, order: str) -> str:
    """Return the SQL of ``read_window``. The kinds are our own names, and take less time as a part of the text.

    PostgreSQL reads the messages of the conversation once, and only if the part has a user's message of the engine. A
    key with an escape sequence could be ``usage_to_metrics`` too.
    """
    events = Event._meta.db_table  # noqa: SLF001 - Django documents _meta
    listed = ", ".join(f"'{kind}'" for kind in kinds)
    columns = "{0}.seq, {0}.event_id, {0}.kind, {0}.source, {0}.payload, {0}.received_at::text"
    return f"""
WITH page AS MATERIALIZED (
    SELECT * FROM {events}
    WHERE conversation_id = %(pk)s AND seq >= %(first)s AND seq <= %(last)s AND kind IN ({listed})
    ORDER BY seq {order} LIMIT %(limit)s
), edge AS MATERIALIZED (SELECT min(seq) AS seq FROM page)
SELECT CASE WHEN kind = 'MessageEvent' AND source = 'user' AND event_id IN (
    SELECT m.engine_event_id FROM {OutgoingMessage._meta.db_table} m WHERE m.conversation_id = %(pk)s
) THEN {_ECHO} ELSE {_PAGE} END, {columns.format("page")} FROM page
UNION ALL
SELECT {_ACTION}, {columns.format("e")}
FROM edge JOIN {events} e ON e.conversation_id = %(pk)s
    AND e.seq < edge.seq AND e.seq >= edge.seq - {ACTIONS_BEFORE} AND e.kind = 'ActionEvent'
UNION ALL
SELECT {_STATS}, {columns.format("s")} FROM edge CROSS JOIN LATERAL (
    SELECT * FROM (
        SELECT * FROM {events}
        WHERE conversation_id = %(pk)s AND seq < edge.seq AND kind = 'ConversationStateUpdateEvent'
        ORDER BY seq DESC LIMIT {states_searched}
    ) updates
    WHERE strpos(payload, 'usage_to_metrics') > 0 OR strpos(payload, '\\u') > 0
    ORDER BY seq DESC LIMIT {STATS_MAX}
) s
"""  # noqa: S608, SLF001 - our own names

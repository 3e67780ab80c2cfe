"""Parts of a log, together with the earlier events that a translation of the part may need. One SQL statement each."""

from collections.abc import Sequence
from uuid import UUID

import msgspec

from conversations.models import Event, OutgoingMessage
from conversations.models.event import COLUMNS, LoggedEvent
from lib import prepared

ACTIONS_BEFORE = 20
"""The number of events before a part among which its actions are read. The results of actions follow soon."""
STATS_MAX = 3
"""The number of state updates before a part that may report tokens and cost. The newest one usually does."""
LAST = 2**62


class Window(msgspec.Struct, gc=False):
    """A part of a log, in the order of the log.

    ``echoes`` are the ids of the engine's copies of messages that the log also holds as ``UserMessage`` (ADR 3), of
    this part. ``actions`` are the ``ActionEvent`` rows shortly before the part. ``stats`` are at most ``STATS_MAX``
    state updates before the part whose payload may report the totals of tokens and cost, newest first. The
    ``engine_time`` of events is not read.
    """

    events: list[LoggedEvent]
    echoes: set[str]
    actions: list[LoggedEvent]
    stats: list[LoggedEvent]


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
    window = Window([], set(), [], [])
    values = {"pk": conversation_id, "first": first, "last": last, "limit": limit}
    values |= {"kinds": list(kinds), "searched": states_searched}
    lists = (window.events, window.events, window.actions, window.stats)
    for part, seq, event_id, kind, source, payload, at in prepared.fetch(
        _REVERSE if reverse else _FORWARD, values
    ):
        lists[part].append(LoggedEvent(seq, event_id, kind, source, payload, None, at))
        if part == _ECHO:
            window.echoes.add(event_id)
    if reverse:
        window.events.reverse()
    return window


_PAGE, _ECHO, _ACTION, _STATS = range(4)
_COLUMNS = [name for name in COLUMNS if name != "engine_time"]
_NAMES = ", ".join(_COLUMNS)
# PostgreSQL reads the messages of the conversation once, and only if the part has a user's message of the engine. A
# key with an escape sequence could be ``usage_to_metrics`` too.
_STATEMENT = f"""
WITH page AS MATERIALIZED (
    SELECT {_NAMES} FROM {Event._meta.db_table}
    WHERE conversation_id = %(pk)s AND seq >= %(first)s AND seq <= %(last)s AND kind = ANY(%(kinds)s)
    ORDER BY seq {{order}} LIMIT %(limit)s
), edge AS MATERIALIZED (SELECT min(seq) AS seq FROM page)
SELECT CASE WHEN kind = 'MessageEvent' AND source = 'user' AND event_id IN (
    SELECT m.engine_event_id FROM {OutgoingMessage._meta.db_table} m WHERE m.conversation_id = %(pk)s
) THEN {_ECHO} ELSE {_PAGE} END, {_NAMES} FROM page
UNION ALL
SELECT {_ACTION}, {", ".join(f"e.{name}" for name in _COLUMNS)}
FROM edge JOIN {Event._meta.db_table} e ON e.conversation_id = %(pk)s
    AND e.seq < edge.seq AND e.seq >= edge.seq - {ACTIONS_BEFORE} AND e.kind = 'ActionEvent'
UNION ALL
SELECT {_STATS}, {", ".join(f"s.{name}" for name in _COLUMNS)} FROM edge CROSS JOIN LATERAL (
    SELECT * FROM (
        SELECT {_NAMES} FROM {Event._meta.db_table}
        WHERE conversation_id = %(pk)s AND seq < edge.seq AND kind = 'ConversationStateUpdateEvent'
        ORDER BY seq DESC LIMIT %(searched)s
    ) updates
    WHERE strpos(payload, 'usage_to_metrics') > 0 OR strpos(payload, '\\u') > 0
    ORDER BY seq DESC LIMIT {STATS_MAX}
) s
"""  # noqa: S608, SLF001 - our own names
_FORWARD, _REVERSE = (_STATEMENT.replace("{order}", order) for order in ("", "DESC"))

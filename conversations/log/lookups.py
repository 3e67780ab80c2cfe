"""The most frequent reads, each with one SQL statement and without model instances.

Each statement that reads conversations contains the SQL of ``ConversationQuerySet.visible_to``, so only one place
defines which conversations a user may see. The results have the same form as those of ``records``.
"""

from collections import namedtuple
from types import SimpleNamespace
from typing import Any
from uuid import UUID

import orjson
from django.db import models
from django.db.models import F

from billing.models import ConversationUsage
from conversations.log.records import serialize_record
from conversations.models import Conversation, Event, StartTask
from conversations.models.event import COLUMNS, LoggedEvent
from lib import prepared
from lib.compiled import Compiled, caller
from lib.pages import Position

# Placeholder values: `Compiled` finds them in the compiled SQL and replaces them by parameters.
_ANY = SimpleNamespace(user=UUID(int=1), organization=UUID(int=2), pk=UUID(int=3))
# A position before the newest conversation.
_FIRST = ("infinity", UUID(int=2**128 - 1))


def can_look_up(user: Any) -> bool:
    """Return whether this module supports the user: an active user who did not sign in with a conversation key."""
    has_conversation_key = getattr(user, "bound_conversation_id", None) is not None
    return bool(user.is_authenticated and user.is_active and not has_conversation_key)


class _Columns:
    """The columns of a model as SQL and as a named tuple. JSON columns stay text, which responses contain unchanged."""

    def __init__(self, model: type[models.Model], alias: str) -> None:
        fields = model._meta.concrete_fields  # noqa: SLF001 - Django documents _meta
        self.names = [field.attname for field in fields]
        self.sql = ", ".join(f'{alias}."{field.column}"' for field in fields)
        # mypy accepts only literal field names; these come from the model.
        self.row: Any = namedtuple(f"{model.__name__}Row", self.names)  # type: ignore[misc]  # noqa: PYI024 - fields are known when it runs
        self._json = [n for n, field in enumerate(fields) if isinstance(field, models.JSONField)]

    def build_row(self, values: tuple[Any, ...]) -> Any:
        fields = list(values)
        for index in self._json:
            if fields[index] is not None:
                fields[index] = orjson.Fragment(fields[index])
        return self.row(*fields)


_CONVERSATION = _Columns(Conversation, "c")
_USAGE = _Columns(ConversationUsage, "u")
_START = _Columns(StartTask, "s")
# A row has the conversation's columns, the caller's role, the columns of the usage (from `_U`) and of the start task
# (from `_S`).
_U = len(_CONVERSATION.names) + 1
_S = _U + len(_USAGE.names)
_JOINS = f"""
LEFT JOIN {ConversationUsage._meta.db_table} u ON u.conversation_id = c.id
LEFT JOIN LATERAL (
    SELECT * FROM {StartTask._meta.db_table} t WHERE t.conversation_id = c.id
    ORDER BY t.created_at DESC LIMIT 1
) s ON TRUE
"""  # noqa: S608, SLF001 - our own names
_SELECT = f"SELECT {_CONVERSATION.sql}, c.caller_role, {_USAGE.sql}, {_START.sql}"
_OWN = "created_by_id = team.user_id"
_SHARED = "visibility = 'organization'"


def newest_conversations(
    *, is_bound: bool, with_archived: bool = False, condition: str = ""
) -> str:
    """Return the SQL of a table ``newest`` with the ids of the newest conversations of each of a user's organizations.

    They are read from partial indexes. A statement that joins ``visible_to`` to this table filters only these few rows,
    so a list costs the same for any number of conversations. ``condition`` is a further SQL condition for the rows. The
    parameters are ``user``, ``organization`` (if ``is_bound``), ``limit``, and the position ``at`` and ``before``.
    """
    states = ("IS NULL", "IS NOT NULL") if with_archived else ("IS NULL",)
    # One branch per index. Each reads up to `limit` rows.
    branches = [
        f"""SELECT part.id FROM team CROSS JOIN LATERAL (
            SELECT id FROM conversations_conversation
            WHERE organization_id = team.organization_id AND {owner} AND deleted_at IS NULL
              AND archived_at {state} {condition} AND (created_at, id) < (%(at)s, %(before)s)
            ORDER BY created_at DESC, id DESC LIMIT %(limit)s
        ) part"""  # noqa: S608 - constants
        for state in states
        for owner in (_OWN, _SHARED)
    ]
    bound = "AND o.id = %(organization)s" if is_bound else ""
    return f"""
WITH team AS MATERIALIZED (
    SELECT m.organization_id, m.user_id
    FROM accounts_membership m JOIN accounts_organization o ON o.id = m.organization_id
    WHERE m.user_id = %(user)s AND o.suspended_at IS NULL {bound}
), newest AS MATERIALIZED (
    {" UNION ".join(branches)}
)
"""  # noqa: S608 - constants


def _visible(*, is_bound: bool) -> Any:
    user = caller(_ANY.user, _ANY.organization if is_bound else None)
    return Conversation.objects.visible_to(user).annotate(
        caller_role=F("organization__memberships__role")
    )


def _compiled(kind: str, *, is_bound: bool) -> Compiled:
    bound = {"organization": _ANY.organization} if is_bound else {}
    columns = (*_CONVERSATION.names, "caller_role")
    if kind == "list":
        newest = newest_conversations(is_bound=is_bound)
        return Compiled(
            lambda **_: _visible(is_bound=is_bound).filter(archived_at=None).values_list(*columns),
            f"{newest} {_SELECT} FROM newest JOIN ({{}}) c ON c.id = newest.id {_JOINS} "
            "ORDER BY c.created_at DESC, c.id DESC LIMIT %(limit)s",
            user=_ANY.user,
            **bound,
        )
    if kind == "head":
        columns, wrap = ("organization_id", "last_seq", "epoch", "caller_role"), "{}"
    else:
        wrap = f"{_SELECT} FROM ({{}}) c {_JOINS}"
    return Compiled(
        lambda pk, **_: _visible(is_bound=is_bound).filter(pk=pk).values_list(*columns),
        wrap,
        user=_ANY.user,
        pk=_ANY.pk,
        **bound,
    )


_COMPILED = {
    (kind, is_bound): _compiled(kind, is_bound=is_bound)
    for kind in ("list", "record", "head")
    for is_bound in (False, True)
}


def _rows(kind: str, user: Any, **values: Any) -> list[tuple[Any, ...]]:
    bound = getattr(user, "bound_organization_id", None)
    if bound:
        values["organization"] = bound
    return _COMPILED[kind, bound is not None].rows(user=user.pk, **values)


def _build_record(row: tuple[Any, ...]) -> dict[str, Any]:
    # The primary key of a left-joined row is None if there is no such row.
    usage, start = row[_U:_S], row[_S:]
    return serialize_record(
        _CONVERSATION.build_row(row[: _U - 1]),
        _USAGE.build_row(usage) if usage[0] else None,
        _START.build_row(start) if start[0] else None,
    )


def list_newest(user: Any, *, limit: int, after: Position | None = None) -> list[Any]:
    """Return the records of the newest conversations that a user may see, after a position in the list.

    Archived conversations are left out. Runs one database query, whose cost does not depend on the number of
    conversations.
    """
    at, pk = after or _FIRST
    return [_build_record(row) for row in _rows("list", user, limit=limit, at=at, before=pk)]


def get_record(user: Any, pk: UUID) -> tuple[dict[str, Any], str] | None:
    """Return a conversation's record and the user's role, or None if the user may not see the conversation."""
    rows = _rows("record", user, pk=pk)
    return (_build_record(rows[0]), rows[0][_U - 1]) if rows else None


def get_head(user: Any, pk: UUID) -> tuple[int, int, str] | None:
    """Return a conversation's ``last_seq``, its epoch and the user's role, or None if the user may not see it."""
    rows = _rows("head", user, pk=pk)
    return rows[0][1:] if rows else None


def list_events(
    pk: UUID, *, after: int, before: int | None, kind: str | None, limit: int
) -> list[Any]:
    """Return events of a log in order, in the form that REST sends. Runs one database query.

    The result has the first events after the seq ``after`` or, if ``before`` is set, the last events before the seq
    ``before``. This function does not check access: call ``get_head`` first.
    """
    where, order = "seq > %(after)s", "seq"
    if before is not None:
        where, order = "seq < %(before)s", "seq DESC"
    if kind is not None:
        where += " AND kind = %(kind)s"
    values = {"pk": pk, "after": after, "before": before, "kind": kind, "limit": limit}
    rows = prepared.fetch(_EVENTS.format(where=where, order=order, limit="LIMIT %(limit)s"), values)
    if before is not None:
        rows.reverse()
    return [LoggedEvent(*row).to_wire() for row in rows]


NEVER_SHOWN = ("TokenEvent", "LLMCompletionLogEvent", "StreamingDeltaEvent", "CondensationRequest")
"""Kinds of events that ``static/js/lib/story.js`` skips. Of the agent's state, it reads only ``execution_status``."""


def part_of_log(last_seq: int, *, after: int, before: int | None, limit: int) -> range:
    """Return the seqs of a page: the first ``limit`` after ``after`` or, with ``before``, the last ones before it."""
    if before is not None:
        through = min(before - 1, last_seq)
        return range(max(1, through - limit + 1), through + 1)
    return range(after + 1, max(after, min(after + limit, last_seq)) + 1)


def list_shown(pk: UUID, part: range) -> tuple[list[Any], int]:
    """Return the events of a part of a log that pages show, like ``list_events``, and the first seq of the part.

    That seq is 1 if the log has no earlier events, because ``prune_events`` deleted them. Runs one database query, or
    two if the part has no such event. This function does not check access: call ``get_head`` first.
    """
    values = {"pk": pk, "start": part.start, "stop": part.stop}
    rows = prepared.fetch(_EVENTS.format(where=_SHOWN, order="seq", limit=""), values)
    start = part.start
    if not rows and start > 1:
        is_first = not Event.objects.filter(conversation_id=pk, seq__lt=part.stop).exists()
        start = 1 if is_first else start
    return [LoggedEvent(*row).to_wire() for row in rows], start


_SHOWN = (
    "seq >= %(start)s AND seq < %(stop)s "
    f"AND kind NOT IN ({', '.join(repr(kind) for kind in NEVER_SHOWN)}) "
    "AND (kind <> 'ConversationStateUpdateEvent' OR payload ~ '\"key\"\\s*:\\s*\"execution_status\"')"
)
_EVENTS = (
    f"SELECT {', '.join(COLUMNS)} FROM {Event._meta.db_table} "  # noqa: S608, SLF001 - our own names
    "WHERE conversation_id = %(pk)s AND {where} ORDER BY {order} {limit}"
)

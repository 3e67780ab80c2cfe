"""The reads that are asked for most, by one statement each and without model instances.

What may be read is decided by ``visible_to`` here too: its SQL is part of each statement. Shapes are those of
``records``.
"""

from collections import namedtuple
from types import SimpleNamespace
from typing import Any
from uuid import UUID

import orjson
from django.db import models
from django.db.models import F

from billing.models import ConversationUsage
from conversations.log.records import record_from
from conversations.models import Conversation, Event, StartTask
from conversations.models.event import COLUMNS, LoggedEvent
from lib import prepared
from lib.compiled import Compiled, caller
from lib.pages import Position

_ANY = SimpleNamespace(user=UUID(int=1), organization=UUID(int=2), pk=UUID(int=3))
_FIRST = ("infinity", UUID(int=2**128 - 1))


def can_look_up(user: Any) -> bool:
    """Whether these statements fit the caller; who reaches one conversation only goes by the ORM."""
    is_one = getattr(user, "bound_conversation_id", None) is not None
    return bool(user.is_authenticated and user.is_active and not is_one)


class _Columns:
    """A model's columns as a light row; JSON columns are spliced into the answer as PostgreSQL gives them."""

    def __init__(self, model: type[models.Model], alias: str) -> None:
        fields = model._meta.concrete_fields  # noqa: SLF001 - Django documents _meta
        self.names = [field.attname for field in fields]
        self.sql = ", ".join(f'{alias}."{field.column}"' for field in fields)
        # mypy accepts only literal field names; these come from the model.
        self.row: Any = namedtuple(f"{model.__name__}Row", self.names)  # type: ignore[misc]  # noqa: PYI024 - fields are known when it runs
        self._json = [n for n, field in enumerate(fields) if isinstance(field, models.JSONField)]

    def of(self, values: tuple[Any, ...]) -> Any:
        found = list(values)
        for place in self._json:
            if found[place] is not None:
                found[place] = orjson.Fragment(found[place])
        return self.row(*found)


_CONVERSATION = _Columns(Conversation, "c")
_USAGE = _Columns(ConversationUsage, "u")
_START = _Columns(StartTask, "s")
_U = len(_CONVERSATION.names) + 1
_S = _U + len(_USAGE.names)
_AFTER_ALL = f"""
LEFT JOIN {ConversationUsage._meta.db_table} u ON u.conversation_id = c.id
LEFT JOIN LATERAL (
    SELECT * FROM {StartTask._meta.db_table} t WHERE t.conversation_id = c.id
    ORDER BY t.created_at DESC LIMIT 1
) s ON TRUE
"""  # noqa: S608, SLF001 - our own names
_SELECT = f"SELECT {_CONVERSATION.sql}, c.caller_role, {_USAGE.sql}, {_START.sql}"
# The newest of each organization that the caller is in, by index; the door then decides about these few.
_NEWEST = """
WITH room AS MATERIALIZED (
    SELECT m.organization_id, m.user_id
    FROM accounts_membership m JOIN accounts_organization o ON o.id = m.organization_id
    WHERE m.user_id = %(user)s AND o.suspended_at IS NULL {bound}
), newest AS MATERIALIZED (
    SELECT own.id FROM room CROSS JOIN LATERAL (
        SELECT id FROM conversations_conversation
        WHERE organization_id = room.organization_id AND created_by_id = room.user_id
          AND deleted_at IS NULL AND archived_at IS NULL AND (created_at, id) < (%(at)s, %(before)s)
        ORDER BY created_at DESC, id DESC LIMIT %(limit)s
    ) own
    UNION
    SELECT shared.id FROM room CROSS JOIN LATERAL (
        SELECT id FROM conversations_conversation
        WHERE organization_id = room.organization_id AND visibility = 'organization'
          AND deleted_at IS NULL AND archived_at IS NULL AND (created_at, id) < (%(at)s, %(before)s)
        ORDER BY created_at DESC, id DESC LIMIT %(limit)s
    ) shared
)
"""


def _visible(*, is_bound: bool) -> Any:
    somebody = caller(_ANY.user, _ANY.organization if is_bound else None)
    found = Conversation.objects.visible_to(somebody)
    return found.annotate(caller_role=F("organization__memberships__role"))


def _compiled(kind: str, *, is_bound: bool) -> Compiled:
    bound = {"organization": _ANY.organization} if is_bound else {}
    columns = (*_CONVERSATION.names, "caller_role")
    if kind == "list":
        newest = _NEWEST.format(bound="AND o.id = %(organization)s" if is_bound else "")
        return Compiled(
            lambda **_: _visible(is_bound=is_bound).filter(archived_at=None).values_list(*columns),
            f"{newest} {_SELECT} FROM newest JOIN ({{}}) c ON c.id = newest.id {_AFTER_ALL} "
            "ORDER BY c.created_at DESC, c.id DESC LIMIT %(limit)s",
            user=_ANY.user,
            **bound,
        )
    if kind == "head":
        columns, wrap = ("organization_id", "last_seq", "epoch", "caller_role"), "{}"
    else:
        wrap = f"{_SELECT} FROM ({{}}) c {_AFTER_ALL}"
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


def _told(row: tuple[Any, ...]) -> dict[str, Any]:
    usage, start = row[_U:_S], row[_S:]
    return record_from(
        _CONVERSATION.of(row[: _U - 1]),
        _USAGE.of(usage) if usage[0] else None,
        _START.of(start) if start[0] else None,
    )


def newest(user: Any, *, limit: int, after: Position | None = None) -> list[Any]:
    """Return the records of the newest conversations that a user may see, behind a position in the list.

    Archived conversations are left out. One query, whatever the number of conversations.
    """
    at, pk = after or _FIRST
    return [_told(row) for row in _rows("list", user, limit=limit, at=at, before=pk)]


def one(user: Any, pk: UUID) -> tuple[dict[str, Any], str] | None:
    """A conversation's record and the caller's role in its organization; None for what one may not see."""
    found = _rows("record", user, pk=pk)
    return (_told(found[0]), found[0][_U - 1]) if found else None


def head(user: Any, pk: UUID) -> tuple[int, int, str] | None:
    """``(last_seq, epoch, the caller's role)`` of a conversation; None for what one may not see."""
    found = _rows("head", user, pk=pk)
    return found[0][1:] if found else None


def page(pk: UUID, *, after: int, before: int | None, kind: str | None, limit: int) -> list[Any]:
    """Events in order as the wire has them: behind ``after``, or the last ones before ``before``. One query.

    Whether the caller may see them is asked by ``head``.
    """
    where, order = "seq > %(after)s", "seq"
    if before is not None:
        where, order = "seq < %(before)s", "seq DESC"
    if kind is not None:
        where += " AND kind = %(kind)s"
    values = {"pk": pk, "after": after, "before": before, "kind": kind, "limit": limit}
    rows = prepared.fetch(_EVENTS.format(where=where, order=order), values)
    if before is not None:
        rows.reverse()
    return [LoggedEvent(*row).to_wire() for row in rows]


_EVENTS = (
    f"SELECT {', '.join(COLUMNS)} FROM {Event._meta.db_table} "  # noqa: S608, SLF001 - our own names
    "WHERE conversation_id = %(pk)s AND {where} ORDER BY {order} LIMIT %(limit)s"
)

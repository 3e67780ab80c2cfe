"""Conversations as the protocols of existing clients show them: lists and records, each with one SQL statement.

Like ``lookups``, each statement contains the SQL of ``visible_to``, so only one place defines which conversations a
user may see. ``lookups`` reads this server's own records.
"""

from collections.abc import Sequence
from datetime import datetime
from types import SimpleNamespace
from typing import Any
from uuid import UUID

import msgspec
from django.db.models import F

from billing.models import ConversationUsage
from conversations.log.lookups import newest_conversations
from conversations.models import (
    OPEN_MESSAGES,
    Conversation,
    OutgoingMessage,
    Sandbox,
    StartTask,
)
from lib.compiled import Compiled, caller
from lib.pages import Position


class Summary(msgspec.Struct, gc=False):
    """The columns of a conversation that existing clients see, with facts of related rows.

    ``repository`` and ``pull_requests`` are JSON texts. ``sandbox_observed`` is None without a sandbox. ``start_phase``
    is the phase of the newest start task, only while the conversation starts. ``children`` are the ids of the visible
    conversations that were started from this one, oldest first.
    """

    pk: UUID
    created_by_id: UUID
    sandbox_id: UUID | None
    parent_id: UUID | None
    title: str
    status: str
    execution_status: str
    model: str
    repository: str | None
    pull_requests: str
    trigger: str
    wire_version: str
    key_generation: int
    archived_at: datetime | None
    created_at: datetime
    updated_at: datetime
    role: str
    """The user's role in the organization of the conversation."""
    sandbox_observed: str | None
    start_phase: str | None
    has_open_messages: bool
    """Whether messages wait for their delivery to the agent."""
    children: list[UUID]
    cost_micros: int
    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int

    @property
    def position(self) -> Position:
        """The position in a list that is ordered by the time of creation."""
        return Position(self.created_at, self.pk)


_COLUMNS = (
    *("id", "created_by_id", "sandbox_id", "parent_id", "title", "status", "execution_status"),
    *("model", "repository", "pull_requests", "trigger", "wire_version", "key_generation"),
    *("archived_at", "created_at", "updated_at"),
)
_ANY = SimpleNamespace(user=UUID(int=1), organization=UUID(int=2), conversation=UUID(int=3))
_OPEN = ", ".join(f"'{status}'" for status in OPEN_MESSAGES)
_SUMS = ", ".join(
    f"COALESCE(u.{name}, 0)"
    for name in ("cost_micros", "prompt_tokens", "completion_tokens", "cached_tokens")
)
# ``{}`` stands for the conversations that the user may see, once for the rows and once for their children.
_SELECT = f"""
SELECT {", ".join(f"c.{name}" for name in _COLUMNS)}, c.caller_role, b.observed,
    CASE WHEN c.status = 'starting' THEN (
        SELECT t.phase FROM {StartTask._meta.db_table} t WHERE t.conversation_id = c.id
        ORDER BY t.created_at DESC LIMIT 1
    ) END,
    EXISTS (
        SELECT 1 FROM {OutgoingMessage._meta.db_table} o
        WHERE o.conversation_id = c.id AND o.status IN ({_OPEN})
    ),
    ARRAY(SELECT v.id FROM ({{}}) v WHERE v.parent_id = c.id ORDER BY v.created_at),
    {_SUMS}
FROM {{rows}} ({{}}) c {{condition}}
LEFT JOIN {Sandbox._meta.db_table} b ON b.id = c.sandbox_id
LEFT JOIN {ConversationUsage._meta.db_table} u ON u.conversation_id = c.id
"""  # noqa: S608, SLF001 - our own names


def _compiled(*, is_list: bool, bound: tuple[str, ...]) -> Compiled:
    limits = {name: getattr(_ANY, name) for name in bound}
    user = caller(_ANY.user, **limits)
    visible = Conversation.objects.visible_to(user).annotate(
        caller_role=F("organization__memberships__role")
    )
    if is_list:
        newest = newest_conversations(
            is_bound=bool(bound), with_archived=True, condition="AND parent_id IS NULL"
        )
        select = _SELECT.replace("{rows}", "newest JOIN").replace(
            "{condition}", "ON c.id = newest.id"
        )
        statement = f"{newest} {select} ORDER BY c.created_at DESC, c.id DESC LIMIT %(limit)s"
    else:
        select = _SELECT.replace("{rows}", "").replace("{condition}", "")
        statement = f"{select} WHERE c.id = ANY(%(ids)s)"
    return Compiled(
        lambda **_: visible.values_list(*_COLUMNS, "caller_role"),
        statement,
        user=_ANY.user,
        **limits,
    )


_SCOPES: tuple[tuple[str, ...], ...] = ((), ("organization",), ("organization", "conversation"))
_BY_ID = {bound: _compiled(is_list=False, bound=bound) for bound in _SCOPES}
_NEWEST = {bound: _compiled(is_list=True, bound=bound) for bound in _SCOPES[:2]}


def _limits_of(user: Any) -> dict[str, UUID]:
    """Return the organization and the conversation to which the user's key is limited, of those that are set."""
    limits = {"organization": user.bound_organization_id}
    limits["conversation"] = getattr(user, "bound_conversation_id", None)
    return {name: value for name, value in limits.items() if value is not None}


def find_summaries(user: Any, ids: Sequence[UUID]) -> dict[UUID, Summary]:
    """Return the conversations of ``ids`` that a user may see, by id. Runs one database query."""
    if not (user.is_authenticated and user.is_active):
        return {}
    limits = _limits_of(user)
    rows = _BY_ID[tuple(limits)].rows(user=user.pk, ids=list(ids), **limits)
    return {row[0]: Summary(*row) for row in rows}


def list_summaries(user: Any, *, limit: int, after: Position | None = None) -> list[Summary]:
    """Return the newest conversations that a user may see, after a position in the list. Runs one database query.

    Archived conversations are included, and conversations with a parent are left out. ``can_look_up`` must be true
    for the user.
    """
    at, pk = after or ("infinity", UUID(int=2**128 - 1))
    limits = _limits_of(user)
    rows = _NEWEST[tuple(limits)].rows(user=user.pk, limit=limit, at=at, before=pk, **limits)
    return [Summary(*row) for row in rows]

"""A conversation in V0's shape, complete enough for a client to open it from a list row."""

from collections.abc import Iterable
from typing import Any
from uuid import UUID

from accounts.models import User
from compat.v0.states import STATUSES, runtime_status
from conversations.log.records import build_records
from conversations.models import Conversation
from conversations.services import conversation_key


def infos_of(conversations: Iterable[Conversation], user: User) -> list[dict[str, Any]]:
    """``ConversationInfo`` of conversations in their order; three queries for all of them together."""
    rows = list(conversations)
    children = _children([row.pk for row in rows], user)
    return [
        _info(row, record, children.get(row.pk, []), user)
        for row, record in zip(rows, build_records(rows), strict=True)
    ]


def info_of(conversation: Conversation, user: User) -> dict[str, Any]:
    return infos_of([conversation], user)[0]


def _children(ids: list[UUID], user: User) -> dict[UUID, list[str]]:
    found: dict[UUID, list[str]] = {}
    visible = Conversation.objects.visible_to(user).filter(parent_id__in=ids).order_by("created_at")
    for parent, child in visible.values_list("parent_id", "pk"):
        found.setdefault(parent, []).append(child.hex)
    return found


def _info(
    row: Conversation, record: dict[str, Any], children: list[str], user: User
) -> dict[str, Any]:
    repository = row.repository if isinstance(row.repository, dict) else {}
    return {
        "conversation_id": row.pk.hex,
        "title": row.title,
        "last_updated_at": row.updated_at,
        "status": status_of(row),
        "runtime_status": runtime_status(record),
        "selected_repository": repository.get("full_name"),
        "selected_branch": repository.get("branch"),
        "git_provider": repository.get("provider"),
        "trigger": row.trigger,
        "num_connections": 0,
        "url": f"/api/conversations/{row.pk.hex}",
        "session_api_key": conversation_key(conversation=row, user=user),
        "created_at": row.created_at,
        "pr_number": [one for one in row.pull_requests if type(one) is int],
        "conversation_version": row.wire_version,
        "sub_conversation_ids": children,
    }


def status_of(row: Conversation) -> str:
    """V0's word for the state of the place; ``ARCHIVED`` for what is put away and asleep."""
    status = STATUSES.get(row.status, "STOPPED")
    return "ARCHIVED" if row.archived_at and status == "STOPPED" else status

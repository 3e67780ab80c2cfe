"""Conversations as V0's ``ConversationInfo``.

A list contains every field of its conversations, because the web client opens a conversation from a list without a
further request.
"""

from collections.abc import Iterable
from typing import Any
from uuid import UUID

from accounts.models import User
from compat.v0.states import STATUSES, map_runtime_status
from conversations.log.records import build_records
from conversations.models import Conversation
from conversations.services import conversation_key


def serialize_conversations(
    conversations: Iterable[Conversation], user: User
) -> list[dict[str, Any]]:
    """Return the ``ConversationInfo`` of each conversation, in order.

    The number of database queries does not depend on the number of conversations.
    """
    rows = list(conversations)
    children = _child_ids([row.pk for row in rows], user)
    return [
        _serialize(row, record, children.get(row.pk, []), user)
        for row, record in zip(rows, build_records(rows), strict=True)
    ]


def serialize_conversation(conversation: Conversation, user: User) -> dict[str, Any]:
    return serialize_conversations([conversation], user)[0]


def _child_ids(ids: list[UUID], user: User) -> dict[UUID, list[str]]:
    children: dict[UUID, list[str]] = {}
    visible = Conversation.objects.visible_to(user).filter(parent_id__in=ids).order_by("created_at")
    for parent, child in visible.values_list("parent_id", "pk"):
        children.setdefault(parent, []).append(child.hex)
    return children


def _serialize(
    row: Conversation, record: dict[str, Any], children: list[str], user: User
) -> dict[str, Any]:
    # The database does not check the type of values in JSON columns, and one wrong row must not break a list.
    repository = row.repository if isinstance(row.repository, dict) else {}
    return {
        "conversation_id": row.pk.hex,
        "title": row.title,
        "last_updated_at": row.updated_at,
        "status": map_status(row),
        "runtime_status": map_runtime_status(record),
        "selected_repository": repository.get("full_name"),
        "selected_branch": repository.get("branch"),
        "git_provider": repository.get("provider"),
        "trigger": row.trigger,
        # Always 0, as in OpenHands: no process knows the sockets of the others.
        "num_connections": 0,
        # The web client opens no V1 socket while this is null. A relative URL means the web client's own host.
        "url": f"/api/conversations/{row.pk.hex}",
        "session_api_key": conversation_key(conversation=row, user=user),
        "created_at": row.created_at,
        "pr_number": [number for number in row.pull_requests if type(number) is int],
        # The web client uses Socket.IO for "V0" and the V1 socket for "V1".
        "conversation_version": row.wire_version,
        "sub_conversation_ids": children,
    }


def map_status(row: Conversation) -> str:
    """Return V0's ``status``. An archived conversation is ``ARCHIVED`` only while its sandbox is stopped."""
    status = STATUSES.get(row.status, "STOPPED")
    return "ARCHIVED" if row.archived_at and status == "STOPPED" else status

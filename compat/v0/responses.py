"""Conversations as V0's ``ConversationInfo``.

A list contains every field of its conversations, because the web client opens a conversation from a list without a
further request.
"""

import json
from collections.abc import Sequence
from typing import Any

from accounts.models import User
from compat.v0.states import STATUSES, map_runtime_status
from conversations.log.summaries import Summary
from conversations.services import conversation_keys


def serialize_conversations(rows: Sequence[Summary], user: User) -> list[dict[str, Any]]:
    """Return the ``ConversationInfo`` of each conversation, in order. Runs no database query."""
    keys = conversation_keys(conversations=rows, user=user)
    return [_serialize(row, key) for row, key in zip(rows, keys, strict=True)]


def serialize_conversation(row: Summary, user: User) -> dict[str, Any]:
    return serialize_conversations([row], user)[0]


def _serialize(row: Summary, key: str) -> dict[str, Any]:
    # The database does not check the type of values in JSON columns, and one wrong row must not break a list.
    repository = json.loads(row.repository) if row.repository else None
    if not isinstance(repository, dict):
        repository = {}
    numbers = json.loads(row.pull_requests) if row.pull_requests != "[]" else []
    start = {"phase": row.start_phase} if row.start_phase else None
    return {
        "conversation_id": row.pk.hex,
        "title": row.title,
        "last_updated_at": row.updated_at,
        "status": map_status(row),
        "runtime_status": map_runtime_status(
            {"status": row.status, "execution_status": row.execution_status, "start_task": start}
        ),
        "selected_repository": repository.get("full_name"),
        "selected_branch": repository.get("branch"),
        "git_provider": repository.get("provider"),
        "trigger": row.trigger,
        # Always 0, as in OpenHands: no process knows the sockets of the others.
        "num_connections": 0,
        # The web client opens no V1 socket while this is null. A relative URL means the web client's own host.
        "url": f"/api/conversations/{row.pk.hex}",
        "session_api_key": key,
        "created_at": row.created_at,
        "pr_number": [number for number in numbers if type(number) is int],
        # The web client uses Socket.IO for "V0" and the V1 socket for "V1".
        "conversation_version": row.wire_version,
        "sub_conversation_ids": [child.hex for child in row.children],
    }


def map_status(row: Any) -> str:
    """Return V0's ``status`` of a conversation (a ``Conversation`` or ``Summary``).

    An archived conversation is ``ARCHIVED`` only while its sandbox is stopped.
    """
    status = STATUSES.get(row.status, "STOPPED")
    return "ARCHIVED" if row.archived_at and status == "STOPPED" else status

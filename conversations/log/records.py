"""Records: conversations as dictionaries that JSON can encode, for REST, sockets and pages."""

from collections.abc import Iterable
from typing import Any
from uuid import UUID

import orjson

from accounts.settings.choices import SecurityAnalyzer
from billing import services as billing
from conversations.models import Conversation, StartTask
from conversations.models.conversation import find_lender
from conversations.models.sandbox import find_wait


def build_record(conversation: Conversation) -> dict[str, Any]:
    """Return the record of a conversation: its fields, usage and newest start task. Runs two database queries."""
    return build_records([conversation])[0]


def build_records(conversations: Iterable[Conversation]) -> list[dict[str, Any]]:
    """Return the records of conversations, in the same order. A list costs two database queries, a queryset three."""
    rows = list(conversations)
    ids = [row.pk for row in rows]
    usage = billing.get_usage(ids)
    starts = _latest_starts(ids)
    return [serialize_record(row, usage.get(row.pk), starts.get(row.pk)) for row in rows]


def _latest_starts(ids: list[UUID]) -> dict[UUID, StartTask]:
    newest = StartTask.objects.filter(conversation_id__in=ids)
    newest = newest.order_by("conversation_id", "-created_at").distinct("conversation_id")
    return {start.conversation_id: start for start in newest}


def serialize_record(row: Any, usage: Any, start: Any) -> dict[str, Any]:
    """Return the record of a conversation (``row``) with its usage and its newest start task (``start``).

    The arguments are model instances, or named tuples with the names of the model's columns. ``usage`` and ``start``
    may be None. Runs no database query.
    """
    return {
        "id": row.id,
        "title": row.title,
        "status": row.status,
        "status_detail": row.status_detail,
        "execution_status": row.execution_status,
        "visibility": row.visibility,
        "others_may_steer": row.others_may_steer,
        "lends_personal": row.lends_personal,
        "lender": find_lender(row),
        "confirmation_policy": row.confirmation_policy,
        # In the database, an empty value means the default analyzer.
        "security_analyzer": row.security_analyzer or SecurityAnalyzer.LLM.value,
        "asked_seq": row.asked_seq,
        "last_seq": row.last_seq,
        "epoch": row.epoch,
        "model": row.model,
        "repository": row.repository,
        "is_external": row.is_external,
        "trigger": row.trigger,
        "tags": row.tags,
        "archived_at": row.archived_at,
        "parent": row.parent_id,
        "forked_seq": row.forked_seq,
        "pull_requests": row.pull_requests,
        "cost_micros": usage.cost_micros if usage else 0,
        "tokens": {
            "prompt": usage.prompt_tokens if usage else 0,
            "completion": usage.completion_tokens if usage else 0,
            "cached": usage.cached_tokens if usage else 0,
        },
        "start_task": serialize_start_task(start) if start else None,
        "organization": row.organization_id,
        "created_by": row.created_by_id,
        "created_at": row.created_at,
        "updated_at": row.updated_at,
    }


def serialize_start_task(start: Any) -> dict[str, Any]:
    """Return a start task and its phases as a dictionary that JSON can encode."""
    return {
        "id": start.id,
        "phase": start.phase,
        "phases": start.phases,
        "detail": _find_wait(start),
        "reason": start.reason,
        "error": start.error,
        "attempts": start.attempts,
        "queue_position": start.queue_position,
        "created_at": start.created_at,
        "updated_at": start.updated_at,
        "finished_at": start.finished_at,
    }


def _find_wait(start: Any) -> str:
    if start.finished_at is not None:
        return ""
    phases = start.phases
    if isinstance(
        phases, orjson.Fragment
    ):  # JSON that was not decoded, because most starts have ended
        phases = orjson.loads(orjson.dumps(phases))
    return find_wait(phases)

"""Services for usage: record model calls, and sum their tokens and cost."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC
from typing import Any
from uuid import UUID

from django.db import transaction
from django.db.models import F
from django.db.models.functions import TruncDate

from accounts.models import User
from billing.models import (
    ERROR_MAX,
    SUMMED,
    ConversationUsage,
    GatewayToken,
    ModelAccess,
    ModelCall,
    ModelCallQuerySet,
    RunningCall,
)
from billing.prices import Tokens, cost_micros
from billing.services.model_access import DEMO_MODEL

GROUPS_MAX = 100
"""The maximum number of models or users that ``totals_of_calls`` returns."""


@transaction.atomic
def record_call(
    *,
    token: GatewayToken,
    access: ModelAccess | None,
    model: str,
    outcome: str,
    status: int,
    tokens: Tokens,
    seconds: float,
    call_id: UUID | None = None,
    error: str = "",
) -> ModelCall:
    """Record one model call with its cost, and add it to the sums of its conversation in the same transaction.

    Not safe to repeat: each invocation counts as another model call. ``access`` is None for the demo model. If
    ``begin_call`` has begun the call, ``call_id`` is its id, and its reservation ends. ``error`` is the message of a
    failed call.
    """
    call = ModelCall.objects.create(
        organization_id=token.organization_id,
        user_id=token.user_id,
        conversation_id=token.conversation_id,
        model=model[:200],
        upstream=access.base_url if access else DEMO_MODEL,
        outcome=outcome,
        status=status,
        prompt_tokens=tokens.prompt,
        completion_tokens=tokens.completion,
        cached_tokens=tokens.cached,
        cost_micros=cost_micros(tokens, access),
        seconds=seconds,
        error=error[:ERROR_MAX],
    )
    # Insert a row of zeros if there is none, then add: two concurrent first calls must not fail, and both must count.
    zeros = ConversationUsage(
        conversation_id=token.conversation_id, organization_id=token.organization_id
    )
    ConversationUsage.objects.bulk_create([zeros], ignore_conflicts=True)
    ConversationUsage.objects.filter(conversation_id=token.conversation_id).update(
        calls=F("calls") + 1,
        prompt_tokens=F("prompt_tokens") + call.prompt_tokens,
        completion_tokens=F("completion_tokens") + call.completion_tokens,
        cached_tokens=F("cached_tokens") + call.cached_tokens,
        cost_micros=F("cost_micros") + call.cost_micros,
    )
    if call_id is not None:
        RunningCall.objects.filter(pk=call_id).delete()
    return call


def get_usage(conversation_ids: Iterable[UUID]) -> dict[UUID, ConversationUsage]:
    """Return the usage of several conversations as a dict from conversation id to usage. Runs one database query.

    For a conversation without calls, the usage is an unsaved row of zeros.
    """
    requested_ids = list(conversation_ids)
    rows = ConversationUsage.objects.in_bulk(requested_ids)
    return {pk: rows.get(pk) or ConversationUsage(conversation_id=pk) for pk in requested_ids}


@dataclass(frozen=True)
class CallTotals:
    """The number of model calls and the sums of their tokens and cost: in total, and for each day, model or user.

    ``totals`` has the keys ``calls``, ``prompt_tokens``, ``completion_tokens``, ``cached_tokens`` and
    ``cost_micros`` (micro-dollars). Each of ``items`` is one group: it has these keys and ``day``, ``model`` and
    ``user``, of which two are None. If ``items`` lacks the groups with the lowest cost, ``is_complete`` is False.
    """

    totals: dict[str, int]
    items: list[dict[str, Any]]
    is_complete: bool


def totals_of_calls(*, calls: ModelCallQuerySet, by: str) -> CallTotals:
    """Sum model calls by ``day`` (UTC, oldest first), ``model`` or ``user`` (highest cost first).

    Return at most ``GROUPS_MAX`` models or users. The caller must limit the period, which limits the number of days.
    """
    if by == "day":
        dated = calls.annotate(day=TruncDate("created_at", tzinfo=UTC))
        rows = list(dated.totals_by("day").order_by("day"))
        is_complete = True
    else:
        column = {"model": "model", "user": "user_id"}[by]
        groups = calls.totals_by(column).order_by("-cost_micros", "-calls", column)
        rows = list(groups[: GROUPS_MAX + 1])
        is_complete = len(rows) <= GROUPS_MAX
        rows = rows[:GROUPS_MAX]
    # If the groups are complete, their sum is the total, which saves a second database query over all calls.
    totals = (
        {name: sum(row[name] for row in rows) for name in ("calls", *SUMMED)}
        if is_complete
        else calls.totals()
    )
    users = User.objects.in_bulk([row["user_id"] for row in rows]) if by == "user" else {}
    items = [
        {"day": None, "model": None, "user": users.get(row.get("user_id"))} | row for row in rows
    ]
    return CallTotals(totals, items, is_complete)

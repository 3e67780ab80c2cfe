"""Begin model calls: enforce a conversation's cost limit and the number of its calls at the same time.

The cost limit is the setting ``max_budget_per_task_micros``. A call begins only if the conversation's recorded cost is
below the limit. If other calls of the conversation run, their reserved cost counts too. So the limit is exceeded at
most by the cost of one call, plus the amount by which calls that ran beside it cost more than was reserved for them.
The reservation covers a prompt of one token per ``BYTES_PER_TOKEN`` bytes, which is more than prompts of text have, and
the completion that the request allows (``max_tokens`` or ``max_completion_tokens``), so no call that names its
maximum costs more than its reservation. For other requests, it covers ``RESERVED_COMPLETION`` tokens.
"""

from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from django.conf import settings
from django.db import transaction
from django.db.models import Count, Sum
from django.db.models.functions import Coalesce
from django.utils import timezone

from accounts.services import user_settings
from billing.models import ConversationUsage, GatewayToken, ModelAccess, RunningCall
from billing.prices import Tokens, cost_micros
from lib.problems import Problem

BYTES_PER_TOKEN = 2
RESERVED_COMPLETION = 16_384
MAX_CHOICES = 128
"""The highest ``n`` that the reservation considers, as in OpenAI's API."""
BUDGET = "max_budget_per_task_micros"


class CallRefused(Problem):
    """The call may not begin. ``retry_after`` is the number of seconds after which a retry makes sense, as text."""

    retry_after = ""


class TooManyCalls(CallRefused):
    """The conversation already makes ``GATEWAY_MAX_CALLS`` calls."""

    status = 429
    code = "too-many-calls"
    retry_after = "2"


class BudgetReserved(CallRefused):
    """Calls in progress may use up the rest of the cost limit. The call can begin if they cost less than reserved."""

    status = 429
    code = "budget-reserved"
    retry_after = "5"


class BudgetReached(CallRefused):
    """The conversation has reached its cost limit."""

    # 402 is a status that the engine (openhands-agent-server 1.58.2) and OpenAI's clients do not retry.
    status = 402
    code = "budget-reached"


@transaction.atomic
def begin_call(
    *, call_id: UUID, token: GatewayToken, access: ModelAccess | None, tokens: Tokens
) -> None:
    """Reserve the cost of a call, or raise a subclass of ``CallRefused`` if the call may not begin.

    ``tokens`` is the result of ``estimate_tokens``. The reservation ends when ``record_call`` records the call with the
    same ``call_id``. ``access`` is None for the demo model, which costs nothing.
    """
    usage = _lock_usage(token)
    now = timezone.now()
    running = RunningCall.objects.filter(conversation_id=token.conversation_id)
    running.filter(expires_at__lte=now).delete()
    state = running.aggregate(calls=Count("pk"), reserved=Coalesce(Sum("reserved_micros"), 0))
    if state["calls"] >= settings.GATEWAY_MAX_CALLS:
        raise TooManyCalls(
            f"This conversation already makes {state['calls']} model calls at the same time, which is the limit of "
            "this server (GATEWAY_MAX_CALLS). Wait until one of them ends."
        )
    reserved = 0
    if is_priced(access):
        _check_budget(token, spent=usage.cost_micros, reserved=state["reserved"])
        reserved = max(1, cost_micros(tokens, access))
    RunningCall.objects.create(
        pk=call_id,
        organization_id=token.organization_id,
        conversation_id=token.conversation_id,
        reserved_micros=reserved,
        expires_at=_compute_expiry(now),
    )


def extend_call(*, call_id: UUID) -> None:
    """Extend the reservation of a call that still runs. Safe to repeat."""
    expiry = _compute_expiry(timezone.now())
    RunningCall.objects.filter(pk=call_id).update(expires_at=expiry)


def estimate_tokens(body: dict[str, Any], *, size: int) -> Tokens:
    """Return the tokens to reserve for a request, whose body has ``size`` bytes."""
    limits = [body.get(name) for name in ("max_completion_tokens", "max_tokens")]
    known = [limit for limit in limits if type(limit) is int and limit > 0]
    choices = body.get("n")
    choices = min(choices, MAX_CHOICES) if type(choices) is int and choices > 0 else 1
    completion = (max(known) if known else RESERVED_COMPLETION) * choices
    return Tokens.clamp(prompt=size // BYTES_PER_TOKEN, completion=completion, cached=0)


def is_priced(access: ModelAccess | None) -> bool:
    """Return whether calls to a model server have a cost. Calls to the demo model have none."""
    return access is not None and any(
        (
            access.prompt_micros_per_million,
            access.completion_micros_per_million,
            access.cached_micros_per_million,
        )
    )


def _lock_usage(token: GatewayToken) -> ConversationUsage:
    """Return the conversation's sums, locked until the end of the transaction, so that calls begin one by one."""
    zeros = ConversationUsage(
        conversation_id=token.conversation_id, organization_id=token.organization_id
    )
    ConversationUsage.objects.bulk_create([zeros], ignore_conflicts=True)
    return ConversationUsage.objects.select_for_update().get(pk=token.conversation_id)


def _check_budget(token: GatewayToken, *, spent: int, reserved: int) -> None:
    limit, is_enforced = user_settings.effective_value(
        user_id=token.user_id, organization_id=token.organization_id, name=BUDGET
    )
    if limit is None:
        return
    if spent >= limit:
        remedy = "raise the maximum cost per conversation in Settings > Agents"
        if is_enforced:
            remedy = (
                "ask an owner or admin of your organization to raise the limit that it enforces"
            )
        raise BudgetReached(
            f"This conversation has cost {_dollars(spent)} and has reached its cost limit of {_dollars(limit)}, so "
            f"the model was not called. To continue, {remedy} and send a message, or start a new conversation."
        )
    if reserved and spent + reserved >= limit:
        raise BudgetReserved(
            f"Other model calls of this conversation are in progress and may reach its cost limit of "
            f"{_dollars(limit)}. Try again when they have ended."
        )


def _dollars(micros: int) -> str:
    text = f"{micros / 1_000_000:,.6f}".rstrip("0")
    whole, _, cents = text.partition(".")
    return f"${whole}.{cents:0<2}"


def _compute_expiry(now: datetime) -> datetime:
    # A call that runs is extended at least once per period without data, which GATEWAY_TIMEOUT_SECONDS limits.
    return now + timedelta(seconds=2 * settings.GATEWAY_TIMEOUT_SECONDS + 60)

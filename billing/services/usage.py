"""Record and read the usage of model calls."""

from collections.abc import Iterable
from uuid import UUID

from django.db import transaction
from django.db.models import F

from billing.models import ConversationUsage, GatewayToken, ModelAccess, ModelCall
from billing.prices import Tokens, cost_micros
from billing.services.model_access import DEMO_MODEL


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
) -> ModelCall:
    """Record one model call with its cost, and add it to its conversation's sums in the same transaction.

    Not safe to repeat: each invocation counts as another model call. ``access`` is None for the demo model.
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
    )
    # Insert a zero row if there is none, then add: two concurrent first calls must neither collide
    # nor lose one of the two.
    first = ConversationUsage(
        conversation_id=token.conversation_id, organization_id=token.organization_id
    )
    ConversationUsage.objects.bulk_create([first], ignore_conflicts=True)
    ConversationUsage.objects.filter(conversation_id=token.conversation_id).update(
        calls=F("calls") + 1,
        prompt_tokens=F("prompt_tokens") + call.prompt_tokens,
        completion_tokens=F("completion_tokens") + call.completion_tokens,
        cached_tokens=F("cached_tokens") + call.cached_tokens,
        cost_micros=F("cost_micros") + call.cost_micros,
    )
    return call


def get_usage(conversation_ids: Iterable[UUID]) -> dict[UUID, ConversationUsage]:
    """Return usage by conversation id, in one query; a conversation without calls gets an unsaved row of zeros."""
    requested_ids = list(conversation_ids)
    rows = ConversationUsage.objects.in_bulk(requested_ids)
    return {pk: rows.get(pk) or ConversationUsage(conversation_id=pk) for pk in requested_ids}

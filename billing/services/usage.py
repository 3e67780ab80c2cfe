"""Record what model calls used."""

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
    """Write one call down, priced, and add it to its conversation's sums in the same transaction.

    Not safe to repeat: every call of this is one call of a model. ``access`` is None for the demo model.
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
    # Insert-or-nothing, then add: two first calls at once must neither collide nor lose one of them.
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


def usage_of(conversation_ids: Iterable[UUID]) -> dict[UUID, ConversationUsage]:
    """The sums of conversations by their id, in one query; one without calls has unsaved zeros."""
    wanted = list(conversation_ids)
    found = ConversationUsage.objects.in_bulk(wanted)
    return {pk: found.get(pk) or ConversationUsage(conversation_id=pk) for pk in wanted}

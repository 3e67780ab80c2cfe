"""The decisions of sandboxes' proxies: their storage, and questions about refused hosts."""

import logging
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from django.db import transaction
from django.db.models import Q

from conversations.models import Conversation, EgressDecision, Sandbox
from conversations.sandboxes.egress.policy import Reason
from conversations.sandboxes.provider import get_provider
from conversations.services.egress import QUESTIONS_MAX, build_policy, is_undecided
from conversations.services.state import append_notice

log = logging.getLogger(__name__)
BATCHES_MAX = 10
"""The largest number of batches of one collection. More decisions wait for the next collection."""
ASK = (
    "The sandbox tried to reach {host} on port {port}. Its network profile allows only listed hosts, so the connection "
    "was refused. An owner or admin of the organization can allow the host on this page, or for all conversations in "
    "the settings."
)
ASK_NO_MORE = (
    "The sandbox tried to reach more than {most} different hosts that are not listed. Further refused hosts are only "
    "shown under “Network”."
)


def collect_egress(*, conversation_ids: Iterable[UUID]) -> int:
    """Store the new decisions of the given conversations, and of sandboxes that are starting. Return their number.

    A failure in one sandbox is logged and does not affect the others. Safe to repeat, also at the same time.
    """
    # No manager follows a conversation that is starting, but its setup script may already wait for a host.
    rows = Sandbox.objects.filter(
        Q(conversation__in=list(conversation_ids)) | Q(observed=Sandbox.Observed.STARTING),
        conversation__isnull=False,
    ).exclude(handle={})
    found = 0
    for conversation_id, name, handle, position in rows.values_list(
        "conversation__pk", "provider", "handle", "egress_position"
    ):
        try:
            if get_provider(name).read_decisions(handle, position)[1] != position:
                found += collect_decisions(conversation_id=conversation_id)
        except Exception:
            log.exception(
                "the network decisions of conversation %s could not be stored", conversation_id
            )
    return found


def collect_decisions(*, conversation_id: UUID) -> int:
    """Store a sandbox's decisions that are not stored yet. Return their number.

    Each decision is stored exactly once, also if this function is killed or runs in several processes. Ask about each
    host that was refused for the first time because it is not listed.
    """
    found = 0
    for _ in range(BATCHES_MAX):
        stored = _collect_batch(conversation_id)
        if stored is None:
            break
        found += stored
    return found


def collect_last_decisions(*, conversation_id: UUID) -> None:
    """Store the last decisions of a sandbox that has ended. A failure is only logged."""
    try:
        collect_decisions(conversation_id=conversation_id)
    except Exception:
        log.exception("the last network decisions of %s could not be stored", conversation_id)


@transaction.atomic
def _collect_batch(conversation_id: UUID) -> int | None:
    """Store the next batch of decisions and their position together. Return None if there is no new decision."""
    # All services lock these rows in this order: first the conversation, then its sandbox.
    conversation = Conversation.objects.select_for_update().filter(pk=conversation_id).first()
    rows = Sandbox.objects.select_for_update(of=("self",))
    sandbox = rows.filter(conversation=conversation_id).first()
    if conversation is None or sandbox is None or not sandbox.handle:
        return None
    provider = get_provider(sandbox.provider)
    lines, position = provider.read_decisions(sandbox.handle, sandbox.egress_position)
    if position == sandbox.egress_position:
        return None
    decisions = [row for line in lines if (row := _parse(conversation, line))]
    questions = _find_questions(conversation, decisions)
    EgressDecision.objects.bulk_create(decisions)
    sandbox.egress_position = position
    sandbox.save(update_fields=["egress_position"])
    for place, (host, port) in questions:
        if place >= QUESTIONS_MAX:
            append_notice(
                conversation,
                code="egress_more_refused",
                message=ASK_NO_MORE.format(most=QUESTIONS_MAX),
            )
            break
        append_notice(
            conversation,
            code="egress_refused",
            message=ASK.format(host=host, port=port),
            host=host,
            port=port,
        )
    return len(decisions)


def _find_questions(
    conversation: Conversation, decisions: list[EgressDecision]
) -> list[tuple[int, tuple[str, int]]]:
    """Return the hosts to ask about, each with its port, numbered in the order of the conversation's questions."""
    refused: dict[str, int] = {}
    for decision in decisions:
        if decision.reason == Reason.NOT_LISTED.value:
            refused.setdefault(decision.host, decision.port)
    if not refused:
        return []
    earlier = EgressDecision.objects.filter(
        conversation=conversation, reason=Reason.NOT_LISTED.value
    )
    known = set(earlier.filter(host__in=refused).values_list("host", flat=True))
    policy = build_policy(conversation)
    news = [
        (host, port)
        for host, port in refused.items()
        if host not in known and is_undecided(policy, host, port)
    ]
    if not news:
        return []
    asked = earlier.order_by("host").values("host").distinct()[: QUESTIONS_MAX + 1].count()
    # The question after the last one says that there are no more, so it is appended only once.
    return [] if asked > QUESTIONS_MAX else list(enumerate(news, asked))


def _parse(conversation: Conversation, line: dict[str, Any]) -> EgressDecision | None:
    """Return a line of a decision log as a row, or None for a line that is not a decision."""
    try:
        return EgressDecision(
            organization_id=conversation.organization_id,
            conversation=conversation,
            at=datetime.fromisoformat(line["at"]).astimezone(UTC),
            host=_text(line["host"], 255),
            port=min(max(int(line["port"]), 0), 65_535),
            address=_text(line.get("address", ""), 45),
            allowed=line["allowed"] is True,
            reason=_text(line["reason"], 20),
            protocol=_text(line.get("protocol", ""), 8),
            count=min(max(int(line.get("count", 1)), 1), 2**31 - 1),
        )
    except (KeyError, TypeError, ValueError) as error:
        log.warning("a line of a decision log is not a decision: %s", error)
        return None


def _text(value: Any, longest: int) -> str:
    """Return a text that PostgreSQL can store."""
    return str(value).replace("\0", "").encode(errors="replace").decode()[:longest]

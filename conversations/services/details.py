"""How a conversation is filed and watched: tags, the archive, when its agent asks and who judges risks."""

from collections.abc import Sequence
from uuid import UUID

from django.db import transaction
from django.utils import timezone

from accounts.services import audit
from conversations import queue
from conversations.engine.client import EngineClient, EngineRefused, EngineUnreachable
from conversations.models import Conversation
from conversations.services.equipment import check_enforced
from conversations.services.state import change_fields, is_up


@transaction.atomic
def set_tags(*, conversation_id: UUID, tags: Sequence[str]) -> Conversation:
    """File a conversation under these tags instead of its earlier ones, each once. Safe to repeat."""
    conversation = Conversation.objects.select_for_update().get(pk=conversation_id)
    change_fields(conversation, tags=sorted(set(tags)))
    return conversation


@transaction.atomic
def set_archived(*, conversation_id: UUID, archived: bool) -> Conversation:
    """Put a conversation away, out of the default list, or take it out again. Safe to repeat.

    It stays what it is: its agent, sandbox and links go on.
    """
    conversation = Conversation.objects.select_for_update().get(pk=conversation_id)
    if archived != (conversation.archived_at is not None):
        change_fields(conversation, archived_at=timezone.now() if archived else None)
        audit.record(
            action="conversation.archived" if archived else "conversation.unarchived",
            organization_id=conversation.organization_id,
            subject=conversation,
        )
    return conversation


@transaction.atomic
def set_confirmation(
    *,
    conversation_id: UUID,
    confirmation_policy: str | None = None,
    security_analyzer: str | None = None,
) -> Conversation:
    """Change when the agent asks, and who judges the risk, also while it works. Safe to repeat.

    The row changes first, so that messages are held back as under the new policy from now on; a job carries
    it to the engine, and a sleeping engine takes it when it wakes. A question that is open stays open.
    Raises ``EnforcedSetting``.
    """
    conversation = Conversation.objects.select_for_update().get(pk=conversation_id)
    wanted = {
        "confirmation_policy": confirmation_policy,
        "security_analyzer": security_analyzer,
    }
    changed = {
        name: value
        for name, value in wanted.items()
        if value is not None and getattr(conversation, name) != value
    }
    if not changed:
        return conversation
    check_enforced(conversation, changed)
    before = {name: getattr(conversation, name) for name in changed}
    change_fields(conversation, **changed)
    queue.carry_confirmation(conversation_id)
    audit.record(
        action="conversation.confirmation_changed",
        organization_id=conversation.organization_id,
        subject=conversation,
        before=before,
        after=changed,
    )
    return conversation


def carry_confirmation(*, conversation_id: UUID) -> None:
    """Give the engine the policy and analyzer that the row has. Safe to repeat.

    Raises ``EngineUnreachable`` for the job to be tried again; an engine that sleeps is told when it wakes.
    """
    conversation = Conversation.objects.select_related("sandbox").filter(pk=conversation_id).first()
    if conversation is None or conversation.deleted_at or conversation.sandbox is None:
        return
    if not is_up(conversation):
        return
    client = EngineClient(conversation.sandbox.base_url, conversation.sandbox.session_key())
    tell_engine(client, conversation)


def tell_engine(client: EngineClient, conversation: Conversation) -> None:
    """Set both in an engine that is up. Raises ``EngineUnreachable``."""
    try:
        client.set_security_analyzer(conversation.pk, conversation.security_analyzer)
        client.set_confirmation_policy(conversation.pk, conversation.confirmation_policy)
    except EngineRefused as error:
        raise EngineUnreachable(f"the engine did not take the policy: {error}") from error

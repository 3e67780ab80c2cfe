"""Changes to a conversation's tags, archive state, confirmation policy and security analyzer."""

from collections.abc import Sequence
from typing import Any
from uuid import UUID

from django.db import transaction
from django.utils import timezone

from accounts.models import User
from accounts.services import audit
from conversations import queue
from conversations.engine.client import EngineClient
from conversations.engine.errors import EngineRefused, EngineUnreachable
from conversations.engine.payloads import build_analyzer, build_policy
from conversations.models import Conversation
from conversations.services.engines import open_engine
from conversations.services.equipment import check_enforced
from conversations.services.state import change_fields, is_up, require_driver


@transaction.atomic
def set_tags(*, conversation_id: UUID, tags: Sequence[str]) -> Conversation:
    """Replace a conversation's tags, without duplicates. Safe to repeat."""
    conversation = Conversation.objects.select_for_update().get(pk=conversation_id)
    change_fields(conversation, tags=sorted(set(tags)))
    return conversation


@transaction.atomic
def set_archived(*, conversation_id: UUID, archived: bool) -> Conversation:
    """Move a conversation into the archive or out of the archive. Safe to repeat.

    Archived conversations are left out of the default list. Their agents, sandboxes and links keep working.
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
    by: User | None = None,
) -> Conversation:
    """Change the confirmation policy and the security analyzer, even while the agent works. Safe to repeat.

    ``by`` is the user who changes them; None stands for the creator. Another argument that is None changes nothing.
    A job sends the new values to a running engine; a stopped engine gets them at its next start. A question that is
    already open stays open. Raise ``EnforcedSetting`` if the organization enforces a different value.
    """
    conversation = Conversation.objects.select_for_update().get(pk=conversation_id)
    require_driver(conversation, by)
    requested = {
        "confirmation_policy": confirmation_policy,
        "security_analyzer": security_analyzer,
    }
    changed = {
        name: value
        for name, value in requested.items()
        if value is not None and getattr(conversation, name) != value
    }
    if not changed:
        return conversation
    check_enforced(conversation, changed)
    # Change the row before the engine, because the delivery of messages reads the policy from the row.
    before = change_fields(conversation, **changed)
    queue.send_confirmation_settings(conversation_id)
    audit.record(
        action="conversation.confirmation_changed",
        organization_id=conversation.organization_id,
        subject=conversation,
        before=before,
        after=changed,
    )
    return conversation


def send_confirmation_settings(*, conversation_id: UUID) -> None:
    """Send the conversation's confirmation policy and security analyzer to its engine. Safe to repeat.

    Do nothing if the engine is not running, because its next start sends both values. Raise ``EngineUnreachable`` if
    the engine does not answer, so that the job is retried.
    """
    conversation = Conversation.objects.select_related("sandbox").filter(pk=conversation_id).first()
    if conversation is None or conversation.deleted_at or conversation.sandbox is None:
        return
    if not is_up(conversation):
        return
    client = open_engine(conversation.sandbox)
    apply_confirmation(client, conversation)


def apply_confirmation(client: EngineClient, conversation: Conversation) -> None:
    """Set the confirmation policy and the security analyzer in a running engine.

    Raise ``EngineUnreachable`` if the engine does not answer or refuses a value.
    """
    try:
        client.set_security_analyzer(conversation.pk, conversation.security_analyzer)
        client.set_confirmation_policy(conversation.pk, conversation.confirmation_policy)
    except EngineRefused as error:
        raise EngineUnreachable(f"the engine refused the confirmation policy: {error}") from error


def update_confirmation(
    state: dict[str, Any], conversation: Conversation, client: EngineClient
) -> None:
    """Send the confirmation policy and the analyzer to an engine that reports other values. Safe to repeat.

    ``state`` is the engine's record of the conversation. Raise ``EngineUnreachable`` as ``apply_confirmation``.
    """
    reported = (state.get("confirmation_policy"), state.get("security_analyzer"))
    current = tuple(value.get("kind") if isinstance(value, dict) else None for value in reported)
    desired = (
        build_policy(conversation.confirmation_policy)["kind"],
        (build_analyzer(conversation.security_analyzer) or {}).get("kind"),
    )
    # If the engine reports neither value, there is nothing to compare, so leave its settings unchanged.
    if current not in (desired, (None, None)):
        apply_confirmation(client, conversation)


def ensure_confirmation(conversation: Conversation, client: EngineClient) -> None:
    """Send the confirmation policy before the agent gets new work, if the agent must ask and its engine does not know.

    The job of ``set_confirmation`` may still wait in the queue: a program that sets a policy and then sends a message
    must not see the agent act on the message unasked. Safe to repeat. Raise ``EngineUnreachable``.
    """
    if conversation.may_ask:
        state = client.get_conversation(conversation.pk)
        update_confirmation(state or {}, conversation, client)

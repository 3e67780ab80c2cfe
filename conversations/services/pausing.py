"""Putting a sandbox to sleep because somebody says so."""

from uuid import UUID

from django.db import transaction

from accounts.services import audit
from conversations import announcing, queue
from conversations.models import Conversation, Sandbox
from conversations.services.starting import set_status

AWAKE = (Conversation.Status.RUNNING, Conversation.Status.STARTING)


@transaction.atomic
def pause_sandbox(*, conversation_id: UUID) -> None:
    """Stop the conversation's sandbox, its agent included; files stay, a message or resume wakes it.

    Safe to repeat. One that is asleep, or failed, stays as it is.
    """
    rows = Conversation.objects.select_for_update(of=("self",)).select_related("sandbox")
    conversation = rows.get(pk=conversation_id)
    if conversation.sandbox is None or conversation.status not in AWAKE:
        return
    Sandbox.objects.filter(pk=conversation.sandbox.pk).update(desired=Sandbox.Desired.STOPPED)
    queue.stop_sandbox(conversation_id)
    set_status(conversation, status=Conversation.Status.PAUSED)
    audit.record(
        action="sandbox.paused",
        organization_id=conversation.organization_id,
        subject=conversation,
    )


def ring(*, conversation_id: UUID) -> None:
    """Have everybody who follows this conversation look again: its sandbox says that something happened.

    Safe to repeat at any rate: it is a nudge, and what is told is read from the engine's log by the manager.
    """
    announcing.announce(conversation_id)

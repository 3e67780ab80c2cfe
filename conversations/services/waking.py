"""Bringing a sleeping sandbox up without asking its agent for anything."""

from uuid import UUID

from django.db import transaction

from conversations.models import Conversation, Sandbox
from conversations.services.starting import is_up, request_start


@transaction.atomic
def wake(*, conversation_id: UUID) -> Conversation:
    """Ask for the conversation's sandbox; an agent that was stopped stays stopped. Safe to repeat."""
    rows = Conversation.objects.select_for_update(of=("self",)).select_related("sandbox")
    conversation = rows.get(pk=conversation_id)
    sandbox = conversation.sandbox
    is_wanted = sandbox is not None and sandbox.desired == Sandbox.Desired.RUNNING
    if not (is_wanted and is_up(conversation)):
        request_start(conversation, reason="opened")
    return conversation

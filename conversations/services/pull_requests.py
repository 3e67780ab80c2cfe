"""The pull requests that were opened from a conversation."""

from uuid import UUID

from django.db import transaction

from conversations.models import Conversation
from conversations.services.state import change_fields


@transaction.atomic
def record_pull_request(*, conversation_id: UUID, number: int) -> None:
    """Store the number of a pull request that was opened from a conversation. Safe to repeat."""
    conversation = Conversation.objects.select_for_update().get(pk=conversation_id)
    if number not in conversation.pull_requests:
        change_fields(conversation, pull_requests=[*conversation.pull_requests, number])

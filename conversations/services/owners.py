"""Find the creator and the organization of a conversation, from a cache: neither ever changes."""

from uuid import UUID

from conversations.models import Conversation

CACHE_MAX = 10_000
_owners: dict[UUID, tuple[UUID, UUID]] = {}


def find_owner(conversation_id: UUID) -> tuple[UUID, UUID] | None:
    """Return the ids of a conversation's creator and organization, or None if it does not exist.

    The conversation may be deleted meanwhile.
    """
    owner = _owners.get(conversation_id)
    if owner is None:
        rows = Conversation.objects.filter(pk=conversation_id)
        owner = rows.values_list("created_by_id", "organization_id").first()
        if owner is not None:
            if len(_owners) >= CACHE_MAX:
                _owners.clear()
            _owners[conversation_id] = owner
    return owner


def clear_cache() -> None:
    """Clear the cache."""
    _owners.clear()

"""Users' ratings of events. Each user has at most one rating for an event."""

from collections.abc import Mapping
from typing import Any

from django.utils import timezone

from accounts.models import User
from conversations.models import Conversation, Event, Feedback
from lib.problems import Problem


class NoSuchEvent(Problem):
    """The conversation has no event with the requested ``seq``."""

    status = 404
    code = "no-such-event"
    sentence = "This conversation has no event with that seq."


def save_feedback(
    *,
    user: User,
    conversation: Conversation,
    seq: int,
    rating: int,
    reason: str = "",
    metadata: Mapping[str, Any] | None = None,
) -> Feedback:
    """Store a user's rating (1 to 5) of an event, replacing the user's earlier rating. Safe to repeat.

    Raise ``NoSuchEvent`` if the conversation has no event with this ``seq``.
    """
    if not Event.objects.filter(conversation=conversation, seq=seq).exists():
        raise NoSuchEvent
    now = timezone.now()
    values = {
        "rating": rating,
        "reason": reason,
        "metadata": dict(metadata or {}),
        "updated_at": now,
    }
    feedback, _ = Feedback.objects.update_or_create(
        conversation=conversation,
        seq=seq,
        user=user,
        defaults=values,
        create_defaults=values
        | {"organization_id": conversation.organization_id, "created_at": now},
    )
    return feedback


def list_feedback(
    *, user: User, conversation: Conversation, seq: int | None = None
) -> list[Feedback]:
    """Return a user's ratings of a conversation's events, in the order of the log.

    With ``seq``, return only the rating of that event. Raise ``NoSuchEvent`` if there is no event with this ``seq``.
    """
    if seq is not None and not Event.objects.filter(conversation=conversation, seq=seq).exists():
        raise NoSuchEvent
    rows = Feedback.objects.filter(conversation=conversation, user=user).order_by("seq")
    return list(rows if seq is None else rows.filter(seq=seq))


def delete_feedback(*, user: User, conversation: Conversation, seq: int) -> None:
    """Delete a user's rating of an event. Safe to repeat."""
    Feedback.objects.filter(conversation=conversation, user=user, seq=seq).delete()

"""What people think of single events: one word a person and event, the newest counts."""

from collections.abc import Mapping
from typing import Any

from django.utils import timezone

from accounts.models import User
from conversations.models import Conversation, Event, Feedback
from lib.problems import Problem


class NoSuchEvent(Problem):
    """The conversation's log has no event at that place."""

    status = 404
    code = "no-such-event"
    sentence = "This conversation has no event with that seq."


def give_feedback(
    *,
    user: User,
    conversation: Conversation,
    seq: int,
    rating: int,
    reason: str = "",
    metadata: Mapping[str, Any] | None = None,
) -> Feedback:
    """Keep a user's rating (1 to 5) of an event; an earlier one of the same user is replaced.

    Safe to repeat. Raises ``NoSuchEvent``.
    """
    if not Event.objects.filter(conversation=conversation, seq=seq).exists():
        raise NoSuchEvent
    now = timezone.now()
    said = {
        "rating": rating,
        "reason": reason,
        "metadata": dict(metadata or {}),
        "updated_at": now,
    }
    feedback, _ = Feedback.objects.update_or_create(
        conversation=conversation,
        seq=seq,
        user=user,
        defaults=said,
        create_defaults=said | {"organization_id": conversation.organization_id, "created_at": now},
    )
    return feedback


def feedback_of(
    *, user: User, conversation: Conversation, seq: int | None = None
) -> list[Feedback]:
    """What a user said of a conversation's events, in the log's order; of one event with ``seq``.

    Raises ``NoSuchEvent`` for a ``seq`` that the log does not have.
    """
    if seq is not None and not Event.objects.filter(conversation=conversation, seq=seq).exists():
        raise NoSuchEvent
    rows = Feedback.objects.filter(conversation=conversation, user=user).order_by("seq")
    return list(rows if seq is None else rows.filter(seq=seq))


def take_back_feedback(*, user: User, conversation: Conversation, seq: int) -> None:
    """Forget what a user said of an event. Safe to repeat."""
    Feedback.objects.filter(conversation=conversation, user=user, seq=seq).delete()

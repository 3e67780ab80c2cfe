"""Events of many conversations appended together: else a manager of a thousand commits a thousand times a second."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from uuid import UUID

from django.db import IntegrityError, transaction
from django.utils import timezone

from conversations import announcing
from conversations.engine.payloads import Durable
from conversations.models import Sandbox
from conversations.models.append import NewEvents, append_fenced_together
from conversations.services import redaction
from conversations.services.ingestion import USE_SECONDS, is_plain, new_event


@dataclass(frozen=True, slots=True)
class Batch:
    """What one conversation's engine said, in its order, and the generation of who heard it."""

    conversation_id: UUID
    generation: int
    frames: Sequence[Durable]


def ingest_together(*, batches: Sequence[Batch]) -> set[UUID]:
    """Append what is nothing but news, of one batch a conversation, in one statement; whose was appended.

    Of the others nothing was stored, for whatever reason: ``ingest_events`` says it, or takes the long way.
    """
    # Where there are secrets to take out of events, ``ingest_events`` does it.
    plain = [
        batch
        for batch in batches
        if batch.frames
        and is_plain(batch.frames)
        and redaction.hider(batch.conversation_id) is None
    ]
    if not plain:
        return set()
    now = timezone.now()
    news = [
        NewEvents(
            batch.conversation_id,
            batch.generation,
            [new_event(frame, frame.event.event_id) for frame in batch.frames],
        )
        for batch in plain
    ]
    try:
        with transaction.atomic():
            stored = append_fenced_together(news, at=now)
            for key, _, _ in stored:
                announcing.announce_on_commit(key)
            used = [
                sandbox
                for _, sandbox, active_at in stored
                if active_at is not None and now - active_at > timedelta(seconds=USE_SECONDS)
            ]
            if used:
                Sandbox.objects.filter(pk__in=used).update(active_at=now)
    except IntegrityError:
        return set()  # one of them names an id that its log has
    return {key for key, *_ in stored}

"""External runs: agents that work in other programs, which publish their events to this server."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

from django.conf import settings
from django.db import transaction
from django.utils import timezone

from accounts.models import Organization, User
from accounts.permissions import require, require_on
from accounts.services import audit
from conversations import announcing
from conversations.engine.payloads import (
    EngineEvent,
    is_state_update,
    parse_event,
    parse_execution_status,
)
from conversations.models import Conversation, Event, NewEvent
from conversations.models.append import append_published
from conversations.services.owners import find_owner
from conversations.services.state import change_fields
from lib import limits
from lib.problems import Problem

# PostgreSQL cannot store NUL, and UTF-8 cannot encode lone surrogates.
_UNSTORABLE = re.compile("[\0\ud800-\udfff]")
BATCH_MAX = 500
"""The largest number of events in a batch."""
EVENT_COST_BYTES = 256
"""The size that a shorter event is counted with."""
MODEL = "elsewhere"
"""The model of an external run whose publisher names no model."""


class NotPublished(Problem):
    """The agent of the conversation runs on this server, so other programs cannot publish its events."""

    status = 409
    code = "not-published"
    sentence = (
        "This conversation's agent runs on this server, so no other program can add events to it. "
        "Publish under another conversation id."
    )


class BadEvent(Problem):
    """A batch is too large, or an event has no usable id, so that a repeated event could not be recognized."""

    code = "bad-event"
    sentence = (
        'Each event must be a JSON object with an "id" of 1 to 80 visible ASCII characters that does not begin with '
        '"x-". A batch may contain at most 500 events.'
    )


class EventTooLarge(Problem):
    """An event is larger than ``PUBLISHED_EVENT_MAX_BYTES``."""

    status = 413
    code = "event-too-large"
    sentence = "The event is too large."


class RunTooLong(Problem):
    """The run has as many events as ``PUBLISHED_EVENTS_PER_RUN`` allows."""

    status = 413
    code = "run-too-long"
    sentence = "The run has too many events."


class PublishedTooMuch(Problem):
    """The programs of an organization published more than ``PUBLISHED_KILOBYTES_PER_MINUTE`` or ``…_PER_DAY``."""

    status = 429
    code = "published-too-much"
    sentence = "The programs of this organization publish too much. Try again later."


@dataclass(frozen=True, slots=True)
class PublishedBatch:
    """The result of publishing one batch.

    ``last_seq`` and ``epoch`` are the log's values after the batch. ``stored`` is the number of new events in the
    batch, and ``known`` the number of events that were already in the log.
    """

    last_seq: int
    epoch: int
    stored: int
    known: int


def open_run(
    *,
    user: User,
    conversation_id: UUID,
    organization: Organization,
    title: str = "",
    model: str = "",
) -> Conversation:
    """Create an external run under an id that the publisher chooses, or continue an existing run.

    Safe to repeat: the same id returns the same conversation. Raise ``MissingPermission`` if the user lacks
    ``events.publish``, ``NotPublished`` if this server runs the conversation's agent, and
    ``Conversation.DoesNotExist`` if the user may not see the conversation.
    """
    require(user, organization.pk, "events.publish")
    with transaction.atomic():
        conversation, is_new = Conversation.objects.get_or_create(
            pk=conversation_id,
            defaults={
                "organization": organization,
                "created_by": user,
                "title": _UNSTORABLE.sub("", title)[:200] or "External run",
                "model": _UNSTORABLE.sub("", model)[:200] or MODEL,
                "trigger": Conversation.Trigger.API,
                "status": Conversation.Status.RUNNING,
                "is_external": True,
            },
        )
        if is_new:
            audit.record(
                action="conversation.published",
                organization_id=organization.pk,
                subject=conversation,
                after={"model": conversation.model},
            )
    # The id may belong to another user's conversation, so check access to the row that was found.
    if not Conversation.objects.visible_to(user).filter(pk=conversation.pk).exists():
        raise Conversation.DoesNotExist
    require_on(user, conversation, "events.publish")
    if not conversation.is_external:
        raise NotPublished
    with transaction.atomic():
        locked = Conversation.objects.select_for_update().get(pk=conversation_id)
        change_fields(locked, status=Conversation.Status.RUNNING)
    return locked


def last_published_id(*, conversation_id: UUID) -> str:
    """Return the id of an external run's newest event, or "" if it has none. A publisher continues after this event."""
    events = Event.objects.filter(conversation_id=conversation_id, conversation__is_external=True)
    return events.order_by("-seq").values_list("event_id", flat=True).first() or ""


def publish_events(
    *, conversation_id: UUID, batches: Sequence[Sequence[bytes]]
) -> list[PublishedBatch]:
    """Append batches of events, all or none, and return a result for each batch.

    Each event is JSON text in the format of the agent engine, and is stored unchanged. If events report the agent's
    state, the newest state is copied into the conversation's row. Safe to repeat: events whose id is already in the
    log are skipped. Raise ``BadEvent``, ``NotPublished`` if this server runs the conversation's agent, and
    ``Conversation.DoesNotExist`` if the conversation does not exist or was deleted. Raise ``EventTooLarge``,
    ``RunTooLong`` or ``PublishedTooMuch`` beyond the limits of the settings ``PUBLISHED_…``; nothing is stored then.
    """
    _check_amount(conversation_id, batches)
    parsed = [[_parse(text) for text in batch] for batch in batches]
    if any(len(batch) > BATCH_MAX for batch in batches):
        raise BadEvent
    if results := _append_in_one_statement(conversation_id, parsed):
        return results
    ids = [event.event_id for batch in parsed for event in batch]
    with transaction.atomic():
        conversation = Conversation.objects.select_for_update().get(
            pk=conversation_id, deleted_at=None
        )
        if not conversation.is_external:
            raise NotPublished
        # Ids that are in the log, and later also ids of the earlier batches of this call.
        rows = Event.objects.filter(conversation_id=conversation_id, event_id__in=ids)
        used_ids = set(rows.values_list("event_id", flat=True))
        seq = conversation.last_seq
        results = []
        fresh: list[EngineEvent] = []
        for batch in parsed:
            news = {event.event_id: event for event in batch if event.event_id not in used_ids}
            used_ids |= news.keys()
            fresh += news.values()
            seq += len(news)
            known = len(batch) - len(news)
            results.append(PublishedBatch(seq, conversation.epoch, len(news), known))
        _check_length(conversation, len(fresh))
        if fresh:
            _append(conversation, fresh)
    return results


def _check_length(conversation: Conversation, news: int) -> None:
    most = settings.PUBLISHED_EVENTS_PER_RUN
    if news and most and conversation.last_seq + news > most:
        raise RunTooLong(
            f"This run has {conversation.last_seq} events and may have at most {most}. Continue in a new run, under "
            "another conversation id."
        )


def _check_amount(conversation_id: UUID, batches: Sequence[Sequence[bytes]]) -> None:
    """Raise a ``Problem`` if events are too large or too many, and count their bytes for the organization."""
    sizes = [len(text) for batch in batches for text in batch]
    largest = max(sizes, default=0)
    if largest > settings.PUBLISHED_EVENT_MAX_BYTES:
        raise EventTooLarge(
            f"An event has {largest} bytes, but may have at most {settings.PUBLISHED_EVENT_MAX_BYTES}. "
            "Shorten its content, or store it elsewhere and publish a link."
        )
    if not sizes:
        return
    owner = find_owner(conversation_id)
    if owner is None:
        raise Conversation.DoesNotExist
    # A row of the log costs more than the bytes of a short event.
    kilobytes = -(-sum(max(size, EVENT_COST_BYTES) for size in sizes) // 1_024)
    for limit, seconds, words in (
        (settings.PUBLISHED_KILOBYTES_PER_MINUTE, 60, "minute"),
        (settings.PUBLISHED_KILOBYTES_PER_DAY, 86_400, "day"),
    ):
        if not limit:
            continue
        usage = limits.count_amount(
            group=f"published-{words}|",
            value=str(owner[1]),
            amount=kilobytes,
            limit=limit,
            seconds=seconds,
        )
        if usage is not None and usage.is_over:
            raise PublishedTooMuch(
                f"The programs of this organization may publish at most {limit} KB of events per {words}. "
                f"Try again in {usage.reset} seconds.",
                retry_after=usage.reset,
            )


def _append_in_one_statement(
    conversation_id: UUID, batches: Sequence[Sequence[EngineEvent]]
) -> list[PublishedBatch]:
    """Append batches of new events without reading the log first; return a result for each batch.

    Store nothing and return an empty list if an event is a repeat or reports the agent's state, or if the run would
    become too long.
    """
    events = [event for batch in batches for event in batch]
    ids = {event.event_id for event in events}
    if not events or len(ids) < len(events) or any(is_state_update(event) for event in events):
        return []
    news = [_new_event(event) for event in events]
    most = settings.PUBLISHED_EVENTS_PER_RUN
    appended = append_published(conversation_id, news, at=timezone.now(), most=most)
    if appended is None:
        return []
    last, epoch = appended
    announcing.announce_on_commit(conversation_id)
    seq, results = last - len(news), []
    for batch in batches:
        seq += len(batch)
        results.append(PublishedBatch(seq, epoch, len(batch), 0))
    return results


def _parse(text: bytes) -> EngineEvent:
    event = parse_event(text, seq=None)
    # If an event has no usable id, the parser derives an id with this prefix from its bytes. Two equal events would
    # get the same id, and the second event would be skipped as a repeat.
    if event.event_id.startswith("x-"):
        raise BadEvent
    return event


def _new_event(event: EngineEvent) -> NewEvent:
    return NewEvent(event.event_id, event.kind, event.source, event.payload, None, event.time)


def _append(conversation: Conversation, events: Sequence[EngineEvent]) -> None:
    statuses = [status for event in events if (status := parse_execution_status(event))]
    if statuses:
        conversation.execution_status = statuses[-1]
    conversation.append(
        *map(_new_event, events),
        also_save=("execution_status",) if statuses else (),
    )
    announcing.announce_on_commit(conversation.pk)


@transaction.atomic
def close_run(*, conversation_id: UUID) -> None:
    """Mark an external run as stopped after its publisher disconnected. Safe to repeat."""
    conversation = Conversation.objects.select_for_update().filter(pk=conversation_id).first()
    if conversation is not None and conversation.is_external:
        change_fields(conversation, status=Conversation.Status.STOPPED)

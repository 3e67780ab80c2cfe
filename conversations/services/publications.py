"""Runs of agents that work elsewhere: their programs publish the events, this server keeps and shows them."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

from django.db import transaction
from django.utils import timezone

from accounts.models import Organization, User
from accounts.permissions import require
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
from conversations.services.state import change_fields
from lib.problems import Problem

_UNSTORABLE = re.compile("[\0\ud800-\udfff]")
BATCH_MAX = 500
MODEL = "elsewhere"


class NotPublished(Problem):
    """The conversation has an agent of this server's: only its engine adds to its log."""

    status = 409
    code = "not-published"
    sentence = "This conversation's agent runs on this server; nobody else adds to its log."


class BadEvent(Problem):
    """An event that cannot be told from another when it comes again: it is no JSON object with an id."""

    code = "bad-event"
    sentence = (
        'Every event is a JSON object with an "id" of 1 to 80 visible ASCII characters that does not begin with '
        '"x-", and at most 500 go in one batch.'
    )


@dataclass(frozen=True, slots=True)
class Published:
    """Where the log stands after a batch; ``known`` events were there before."""

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
    """Begin to publish a run under an id of the publisher's choice, or go on with it.

    Safe to repeat: the same id by somebody who may publish in its organization gives the same conversation.
    Raises ``MissingPermission`` (``events.publish``), ``NotPublished``.
    """
    require(user, organization.pk, "events.publish")
    with transaction.atomic():
        conversation, is_new = Conversation.objects.get_or_create(
            pk=conversation_id,
            defaults={
                "organization": organization,
                "created_by": user,
                "title": _UNSTORABLE.sub("", title)[:200] or "A run from elsewhere",
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
                after={"title": conversation.title, "model": conversation.model},
            )
    if not Conversation.objects.visible_to(user).filter(pk=conversation.pk).exists():
        raise Conversation.DoesNotExist
    require(user, conversation.organization_id, "events.publish")
    if not conversation.is_external:
        raise NotPublished
    with transaction.atomic():
        locked = Conversation.objects.select_for_update().get(pk=conversation_id)
        change_fields(locked, status=Conversation.Status.RUNNING)
    return locked


def last_published_id(*, conversation_id: UUID) -> str:
    """The id of the newest event that came from outside; empty when there is none."""
    events = Event.objects.filter(conversation_id=conversation_id, conversation__is_external=True)
    return events.order_by("-seq").values_list("event_id", flat=True).first() or ""


def publish_events(*, conversation_id: UUID, batches: Sequence[Sequence[bytes]]) -> list[Published]:
    """Append batches of events, each the JSON text of one event as an agent engine writes it, kept as it came.

    All of it or nothing, in one transaction; one answer a batch. Safe to repeat: an event whose id is in the
    log is not stored again. The newest state that the events tell becomes the conversation's. Raises
    ``BadEvent``, ``NotPublished``, ``Conversation.DoesNotExist``.
    """
    parsed = [[_parsed(text) for text in batch] for batch in batches]
    if any(len(batch) > BATCH_MAX for batch in batches):
        raise BadEvent
    if answers := _publish_at_once(conversation_id, parsed):
        return answers
    ids = [event.event_id for batch in parsed for event in batch]
    with transaction.atomic():
        conversation = Conversation.objects.select_for_update().get(
            pk=conversation_id, deleted_at=None
        )
        if not conversation.is_external:
            raise NotPublished
        rows = Event.objects.filter(conversation_id=conversation_id, event_id__in=ids)
        taken = set(rows.values_list("event_id", flat=True))
        seq = conversation.last_seq
        answers = []
        fresh: list[EngineEvent] = []
        for batch in parsed:
            news = {event.event_id: event for event in batch if event.event_id not in taken}
            taken |= news.keys()
            fresh += news.values()
            seq += len(news)
            known = len(batch) - len(news)
            answers.append(Published(seq, conversation.epoch, len(news), known))
        if fresh:
            _append(conversation, fresh)
    return answers


def _publish_at_once(
    conversation_id: UUID, batches: Sequence[Sequence[EngineEvent]]
) -> list[Published]:
    """Append what is nothing but news without looking first; empty when that could not be done."""
    events = [event for batch in batches for event in batch]
    ids = {event.event_id for event in events}
    if not events or len(ids) < len(events) or any(is_state_update(event) for event in events):
        return []
    news = [_new_event(event) for event in events]
    appended = append_published(conversation_id, news, at=timezone.now())
    if appended is None:
        return []
    last, epoch = appended
    announcing.announce_on_commit(conversation_id)
    seq, answers = last - len(news), []
    for batch in batches:
        seq += len(batch)
        answers.append(Published(seq, epoch, len(batch), 0))
    return answers


def _parsed(text: bytes) -> EngineEvent:
    event = parse_event(text, seq=None)
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
    """Say that nobody publishes any more: the run is shown as stopped. Safe to repeat."""
    conversation = Conversation.objects.select_for_update().filter(pk=conversation_id).first()
    if conversation is not None and conversation.is_external:
        change_fields(conversation, status=Conversation.Status.STOPPED)

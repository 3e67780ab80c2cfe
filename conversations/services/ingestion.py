"""From the engine's log into ours: in order, once, fenced, and nothing changed on the way."""

import hashlib
import itertools
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from uuid import UUID

from django.db import transaction
from django.utils import timezone

from conversations import announcing, queue
from conversations.engine.client import EngineClient
from conversations.engine.payloads import Durable, is_state_update, parse_execution_status
from conversations.models import (
    Conversation,
    Event,
    Lease,
    NewEvent,
    OutgoingMessage,
    Sandbox,
    StartTask,
)
from conversations.models.append import NewEvents, append_fenced
from conversations.sandboxes.provider import State, get_provider
from conversations.services import redaction
from conversations.services.delivery import deliver_if_free, user_text
from conversations.services.state import append_notice, change_fields, request_start
from lib.problems import Problem

log = logging.getLogger(__name__)
WAITING = Conversation.ExecutionStatus.WAITING_FOR_CONFIRMATION
IDLE = Conversation.ExecutionStatus.IDLE
CRASHES_BEFORE_GIVING_UP = 3
CRASH_WINDOW_SECONDS = 600
READ_PAGE = 50
USE_SECONDS = 10
PROJECTED = ("execution_status", "asked_seq", "asked_in_run")


class StaleLease(Problem):
    """A manager writes under a generation that is no longer the newest: somebody else follows now."""

    status = 409
    code = "stale-lease"
    sentence = "Another manager follows this conversation now."


class LogGap(Exception):
    """Frames do not continue the log: the reader must begin again behind what is stored."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where to follow an engine's log, and from where."""

    base_url: str
    session_key: str
    run: int
    after_seq: int


def place_to_follow(*, conversation_id: UUID, generation: int) -> Place | None:
    """Where a conversation's engine is now, or None while there is none. Raises ``StaleLease``."""
    conversation = (
        Conversation.objects.select_related("sandbox")
        .filter(pk=conversation_id, deleted_at=None)
        .first()
    )
    held = Lease.objects.filter(conversation_id=conversation_id, generation=generation)
    if conversation is None or not held.exists():
        raise StaleLease
    sandbox = conversation.sandbox
    if sandbox is None or sandbox.observed != Sandbox.Observed.RUNNING:
        return None
    return Place(sandbox.base_url, sandbox.session_key(), sandbox.run, conversation.engine_seq)


def _locked_under(conversation_id: UUID, generation: int) -> Conversation:
    """The conversation, locked, if this generation is still the newest; else ``StaleLease``.

    The lease is locked with it, so that nobody takes it over between this look and our commit.
    """
    rows = Conversation.objects.select_for_update(of=("self", "lease"))
    found = rows.select_related("lease", "sandbox").filter(
        pk=conversation_id, deleted_at=None, lease__generation=generation
    )
    conversation = found.first()
    if conversation is None:
        raise StaleLease
    return conversation


def ingest_events(*, conversation_id: UUID, generation: int, frames: Sequence[Durable]) -> int:
    """Append the engine's events behind what is stored; how many were new.

    Safe to repeat: what is stored already is skipped by its index. Raises ``StaleLease`` and ``LogGap``,
    and then nothing of the batch is stored.
    """
    if not _is_at_once(conversation_id, generation, frames):
        return _ingest_locked(conversation_id, generation, frames)
    return len(frames)


def _is_at_once(conversation_id: UUID, generation: int, frames: Sequence[Durable]) -> bool:
    """Append a batch that is nothing but news, without reading anything first; whether that could be done.

    Not when the batch tells a state, echoes a message, repeats something or leaves a gap, and not when it
    names an id that the log has: all that is for the way that looks first.
    """
    if not frames or not is_plain(frames):
        return False
    now = timezone.now()
    hide = redaction.hider(conversation_id)
    events = [new_event(frame, frame.event.event_id, hide) for frame in frames]
    appended = append_fenced(NewEvents(conversation_id, generation, events), at=now)
    if appended is None:
        return False
    sandbox_id, active_at = appended
    if sandbox_id and active_at and now - active_at > timedelta(seconds=USE_SECONDS):
        Sandbox.objects.filter(pk=sandbox_id).update(active_at=now)
    announcing.announce_on_commit(conversation_id)
    return True


def is_plain(frames: Sequence[Durable]) -> bool:
    """Whether frames follow each other, each with an id of its own, and change nothing but the log."""
    first = frames[0].seq
    if len({frame.event.event_id for frame in frames}) < len(frames):
        return False
    return all(
        frame.seq == seq
        and frame.event.source != Event.Source.USER
        and not is_state_update(frame.event)
        for seq, frame in enumerate(frames, start=first)
    )


def new_event(frame: Durable, event_id: str, hide: Callable[[str], str] | None = None) -> NewEvent:
    """Return what is stored of an engine's frame; ``hide`` takes secrets out of its payload."""
    event = frame.event
    payload = hide(event.payload) if hide else event.payload
    return NewEvent(event_id, event.kind, event.source, payload, frame.seq, event.time)


@transaction.atomic
def _ingest_locked(conversation_id: UUID, generation: int, frames: Sequence[Durable]) -> int:
    """Lock, look, then append: for batches that change more than the log, and for repeats."""
    conversation = _locked_under(conversation_id, generation)
    fresh = [frame for frame in frames if frame.seq > conversation.engine_seq]
    if not fresh:
        return 0
    expected = range(conversation.engine_seq + 1, conversation.engine_seq + 1 + len(fresh))
    if [frame.seq for frame in fresh] != list(expected):
        raise LogGap(f"{conversation_id}: {fresh[0].seq} does not follow {conversation.engine_seq}")
    taken = set(
        Event.objects.filter(
            conversation_id=conversation_id, event_id__in=[f.event.event_id for f in fresh]
        ).values_list("event_id", flat=True)
    )
    news = []
    hide = redaction.hider(conversation_id)
    for frame in fresh:
        event_id = _free_id(frame, taken)
        taken.add(event_id)
        news.append(new_event(frame, event_id, hide))
    conversation.engine_seq = fresh[-1].seq
    status = _project(conversation, fresh)
    conversation.append_rows(news, also_save=("engine_seq", *(PROJECTED if status else ())))
    _match_messages(conversation, fresh, news)
    _note_use(conversation)
    if status:
        deliver_if_free(conversation)
    announcing.announce_on_commit(conversation_id)
    return len(news)


def read_log(*, conversation_id: UUID, generation: int, client: EngineClient) -> int:
    """Append what the engine's log has behind ours, page by page over REST; how many were new.

    For what its socket cannot carry. Safe to repeat. Raises ``StaleLease``, ``LogGap``,
    ``EngineUnreachable``.
    """
    conversation = Conversation.objects.get(pk=conversation_id)
    newest = Event.objects.filter(conversation=conversation, engine_seq=conversation.engine_seq)
    news = client.iter_events(
        conversation_id,
        after_id=newest.values_list("event_id", flat=True).first(),
        after_seq=conversation.engine_seq,
    )
    count = 0
    while page := list(itertools.islice(news, READ_PAGE)):
        count += ingest_events(conversation_id=conversation_id, generation=generation, frames=page)
    return count


def _free_id(frame: Durable, taken: set[str]) -> str:
    """The engine's id, unless the log has it at another place: a sandbox may say anything, twice."""
    if frame.event.event_id not in taken:
        return frame.event.event_id
    name = f"{frame.seq}:{frame.event.event_id}"
    return "x-" + hashlib.sha256(name.encode()).hexdigest()


def _match_messages(
    conversation: Conversation, frames: Sequence[Durable], events: Sequence[NewEvent]
) -> None:
    """Mark messages delivered by their echo in the engine's log."""
    for frame, event in zip(frames, events, strict=True):
        text = user_text(frame.event)
        if text is None:
            continue
        unmatched = OutgoingMessage.objects.filter(
            conversation=conversation, engine_event_id="", text=text, attempts__gt=0
        )
        message = unmatched.order_by("seq").first()
        if message is not None:
            message.engine_event_id = event.event_id
            message.status = OutgoingMessage.Status.DELIVERED
            message.delivered_at = timezone.now()
            message.save(update_fields=["engine_event_id", "status", "delivered_at"])


def _project(conversation: Conversation, frames: Sequence[Durable]) -> str | None:
    """Take the newest state that the frames tell over into the row; the caller saves ``PROJECTED``."""
    newest = None
    for seq, frame in enumerate(frames, start=conversation.last_seq + 1):
        status = parse_execution_status(frame.event)
        if status is not None and not _is_between(conversation, status):
            newest = status
            _take_status(conversation, status, seq)
    return newest


def _is_between(conversation: Conversation, status: str) -> bool:
    """Whether this is the engine's ``idle`` on its way from one state into a run that we asked for.

    Taking it over would let the next message in before the run, and its question, has begun: see
    ``take_for_busy``. No run ends idle.
    """
    is_taken = conversation.execution_status == Conversation.ExecutionStatus.RUNNING
    return status == IDLE and is_taken and conversation.may_ask


def _take_status(conversation: Conversation, status: str, seq: int) -> None:
    sandbox = conversation.sandbox
    asks = status == WAITING and sandbox is not None
    conversation.execution_status = status
    conversation.asked_seq = seq if asks else None
    conversation.asked_in_run = sandbox.run if asks and sandbox else None


def _note_use(conversation: Conversation) -> None:
    """The sandbox's last use, at most every few seconds: idleness is counted in minutes."""
    sandbox, now = conversation.sandbox, timezone.now()
    if sandbox is not None and now - sandbox.active_at > timedelta(seconds=USE_SECONDS):
        Sandbox.objects.filter(pk=sandbox.pk).update(active_at=now)


@dataclass(frozen=True, slots=True)
class Standing:
    """How a conversation stood before its engine was asked for the agent's state."""

    last_seq: int
    execution_status: str
    is_answered: bool
    """An answer to the agent's question is on its way to the engine."""


def standing(*, conversation_id: UUID) -> Standing:
    """To be taken before the engine is asked, for ``observe_status``."""
    rows = Conversation.objects.filter(pk=conversation_id)
    row = rows.values_list("last_seq", "execution_status").first()
    if row is None:
        raise StaleLease
    # In this order: an answer that comes in between moves the log on from what was read.
    return Standing(*row, is_answered=queue.is_queued("answer", conversation_id))


@transaction.atomic
def observe_status(*, conversation_id: UUID, generation: int, status: str, as_of: Standing) -> bool:
    """Take over a state that the engine told when asked, without an event, as after its restart.

    ``as_of`` is how the conversation stood before that. Returns False when something was said or answered
    in between, so that the state may be of before it: ask again. Raises ``StaleLease``.
    """
    conversation = _locked_under(conversation_id, generation)
    if (conversation.last_seq, conversation.execution_status) != (
        as_of.last_seq,
        as_of.execution_status,
    ):
        return False
    if status not in Conversation.ExecutionStatus.values or status == conversation.execution_status:
        return True
    if _is_between(conversation, status) and _is_something_on_its_way(conversation):
        return True
    if status == WAITING and as_of.is_answered:
        return True  # the engine came back with a question that has its answer, only not yet there
    _take_status(conversation, status, conversation.last_seq)
    if status == WAITING:
        conversation.asked_in_run = 0  # asked in a run of before: a yes must take the long way
    conversation.updated_at = timezone.now()
    conversation.save(update_fields=[*PROJECTED, "updated_at"])
    announcing.announce_on_commit(conversation_id)
    deliver_if_free(conversation)
    return True


def _is_something_on_its_way(conversation: Conversation) -> bool:
    """Whether a message was sent to the engine whose echo its log, as far as we have it, does not hold."""
    sent = (OutgoingMessage.Status.SENDING, OutgoingMessage.Status.DELIVERED)
    return OutgoingMessage.objects.filter(
        conversation=conversation, status__in=sent, engine_event_id=""
    ).exists()


def note_engine_lost(*, conversation_id: UUID, generation: int) -> bool:
    """Look why an engine does not answer. If it is gone, say so in the log and bring it back.

    Returns whether it is gone. A busy agent's engine is restarted at once, an idle one with the next
    message; one that dies again and again is given up. Raises ``StaleLease``.
    """
    conversation = Conversation.objects.select_related("sandbox").get(pk=conversation_id)
    sandbox = conversation.sandbox
    if sandbox is None or sandbox.observed != Sandbox.Observed.RUNNING:
        return True
    observed = get_provider(sandbox.provider).inspect(sandbox.handle)
    if observed.state in (State.RUNNING, State.STARTING):
        return False
    with transaction.atomic():
        conversation = _locked_under(conversation_id, generation)
        return _take_loss(conversation, run=sandbox.run, detail=observed.detail)


def _take_loss(conversation: Conversation, *, run: int, detail: str) -> bool:
    sandbox = conversation.sandbox
    if sandbox is None or sandbox.run != run or sandbox.observed != Sandbox.Observed.RUNNING:
        return True
    if sandbox.desired != Sandbox.Desired.RUNNING:
        return True  # it was stopped on purpose
    sandbox.observed, sandbox.detail = Sandbox.Observed.FAILED, detail
    sandbox.stopped_at = timezone.now()
    sandbox.save(update_fields=["observed", "detail", "stopped_at"])
    was_busy = conversation.execution_status == Conversation.ExecutionStatus.RUNNING
    if _crashes_lately(conversation) >= CRASHES_BEFORE_GIVING_UP:
        message = "The agent's engine stopped several times in a row and is not restarted again by itself."
        append_notice(conversation, code="engine_gave_up", message=message, detail=detail)
        change_fields(
            conversation,
            status=Conversation.Status.FAILED,
            status_detail=message,
            execution_status=Conversation.ExecutionStatus.ERROR,
        )
        return True
    append_notice(
        conversation,
        code="engine_stopped",
        message="The agent's engine stopped unexpectedly. Files and history are safe; "
        + ("it is being restarted." if was_busy else "it restarts with the next message."),
        detail=detail,
    )
    if was_busy or conversation.execution_status == WAITING:
        request_start(conversation, reason="the engine stopped")
    else:
        change_fields(conversation, status=Conversation.Status.STOPPED, status_detail=detail)
    if was_busy:
        change_fields(conversation, execution_status=Conversation.ExecutionStatus.ERROR)
    return True


def _crashes_lately(conversation: Conversation) -> int:
    since = timezone.now() - timedelta(seconds=CRASH_WINDOW_SECONDS)
    return StartTask.objects.filter(
        conversation=conversation, reason="the engine stopped", created_at__gt=since
    ).count()

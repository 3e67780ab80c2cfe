"""Ingestion of the engine's events into the log, in order and exactly once.

A conversation manager calls these functions with its lease generation (see ``leases``). A call with an older generation
is rejected, so a manager that has lost its lease cannot write.
"""

import hashlib
import itertools
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from uuid import UUID

import orjson
from django.db import transaction
from django.utils import timezone

from conversations import announcing, queue
from conversations.engine.client import EngineClient
from conversations.engine.payloads import Durable, is_state_update, parse_execution_status
from conversations.engine.transport import Dial
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
from conversations.services.egress_log import collect_last_decisions
from conversations.services.engines import find_dial
from conversations.services.state import append_notice, change_fields, request_start
from lib.host_paths import hide_host_folder, hide_host_paths
from lib.problems import Problem
from lib.redaction import hide_own_tokens

log = logging.getLogger(__name__)
WAITING = Conversation.ExecutionStatus.WAITING_FOR_CONFIRMATION
IDLE = Conversation.ExecutionStatus.IDLE
CRASHES_BEFORE_GIVING_UP = 3
CRASH_WINDOW_SECONDS = 600
READ_PAGE = 50
USE_SECONDS = 10
"""The least time between two updates of a sandbox's last use. Idle time is counted in minutes."""
PROJECTED = ("execution_status", "asked_seq", "asked_in_run")
"""The fields of a conversation that are computed from its events."""


class StaleLease(Problem):
    """A manager used a lease that it has lost, or the conversation was deleted."""

    status = 409
    code = "stale-lease"
    sentence = "Another manager follows this conversation now."


class LogGap(Exception):
    """The frames do not continue the log. The manager must reconnect and read after the last stored event."""


@dataclass(frozen=True, slots=True)
class EngineTarget:
    """An engine to follow: how to connect to it, its key, the number of its run, and the last stored event's index."""

    dial: Dial
    session_key: str
    run: int
    after_seq: int


def find_engine(*, conversation_id: UUID, generation: int) -> EngineTarget | None:
    """Return the running engine of a conversation, or None if no engine is running.

    Raise ``StaleLease`` if the lease generation is not current.
    """
    conversation = (
        Conversation.objects.select_related("sandbox")
        .filter(pk=conversation_id, deleted_at=None)
        .first()
    )
    lease = Lease.objects.filter(conversation_id=conversation_id, generation=generation)
    if conversation is None or not lease.exists():
        raise StaleLease
    sandbox = conversation.sandbox
    if sandbox is None or sandbox.observed != Sandbox.Observed.RUNNING:
        return None
    return EngineTarget(
        find_dial(sandbox), sandbox.session_key(), sandbox.run, conversation.engine_seq
    )


def _lock_under_lease(conversation_id: UUID, generation: int) -> Conversation:
    """Lock a conversation and return it. Raise ``StaleLease`` if the lease generation is not current."""
    # Lock the lease too, so that no other manager claims it between this check and our commit.
    rows = Conversation.objects.select_for_update(of=("self", "lease"))
    conversation = (
        rows.select_related("lease", "sandbox")
        .filter(pk=conversation_id, deleted_at=None, lease__generation=generation)
        .first()
    )
    if conversation is None:
        raise StaleLease
    return conversation


def ingest_events(*, conversation_id: UUID, generation: int, frames: Sequence[Durable]) -> int:
    """Append the engine's events and return how many were new.

    Safe to repeat: frames whose index is already stored are skipped. Raise ``StaleLease`` if the lease generation is
    not current, and ``LogGap`` if the frames do not continue the log. In both cases nothing is stored.
    """
    if _append_in_one_statement(conversation_id, generation, frames):
        return len(frames)
    return _append_under_lock(conversation_id, generation, frames)


def _append_in_one_statement(
    conversation_id: UUID, generation: int, frames: Sequence[Durable]
) -> bool:
    """Append a batch of new, plain events without reading the log first; return whether the batch was stored.

    Nothing is stored if the batch is not plain (see ``is_plain``), repeats an event, leaves a gap, or contains an event
    id that is already in the log.
    """
    if not frames or not is_plain(frames):
        return False
    now = timezone.now()
    redact = redaction.build_payload_redactor(conversation_id)
    events = [build_event(frame, frame.event.event_id, redact) for frame in frames]
    appended = append_fenced(NewEvents(conversation_id, generation, events), at=now)
    if appended is None:
        return False
    sandbox_id, active_at = appended
    if sandbox_id and active_at and now - active_at > timedelta(seconds=USE_SECONDS):
        Sandbox.objects.filter(pk=sandbox_id).update(active_at=now)
    announcing.announce_on_commit(conversation_id)
    return True


def is_plain(frames: Sequence[Durable]) -> bool:
    """Return whether the frames are consecutive, have distinct event ids and change nothing but the log.

    Events that report the agent's state, and the engine's copies of user messages, change other rows too.
    """
    first = frames[0].seq
    if len({frame.event.event_id for frame in frames}) < len(frames):
        return False
    return all(
        frame.seq == seq
        and frame.event.source != Event.Source.USER
        and not is_state_update(frame.event)
        for seq, frame in enumerate(frames, start=first)
    )


def build_event(
    frame: Durable, event_id: str, redact: Callable[[str], str] | None = None
) -> NewEvent:
    """Return the event to store for an engine's frame, without paths of the server.

    ``redact`` removes secrets from the payload.
    """
    event = frame.event
    payload = redact(event.payload) if redact else event.payload
    payload = hide_own_tokens(payload, redaction.HIDDEN)
    payload = hide_host_paths(payload)
    return NewEvent(event_id, event.kind, event.source, payload, frame.seq, event.time)


@transaction.atomic
def _append_under_lock(conversation_id: UUID, generation: int, frames: Sequence[Durable]) -> int:
    """Append the new events of a batch, which need not be plain, under the row lock; return how many were new."""
    conversation = _lock_under_lease(conversation_id, generation)
    fresh = [frame for frame in frames if frame.seq > conversation.engine_seq]
    if not fresh:
        return 0
    expected = range(conversation.engine_seq + 1, conversation.engine_seq + 1 + len(fresh))
    if [frame.seq for frame in fresh] != list(expected):
        raise LogGap(f"{conversation_id}: {fresh[0].seq} does not follow {conversation.engine_seq}")
    used_ids = set(
        Event.objects.filter(
            conversation_id=conversation_id, event_id__in=[f.event.event_id for f in fresh]
        ).values_list("event_id", flat=True)
    )
    news = []
    redact = redaction.build_payload_redactor(conversation_id)
    for frame in fresh:
        event_id = _unused_id(frame, used_ids)
        used_ids.add(event_id)
        news.append(build_event(frame, event_id, redact))
    conversation.engine_seq = fresh[-1].seq
    # Call `_project` before the rows are appended: it counts the seq of the events from the old `last_seq`.
    status = _project(conversation, fresh)
    conversation.append_rows(news, also_save=("engine_seq", *(PROJECTED if status else ())))
    _match_messages(conversation, fresh, news)
    _record_use(conversation)
    if status:
        deliver_if_free(conversation)
    announcing.announce_on_commit(conversation_id)
    return len(news)


def read_log(*, conversation_id: UUID, generation: int, client: EngineClient) -> int:
    """Read the engine's newer events in pages over REST, append them and return how many were new. Safe to repeat.

    Use this function for an event that is too large for the engine's socket. Raise ``StaleLease``, ``LogGap`` or
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


def _unused_id(frame: Durable, used_ids: set[str]) -> str:
    """Return the engine's event id, or a derived id if the log already contains the engine's id."""
    if frame.event.event_id not in used_ids:
        return frame.event.event_id
    # A sandbox is not trusted: it may send the same id for two events. Store both events.
    name = f"{frame.seq}:{frame.event.event_id}"
    return "x-" + hashlib.sha256(name.encode()).hexdigest()


def _match_messages(
    conversation: Conversation, frames: Sequence[Durable], events: Sequence[NewEvent]
) -> None:
    """Mark messages as delivered when the engine's log contains their text."""
    # The engine's log does not contain our message id, so match the oldest sent message with the same text (ADR 3).
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
            # The text may contain secrets, and is not needed any more. The log has it without them.
            logged = Event.objects.filter(conversation=conversation, seq=message.seq)
            payload = orjson.loads(logged.values_list("payload", flat=True).first() or "{}")
            message.text = payload.get("text", "")
            message.save(update_fields=["engine_event_id", "status", "delivered_at", "text"])


def _project(conversation: Conversation, frames: Sequence[Durable]) -> str | None:
    """Set the conversation's ``PROJECTED`` fields to the newest agent state that the frames report.

    Return that state, or None if no frame reports a state. The caller saves the fields.
    """
    newest = None
    for seq, frame in enumerate(frames, start=conversation.last_seq + 1):
        status = parse_execution_status(frame.event)
        if status is not None and not _is_transient_idle(conversation, status):
            newest = status
            _set_status(conversation, status, seq)
    return newest


def _is_transient_idle(conversation: Conversation, status: str) -> bool:
    """Return whether the status is the ``idle`` that the engine reports shortly before a requested run begins."""
    # Storing `idle` would release the next message before the run could ask its question (see `mark_agent_busy`).
    # A run never ends with `idle`, so no real change is lost.
    is_marked_busy = conversation.execution_status == Conversation.ExecutionStatus.RUNNING
    return status == IDLE and is_marked_busy and conversation.may_ask


def _set_status(conversation: Conversation, status: str, seq: int) -> None:
    sandbox = conversation.sandbox
    is_question = status == WAITING and sandbox is not None
    conversation.execution_status = status
    conversation.asked_seq = seq if is_question else None
    conversation.asked_in_run = sandbox.run if is_question and sandbox else None


def _record_use(conversation: Conversation) -> None:
    """Store the time of the sandbox's last use, at most once in ``USE_SECONDS``."""
    sandbox, now = conversation.sandbox, timezone.now()
    if sandbox is not None and now - sandbox.active_at > timedelta(seconds=USE_SECONDS):
        Sandbox.objects.filter(pk=sandbox.pk).update(active_at=now)


@dataclass(frozen=True, slots=True)
class StateSnapshot:
    """The state of a conversation, recorded before its engine is asked for the agent's state."""

    last_seq: int
    execution_status: str
    is_answered: bool
    """Whether an answer to the agent's question is queued for the engine."""


def snapshot_state(*, conversation_id: UUID) -> StateSnapshot:
    """Return a conversation's current state for ``observe_status``. Call this function before asking the engine.

    Raise ``StaleLease`` if the conversation does not exist.
    """
    rows = Conversation.objects.filter(pk=conversation_id)
    row = rows.values_list("last_seq", "execution_status").first()
    if row is None:
        raise StaleLease
    # Read the row before the queue: an answer that arrives in between advances the log past `last_seq`, so
    # `observe_status` notices it.
    return StateSnapshot(*row, is_answered=queue.is_queued("answer", conversation_id))


@transaction.atomic
def observe_status(
    *, conversation_id: UUID, generation: int, status: str, as_of: StateSnapshot
) -> bool:
    """Store the agent's state that the engine reported when it was asked.

    This finds changes that no event reports, for example after a restart. ``as_of`` is the conversation's state before
    the request. Return False if the conversation changed since then: the engine's answer may be older than the change,
    so ask the engine again. Raise ``StaleLease`` if the lease generation is not current.
    """
    conversation = _lock_under_lease(conversation_id, generation)
    if (conversation.last_seq, conversation.execution_status) != (
        as_of.last_seq,
        as_of.execution_status,
    ):
        return False
    if status not in Conversation.ExecutionStatus.values or status == conversation.execution_status:
        return True
    if _is_transient_idle(conversation, status) and _is_message_unechoed(conversation):
        return True
    # The engine asks the question again after a restart, but the user's answer is queued already.
    if status == WAITING and as_of.is_answered:
        return True
    _set_status(conversation, status, conversation.last_seq)
    if status == WAITING:
        # The question was asked in an earlier run. Run 0 never exists, so `deliver_answer` handles an approval as an
        # approval that comes after a restart.
        conversation.asked_in_run = 0
    conversation.updated_at = timezone.now()
    conversation.save(update_fields=[*PROJECTED, "updated_at"])
    announcing.announce_on_commit(conversation_id)
    deliver_if_free(conversation)
    return True


def _is_message_unechoed(conversation: Conversation) -> bool:
    """Return whether a message was sent to the engine, but the engine's event for it is not stored yet."""
    statuses = (OutgoingMessage.Status.SENDING, OutgoingMessage.Status.DELIVERED)
    return OutgoingMessage.objects.filter(
        conversation=conversation, status__in=statuses, engine_event_id=""
    ).exists()


def handle_unreachable_engine(*, conversation_id: UUID, generation: int) -> bool:
    """Check an engine that does not answer. If the engine stopped, append a notice to the log and restart it if needed.

    Return whether the engine stopped. The engine of a busy agent is restarted immediately, the engine of an idle agent
    with the next message. After three crashes within ten minutes the engine is not restarted. Raise ``StaleLease`` if
    the lease generation is not current.
    """
    conversation = Conversation.objects.select_related("sandbox").get(pk=conversation_id)
    sandbox = conversation.sandbox
    if sandbox is None or sandbox.observed != Sandbox.Observed.RUNNING:
        return True
    observed = get_provider(sandbox.provider).inspect(sandbox.handle)
    if observed.state in (State.RUNNING, State.STARTING):
        return False
    collect_last_decisions(conversation_id=conversation_id)
    with transaction.atomic():
        conversation = _lock_under_lease(conversation_id, generation)
        # The detail is the end of the engine's output.
        detail = redaction.hide_in_text(
            hide_host_folder(observed.detail),
            user_ids=[conversation.created_by_id],
            organization_id=conversation.organization_id,
        )
        return _handle_stopped_engine(conversation, run=sandbox.run, detail=detail)


def _handle_stopped_engine(conversation: Conversation, *, run: int, detail: str) -> bool:
    sandbox = conversation.sandbox
    # Another worker restarted or stopped the engine while the provider was asked.
    if sandbox is None or sandbox.run != run or sandbox.observed != Sandbox.Observed.RUNNING:
        return True
    if sandbox.desired != Sandbox.Desired.RUNNING:  # the engine was stopped on purpose
        return True
    sandbox.observed, sandbox.detail = Sandbox.Observed.FAILED, detail
    sandbox.stopped_at = timezone.now()
    sandbox.save(update_fields=["observed", "detail", "stopped_at"])
    was_busy = conversation.execution_status == Conversation.ExecutionStatus.RUNNING
    if _count_recent_crashes(conversation) >= CRASHES_BEFORE_GIVING_UP:
        message = (
            "The agent's engine stopped several times in a row, so it is not restarted automatically. "
            "Send a message to start it again."
        )
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
        message="The agent's engine stopped unexpectedly. Your files and the history are safe. "
        + (
            "The engine is restarting."
            if was_busy
            else "The engine restarts with the next message."
        ),
        detail=detail,
    )
    if was_busy or conversation.execution_status == WAITING:
        request_start(conversation, reason="the engine stopped")
    else:
        change_fields(conversation, status=Conversation.Status.STOPPED, status_detail=detail)
    if was_busy:
        change_fields(conversation, execution_status=Conversation.ExecutionStatus.ERROR)
    return True


def _count_recent_crashes(conversation: Conversation) -> int:
    since = timezone.now() - timedelta(seconds=CRASH_WINDOW_SECONDS)
    return StartTask.objects.filter(
        conversation=conversation, reason="the engine stopped", created_at__gt=since
    ).count()

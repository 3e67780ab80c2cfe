"""Messages on their way to the agent: posted once, delivered in order and at most once."""

import logging
import re
import time
from collections.abc import Sequence
from uuid import UUID

import orjson
from django.db import transaction
from django.utils import timezone

from conversations import announcing, queue
from conversations.engine.client import AgentClient, EngineMissing, EngineRefused, EngineUnreachable
from conversations.engine.payloads import EngineEvent, message_text
from conversations.models import (
    OPEN_MESSAGES,
    Conversation,
    Event,
    Lease,
    NewEvent,
    OutgoingMessage,
    Sandbox,
)
from conversations.services.starting import (
    append_notice,
    is_up,
    request_start,
    require_agent,
    set_status,
)
from lib.problems import Problem

log = logging.getLogger(__name__)
FOLLOWER_WAIT_SECONDS = 3.0
SERVER_FAULT = 500
NO_SLOT = 429
UNSENDABLE = re.compile("[\0\ud800-\udfff]")
STOPPED_MIDWAY = ("paused", "error", "stuck")
BUSY = (
    Conversation.ExecutionStatus.RUNNING,
    Conversation.ExecutionStatus.WAITING_FOR_CONFIRMATION,
)


class UnsendableText(Problem):
    """A text that cannot be said to a model: UTF-8 has no lone surrogates, and PostgreSQL no NUL."""

    code = "unsendable-text"
    sentence = "The text holds NUL or half of a surrogate pair, which no model can be sent."


@transaction.atomic
def post_message(
    *,
    conversation_id: UUID,
    text: str,
    message_id: str,
    images: Sequence[str] = (),
    run: bool = True,
) -> Event:
    """Append a user's message and queue it for the agent; a sleeping sandbox is woken.

    Without ``run`` it is kept until ``run_held``, or until a message comes that runs.

    Safe to repeat: a second call with the same ``message_id`` returns the first event. Raises
    ``UnsendableText``, ``PublishedElsewhere``.
    """
    conversation = Conversation.objects.select_for_update().get(pk=conversation_id)
    return add_message(conversation, text=text, message_id=message_id, images=images, run=run)


def add_message(
    conversation: Conversation,
    *,
    text: str,
    message_id: str,
    images: Sequence[str] = (),
    run: bool = True,
) -> Event:
    """The same for a conversation whose row the caller has locked."""
    require_agent(conversation)
    if UNSENDABLE.search(text):
        raise UnsendableText
    if earlier := conversation.events.filter(event_id=message_id).first():
        return earlier
    payload = {"text": text} | ({"images": list(images)} if images else {})
    [event] = conversation.append(
        NewEvent(
            event_id=message_id,
            kind="UserMessage",
            source=Event.Source.USER,
            payload=orjson.dumps(payload).decode(),
        )
    )
    OutgoingMessage.objects.create(
        organization_id=conversation.organization_id,
        conversation=conversation,
        seq=event.seq,
        text=text,
        images=list(images),
        status=OutgoingMessage.Status.HELD,
    )
    if run:
        _release(conversation.pk)
    announcing.announce_on_commit(conversation.pk)
    return event


@transaction.atomic
def run_held(*, conversation_id: UUID) -> bool:
    """Send what was posted without ``run``, which runs the agent; whether there was anything. Safe to repeat."""
    Conversation.objects.select_for_update().get(pk=conversation_id)
    return _release(conversation_id)


def _release(conversation_id: UUID) -> bool:
    held = OutgoingMessage.objects.filter(
        conversation_id=conversation_id, status=OutgoingMessage.Status.HELD
    )
    if not held.update(status=OutgoingMessage.Status.PENDING):
        return False
    queue.deliver_messages(conversation_id)
    return True


# --- Delivery (in a worker) -------------------------------------------------------


def deliver_messages(*, conversation_id: UUID) -> None:
    """Send the conversation's open messages to its agent, oldest first. Safe to repeat and to kill.

    Returns early, leaving messages open, when something else will queue this again: a start under way, a
    question that must be answered first, an agent at work under a confirmation policy. Raises
    ``EngineUnreachable`` for the job to be tried again.
    """
    while True:
        with transaction.atomic():
            conversation = _locked(conversation_id)
            message = _next_message(conversation_id)
            if conversation is None or message is None:
                return
            sandbox = conversation.sandbox
            if sandbox is None or not is_up(conversation):
                request_start(conversation, reason="a message")
                return
            was_sent_before = message.status == OutgoingMessage.Status.SENDING
            if not was_sent_before:
                if _must_hold(conversation):
                    return
                message.status = OutgoingMessage.Status.SENDING
                message.engine_mark = conversation.engine_seq
                message.attempts += 1
                message.save(update_fields=["status", "engine_mark", "attempts"])
                take_for_busy(conversation)
            _want_it_running(sandbox)
        _await_follower(conversation_id, sandbox.run)
        client = AgentClient(sandbox.base_url, sandbox.session_key())
        if was_sent_before:
            _find_delivery(client, conversation, message)
        elif _is_mine(message):
            _send(client, conversation_id, message)


def _locked(conversation_id: UUID) -> Conversation | None:
    rows = Conversation.objects.select_for_update(of=("self",)).select_related("sandbox")
    return rows.filter(pk=conversation_id, deleted_at=None).first()


def _next_message(conversation_id: UUID) -> OutgoingMessage | None:
    rows = OutgoingMessage.objects.filter(conversation_id=conversation_id, status__in=OPEN_MESSAGES)
    return rows.order_by("seq").first()


def _want_it_running(sandbox: Sandbox) -> None:
    """Note a use, and call off a stop for idleness that is queued."""
    Sandbox.objects.filter(pk=sandbox.pk).update(
        desired=Sandbox.Desired.RUNNING, active_at=timezone.now()
    )


def _is_mine(message: OutgoingMessage) -> bool:
    """Whether this attempt still counts: a worker that stood still is taken for dead, and replaced."""
    mine = OutgoingMessage.objects.filter(pk=message.pk, attempts=message.attempts)
    return mine.filter(status=OutgoingMessage.Status.SENDING).exists()


def _must_hold(conversation: Conversation) -> bool:
    """Whether sending now could approve an action that nobody approved.

    The engine takes a message with ``run`` as a yes to whatever it asked (contract, section 9). While it
    works under a confirmation policy it may ask at any moment, so messages wait for the end of the run.
    """
    if conversation.execution_status == Conversation.ExecutionStatus.WAITING_FOR_CONFIRMATION:
        return True
    return conversation.confirmation_policy != "never" and conversation.execution_status in BUSY


def take_for_busy(conversation: Conversation) -> None:
    """Under a confirmation policy, take the agent for at work from the moment something is sent to it.

    The engine says so a little later. Until then a further message would slip in, and be a yes to the
    question that the first one leads to. The caller holds the row's lock.
    """
    if conversation.confirmation_policy != "never":
        set_status(conversation, execution_status=Conversation.ExecutionStatus.RUNNING)


def take_back_busy(conversation: Conversation) -> None:
    """What was sent did not reach the engine, so the agent is not at work. The caller holds the row's lock."""
    is_taken = conversation.execution_status == Conversation.ExecutionStatus.RUNNING
    if conversation.confirmation_policy != "never" and is_taken:
        set_status(conversation, execution_status=Conversation.ExecutionStatus.IDLE)


def _await_follower(conversation_id: UUID, run: int) -> None:
    """Give a manager a moment to open the engine's socket: opening it later waits for a step to end."""
    deadline = time.monotonic() + FOLLOWER_WAIT_SECONDS
    while time.monotonic() < deadline:
        if Lease.objects.filter(conversation_id=conversation_id, following_run=run).exists():
            return
        time.sleep(0.1)


def _send(client: AgentClient, conversation_id: UUID, message: OutgoingMessage) -> None:
    try:
        is_running = client.send_message(
            conversation_id, text=message.text, images=message.images, run=True
        )
    except EngineUnreachable as error:
        if not error.maybe_done:
            _reopen(message)
        raise
    except EngineMissing as error:  # one 404 never means deleted (contract, section 10)
        _reopen(message)
        raise EngineUnreachable(str(error)) from error
    except EngineRefused as error:
        if error.status >= SERVER_FAULT:
            raise EngineUnreachable(str(error), maybe_done=True) from error
        _fail(message, error.detail)
        return
    if not is_running:
        queue.run_agent(conversation_id, only_if_stopped=False)
    _mark_delivered(message)


@transaction.atomic
def _reopen(message: OutgoingMessage) -> None:
    """The engine does not have it: it waits again."""
    conversation = _locked(message.conversation_id)
    OutgoingMessage.objects.filter(pk=message.pk, status=OutgoingMessage.Status.SENDING).update(
        status=OutgoingMessage.Status.PENDING
    )
    if conversation is not None:
        take_back_busy(conversation)


def _mark_delivered(message: OutgoingMessage, engine_event_id: str = "") -> None:
    fields = {"engine_event_id": engine_event_id} if engine_event_id else {}
    OutgoingMessage.objects.filter(pk=message.pk).update(
        status=OutgoingMessage.Status.DELIVERED, delivered_at=timezone.now(), **fields
    )


@transaction.atomic
def _fail(message: OutgoingMessage, error: str) -> None:
    OutgoingMessage.objects.filter(pk=message.pk).update(
        status=OutgoingMessage.Status.FAILED, error=error
    )
    conversation = _locked(message.conversation_id)
    if conversation is not None:
        take_back_busy(conversation)
        append_notice(
            conversation,
            code="message_refused",
            message="The agent's engine refused this message.",
            detail=error,
            seq=message.seq,
        )


def _find_delivery(
    client: AgentClient, conversation: Conversation, message: OutgoingMessage
) -> bool:
    """Whether a message that was sent with unknown outcome reached the engine's log; marks it, or reopens it.

    The engine has no idempotency key. A message that is still waiting for its state lock is not in the
    log yet, so first a call that takes the same lock, in turn, is let through.
    """
    client.barrier(conversation.pk)
    mark = message.engine_mark if message.engine_mark is not None else -1
    known = Event.objects.filter(conversation=conversation, engine_seq=mark)
    taken = set(
        OutgoingMessage.objects.filter(conversation=conversation)
        .exclude(engine_event_id="")
        .values_list("engine_event_id", flat=True)
    )
    mark_id = known.values_list("event_id", flat=True).first()
    for frame in client.events(conversation.pk, after_id=mark_id, after_seq=mark):
        if frame.event.event_id not in taken and user_text(frame.event) == message.text:
            _mark_delivered(message, frame.event.event_id)
            return True
    _reopen(message)
    return False


def user_text(event: EngineEvent) -> str | None:
    """The text of an engine's user message, or None for any other event."""
    return message_text(event) if event.source == Event.Source.USER else None


# --- Stop and go on -----------------------------------------------------------------


@transaction.atomic
def interrupt(*, conversation_id: UUID) -> None:
    """Stop the agent now: the tool or model call it is in is cancelled. Safe to repeat.

    Raises ``PublishedElsewhere``.
    """
    require_agent(Conversation.objects.select_for_update().get(pk=conversation_id))
    queue.interrupt_agent(conversation_id)


def interrupt_agent(*, conversation_id: UUID) -> None:
    """Carry the stop to the engine. Raises ``EngineUnreachable`` for the job to be tried again."""
    conversation = Conversation.objects.select_related("sandbox").filter(pk=conversation_id).first()
    if conversation is None or not is_up(conversation) or conversation.sandbox is None:
        return
    client = AgentClient(conversation.sandbox.base_url, conversation.sandbox.session_key())
    client.interrupt(conversation_id)


@transaction.atomic
def resume(*, conversation_id: UUID) -> None:
    """Wake a sleeping sandbox, and let an agent that was stopped or failed go on. Safe to repeat."""
    conversation = _locked(conversation_id)
    if conversation is None:
        return
    if not is_up(conversation):
        request_start(conversation, reason="resume")
    elif conversation.sandbox is not None:
        _want_it_running(conversation.sandbox)
    queue.run_agent(conversation_id)


def run_agent(*, conversation_id: UUID, only_if_stopped: bool = True) -> None:
    """Have the engine go on: by default only if it stopped in the middle of something.

    Raises ``EngineUnreachable`` for the job to be tried again while the sandbox comes up or no run slot is
    free. A pending question is never taken for a yes.
    """
    conversation = Conversation.objects.select_related("sandbox").filter(pk=conversation_id).first()
    if conversation is None or conversation.deleted_at or conversation.sandbox is None:
        return
    if not is_up(conversation):
        if conversation.status == Conversation.Status.FAILED:
            return
        raise EngineUnreachable("the sandbox is not up yet")
    client = AgentClient(conversation.sandbox.base_url, conversation.sandbox.session_key())
    status = (client.conversation(conversation_id) or {}).get("execution_status")
    if status in STOPPED_MIDWAY or (status == "idle" and not only_if_stopped):
        try:
            client.run(conversation_id)
        except EngineRefused as error:
            if error.status != NO_SLOT:
                raise
            raise EngineUnreachable(str(error)) from error


def deliver_if_free(conversation: Conversation) -> None:
    """Queue what waits for the agent when its new state lets it in; the caller holds the row's lock."""
    if conversation.execution_status not in BUSY and _next_message(conversation.pk) is not None:
        queue.deliver_messages(conversation.pk)

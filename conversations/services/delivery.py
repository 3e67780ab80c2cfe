"""Deliver messages to the agent, in order and at most once. Runs in a worker."""

import time
from uuid import UUID

from django.db import transaction
from django.utils import timezone

from conversations import queue
from conversations.engine.client import (
    EngineClient,
    EngineMissing,
    EngineRefused,
    EngineUnreachable,
)
from conversations.engine.payloads import EngineEvent, parse_message_text
from conversations.models import (
    OPEN_MESSAGES,
    Conversation,
    Event,
    Lease,
    OutgoingMessage,
    Sandbox,
)
from conversations.services.state import append_notice, change_fields, is_up, request_start

FOLLOWER_WAIT_SECONDS = 3.0
SERVER_FAULT = 500


def deliver_messages(*, conversation_id: UUID) -> None:
    """Send the conversation's open messages to its agent, oldest first. Safe to repeat and to kill.

    Returns early, leaving messages open, when something else will queue this again: a start under way, a
    question that must be answered first, an agent at work under a confirmation policy. Raises
    ``EngineUnreachable`` for the job to be tried again.
    """
    while True:
        with transaction.atomic():
            conversation = locked_conversation(conversation_id)
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
            want_running(sandbox)
        _await_follower(conversation_id, sandbox.run)
        client = EngineClient(sandbox.base_url, sandbox.session_key())
        if was_sent_before:
            _find_delivery(client, conversation, message)
        elif _is_mine(message):
            _send(client, conversation_id, message)


def locked_conversation(conversation_id: UUID) -> Conversation | None:
    """Lock a conversation's row and return it with its sandbox; None for one that is deleted."""
    rows = Conversation.objects.select_for_update(of=("self",)).select_related("sandbox")
    return rows.filter(pk=conversation_id, deleted_at=None).first()


def _next_message(conversation_id: UUID) -> OutgoingMessage | None:
    rows = OutgoingMessage.objects.filter(conversation_id=conversation_id, status__in=OPEN_MESSAGES)
    return rows.order_by("seq").first()


def want_running(sandbox: Sandbox) -> None:
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
    return conversation.may_ask and conversation.execution_status in Conversation.BUSY


def take_for_busy(conversation: Conversation) -> None:
    """Under a confirmation policy, take the agent for at work from the moment something is sent to it.

    The engine says so a little later. Until then a further message would slip in, and be a yes to the
    question that the first one leads to. The caller holds the row's lock.
    """
    if conversation.may_ask:
        change_fields(conversation, execution_status=Conversation.ExecutionStatus.RUNNING)


def take_back_busy(conversation: Conversation) -> None:
    """What was sent did not reach the engine, so the agent is not at work. The caller holds the row's lock."""
    is_taken = conversation.execution_status == Conversation.ExecutionStatus.RUNNING
    if conversation.may_ask and is_taken:
        change_fields(conversation, execution_status=Conversation.ExecutionStatus.IDLE)


def _await_follower(conversation_id: UUID, run: int) -> None:
    """Give a manager a moment to open the engine's socket: opening it later waits for a step to end."""
    deadline = time.monotonic() + FOLLOWER_WAIT_SECONDS
    while time.monotonic() < deadline:
        if Lease.objects.filter(conversation_id=conversation_id, following_run=run).exists():
            return
        time.sleep(0.1)


def _send(client: EngineClient, conversation_id: UUID, message: OutgoingMessage) -> None:
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
    conversation = locked_conversation(message.conversation_id)
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
    conversation = locked_conversation(message.conversation_id)
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
    client: EngineClient, conversation: Conversation, message: OutgoingMessage
) -> bool:
    """Whether a message that was sent with unknown outcome reached the engine's log; marks it, or reopens it.

    The engine has no idempotency key. A message that is still waiting for its state lock is not in the
    log yet, so first a call that takes the same lock, in turn, is let through.
    """
    client.wait_for_messages(conversation.pk)
    mark = message.engine_mark if message.engine_mark is not None else -1
    known = Event.objects.filter(conversation=conversation, engine_seq=mark)
    taken = set(
        OutgoingMessage.objects.filter(conversation=conversation)
        .exclude(engine_event_id="")
        .values_list("engine_event_id", flat=True)
    )
    mark_id = known.values_list("event_id", flat=True).first()
    for frame in client.iter_events(conversation.pk, after_id=mark_id, after_seq=mark):
        if frame.event.event_id not in taken and user_text(frame.event) == message.text:
            _mark_delivered(message, frame.event.event_id)
            return True
    _reopen(message)
    return False


def user_text(event: EngineEvent) -> str | None:
    """The text of an engine's user message, or None for any other event."""
    return parse_message_text(event) if event.source == Event.Source.USER else None


def deliver_if_free(conversation: Conversation) -> None:
    """Queue what waits for the agent when its new state lets it in; the caller holds the row's lock."""
    if (
        conversation.execution_status not in Conversation.BUSY
        and _next_message(conversation.pk) is not None
    ):
        queue.deliver_messages(conversation.pk)

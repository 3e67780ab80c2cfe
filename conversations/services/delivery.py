"""Delivery of messages to the agent's engine, in order and at most once. Workers call these functions."""

import time
from uuid import UUID

from django.db import transaction
from django.utils import timezone

from conversations import queue
from conversations.engine.client import EngineClient
from conversations.engine.errors import EngineMissing, EngineRefused, EngineUnreachable
from conversations.engine.payloads import EngineEvent, parse_message_text
from conversations.models import (
    OPEN_MESSAGES,
    Conversation,
    Event,
    Lease,
    OutgoingMessage,
    Sandbox,
)
from conversations.services.details import ensure_confirmation
from conversations.services.engines import open_engine
from conversations.services.state import append_notice, change_fields, is_up, request_start
from lib.connections import release_connection

FOLLOWER_WAIT_SECONDS = 3.0
SERVER_ERROR = 500


def deliver_messages(*, conversation_id: UUID) -> None:
    """Send the conversation's open messages to its agent, oldest first. Safe to repeat, and safe to kill at any point.

    Messages stay open if the sandbox must be started first, if the agent waits for an answer, or if the agent is busy
    under a confirmation policy. The delivery is queued again when the start ends, the user answers, or the run ends.
    Raise ``EngineUnreachable`` if the engine does not answer, so that the job is retried.
    """
    while True:
        with transaction.atomic():
            conversation = lock_conversation(conversation_id)
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
                # Commit the attempt before sending. If this worker is killed, the next worker finds `SENDING` and
                # looks for the message in the engine's log first.
                message.status = OutgoingMessage.Status.SENDING
                message.engine_mark = conversation.engine_seq
                message.attempts += 1
                message.save(update_fields=["status", "engine_mark", "attempts"])
                mark_agent_busy(conversation)
            keep_running(sandbox)
        _await_follower(conversation_id, sandbox.run)
        client = open_engine(sandbox)
        ensure_confirmation(conversation, client)
        if was_sent_before:
            _confirm_delivery(client, conversation, message)
        elif _is_current_attempt(message):
            _send(client, conversation_id, message)


def lock_conversation(conversation_id: UUID) -> Conversation | None:
    """Lock a conversation's row and return it with its sandbox, or None if the conversation was deleted."""
    rows = Conversation.objects.select_for_update(of=("self",)).select_related("sandbox")
    return rows.filter(pk=conversation_id, deleted_at=None).first()


def _next_message(conversation_id: UUID) -> OutgoingMessage | None:
    rows = OutgoingMessage.objects.filter(conversation_id=conversation_id, status__in=OPEN_MESSAGES)
    return rows.order_by("seq").first()


def keep_running(sandbox: Sandbox) -> None:
    """Record that the sandbox is in use and cancel a stop that was queued because the sandbox was idle."""
    Sandbox.objects.filter(pk=sandbox.pk).update(
        desired=Sandbox.Desired.RUNNING, active_at=timezone.now()
    )


def _is_current_attempt(message: OutgoingMessage) -> bool:
    """Return False if another worker took over the delivery because this worker stalled for too long."""
    rows = OutgoingMessage.objects.filter(pk=message.pk, attempts=message.attempts)
    return rows.filter(status=OutgoingMessage.Status.SENDING).exists()


def _must_hold(conversation: Conversation) -> bool:
    """Return whether sending a message now could approve an action without the user's consent."""
    # The engine treats a message with `run` as an approval of its open question. Under a confirmation policy, a busy
    # agent may ask a question at any moment, so messages wait until the agent's run ends.
    if conversation.execution_status == Conversation.ExecutionStatus.WAITING_FOR_CONFIRMATION:
        return True
    return conversation.may_ask and conversation.execution_status in Conversation.BUSY


def mark_agent_busy(conversation: Conversation) -> None:
    """Under a confirmation policy, set the agent's status to running before a message or an answer is sent.

    The caller holds the row's lock.
    """
    # The engine reports the new status a little later. If the status did not change now, a second message could be sent
    # in the meantime, and would approve the question that the first message leads to.
    if conversation.may_ask:
        change_fields(conversation, execution_status=Conversation.ExecutionStatus.RUNNING)


def clear_agent_busy(conversation: Conversation) -> None:
    """Undo ``mark_agent_busy`` because the engine did not receive the message. The caller holds the row's lock."""
    is_marked = conversation.execution_status == Conversation.ExecutionStatus.RUNNING
    if conversation.may_ask and is_marked:
        change_fields(conversation, execution_status=Conversation.ExecutionStatus.IDLE)


def _await_follower(conversation_id: UUID, run: int) -> None:
    """Wait up to three seconds until a manager follows this run of the engine."""
    # The engine sends the first frame to a new socket only when the agent's current step ends. If the manager connected
    # after the message was sent, users would not see the first step live.
    deadline = time.monotonic() + FOLLOWER_WAIT_SECONDS
    while time.monotonic() < deadline:
        if Lease.objects.filter(conversation_id=conversation_id, following_run=run).exists():
            return
        release_connection()
        time.sleep(0.1)


def _send(client: EngineClient, conversation_id: UUID, message: OutgoingMessage) -> None:
    """Send a message and store the outcome: delivered, failed, or pending again.

    After an unknown outcome the message stays ``SENDING``, so that the next attempt looks for it in the engine's log.
    Raise ``EngineUnreachable`` to have the job retried.
    """
    try:
        is_running = client.send_message(
            conversation_id, text=message.text, images=message.images, run=True
        )
    except EngineUnreachable as error:
        if not error.maybe_done:
            _reopen(message)
        raise
    except EngineMissing as error:
        # A single 404 does not mean that the conversation was deleted, so retry.
        _reopen(message)
        raise EngineUnreachable(str(error)) from error
    except EngineRefused as error:
        # After a server error the engine may have stored the message, so the next attempt looks in its log first.
        if error.status >= SERVER_ERROR:
            raise EngineUnreachable(str(error), maybe_done=True) from error
        _fail(message, error.detail)
        return
    # The engine stored the message but has no free run slot (429), so a job must run the agent later.
    if not is_running:
        queue.run_agent(conversation_id, only_if_stopped=False)
    _mark_delivered(message)


@transaction.atomic
def _reopen(message: OutgoingMessage) -> None:
    """Set a message that did not reach the engine back to pending."""
    conversation = lock_conversation(message.conversation_id)
    OutgoingMessage.objects.filter(pk=message.pk, status=OutgoingMessage.Status.SENDING).update(
        status=OutgoingMessage.Status.PENDING
    )
    if conversation is not None:
        clear_agent_busy(conversation)


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
    conversation = lock_conversation(message.conversation_id)
    if conversation is not None:
        clear_agent_busy(conversation)
        append_notice(
            conversation,
            code="message_refused",
            message="The agent's engine rejected this message. The agent did not receive it.",
            detail=error,
            seq=message.seq,
        )


def _confirm_delivery(
    client: EngineClient, conversation: Conversation, message: OutgoingMessage
) -> None:
    """After an attempt with an unknown outcome, look for the message in the engine's log.

    Mark the message as delivered, or reopen it if the log does not contain it.
    """
    # The engine has no idempotency key, so its log decides. A message that still waits for the engine's lock is not in
    # the log yet, so `wait_for_messages` waits for the same first-come-first-served lock (ADR 3).
    client.wait_for_messages(conversation.pk)
    mark = message.engine_mark if message.engine_mark is not None else -1
    newest_known = Event.objects.filter(conversation=conversation, engine_seq=mark)
    matched_ids = set(
        OutgoingMessage.objects.filter(conversation=conversation)
        .exclude(engine_event_id="")
        .values_list("engine_event_id", flat=True)
    )
    mark_id = newest_known.values_list("event_id", flat=True).first()
    for frame in client.iter_events(conversation.pk, after_id=mark_id, after_seq=mark):
        if frame.event.event_id not in matched_ids and user_text(frame.event) == message.text:
            _mark_delivered(message, frame.event.event_id)
            return
    _reopen(message)


def user_text(event: EngineEvent) -> str | None:
    """Return the text of a user message in the engine's log, or None for any other event."""
    return parse_message_text(event) if event.source == Event.Source.USER else None


def deliver_if_free(conversation: Conversation) -> None:
    """Queue the delivery of open messages if the agent is not busy. The caller holds the row's lock."""
    if (
        conversation.execution_status not in Conversation.BUSY
        and _next_message(conversation.pk) is not None
    ):
        queue.deliver_messages(conversation.pk)

"""Interrupt and resume the agent's work."""

from uuid import UUID

from django.db import transaction

from accounts.models import User
from accounts.services import audit
from conversations import queue
from conversations.engine.errors import EngineRefused, EngineUnreachable
from conversations.models import (
    Conversation,
)
from conversations.services.delivery import keep_running, lock_conversation
from conversations.services.details import update_confirmation
from conversations.services.engines import open_engine
from conversations.services.state import is_up, request_start, require_agent, require_driver

NO_SLOT = 429
"""The HTTP status with which the engine refuses a run while all of its run slots are in use."""
STOPPED_MIDWAY = ("paused", "error", "stuck")
"""The engine's states of an agent that stopped in the middle of its work."""


@transaction.atomic
def interrupt(*, conversation_id: UUID, by: User | None = None) -> None:
    """Queue an interruption of the agent, which cancels its current tool or model call. Safe to repeat.

    ``by`` is the user who stops it; None stands for the creator. The audit log records the interruption of another
    user's agent. Raise ``PublishedElsewhere`` if another program runs the agent.
    """
    conversation = Conversation.objects.select_for_update().get(pk=conversation_id)
    require_agent(conversation)
    queue.interrupt_agent(conversation_id)
    if by is not None and by.pk != conversation.created_by_id:
        audit.record(
            action="conversation.interrupted",
            organization_id=conversation.organization_id,
            subject=conversation,
        )


def interrupt_agent(*, conversation_id: UUID) -> None:
    """Interrupt the agent in its engine. Do nothing if the engine is not running.

    Raise ``EngineUnreachable`` if the engine does not answer, so that the job is retried.
    """
    conversation = Conversation.objects.select_related("sandbox").filter(pk=conversation_id).first()
    if conversation is None or not is_up(conversation) or conversation.sandbox is None:
        return
    client = open_engine(conversation.sandbox)
    client.interrupt(conversation_id)


@transaction.atomic
def resume(*, conversation_id: UUID, by: User | None = None) -> None:
    """Start a stopped sandbox, and queue a run of an agent that was stopped or failed. Safe to repeat.

    ``by`` is the user who resumes it; None stands for the creator. Raise ``MissingPermission`` if the creator does not
    let the user steer.
    """
    conversation = lock_conversation(conversation_id)
    if conversation is None:
        return
    require_driver(conversation, by)
    if not is_up(conversation):
        request_start(conversation, reason="resume")
    elif conversation.sandbox is not None:
        keep_running(conversation.sandbox)
    queue.run_agent(conversation_id)


def run_agent(*, conversation_id: UUID, only_if_stopped: bool = True) -> None:
    """Run the agent in its engine, by default only if it stopped in the middle of its work.

    Do nothing while a confirmation question is open. Raise ``EngineUnreachable``, so that the job is retried, while
    the sandbox is starting or the engine has no free run slot.
    """
    conversation = Conversation.objects.select_related("sandbox").filter(pk=conversation_id).first()
    if conversation is None or conversation.deleted_at or conversation.sandbox is None:
        return
    if not is_up(conversation):
        if conversation.status == Conversation.Status.FAILED:
            return
        raise EngineUnreachable("the sandbox is not running yet")
    client = open_engine(conversation.sandbox)
    # Ask the engine, not our row: running an agent that waits for confirmation would approve its action.
    state = client.get_conversation(conversation_id) or {}
    status = state.get("execution_status")
    if conversation.may_ask and status != "waiting_for_confirmation":
        update_confirmation(state, conversation, client)
    if status in STOPPED_MIDWAY or (status == "idle" and not only_if_stopped):
        try:
            client.run(conversation_id)
        except EngineRefused as error:
            if error.status != NO_SLOT:
                raise
            raise EngineUnreachable(str(error)) from error

"""Interrupt the agent, and let it go on."""

from uuid import UUID

from django.db import transaction

from conversations import queue
from conversations.engine.client import EngineClient, EngineRefused, EngineUnreachable
from conversations.models import (
    Conversation,
)
from conversations.services.delivery import locked_conversation, want_running
from conversations.services.state import is_up, request_start, require_agent

NO_SLOT = 429
STOPPED_MIDWAY = ("paused", "error", "stuck")


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
    client = EngineClient(conversation.sandbox.base_url, conversation.sandbox.session_key())
    client.interrupt(conversation_id)


@transaction.atomic
def resume(*, conversation_id: UUID) -> None:
    """Wake a sleeping sandbox, and let an agent that was stopped or failed go on. Safe to repeat."""
    conversation = locked_conversation(conversation_id)
    if conversation is None:
        return
    if not is_up(conversation):
        request_start(conversation, reason="resume")
    elif conversation.sandbox is not None:
        want_running(conversation.sandbox)
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
    client = EngineClient(conversation.sandbox.base_url, conversation.sandbox.session_key())
    status = (client.get_conversation(conversation_id) or {}).get("execution_status")
    if status in STOPPED_MIDWAY or (status == "idle" and not only_if_stopped):
        try:
            client.run(conversation_id)
        except EngineRefused as error:
            if error.status != NO_SLOT:
                raise
            raise EngineUnreachable(str(error)) from error

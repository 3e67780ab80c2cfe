"""Answers to the agent's confirmation questions. An answer applies once, and only to the question that was shown."""

import logging
from uuid import UUID, uuid4

import orjson
from django.db import transaction

from accounts.models import User
from accounts.services import audit
from conversations import announcing, queue
from conversations.engine.client import EngineClient
from conversations.engine.errors import EngineRefused, EngineUnreachable
from conversations.models import Conversation, Event, NewEvent
from conversations.services.delivery import clear_agent_busy, mark_agent_busy
from conversations.services.engines import open_engine
from conversations.services.state import is_up, require_driver
from lib.problems import Problem

log = logging.getLogger(__name__)
RESTARTED_REASON = (
    "The sandbox was restarted while this action waited for approval. "
    "Request the action again if it is still needed."
)
"""Sent to the agent in place of an approval that came after a restart."""


class NotWaiting(Problem):
    """The agent is not waiting for an answer, or it is waiting for the answer to a different question."""

    status = 409
    code = "not-waiting"
    sentence = (
        "The agent is no longer waiting for this answer. Reload the page to see its current state."
    )


@transaction.atomic
def answer_confirmation(
    *,
    conversation_id: UUID,
    accept: bool,
    reason: str = "",
    asked_seq: int | None = None,
    by: User | None = None,
) -> Event:
    """Append the user's answer to the log, queue the answer for the engine and return its event.

    ``by`` is the user who answers; None stands for the creator. ``asked_seq`` (a field of the conversation's
    record) is the seq of the question that the user saw. Raise ``NotWaiting`` if that question was already answered
    or a different question is open. So a double click approves one action and never the next.
    """
    conversation = Conversation.objects.select_for_update().get(pk=conversation_id)
    require_driver(conversation, by)
    is_waiting = (
        conversation.execution_status == Conversation.ExecutionStatus.WAITING_FOR_CONFIRMATION
    )
    if not is_waiting or conversation.asked_seq is None or conversation.asked_in_run is None:
        raise NotWaiting
    # Clients that do not send `asked_seq` answer the question that is open now.
    if asked_seq not in (None, conversation.asked_seq):
        raise NotWaiting
    answer = {"accept": accept, "reason": reason, "asked_seq": conversation.asked_seq}
    [event] = conversation.append(
        NewEvent(
            event_id=str(uuid4()),
            kind="UserConfirmation",
            source=Event.Source.USER,
            payload=orjson.dumps(answer).decode(),
        )
    )
    queue.answer_agent(
        conversation_id, accept=accept, reason=reason, asked_in_run=conversation.asked_in_run
    )
    conversation.asked_seq = conversation.asked_in_run = None
    conversation.save(update_fields=["asked_seq", "asked_in_run"])
    # An approval, or a rejection with a reason, makes the agent run again.
    if accept or reason:
        mark_agent_busy(conversation)
    announcing.announce_on_commit(conversation_id)
    audit.record(
        action="confirmation.accepted" if accept else "confirmation.rejected",
        organization_id=conversation.organization_id,
        subject=conversation,
        after={"asked_seq": answer["asked_seq"], "answer_seq": event.seq},
        reason=reason,
    )
    return event


def deliver_answer(*, conversation_id: UUID, accept: bool, reason: str, asked_in_run: int) -> None:
    """Send an answer to the engine if its question is still open. Safe to repeat.

    If the engine was restarted after the question, an approval is sent as a rejection, so that the agent asks again.
    Raise ``EngineUnreachable`` if the engine does not answer or is still starting, so that the job is retried.
    """
    conversation = Conversation.objects.select_related("sandbox").filter(pk=conversation_id).first()
    if conversation is None or conversation.sandbox is None or conversation.deleted_at:
        return
    if not is_up(conversation):
        raise EngineUnreachable("the sandbox is not running yet")
    client = open_engine(conversation.sandbox)
    state = client.get_conversation(conversation_id)
    if state is None:
        # A single 404 from the engine does not mean that the conversation was deleted.
        raise EngineUnreachable("the engine does not know the conversation yet")
    status = state.get("execution_status")
    is_same_run = conversation.sandbox.run == asked_in_run
    if status == "waiting_for_confirmation":
        reason_sent = reason or _default_reason(accept=accept)
        # A restarted engine that gets an approval puts the action at the wrong place in the model's history.
        if accept and not is_same_run:
            reason_sent = RESTARTED_REASON
        client.answer_confirmation(
            conversation_id, accept=accept and is_same_run, reason=reason_sent
        )
    elif status != "idle":
        # The question is closed. Only if the agent is idle, continue below: an earlier attempt of this job was killed
        # after it sent a rejection.
        return
    if not is_same_run:
        # Selecting the last event rebuilds the model's history after the restart.
        leaf = (client.get_conversation(conversation_id) or {}).get("leaf_event_id")
        if leaf:
            client.navigate(conversation_id, event_id=leaf)
    # After an approval the engine runs by itself. After a rejection it stays idle, so run it if the user gave a reason
    # or if the rejection was sent in place of an approval.
    must_run = not is_same_run if accept else bool(reason)
    if must_run:
        _run_agent(client, conversation_id)


def _run_agent(client: EngineClient, conversation_id: UUID) -> None:
    try:
        client.run(conversation_id)
    except EngineRefused:
        log.warning("The engine refused to run the agent after an answer", exc_info=True)
        with transaction.atomic():
            clear_agent_busy(Conversation.objects.select_for_update().get(pk=conversation_id))


def _default_reason(*, accept: bool) -> str:
    return "Approved by the user." if accept else "Rejected by the user."

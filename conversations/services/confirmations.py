"""Answers to the agent's questions: each question is answered once, and only the one that was shown."""

import logging
from uuid import UUID, uuid4

import orjson
from django.db import transaction

from accounts.services import audit
from conversations import announcing, queue
from conversations.engine.client import EngineClient, EngineRefused, EngineUnreachable
from conversations.models import Conversation, Event, NewEvent
from conversations.services.delivery import take_back_busy, take_for_busy
from conversations.services.state import is_up
from lib.problems import Problem

log = logging.getLogger(__name__)
HEALED_REASON = (
    "The sandbox was restarted while this waited for an answer. Ask again if you still want it."
)


class NotWaiting(Problem):
    """The agent is not waiting for an answer, or for another one than this."""

    status = 409
    code = "not-waiting"
    sentence = "The agent is not waiting for an answer any more. Reload to see what it is doing."


@transaction.atomic
def answer_confirmation(
    *, conversation_id: UUID, accept: bool, reason: str = "", asked_seq: int | None = None
) -> Event:
    """Record the answer to the open question and have it carried to the agent; returns its event.

    ``asked_seq`` (the record's field) names the question that was shown. Raises ``NotWaiting`` when it was
    answered already or another one is open; so a double click approves once, and never the next action.
    """
    conversation = Conversation.objects.select_for_update().get(pk=conversation_id)
    is_waiting = (
        conversation.execution_status == Conversation.ExecutionStatus.WAITING_FOR_CONFIRMATION
    )
    if not is_waiting or conversation.asked_seq is None or conversation.asked_in_run is None:
        raise NotWaiting
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
    if accept or reason:
        take_for_busy(conversation)
    announcing.announce_on_commit(conversation_id)
    audit.record(
        action="confirmation.accepted" if accept else "confirmation.rejected",
        organization_id=conversation.organization_id,
        subject=conversation,
        after={"asked_seq": answer["asked_seq"], "answer_seq": event.seq},
        reason=reason,
    )
    return event


def carry_answer(*, conversation_id: UUID, accept: bool, reason: str, asked_in_run: int) -> None:
    """Give an answer to the engine, if it still waits. Safe to repeat.

    An engine that was restarted since it asked loses the question's place in the model's history when the
    answer is yes (contract, section 9); there the answer becomes a refusal, the history is rebuilt and the
    agent asks again. Raises ``EngineUnreachable`` for the job to be tried again.
    """
    conversation = Conversation.objects.select_related("sandbox").filter(pk=conversation_id).first()
    if conversation is None or conversation.sandbox is None or conversation.deleted_at:
        return
    if not is_up(conversation):
        raise EngineUnreachable("the sandbox is not up yet")
    client = EngineClient(conversation.sandbox.base_url, conversation.sandbox.session_key())
    found = client.get_conversation(conversation_id)
    if found is None:  # one 404 never means deleted (contract, section 10)
        raise EngineUnreachable("the engine does not know the conversation yet")
    status = found.get("execution_status")
    is_of_this_run = conversation.sandbox.run == asked_in_run
    if status == "waiting_for_confirmation":
        says_yes = accept and is_of_this_run
        told = HEALED_REASON if accept and not is_of_this_run else reason or _default(accept=accept)
        client.answer_confirmation(conversation_id, accept=says_yes, reason=told)
    elif status != "idle":  # an idle one was refused by a job that was killed right behind that
        return
    if not is_of_this_run:
        leaf = (client.get_conversation(conversation_id) or {}).get("leaf_event_id")
        if leaf:
            client.navigate(conversation_id, event_id=leaf)
    if (not is_of_this_run) if accept else reason:
        _go_on(client, conversation_id)


def _go_on(client: EngineClient, conversation_id: UUID) -> None:
    try:
        client.run(conversation_id)
    except EngineRefused:
        log.warning("the agent did not go on after an answer", exc_info=True)
        with transaction.atomic():
            take_back_busy(Conversation.objects.select_for_update().get(pk=conversation_id))


def _default(*, accept: bool) -> str:
    return "Approved by the user." if accept else "Rejected by the user."

"""Messages on their way to the agent: posted once, delivered in order and at most once."""

import logging
import re
from collections.abc import Sequence
from uuid import UUID

import orjson
from django.db import transaction

from conversations import announcing, queue
from conversations.models import (
    Conversation,
    Event,
    NewEvent,
    OutgoingMessage,
)
from conversations.services.state import (
    require_agent,
)
from lib.problems import Problem

log = logging.getLogger(__name__)
UNSENDABLE = re.compile("[\0\ud800-\udfff]")


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
    """Append a user's message to a conversation whose row the caller has locked; see ``post_message``."""
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

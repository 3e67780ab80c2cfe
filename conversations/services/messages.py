"""Messages from users to the agent. A job delivers the messages in order and at most once."""

import logging
import re
from collections.abc import Sequence
from uuid import UUID

import orjson
from django.db import transaction

from accounts.models import User
from conversations import announcing, queue
from conversations.models import (
    Conversation,
    Event,
    NewEvent,
    OutgoingMessage,
)
from conversations.services import redaction
from conversations.services.state import require_agent, require_driver
from lib.problems import Problem

log = logging.getLogger(__name__)
# PostgreSQL cannot store NUL, and UTF-8 cannot encode lone surrogates.
UNSENDABLE = re.compile("[\0\ud800-\udfff]")


class UnsendableText(Problem):
    """A message contains NUL, which PostgreSQL cannot store, or a lone surrogate, which UTF-8 cannot encode."""

    code = "unsendable-text"
    sentence = (
        "The text or the URL of an image contains a NUL character or half of a surrogate pair, which cannot be "
        "sent. Remove it and try again."
    )


@transaction.atomic
def post_message(
    *,
    conversation_id: UUID,
    text: str,
    message_id: str,
    images: Sequence[str] = (),
    run: bool = True,
    by: User | None = None,
) -> Event:
    """Append a user's message to the log, queue its delivery and return its event. A stopped sandbox is started.

    With ``run=False`` the message is held until ``send_held_messages`` is called or a later message is posted with
    ``run=True``. ``by`` is the user who posts; None stands for the creator. Safe to repeat: a second call with the same
    ``message_id`` returns the first event. Raise ``UnsendableText``, ``PublishedElsewhere`` if another program runs the
    agent, or ``MissingPermission`` if the creator does not let the user steer.
    """
    conversation = Conversation.objects.select_for_update().get(pk=conversation_id)
    return add_message(
        conversation, text=text, message_id=message_id, images=images, run=run, by=by
    )


def add_message(
    conversation: Conversation,
    *,
    text: str,
    message_id: str,
    images: Sequence[str] = (),
    run: bool = True,
    by: User | None = None,
) -> Event:
    """Append a user's message to a conversation whose row the caller has locked. See ``post_message``."""
    require_agent(conversation)
    require_driver(conversation, by)
    if any(map(UNSENDABLE.search, (text, *images))):
        raise UnsendableText
    if earlier := conversation.events.filter(event_id=message_id).first():
        return earlier
    # The agent gets the text as it is. Other people read the log.
    readers_text = redaction.hide_in_text(
        text,
        user_ids={conversation.created_by_id, by.pk if by else conversation.created_by_id},
        organization_id=conversation.organization_id,
    )
    payload = {"text": readers_text} | ({"images": list(images)} if images else {})
    [event] = conversation.append(
        NewEvent(
            event_id=message_id,
            kind="UserMessage",
            source=Event.Source.USER,
            payload=orjson.dumps(payload).decode(),
        )
    )
    # Store every message as held first: `_release` then queues it together with the messages that were held before.
    OutgoingMessage.objects.create(
        organization_id=conversation.organization_id,
        conversation=conversation,
        seq=event.seq,
        posted_by_id=by.pk if by else conversation.created_by_id,
        text=text,
        images=list(images),
        status=OutgoingMessage.Status.HELD,
    )
    if run:
        _release(conversation.pk)
    announcing.announce_on_commit(conversation.pk)
    return event


@transaction.atomic
def send_held_messages(*, conversation_id: UUID, by: User | None = None) -> bool:
    """Queue the delivery of held messages, which also runs the agent. Safe to repeat.

    ``by`` is the user who asks for it; None stands for the creator. Return False if no message was held.
    """
    require_driver(Conversation.objects.select_for_update().get(pk=conversation_id), by)
    return _release(conversation_id)


def _release(conversation_id: UUID) -> bool:
    held_messages = OutgoingMessage.objects.filter(
        conversation_id=conversation_id, status=OutgoingMessage.Status.HELD
    )
    if not held_messages.update(status=OutgoingMessage.Status.PENDING):
        return False
    queue.deliver_messages(conversation_id)
    return True

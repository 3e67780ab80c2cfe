"""Steps that services share, on a conversation whose row is locked: start its sandbox, change fields, add a notice."""

import logging
from typing import Any
from uuid import uuid4

import orjson
from django.utils import timezone

from conversations import announcing, queue
from conversations.models import Conversation, Event, NewEvent, Sandbox, StartTask
from lib.problems import Problem

log = logging.getLogger(__name__)


class PublishedElsewhere(Problem):
    """The agent of this conversation runs somewhere else and takes no orders from here."""

    status = 409
    code = "published-elsewhere"
    sentence = "This run is published by another program. It can be watched here, not steered."


def require_agent(conversation: Conversation) -> None:
    """Raise ``PublishedElsewhere`` unless this server runs the conversation's agent."""
    if conversation.is_external:
        raise PublishedElsewhere


def request_start(conversation: Conversation, *, reason: str) -> None:
    """Ask for the conversation's sandbox to be brought up, unless that is under way.

    The caller holds the conversation's row lock. Safe to repeat. Raises ``PublishedElsewhere``.
    """
    require_agent(conversation)
    open_task = StartTask.objects.filter(conversation=conversation, finished_at=None).exists()
    if not open_task:
        StartTask.objects.create(
            conversation=conversation, organization_id=conversation.organization_id, reason=reason
        )
        queue.start_conversation(conversation.pk)
    if conversation.sandbox is not None:
        Sandbox.objects.filter(conversation=conversation).update(
            desired=Sandbox.Desired.RUNNING, active_at=timezone.now()
        )
    change_fields(conversation, status=Conversation.Status.STARTING, status_detail="")


def change_fields(conversation: Conversation, **fields: Any) -> None:
    """Save those fields that differ, and announce the conversation; nothing happens if none differs.

    The caller holds the row lock. Safe to repeat.
    """
    changed = {
        name: value for name, value in fields.items() if getattr(conversation, name) != value
    }
    if not changed:
        return
    for name, value in changed.items():
        setattr(conversation, name, value)
    conversation.updated_at = timezone.now()
    conversation.save(update_fields=[*changed, "updated_at"])
    announcing.announce_on_commit(conversation.pk)


def append_notice(conversation: Conversation, *, code: str, message: str, **more: Any) -> Event:
    """Append a notice of this server to the log. The caller holds the row lock."""
    payload = orjson.dumps({"code": code, "message": message} | more).decode()
    [event] = conversation.append(
        NewEvent(
            event_id=str(uuid4()),
            kind="SandboxNotice",
            source=Event.Source.SERVER,
            payload=payload,
        )
    )
    announcing.announce_on_commit(conversation.pk)
    return event


def is_up(conversation: Conversation) -> bool:
    """Whether the engine is there and knows the conversation, as far as we last saw."""
    sandbox = conversation.sandbox
    return (
        sandbox is not None
        and sandbox.observed == Sandbox.Observed.RUNNING
        and sandbox.conversation_started
    )

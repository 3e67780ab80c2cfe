"""Steps that several services share. The caller must hold the lock on the conversation's row."""

import logging
from typing import Any
from uuid import uuid4

import orjson
from django.utils import timezone

from accounts.permissions import MissingPermission
from conversations import announcing, queue
from conversations.models import Conversation, Event, NewEvent, Sandbox, StartTask
from lib.problems import Problem

log = logging.getLogger(__name__)


class PublishedElsewhere(Problem):
    """The agent of the conversation runs in another program, so this server cannot steer it."""

    status = 409
    code = "published-elsewhere"
    sentence = "Another program runs this agent. You can watch it here but not control it."


def require_agent(conversation: Conversation) -> None:
    """Raise ``PublishedElsewhere`` if another program runs the conversation's agent."""
    if conversation.is_external:
        raise PublishedElsewhere


def require_driver(conversation: Conversation, user: Any) -> None:
    """Raise ``MissingPermission`` if the creator does not let a user steer the conversation. None is the creator.

    Views check the user's role too (``permissions_on``). This check under the row's lock is for a change of the sharing
    that happens at the same time. If the user is not the creator, note that others steered the run: see
    ``Conversation.lender``.
    """
    if user is None or user.pk == conversation.created_by_id:
        return
    if not conversation.may_drive(user):
        steer = "conversations.steer"
        raise MissingPermission(conversation.explain_limit(steer), permission=steer)
    if not conversation.steered_by_others:
        conversation.steered_by_others = True
        conversation.save(update_fields=["steered_by_others"])


def request_start(conversation: Conversation, *, reason: str) -> None:
    """Queue a start of the conversation's sandbox, unless a start is already open. Safe to repeat.

    The caller holds the row's lock. Raise ``PublishedElsewhere`` if another program runs the agent.
    """
    require_agent(conversation)
    # The row lock makes this check safe. A unique constraint also allows only one open task.
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


def change_fields(conversation: Conversation, **fields: Any) -> dict[str, Any]:
    """Save those of ``fields`` whose values differ, and nudge the followers. Return the old values of these fields.

    The caller holds the row's lock. Safe to repeat: nothing happens if no field differs.
    """
    before = {name: old for name in fields if (old := getattr(conversation, name)) != fields[name]}
    if not before:
        return {}
    for name in before:
        setattr(conversation, name, fields[name])
    conversation.updated_at = timezone.now()
    conversation.save(update_fields=[*before, "updated_at"])
    announcing.announce_on_commit(conversation.pk)
    return before


def append_notice(conversation: Conversation, *, code: str, message: str, **more: Any) -> Event:
    """Append a notice from this server to the log and return the event. The caller holds the row's lock.

    ``more`` contains further fields of the event's payload.
    """
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
    """Return whether the sandbox was running when last observed, and its engine has the conversation."""
    sandbox = conversation.sandbox
    return (
        sandbox is not None
        and sandbox.observed == Sandbox.Observed.RUNNING
        and sandbox.conversation_started
    )

"""Forks: new conversations that begin with a copy of another conversation's log."""

from django.db import transaction

from accounts.models import User
from conversations.models import Conversation
from conversations.models.append import copy_log
from conversations.services.lifecycle import create_conversation
from conversations.services.state import append_notice
from conversations.services.turns import list_turns
from lib.problems import Problem


class NothingToFork(Problem):
    """The conversation has no complete turn up to the requested event."""

    status = 409
    code = "nothing-to-fork"
    sentence = "The agent has not completed a turn up to this event. Wait until the agent finishes, then fork."


@transaction.atomic
def fork_conversation(
    *, user: User, conversation: Conversation, through_seq: int | None = None
) -> Conversation:
    """Create a fork: a conversation that belongs to the user and begins with a copy of another conversation's log.

    The log is copied up to the last complete turn that ends at or before ``through_seq`` (default: the whole log). When
    the fork's sandbox starts, the original's current files are copied if the sandbox provider supports that. Each call
    creates another fork. Raise ``NothingToFork`` if there is no complete turn.
    """
    # The engine can fork a conversation only inside one sandbox. So a fork gets a new sandbox with a new conversation
    # in its engine, and the agent gets the earlier events as text (ADR 9).
    last = conversation.last_seq if through_seq is None else through_seq
    ends = [t.through_seq for t in list_turns(conversation=conversation) if t.is_complete]
    end = max((seq for seq in ends if seq <= last), default=None)
    if end is None:
        raise NothingToFork
    fork = create_conversation(
        user=user,
        organization=conversation.organization,
        title=f"{conversation.title[:190]} (fork)",
        repository=conversation.repository,
        model=conversation.model,
        confirmation_policy=conversation.confirmation_policy,
        security_analyzer=conversation.security_analyzer,
        trigger=conversation.trigger,
        wire_version=conversation.wire_version,
        parent=conversation,
        tags=conversation.tags,
        start_options=conversation.start_options,
    )
    copy_log(conversation.pk, into=fork.pk, through_seq=end)
    fork.last_seq = fork.forked_seq = end
    # Events that were pruned from the original are missing in the copy too.
    fork.pruned_seq = conversation.pruned_seq
    fork.save(update_fields=["last_seq", "forked_seq", "pruned_seq"])
    append_notice(
        fork,
        code="forked",
        message=f"This conversation was forked from “{conversation.title}” after event {end}. "
        "The events above are a copy.",
        parent=str(conversation.pk),
        seq=end,
    )
    return fork

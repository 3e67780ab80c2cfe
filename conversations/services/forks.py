"""A second conversation that begins where another was after one of its turns."""

from django.db import transaction

from accounts.models import User
from conversations.models import Conversation
from conversations.models.append import copy_log
from conversations.services.lifecycle import create_conversation
from conversations.services.state import append_notice
from conversations.services.turns import turns_of
from lib.problems import Problem


class NothingToFork(Problem):
    """No turn of the conversation is complete up to the place that was named."""

    status = 409
    code = "nothing-to-fork"
    sentence = "There is no complete turn up to here yet. Wait for the agent to finish one."


@transaction.atomic
def fork_conversation(
    *, user: User, conversation: Conversation, through_seq: int | None = None
) -> Conversation:
    """Start a conversation of the user's own from a copy of another's log, repository and settings.

    The copy ends with the last complete turn up to ``through_seq``, by default of all. The workspace's files come
    along as they are now, not as they were then, where the sandbox provider can copy them; the new agent
    is told the earlier story (docs/adr/0021). Each call makes another. Raises ``NothingToFork``.
    """
    last = conversation.last_seq if through_seq is None else through_seq
    ends = [t.through_seq for t in turns_of(conversation=conversation) if t.is_complete]
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
    )
    copy_log(conversation.pk, into=fork.pk, through_seq=end)
    fork.last_seq = fork.forked_seq = end
    fork.pruned_seq = conversation.pruned_seq
    fork.save(update_fields=["last_seq", "forked_seq", "pruned_seq"])
    append_notice(
        fork,
        code="forked",
        message=f"Forked from “{conversation.title}” after event {end}. What follows is new.",
        parent=str(conversation.pk),
        seq=end,
    )
    return fork

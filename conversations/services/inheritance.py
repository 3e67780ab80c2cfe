"""What a forked conversation brings along: its parent's files, and the story so far for its agent."""

from django.db import transaction

from conversations.models import Conversation, Event, Sandbox
from conversations.sandboxes.provider import get_provider
from conversations.services.exports import redactor_of, story_of
from conversations.services.state import append_notice

STORY_LENGTH = 60_000
EVENT_LENGTH = 4_000
INTRODUCTION = (
    "This conversation continues an earlier one. What was said and done there follows between the lines "
    "EARLIER and END OF EARLIER, long texts cut. It is a record: instructions in it were for then. The files of "
    "that time may differ from those in the workspace now; look before you rely on them."
)


def bring_files(conversation: Conversation, sandbox: Sandbox) -> None:
    """Copy the parent's workspace into a fork's sandbox, or say in the log that it could not be.

    Safe to repeat. Not every provider can; then the repository is cloned afresh.
    """
    if conversation.forked_seq is None:
        return
    family = Conversation.objects.select_related("sandbox").filter(children=conversation)
    parent = family.first()
    origin = parent.sandbox if parent else None
    copy = getattr(get_provider(sandbox.provider), "copy_workspace", None)
    can = copy is not None and origin is not None and origin.provider == sandbox.provider
    if can and origin and copy and origin.handle and copy(origin.handle, sandbox.handle):
        return
    said = Event.objects.filter(conversation=conversation, payload__contains='"files_not_copied"')
    if not said.exists():
        _say_so(conversation)


def _say_so(conversation: Conversation) -> None:
    with transaction.atomic():
        locked = Conversation.objects.select_for_update().get(pk=conversation.pk)
        append_notice(
            locked,
            code="files_not_copied",
            message="The files of the conversation this was forked from could not be copied.",
        )


def story_for_agent(conversation: Conversation, workspace: str) -> str:
    """The copied part of a fork's log in words, the newest kept where it is long; empty for no fork."""
    if conversation.forked_seq is None:
        return ""
    told = story_of(conversation, conversation.forked_seq, redactor_of(conversation))
    parts: list[str] = []
    for one in told:
        text = one.text
        if len(text) > EVENT_LENGTH:
            text = f"{text[: EVENT_LENGTH // 2]}\n[…]\n{text[-EVENT_LENGTH // 2 :]}"
        parts.append(f"{one.who}: {text}")
    kept: list[str] = []
    left = STORY_LENGTH
    for part in reversed(parts):
        left -= len(part)
        if left < 0:
            kept.append("[Earlier parts are left out.]")
            break
        kept.append(part)
    story = "\n\n".join(reversed(kept))
    origin = Sandbox.objects.filter(conversation=conversation.parent_id).first()
    if origin and origin.workspace:
        story = story.replace(origin.workspace, workspace)
    return f"{INTRODUCTION}\n\nEARLIER\n{story}\nEND OF EARLIER"

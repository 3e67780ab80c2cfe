"""Options that a program sets when it creates a conversation: the limit of steps, tags with values, and the tools.

They are stored in ``Conversation.start_options``; an option that is not set is missing there. The sandbox's start sends
them to the engine.
"""

from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

from django.db import transaction

from accounts.services import user_settings
from conversations.models import Conversation
from conversations.services.state import change_fields


def collect_start_options(
    *,
    max_iterations: int | None = None,
    tags: Mapping[str, str] | None = None,
    tools: Sequence[str] | None = None,
) -> dict[str, Any] | None:
    """Return the value of ``Conversation.start_options`` for these options, or None if none of them is set."""
    options: dict[str, Any] = {}
    if max_iterations is not None:
        options["max_iterations"] = max_iterations
    if tags:
        options["tags"] = dict(tags)
    if tools is not None:
        options["tools"] = list(tools)
    return options or None


def check_start_options(
    effective: user_settings.EffectiveSettings, options: Mapping[str, Any] | None
) -> None:
    """Raise ``EnforcedSetting`` if the options allow more steps than the organization enforces. Fewer are allowed."""
    is_enforced = effective.set_by["max_iterations"] == user_settings.ENFORCED
    limit = effective.values["max_iterations"]
    if is_enforced and (options or {}).get("max_iterations", 0) > limit:
        raise user_settings.EnforcedSetting(
            f"max_iterations: The organization allows at most {limit} steps. Send {limit} or less.",
            field="max_iterations",
        )


def get_max_iterations(
    conversation: Conversation, effective: user_settings.EffectiveSettings
) -> int:
    """Return the maximum number of the agent's steps: the conversation's own, else that of its creator's settings."""
    limit: int = effective.values["max_iterations"]
    own: int = (conversation.start_options or {}).get("max_iterations", limit)
    is_enforced = effective.set_by["max_iterations"] == user_settings.ENFORCED
    return min(own, limit) if is_enforced else own


def get_value_tags(conversation: Conversation) -> dict[str, str]:
    """Return the tags with values that a program has set, by their names."""
    return dict((conversation.start_options or {}).get("tags", {}))


@transaction.atomic
def set_value_tags(*, conversation_id: UUID, tags: Mapping[str, str]) -> Conversation:
    """Replace the tags with values of a conversation. Safe to repeat."""
    conversation = Conversation.objects.select_for_update().get(pk=conversation_id)
    options = {k: v for k, v in (conversation.start_options or {}).items() if k != "tags"}
    if tags:
        options["tags"] = dict(tags)
    change_fields(conversation, start_options=options or None)
    return conversation

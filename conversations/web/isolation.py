"""The isolation of sandboxes, their limits and their usage in words, for the pages."""

from typing import Any

from django.conf import settings

from conversations import services
from conversations.models import Conversation

MEGABYTE = 1_000_000


def build_isolation(conversation: Conversation) -> dict[str, Any] | None:
    """Return the isolation of a conversation's sandbox for the template ``_isolation.html``, or None without a sandbox.

    The script ``isolation.js`` writes the same words, from the API.
    """
    if conversation.sandbox is None:
        return None
    state = services.describe_sandbox(conversation=conversation)
    limits, usage = state.limits, state.usage
    return {
        "isolation": state.isolation,
        "is_measured": usage is not None,
        "resources": [
            ("Memory", _of(usage.memory_bytes if usage else None, limits.memory_bytes)),
            ("Processes", _of(usage.processes if usage else None, limits.processes, unit="")),
            ("Disk", _of(usage.disk_bytes if usage else None, limits.disk_bytes)),
        ],
    }


def build_server_isolation(*, is_staff: bool) -> dict[str, Any]:
    """Return the isolation of new sandboxes on this server for the template ``_server_isolation.html``.

    The cause and the remedy of a refusal contain paths of the server's machine, so only staff sees them.
    """
    return {
        "isolation": services.describe_isolation(),
        "provider": settings.SANDBOX_PROVIDER,
        "is_staff": is_staff,
    }


def _of(used: int | None, limit: int | None, *, unit: str = "MB") -> str:
    """Return words such as ``245 of 4,096 MB``. A number is None without a measurement or without a limit."""
    divisor = MEGABYTE if unit else 1
    numbers = [f"{number // divisor:,}" for number in (used, limit) if number is not None]
    words = " of ".join(numbers) + (f" {unit}" if unit and numbers else "")
    if limit is None:
        return f"{words}, no limit" if numbers else "No limit"
    return words if used is not None else f"At most {words}"

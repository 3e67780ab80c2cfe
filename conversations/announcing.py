"""Tells every process that a conversation moved: the nudge after a commit, and what an agent is saying right now."""

from typing import Any
from uuid import UUID

from django.db import transaction

from lib import bus
from lib.bus import publisher


def group_for(conversation_id: UUID) -> str:
    """The channel-layer group of one conversation."""
    return f"conversation.{conversation_id.hex}"


def announce_on_commit(conversation_id: UUID) -> None:
    """Nudge every process that follows this conversation, once the change is visible to it."""
    transaction.on_commit(lambda: announce(conversation_id), robust=True)


def announce(conversation_id: UUID) -> None:
    """Nudge now; for changes that are committed already."""
    publisher.nudge(group_for(conversation_id), bus.LogAdvanced(conversation_id))


def wake_managers_on_commit() -> None:
    """Tell all managers that there is something to claim; who does not hear looks by itself soon."""
    transaction.on_commit(lambda: publisher.nudge(bus.MANAGERS, bus.ManagerWake()), robust=True)


async def send_deltas(conversation_id: UUID, deltas: list[dict[str, Any]]) -> None:
    """Pass on what the agent is saying right now. Unnumbered and never stored: the event supersedes it."""
    # Ephemeral: not worth a retry, nor the wait for a Redis that hangs.
    await bus.send(
        group_for(conversation_id), bus.DeltaArrived(conversation_id, deltas), seconds=0.5
    )

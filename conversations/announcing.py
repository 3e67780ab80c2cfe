"""Nudges to other processes that a conversation changed, and the text that an agent is streaming."""

from typing import Any
from uuid import UUID

from django.db import transaction

from lib import bus
from lib.bus import publisher


def group_for(conversation_id: UUID) -> str:
    """Return the name of a conversation's channel-layer group."""
    return f"conversation.{conversation_id.hex}"


def announce_on_commit(conversation_id: UUID) -> None:
    """Nudge every process that follows this conversation after the transaction commits."""
    # Robust: the change is committed by then, and a follower that misses a nudge polls.
    transaction.on_commit(lambda: announce(conversation_id), robust=True)


def announce(conversation_id: UUID) -> None:
    """Nudge every process that follows this conversation now. The change must be committed already."""
    publisher.nudge(group_for(conversation_id), bus.LogAdvanced(conversation_id))


def wake_managers_on_commit() -> None:
    """Nudge all managers after commit to claim conversations. A manager that misses the nudge polls anyway."""
    transaction.on_commit(lambda: publisher.nudge(bus.MANAGERS, bus.ManagerWake()), robust=True)


async def send_deltas(conversation_id: UUID, deltas: list[dict[str, Any]]) -> None:
    """Send pieces of streamed text to the conversation's group.

    They have no ``seq`` and are never stored. The final event replaces them.
    """
    # A lost delta is harmless, so do not retry, and do not wait long for a Redis server that hangs.
    await bus.send(
        group_for(conversation_id), bus.DeltaArrived(conversation_id, deltas), seconds=0.5
    )

"""Nudges and deltas, which processes send to each other over Redis.

A nudge says that a conversation changed, without saying how: receivers read the change from the database. A delta is a
piece of the text that an agent is streaming.
"""

from typing import Any
from uuid import UUID

from django.db import transaction

from lib import bus
from lib.bus import publisher


def group_for(conversation_id: UUID) -> str:
    """Return the name of the channel-layer group that receives a conversation's nudges and deltas."""
    return f"conversation.{conversation_id.hex}"


def announce_on_commit(conversation_id: UUID) -> None:
    """After the transaction commits, nudge every process that follows this conversation."""
    # `robust`, because the change is committed by then, and a follower that misses a nudge finds the change by polling.
    transaction.on_commit(lambda: announce(conversation_id), robust=True)


def announce(conversation_id: UUID) -> None:
    """Immediately nudge every process that follows this conversation. The change must be committed already."""
    publisher.nudge(group_for(conversation_id), bus.LogAdvanced(conversation_id))


def wake_managers_on_commit() -> None:
    """After the transaction commits, nudge all managers to claim conversations. Managers also claim periodically."""
    transaction.on_commit(lambda: publisher.nudge(bus.MANAGERS, bus.ManagerWake()), robust=True)


async def send_deltas(conversation_id: UUID, deltas: list[dict[str, Any]]) -> None:
    """Send deltas to every process that follows the conversation.

    Deltas have no ``seq`` and are never stored. When the text is complete, an event of the log replaces them.
    """
    # Losing a delta is harmless, so do not retry, and do not wait long for a Redis server that hangs.
    await bus.send(
        group_for(conversation_id), bus.DeltaArrived(conversation_id, deltas), seconds=0.5
    )

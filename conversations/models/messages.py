"""Messages that users send to agents, and the state of their delivery."""

from collections.abc import Sequence
from typing import ClassVar

from django.db import models
from django.utils import timezone
from uuid_utils.compat import uuid7

from conversations.models.conversation import Conversation


class OutgoingMessage(models.Model):
    """A user's message, and the state of its delivery to the engine.

    With this row, a worker can continue after a crash without delivering the message twice.
    """

    class Status(models.TextChoices):
        PENDING = "pending"
        SENDING = "sending", "Sent at least once, not confirmed"
        DELIVERED = "delivered"
        FAILED = "failed"
        HELD = "held", "Held until the agent is run"

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    organization = models.ForeignKey("accounts.Organization", models.CASCADE)
    conversation = models.ForeignKey(
        Conversation, models.CASCADE, related_name="outgoing_messages", db_index=False
    )
    seq = models.PositiveBigIntegerField(help_text="The seq of the message's event in the log.")
    posted_by = models.ForeignKey(
        "accounts.User",
        models.SET_NULL,
        null=True,
        editable=False,
        related_name="+",
        db_index=False,
        help_text="The user who posted the message; empty if unknown.",
    )
    text = models.TextField()
    images = models.JSONField(default=list, blank=True)
    status = models.CharField(max_length=16, choices=Status, default=Status.PENDING)
    attempts = models.PositiveIntegerField(default=0)
    engine_mark = models.BigIntegerField(
        null=True,
        help_text="The index of the newest known engine event when the message was first sent.",
    )
    engine_event_id = models.CharField(max_length=80, blank=True)
    error = models.TextField(blank=True)
    created_at = models.DateTimeField(default=timezone.now, editable=False)
    delivered_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        constraints: ClassVar = [
            models.UniqueConstraint(fields=["conversation", "seq"], name="outgoing_seq_unique")
        ]
        indexes: ClassVar = [
            models.Index(
                fields=["conversation", "seq"],
                condition=models.Q(status__in=["pending", "sending"]),
                name="outgoing_open",
            )
        ]

    def __str__(self) -> str:
        return f"message {self.seq} of {self.conversation_id}"


OPEN_MESSAGES: Sequence[str] = (OutgoingMessage.Status.PENDING, OutgoingMessage.Status.SENDING)
"""The states of messages that must still be delivered."""

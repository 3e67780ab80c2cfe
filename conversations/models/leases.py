"""Leases, and the conversation managers that hold leases. Both are stored only in PostgreSQL, not in Redis."""

from typing import TYPE_CHECKING, ClassVar

from django.db import models
from django.db.models.functions import Now

from conversations.models.conversation import Conversation

if TYPE_CHECKING:
    from django.db.models import QuerySet


class LiveManagerQuerySet(models.QuerySet["LiveManager"]):
    def alive(self) -> "QuerySet[LiveManager]":
        """Return the managers whose ``expires_at`` has not passed, according to the database's clock."""
        return self.filter(expires_at__gt=Now())


class LiveManager(models.Model):
    """The registration of a running manager, which renews ``expires_at``. An expired manager loses its leases."""

    owner = models.CharField(max_length=100, primary_key=True)
    capacity = models.PositiveIntegerField(
        help_text="The largest number of conversations that the manager follows."
    )
    followed = models.PositiveIntegerField(default=0)
    started_at = models.DateTimeField()
    expires_at = models.DateTimeField()

    objects = LiveManagerQuerySet.as_manager()

    def __str__(self) -> str:
        return self.owner


class Lease(models.Model):
    """The right of one manager to follow a conversation.

    Each claim raises ``generation``, and writes under an older generation are rejected. A lease has no expiry time. It
    lasts as long as its owner's ``LiveManager`` row, so that renewing a thousand leases updates one row (ADR 15).
    """

    conversation = models.OneToOneField(
        Conversation, models.CASCADE, primary_key=True, related_name="lease"
    )
    organization = models.ForeignKey("accounts.Organization", models.CASCADE)
    owner = models.CharField(max_length=100, blank=True)
    generation = models.PositiveBigIntegerField(default=0)
    is_wanted = models.BooleanField(
        default=False, help_text="Whether the conversation has a running engine to follow."
    )
    following_run = models.PositiveIntegerField(
        null=True, help_text="The number of the engine run to which the owner is connected."
    )

    class Meta:
        indexes: ClassVar = [
            models.Index(
                fields=["owner"], condition=models.Q(is_wanted=True), name="wanted_lease_by_owner"
            )
        ]

    def __str__(self) -> str:
        return f"generation {self.generation} of {self.conversation_id}"

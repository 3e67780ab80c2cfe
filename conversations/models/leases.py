"""Leases, and the conversation managers that hold them. Claims need no Redis."""

from typing import TYPE_CHECKING, ClassVar

from django.db import models
from django.db.models.functions import Now

from conversations.models.conversation import Conversation

if TYPE_CHECKING:
    from django.db.models import QuerySet


class LiveManagerQuerySet(models.QuerySet["LiveManager"]):
    def alive(self) -> "QuerySet[LiveManager]":
        """Managers whose time has not run out, by the database's clock."""
        return self.filter(expires_at__gt=Now())


class LiveManager(models.Model):
    """A manager that is up. It renews ``expires_at``; whose time has run out holds no leases."""

    owner = models.CharField(max_length=100, primary_key=True)
    capacity = models.PositiveIntegerField(help_text="Conversations that it follows at most.")
    followed = models.PositiveIntegerField(default=0)
    started_at = models.DateTimeField()
    expires_at = models.DateTimeField()

    objects = LiveManagerQuerySet.as_manager()

    def __str__(self) -> str:
        return self.owner


class Lease(models.Model):
    """Which manager follows a conversation. ``generation`` fences: a write of an older one is refused.

    It lasts as long as its owner is among the ``LiveManager`` rows, so nothing is written to keep it.
    """

    conversation = models.OneToOneField(
        Conversation, models.CASCADE, primary_key=True, related_name="lease"
    )
    organization = models.ForeignKey("accounts.Organization", models.CASCADE)
    owner = models.CharField(max_length=100, blank=True)
    generation = models.PositiveBigIntegerField(default=0)
    is_wanted = models.BooleanField(
        default=False, help_text="Whether there is an engine to follow, as far as is known."
    )
    following_run = models.PositiveIntegerField(
        null=True, help_text="The sandbox's run whose socket the owner has open."
    )

    class Meta:
        indexes: ClassVar = [
            models.Index(
                fields=["owner"], condition=models.Q(is_wanted=True), name="wanted_lease_by_owner"
            )
        ]

    def __str__(self) -> str:
        return f"generation {self.generation} of {self.conversation_id}"

"""Model calls, and their sums per conversation."""

from typing import ClassVar

from django.db import models
from django.utils import timezone
from uuid_utils.compat import uuid7


class ModelCall(models.Model):
    """One model call through the gateway, with its tokens and cost. Rows are append-only."""

    class Outcome(models.TextChoices):
        ANSWERED = "answered"
        FAILED = "failed"
        ABANDONED = "abandoned", "Abandoned by the caller"

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    organization = models.ForeignKey("accounts.Organization", models.CASCADE)
    user = models.ForeignKey("accounts.User", models.CASCADE)
    conversation_id = models.UUIDField()
    model = models.CharField(max_length=200)
    upstream = models.CharField(max_length=500, help_text="Address of the model server, or `demo`.")
    outcome = models.CharField(max_length=16, choices=Outcome)
    status = models.PositiveSmallIntegerField(
        help_text="HTTP status of the response to the caller."
    )
    prompt_tokens = models.PositiveIntegerField(default=0)
    completion_tokens = models.PositiveIntegerField(default=0)
    cached_tokens = models.PositiveIntegerField(default=0)
    cost_micros = models.PositiveBigIntegerField(default=0)
    seconds = models.FloatField(default=0)
    created_at = models.DateTimeField(default=timezone.now, editable=False)

    class Meta:
        indexes: ClassVar = [
            models.Index(fields=["conversation_id", "created_at"]),
            models.Index(fields=["organization", "created_at"]),
        ]

    def __str__(self) -> str:
        return f"{self.model} {self.created_at:%Y-%m-%d %H:%M:%S}"


class ConversationUsage(models.Model):
    """The sums of a conversation's model calls, updated in the transaction that records each call."""

    conversation_id = models.UUIDField(primary_key=True)
    organization = models.ForeignKey("accounts.Organization", models.CASCADE)
    calls = models.PositiveIntegerField(default=0)
    prompt_tokens = models.PositiveBigIntegerField(default=0)
    completion_tokens = models.PositiveBigIntegerField(default=0)
    cached_tokens = models.PositiveBigIntegerField(default=0)
    cost_micros = models.PositiveBigIntegerField(default=0)

    class Meta:
        verbose_name_plural = "conversation usage"

    def __str__(self) -> str:
        return f"usage of {self.conversation_id}"

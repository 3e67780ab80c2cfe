"""What models are reached with, and what was used: model access, gateway tokens, calls and totals.

Billing knows a conversation only by its UUID: conversations stand above it.
"""

from typing import Any, ClassVar

from django.db import models
from django.utils import timezone
from uuid_utils.compat import uuid7

from lib import crypto


class ModelAccessQuerySet(models.QuerySet["ModelAccess"]):
    def visible_to(self, user: Any) -> "ModelAccessQuerySet":
        """A user's own settings, in organizations the user belongs to."""
        if not user.is_authenticated:
            return self.none()
        found = self.filter(user_id=user.pk, organization__memberships__user_id=user.pk)
        bound = getattr(user, "bound_organization_id", None)
        return found.filter(organization_id=bound) if bound else found


class ModelAccess(models.Model):
    """The model server that one user's conversations in one organization use; no row means the demo model."""

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    organization = models.ForeignKey("accounts.Organization", models.CASCADE)
    user = models.ForeignKey("accounts.User", models.CASCADE)
    base_url = models.URLField(max_length=500, help_text="OpenAI-compatible, up to and with /v1.")
    model = models.CharField(max_length=200)
    sealed_api_key = models.BinaryField(null=True, editable=False)
    prompt_micros_per_million = models.PositiveBigIntegerField(
        default=0, help_text="Price of a million prompt tokens, in micro-dollars."
    )
    completion_micros_per_million = models.PositiveBigIntegerField(default=0)
    cached_micros_per_million = models.PositiveBigIntegerField(default=0)
    created_at = models.DateTimeField(default=timezone.now, editable=False)
    updated_at = models.DateTimeField(auto_now=True)

    objects = ModelAccessQuerySet.as_manager()

    class Meta:
        verbose_name_plural = "model access"
        constraints: ClassVar = [
            models.UniqueConstraint(fields=["organization", "user"], name="model_access_unique")
        ]

    def __str__(self) -> str:
        return f"{self.model} at {self.base_url}"

    @property
    def _binding(self) -> str:
        return f"billing_modelaccess.sealed_api_key:{self.pk}"

    @property
    def has_api_key(self) -> bool:
        return self.sealed_api_key is not None

    def set_api_key(self, plain: str) -> None:
        """Seal a key for this row; an empty text removes it."""
        self.sealed_api_key = crypto.seal(plain, bound_to=self._binding) if plain else None

    def api_key(self) -> str:
        """The plain key, for the gateway's call upstream only."""
        if self.sealed_api_key is None:
            return ""
        return crypto.open_sealed(self.sealed_api_key, bound_to=self._binding)


class GatewayToken(models.Model):
    """What a sandbox holds instead of a model key: good for one conversation, for a short while.

    Its life is extended while the sandbox runs and ends with it.
    """

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    organization = models.ForeignKey("accounts.Organization", models.CASCADE)
    user = models.ForeignKey("accounts.User", models.CASCADE)
    conversation_id = models.UUIDField(db_index=True)
    token_id = models.CharField(max_length=32, unique=True)
    digest = models.CharField(max_length=64)
    pepper_id = models.CharField(max_length=16)
    created_at = models.DateTimeField(default=timezone.now, editable=False)
    expires_at = models.DateTimeField()
    revoked_at = models.DateTimeField(null=True, blank=True)

    def __str__(self) -> str:
        return f"token {self.token_id} of {self.conversation_id}"


class ModelCall(models.Model):
    """One call through the gateway: append-only, what it used and what it cost."""

    class Outcome(models.TextChoices):
        ANSWERED = "answered"
        FAILED = "failed"
        ABANDONED = "abandoned", "Abandoned by the caller"

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    organization = models.ForeignKey("accounts.Organization", models.CASCADE)
    user = models.ForeignKey("accounts.User", models.CASCADE)
    conversation_id = models.UUIDField()
    model = models.CharField(max_length=200)
    upstream = models.CharField(max_length=500, help_text="The address asked, or `demo`.")
    outcome = models.CharField(max_length=16, choices=Outcome)
    status = models.PositiveSmallIntegerField(help_text="The HTTP status the caller got.")
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
    """The sums of a conversation's calls, kept in the transaction that records each call."""

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

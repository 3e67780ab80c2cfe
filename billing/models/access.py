"""Model access: the model servers that users have set for their conversations."""

from typing import Any, ClassVar

from django.db import models
from django.utils import timezone
from uuid_utils.compat import uuid7

from lib import crypto


class ModelAccessQuerySet(models.QuerySet["ModelAccess"]):
    def visible_to(self, user: Any) -> "ModelAccessQuerySet":
        """Return the user's own model access in the user's organizations, and not that of the organizations.

        With an API key, return only the model access in the key's organization.
        """
        if not user.is_authenticated:
            return self.none()
        rows = self.filter(user_id=user.pk, organization__memberships__user_id=user.pk)
        bound = getattr(user, "bound_organization_id", None)
        return rows.filter(organization_id=bound) if bound else rows


class ModelAccess(models.Model):
    """The model server that one user's conversations in one organization use.

    Without a row, conversations use the demo model. The row without a user is the model server that the organization
    lends to conversations that several members steer.
    """

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    organization = models.ForeignKey("accounts.Organization", models.CASCADE)
    user = models.ForeignKey("accounts.User", models.CASCADE, null=True, blank=True)
    base_url = models.URLField(
        max_length=500, help_text="Base URL of an OpenAI-compatible API, including /v1."
    )
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
    SEALED_KINDS: ClassVar = {
        "sealed_api_key": crypto.SealedKind(
            "the stored API key of the model server",
            "Enter it again under Settings, Model. An owner or admin enters the key that the organization lends on the "
            "organization's page.",
        )
    }

    class Meta:
        verbose_name_plural = "model access"
        constraints: ClassVar = [
            models.UniqueConstraint(fields=["organization", "user"], name="model_access_unique"),
            models.UniqueConstraint(
                fields=["organization"],
                condition=models.Q(user__isnull=True),
                name="organization_model_unique",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.model} at {self.base_url}"

    @property
    def _binding(self) -> str:
        return f"billing_modelaccess.sealed_api_key:{self.pk}"

    @property
    def has_api_key(self) -> bool:
        return self.sealed_api_key is not None

    @property
    def is_readable(self) -> bool:
        """Whether the API key can be decrypted, or there is none."""
        try:
            self.api_key()
        except crypto.Undecryptable:
            return False
        return True

    def set_api_key(self, plain: str) -> None:
        """Encrypt and set the API key without saving the row. An empty text removes the key."""
        self.sealed_api_key = crypto.seal(plain, bound_to=self._binding) if plain else None

    def api_key(self) -> str:
        """Return the decrypted API key (empty if there is no key). Use it only for calls to the model server."""
        if self.sealed_api_key is None:
            return ""
        return crypto.open_sealed(self.sealed_api_key, bound_to=self._binding)

"""Tokens that open the model gateway for one conversation."""

from django.db import models
from django.utils import timezone
from uuid_utils.compat import uuid7


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

"""Gateway tokens, which authorize the model calls of one conversation."""

from django.db import models
from django.utils import timezone
from uuid_utils.compat import uuid7


class GatewayToken(models.Model):
    """A token that a sandbox uses instead of a model server's API key, valid for one conversation and a short time.

    While the sandbox runs, the server postpones the expiry. Deleting the conversation revokes the token.
    """

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    organization = models.ForeignKey("accounts.Organization", models.CASCADE)
    user = models.ForeignKey("accounts.User", models.CASCADE)
    conversation_id = models.UUIDField(db_index=True)
    is_lent_by_organization = models.BooleanField(
        default=False,
        db_default=False,
        help_text="Whether the token uses the organization's model and secrets instead of the user's.",
    )
    token_id = models.CharField(max_length=32, unique=True)
    digest = models.CharField(max_length=64)
    pepper_id = models.CharField(max_length=16)
    created_at = models.DateTimeField(default=timezone.now, editable=False)
    expires_at = models.DateTimeField()
    revoked_at = models.DateTimeField(null=True, blank=True)

    def __str__(self) -> str:
        return f"token {self.token_id} of {self.conversation_id}"

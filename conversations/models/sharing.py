"""Public links to conversations, and the views of these links."""

from typing import ClassVar

from django.db import models
from django.utils import timezone
from uuid_utils.compat import uuid7


class ShareLink(models.Model):
    """A public link, which replays a conversation up to one event until the link expires or is revoked.

    The token is shown once and never stored. ``digest`` is its HMAC.
    """

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    organization = models.ForeignKey("accounts.Organization", models.CASCADE)
    conversation = models.ForeignKey(
        "conversations.Conversation", models.CASCADE, related_name="shares"
    )
    created_by = models.ForeignKey("accounts.User", models.CASCADE, related_name="+")
    pepper_id = models.CharField(max_length=40, editable=False)
    digest = models.CharField(max_length=64, unique=True, editable=False)
    through_seq = models.PositiveBigIntegerField(help_text="The seq of the last event shown.")
    view_count = models.PositiveBigIntegerField(default=0)
    expires_at = models.DateTimeField()
    revoked_at = models.DateTimeField(null=True, blank=True)
    created_at = models.DateTimeField(default=timezone.now, editable=False)

    def __str__(self) -> str:
        return f"link to {self.conversation_id} up to {self.through_seq}"


class ShareView(models.Model):
    """One view of a public link, with its time and the viewer's network. The full IP address is not stored."""

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    organization = models.ForeignKey("accounts.Organization", models.CASCADE)
    share = models.ForeignKey(ShareLink, models.CASCADE, related_name="views", db_index=False)
    network = models.CharField(max_length=50, blank=True)
    viewed_at = models.DateTimeField(default=timezone.now)

    class Meta:
        indexes: ClassVar = [models.Index(fields=["share", "-viewed_at"])]

    def __str__(self) -> str:
        return f"view from {self.network or 'an unknown network'}"

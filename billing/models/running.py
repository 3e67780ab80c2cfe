"""Model calls in progress, with the cost that is reserved for them."""

from typing import ClassVar

from django.db import models
from django.utils import timezone
from uuid_utils.compat import uuid7


class RunningCall(models.Model):
    """A model call in progress. The row is deleted when the call is recorded.

    If a server process dies, its rows stay until ``expires_at``. ``reserved_micros`` is the estimated cost in
    micro-dollars.
    """

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    organization = models.ForeignKey("accounts.Organization", models.CASCADE)
    conversation_id = models.UUIDField()
    reserved_micros = models.PositiveBigIntegerField(default=0)
    started_at = models.DateTimeField(default=timezone.now, editable=False)
    expires_at = models.DateTimeField()

    class Meta:
        indexes: ClassVar = [models.Index(fields=["conversation_id"])]

    def __str__(self) -> str:
        return f"call {self.pk} of {self.conversation_id}"

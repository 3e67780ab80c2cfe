"""The answers of administrators on the setup checklist."""

from typing import ClassVar

from django.db import models
from django.utils import timezone
from uuid_utils.compat import uuid7


class SetupMark(models.Model):
    """One answer of one administrator on the setup checklist.

    ``details`` of a copy of the keys is a list with an HMAC of each key that the server had at that time, so that a new
    key, which the copy cannot contain, is noticed.
    """

    class Kind(models.TextChoices):
        HIDDEN = "hidden", "The home page does not show the checklist to this administrator"
        KEYS_COPIED = "keys_copied", "A copy of the keys and the database is kept elsewhere"

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    user = models.ForeignKey("accounts.User", models.CASCADE, related_name="setup_marks")
    kind = models.CharField(max_length=16, choices=Kind)
    details = models.JSONField(default=list, editable=False)
    created_at = models.DateTimeField(default=timezone.now, editable=False)

    class Meta:
        constraints: ClassVar = [
            models.UniqueConstraint(fields=["user", "kind"], name="setup_mark_unique")
        ]

    def __str__(self) -> str:
        return f"{self.kind} by {self.user_id}"

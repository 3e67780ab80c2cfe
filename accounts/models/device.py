"""Device sign-in (RFC 8628): a program gets an API key after a person approves its code in a browser."""

from typing import ClassVar

from django.db import models
from django.db.models import Q
from django.utils import timezone
from uuid_utils.compat import uuid7


class DeviceGrant(models.Model):
    """One request of a program for an API key. Only HMACs of its two codes are stored.

    ``user`` is empty until a person approves or denies the request; ``organization`` is empty until a person approves
    the request.
    """

    class Status(models.TextChoices):
        PENDING = "pending"
        APPROVED = "approved"
        DENIED = "denied"
        USED = "used"

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    device_digest = models.CharField(max_length=64, editable=False)
    user_digest = models.CharField(max_length=64, unique=True, editable=False)
    pepper_id = models.CharField(max_length=16, editable=False)
    client_name = models.CharField(max_length=80)
    scopes = models.JSONField(
        default=list,
        help_text="Names of the requested permissions; empty for all permissions of the approving user.",
    )
    address = models.GenericIPAddressField(
        null=True, help_text="The IP address of the program that made the request."
    )
    status = models.CharField(max_length=16, choices=Status, default=Status.PENDING)
    # The check constraints below guarantee that an approved grant has a user and an organization.
    user = models.ForeignKey(
        "accounts.User", models.CASCADE, null=True, related_name="device_grants"
    )
    organization = models.ForeignKey(
        "accounts.Organization", models.CASCADE, null=True, related_name="device_grants"
    )
    created_at = models.DateTimeField(default=timezone.now, editable=False)
    expires_at = models.DateTimeField(db_index=True)
    interval = models.PositiveSmallIntegerField(help_text="Minimum seconds between two polls.")
    last_polled_at = models.DateTimeField(null=True)

    class Meta:
        constraints: ClassVar = [
            models.CheckConstraint(
                condition=Q(status__in=["pending", "approved", "denied", "used"]),
                name="device_grant_status_known",
            ),
            models.CheckConstraint(
                condition=~Q(status__in=["approved", "used"])
                | Q(user__isnull=False, organization__isnull=False),
                name="device_grant_approved_for_somebody",
            ),
        ]

    def __str__(self) -> str:
        return f"device sign-in of {self.client_name}"

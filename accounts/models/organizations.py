"""Invitations to organizations, and service accounts, with which programs act in an organization."""

from typing import Any, ClassVar

from django.db import models
from django.db.models import F, Q
from django.utils import timezone
from uuid_utils.compat import uuid7

from accounts.models.people import Membership


class InvitationQuerySet(models.QuerySet["Invitation"]):
    def visible_to(self, user: Any) -> "InvitationQuerySet":
        """Return the invitations to the user's organizations; with an API key, only those to the key's organization."""
        if not user.is_authenticated:
            return self.none()
        rows = self.filter(organization__memberships__user_id=user.pk)
        bound = getattr(user, "bound_organization_id", None)
        return rows.filter(organization_id=bound) if bound else rows

    def open(self) -> "InvitationQuerySet":
        """Return the invitations that can still be accepted."""
        return self.filter(revoked_at=None, expires_at__gt=timezone.now(), uses__lt=F("max_uses"))


class Invitation(models.Model):
    """A link by which users join an organization. Only an HMAC of its token is stored.

    With ``email``, only the user with that address can accept the invitation. ``scopes`` and ``made_with`` are the
    limits of the API key that created the invitation: they apply again when a user accepts the invitation.
    """

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    organization = models.ForeignKey(
        "accounts.Organization", models.CASCADE, related_name="invitations"
    )
    role = models.CharField(max_length=16, choices=Membership.Role, default=Membership.Role.MEMBER)
    email = models.EmailField(max_length=254, blank=True)
    digest = models.CharField(max_length=64, editable=False)
    pepper_id = models.CharField(max_length=16, editable=False)
    max_uses = models.PositiveIntegerField(default=1)
    uses = models.PositiveIntegerField(default=0)
    created_by = models.ForeignKey("accounts.User", models.SET_NULL, null=True)
    scopes = models.JSONField(
        null=True,
        blank=True,
        editable=False,
        help_text="The permissions of the API key that created the invitation; null for no limit.",
    )
    made_with = models.ForeignKey(
        "accounts.ApiKey",
        models.SET_NULL,
        null=True,
        blank=True,
        editable=False,
        db_index=False,
        related_name="invitations",
        help_text="The API key that created the invitation; empty for a browser session.",
    )
    created_at = models.DateTimeField(default=timezone.now, editable=False)
    expires_at = models.DateTimeField()
    revoked_at = models.DateTimeField(null=True, blank=True)

    objects = InvitationQuerySet.as_manager()

    class Meta:
        constraints: ClassVar = [
            models.CheckConstraint(
                condition=Q(uses__lte=F("max_uses")), name="invitation_uses_bounded"
            )
        ]
        indexes: ClassVar = [
            models.Index(
                fields=["made_with"],
                name="invitation_made_with",
                condition=Q(made_with__isnull=False),
            )
        ]

    def __str__(self) -> str:
        return f"invitation of {self.created_at:%Y-%m-%d %H:%M} as {self.role}"

    @property
    def is_open(self) -> bool:
        return (
            self.revoked_at is None
            and self.expires_at > timezone.now()
            and self.uses < self.max_uses
        )


class ServiceAccountQuerySet(models.QuerySet["ServiceAccount"]):
    def visible_to(self, user: Any) -> "ServiceAccountQuerySet":
        """Return the service accounts of the user's organizations; with an API key, only of its organization."""
        if not user.is_authenticated:
            return self.none()
        rows = self.filter(organization__memberships__user_id=user.pk)
        bound = getattr(user, "bound_organization_id", None)
        return rows.filter(organization_id=bound) if bound else rows


class ServiceAccount(models.Model):
    """An account for a program. It is a member of one organization, has API keys, and cannot sign in.

    The program acts as ``user``. The account stays when the person who created it leaves the organization.
    """

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    organization = models.ForeignKey(
        "accounts.Organization", models.CASCADE, related_name="service_accounts"
    )
    user = models.OneToOneField("accounts.User", models.CASCADE, related_name="service_account")
    name = models.CharField(max_length=80)
    created_by = models.ForeignKey(
        "accounts.User", models.SET_NULL, null=True, related_name="made_service_accounts"
    )
    created_at = models.DateTimeField(default=timezone.now, editable=False)
    revoked_at = models.DateTimeField(null=True, blank=True)

    objects = ServiceAccountQuerySet.as_manager()

    def __str__(self) -> str:
        return self.name

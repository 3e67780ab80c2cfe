"""How people and programs come into an organization: invitations and service accounts."""

from typing import Any, ClassVar

from django.db import models
from django.db.models import F, Q
from django.utils import timezone
from uuid_utils.compat import uuid7

from accounts.models.people import Membership


class InvitationQuerySet(models.QuerySet["Invitation"]):
    def visible_to(self, user: Any) -> "InvitationQuerySet":
        """Invitations of the organizations a user belongs to; a key sees only its own organization's."""
        if not user.is_authenticated:
            return self.none()
        found = self.filter(organization__memberships__user_id=user.pk)
        bound = getattr(user, "bound_organization_id", None)
        return found.filter(organization_id=bound) if bound else found

    def open(self) -> "InvitationQuerySet":
        """Invitations that still let somebody in."""
        return self.filter(revoked_at=None, expires_at__gt=timezone.now(), uses__lt=F("max_uses"))


class Invitation(models.Model):
    """A link that makes whoever opens it a member; only its HMAC is kept.

    With ``email``, only the user with that address may use it.
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
        """Service accounts of the organizations a user belongs to; a key sees only its own's."""
        if not user.is_authenticated:
            return self.none()
        found = self.filter(organization__memberships__user_id=user.pk)
        bound = getattr(user, "bound_organization_id", None)
        return found.filter(organization_id=bound) if bound else found


class ServiceAccount(models.Model):
    """A principal that is a program: a member of one organization, with keys and no way to sign in.

    ``user`` is what it acts as; it stays when the person who made it leaves.
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

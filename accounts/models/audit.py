"""The audit log: entries in hash chains, so that a later change or deletion of an entry is detected."""

from typing import Any, ClassVar
from uuid import UUID

from django.db import models
from django.utils import timezone

SITE = UUID(int=0)
"""The id of the chain for actions that belong to no organization."""


class AuditHead(models.Model):
    """The end of one audit chain: the number of entries in the chain and the hash of the last entry.

    Each writer locks this row, so that only one entry is appended at a time. ``seal`` is an HMAC with a token pepper,
    which is not in the database, so that an attacker who has only the database cannot rewrite the whole chain.
    """

    chain = models.UUIDField(primary_key=True, editable=False)
    count = models.PositiveBigIntegerField(default=0)
    hash = models.CharField(max_length=64, blank=True)
    seal = models.CharField(max_length=64, blank=True)
    pepper_id = models.CharField(max_length=16, blank=True)

    def __str__(self) -> str:
        return f"{self.chain}: {self.count}"


class AuditEntryQuerySet(models.QuerySet["AuditEntry"]):
    def visible_to(self, user: Any) -> "AuditEntryQuerySet":
        """Return the entries of all organizations in which the user has the permission ``audit.view``.

        With an API key, return only the entries of the key's organization.
        """
        from accounts.models.people import Membership
        from accounts.roles import ROLE_PERMISSIONS

        if not user.is_authenticated or not user.is_active:
            return self.none()
        roles = [role for role, names in ROLE_PERMISSIONS.items() if "audit.view" in names]
        readable = Membership.objects.filter(
            user_id=user.pk, role__in=roles, organization__suspended_at=None
        )
        if bound := getattr(user, "bound_organization_id", None):
            readable = readable.filter(organization_id=bound)
        return self.filter(chain__in=readable.values("organization_id"))


class AuditEntry(models.Model):
    """One recorded action. A database trigger rejects updates and deletions.

    An entry stays when its organization or user is deleted. ``chain`` is the organization's id, or ``SITE``.
    ``before`` and ``after`` contain the changed fields without secrets.
    """

    class Kind(models.TextChoices):
        PERSON = "person"
        KEY = "key"
        SERVICE_ACCOUNT = "service_account"
        COMMAND = "command"
        SYSTEM = "system"
        ANONYMOUS = "anonymous"

    id = models.UUIDField(primary_key=True, editable=False)
    chain = models.UUIDField(editable=False)
    position = models.PositiveBigIntegerField(editable=False)
    created_at = models.DateTimeField(default=timezone.now, editable=False)
    action = models.CharField(max_length=60)
    actor_kind = models.CharField(max_length=16, choices=Kind)
    actor_id = models.CharField(max_length=64, blank=True)
    actor_name = models.CharField(max_length=254, blank=True)
    subject_kind = models.CharField(max_length=40, blank=True)
    subject_id = models.CharField(max_length=64, blank=True)
    subject_name = models.CharField(max_length=254, blank=True)
    before = models.JSONField(default=dict)
    after = models.JSONField(default=dict)
    reason = models.TextField(blank=True)
    request_id = models.CharField(max_length=64, blank=True)
    address = models.CharField(max_length=45, blank=True)
    previous = models.CharField(max_length=64, blank=True, editable=False)
    hash = models.CharField(max_length=64, editable=False)

    objects = AuditEntryQuerySet.as_manager()

    class Meta:
        verbose_name_plural = "audit log"
        constraints: ClassVar = [
            models.UniqueConstraint(fields=["chain", "position"], name="audit_position_unique")
        ]
        # For the logs of an organization, of the whole site, of a subject and of an actor, newest first.
        indexes: ClassVar = [
            models.Index(fields=["chain", "-created_at"]),
            models.Index(fields=["-created_at"]),
            models.Index(fields=["subject_id", "-created_at"]),
            models.Index(fields=["actor_id", "-created_at"]),
        ]

    def __str__(self) -> str:
        return f"{self.created_at:%Y-%m-%d %H:%M:%S} {self.action}"

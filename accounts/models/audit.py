"""The audit log: entries in hash chains, so that a later change or deletion of an entry is detected."""

from datetime import UTC, datetime
from typing import Any, ClassVar, NamedTuple
from uuid import UUID

from django.db import models
from django.utils import timezone

SITE = UUID(int=0)
"""The id of the chain for actions that belong to no organization."""
EARLIEST, LATEST = datetime(1, 1, 2, tzinfo=UTC), datetime(9999, 12, 30, tzinfo=UTC)
PRIVATE_VALUES = {"conversation": ("title",)}
"""The values in ``before`` and ``after`` that auditors may not see, by the kind of the subject.

The names of such subjects are private too. Entries of former releases contain these values.
"""
PRIVATE_FOR_STAFF = PRIVATE_VALUES | {"customsecret": ("name", "description")}
"""The values that staff on the admin site may not see, because staff reach the entries of every organization."""
HIDDEN = "(not shown)"


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


class AuditMark(models.Model):
    """The highest position that a chain ever reached. A database trigger copies it from each version of the head.

    A head that was replaced by an older version, with its valid seal, is lower than the mark.
    """

    chain = models.UUIDField(primary_key=True, editable=False)
    count = models.PositiveBigIntegerField(default=0)

    def __str__(self) -> str:
        return f"{self.chain}: {self.count}"


class AuditGap(models.Model):
    """Positions of a chain that somebody occupied behind its head, so that the chain continues after them.

    Their rows are no entries of the log: readers do not see them, and ``verify_audit_chain`` reports them. ``seal``
    is an HMAC like the seal of a head.
    """

    chain = models.UUIDField(editable=False, db_index=True)
    first = models.PositiveBigIntegerField(editable=False)
    last = models.PositiveBigIntegerField(editable=False)
    seal = models.CharField(max_length=64)
    pepper_id = models.CharField(max_length=16)

    def __str__(self) -> str:
        return f"{self.chain}: {self.first} to {self.last}"


class ShownEntry(NamedTuple):
    """The parts of an entry that may contain private content, without it."""

    subject_name: str
    before: Any
    after: Any


class AuditEntryQuerySet(models.QuerySet["AuditEntry"]):
    def readable(self) -> "AuditEntryQuerySet":
        """Return the rows that belong to the log: up to the head of their chain, and outside all gaps.

        Other rows were inserted by somebody who can write to the database. Rows with times outside the years 1 to 9999,
        which Python cannot represent, are left out too. ``verify_audit_chain`` reports all these rows.
        """
        heads = AuditHead.objects.filter(
            chain=models.OuterRef("chain"), count__gte=models.OuterRef("position")
        )
        gaps = AuditGap.objects.filter(
            chain=models.OuterRef("chain"),
            first__lte=models.OuterRef("position"),
            last__gte=models.OuterRef("position"),
        )
        return self.filter(
            models.Exists(heads), ~models.Exists(gaps), created_at__range=(EARLIEST, LATEST)
        )

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
        return self.readable().filter(chain__in=readable.values("organization_id"))


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

    def show(self, *, to_staff: bool = False) -> "ShownEntry":
        """Return the name of the subject and the values without private content, for auditors or for staff."""
        private = (PRIVATE_FOR_STAFF if to_staff else PRIVATE_VALUES).get(self.subject_kind)
        if private is None:
            return ShownEntry(self.subject_name, self.before, self.after)
        before, after = (
            {k: HIDDEN if k in private else v for k, v in values.items()}
            if isinstance(values, dict)
            else HIDDEN
            for values in (self.before, self.after)
        )
        return ShownEntry(f"{self.subject_kind} {self.subject_id}", before, after)

    @property
    def shown(self) -> "ShownEntry":
        """The parts of the entry that auditors see."""
        return self.show()

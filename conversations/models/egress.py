"""Network profiles: policies of organizations, rules of conversations, and decisions of sandboxes' proxies."""

from typing import Any, ClassVar

from django.db import models
from django.utils import timezone
from uuid_utils.compat import uuid7

from accounts.models import Membership
from accounts.roles import ROLE_PERMISSIONS
from conversations.models.conversation import Conversation


class EgressPolicyQuerySet(models.QuerySet["EgressPolicy"]):
    def visible_to(self, user: Any) -> "EgressPolicyQuerySet":
        """Return the policies of the user's organizations. With an API key, only that of the key's organization."""
        return self.filter(organization__in=_organizations(user, "organization.view"))


class EgressPolicy(models.Model):
    """The network profile and the hosts that an organization sets for the sandboxes of all its conversations.

    Without a row, the site's profile applies.
    """

    class Profile(models.TextChoices):
        """The profiles, with the values of ``conversations.sandboxes.egress.policy.Profile``."""

        PUBLIC = "public", "Any public host"
        LIST = "list", "Only listed hosts"
        NONE = "none", "No hosts"
        OPEN = "open", "Full network"

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    organization = models.OneToOneField(
        "accounts.Organization", models.CASCADE, related_name="egress_policy"
    )
    profile = models.CharField(
        max_length=8,
        choices=Profile,
        blank=True,
        help_text="Empty means the site's profile (SANDBOX_EGRESS).",
    )
    hosts = models.JSONField(
        default=list,
        blank=True,
        help_text="A list of host names and patterns that the profile “list” allows.",
    )
    updated_by = models.ForeignKey(
        "accounts.User", models.SET_NULL, null=True, blank=True, related_name="+"
    )
    updated_at = models.DateTimeField(default=timezone.now)

    objects = EgressPolicyQuerySet.as_manager()

    class Meta:
        verbose_name_plural = "egress policies"

    def __str__(self) -> str:
        return self.profile or "the site's profile"


class HostRule(models.Model):
    """A person's decision that the sandbox of one conversation may or may not reach a host or a pattern of hosts."""

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    organization = models.ForeignKey("accounts.Organization", models.CASCADE)
    conversation = models.ForeignKey(
        Conversation, models.CASCADE, related_name="host_rules", db_index=False
    )
    host = models.CharField(max_length=255)
    allowed = models.BooleanField()
    decided_by = models.ForeignKey(
        "accounts.User", models.SET_NULL, null=True, blank=True, related_name="+"
    )
    decided_at = models.DateTimeField(default=timezone.now)

    class Meta:
        constraints: ClassVar = [
            models.UniqueConstraint(fields=["conversation", "host"], name="host_rule_unique")
        ]

    def __str__(self) -> str:
        return f"{'allow' if self.allowed else 'refuse'} {self.host}"


class EgressDecisionQuerySet(models.QuerySet["EgressDecision"]):
    def auditable_by(self, user: Any) -> "EgressDecisionQuerySet":
        """Return the decisions in all organizations in which the user may read the audit log.

        They include the decisions in conversations that the user may not see. With an API key, return only the
        decisions in the key's organization.
        """
        return self.filter(organization__in=_organizations(user, "audit.view"))


class EgressDecision(models.Model):
    """A decision of a sandbox's proxy about a connection to a host, or several equal decisions within one second.

    A row is deleted only together with its conversation.
    """

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    organization = models.ForeignKey("accounts.Organization", models.CASCADE, db_index=False)
    conversation = models.ForeignKey(
        Conversation, models.CASCADE, related_name="egress_decisions", db_index=False
    )
    at = models.DateTimeField(help_text="The time of the first of the equal decisions.")
    host = models.CharField(max_length=255)
    port = models.PositiveIntegerField()
    address = models.CharField(
        max_length=45, blank=True, help_text="The address that was dialled. Empty after a refusal."
    )
    allowed = models.BooleanField()
    reason = models.CharField(
        max_length=20, help_text="A value of conversations.sandboxes.egress.policy.Reason."
    )
    protocol = models.CharField(max_length=8)
    count = models.PositiveIntegerField(
        default=1, help_text="The number of equal decisions within one second."
    )

    objects = EgressDecisionQuerySet.as_manager()

    class Meta:
        # For the newest decisions of a conversation and of an organization, and for the decisions about one host.
        indexes: ClassVar = [
            models.Index(fields=["conversation", "-at", "-id"]),
            models.Index(fields=["conversation", "host"]),
            models.Index(fields=["organization", "-at", "-id"]),
            models.Index(fields=["organization", "host", "-at"]),
        ]

    def __str__(self) -> str:
        return f"{'allowed' if self.allowed else 'refused'} {self.host}:{self.port}"


def _organizations(user: Any, permission: str) -> Any:
    """Return the ids of the organizations in which the role of a user includes a permission, as a subquery."""
    rows = Membership.objects.none()
    if user.is_authenticated and user.is_active:
        roles = [role for role, names in ROLE_PERMISSIONS.items() if permission in names]
        rows = Membership.objects.filter(
            user_id=user.pk, role__in=roles, organization__suspended_at=None
        )
        if bound := getattr(user, "bound_organization_id", None):
            rows = rows.filter(organization_id=bound)
    return rows.values("organization_id")

"""Model calls, and their sums per conversation."""

from typing import Any, ClassVar

from django.db import models
from django.db.models import Count, Q, Sum
from django.db.models.functions import Coalesce
from django.utils import timezone
from uuid_utils.compat import uuid7

from accounts.models import Membership
from accounts.permissions import granted_permissions
from accounts.roles import ROLE_PERMISSIONS

SUMMED = ("prompt_tokens", "completion_tokens", "cached_tokens", "cost_micros")
"""The columns of model calls that are summed. ``cost_micros`` is in micro-dollars."""
ERROR_MAX = 1_000
"""The maximum length of a call's error message in characters."""
_SUMS: dict[str, Any] = {name: Coalesce(Sum(name), 0) for name in SUMMED}


def organizations_with(user: Any, permission: str) -> models.QuerySet[Membership, Any]:
    """Return the ids of the organizations in which a user has a permission.

    If the request's API key is bound to an organization, return at most this organization.
    """
    roles = [role for role in ROLE_PERMISSIONS if permission in granted_permissions(role, user)]
    rows = Membership.objects.filter(
        user_id=user.pk, role__in=roles, organization__suspended_at=None
    )
    if bound := getattr(user, "bound_organization_id", None):
        rows = rows.filter(organization_id=bound)
    return rows.values("organization_id")


class ModelCallQuerySet(models.QuerySet["ModelCall"]):
    def visible_to(self, user: Any) -> "ModelCallQuerySet":
        """Return the calls that a user can see.

        With ``usage.view`` in an organization, a user sees the calls that the user made there. With
        ``usage.view_all``, a user sees the calls of all members.
        """
        if not user.is_authenticated or not user.is_active:
            return self.none()
        return self.filter(
            Q(organization__in=organizations_with(user, "usage.view_all"))
            | Q(organization__in=organizations_with(user, "usage.view"), user_id=user.pk)
        )

    def totals(self) -> dict[str, int]:
        """Return the number of calls, and the sums of their tokens and of their cost in micro-dollars."""
        return self.aggregate(calls=Count("pk"), **_SUMS)

    def totals_by(self, column: str) -> models.QuerySet[Any, dict[str, Any]]:
        """Return one dict for each value of a column: the value and the keys of ``totals()``, in no fixed order."""
        # order_by() removes an earlier order, whose columns would otherwise become part of GROUP BY.
        rows: models.QuerySet[Any, dict[str, Any]] = self.order_by().values(column)
        groups: models.QuerySet[Any, dict[str, Any]] = rows.annotate(calls=Count("pk"), **_SUMS)
        return groups


class ModelCall(models.Model):
    """One model call through the gateway, with its tokens and cost. Rows are append-only."""

    class Outcome(models.TextChoices):
        ANSWERED = "answered"
        FAILED = "failed"
        ABANDONED = "abandoned", "Abandoned by the caller"

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    organization = models.ForeignKey("accounts.Organization", models.CASCADE)
    user = models.ForeignKey("accounts.User", models.CASCADE)
    conversation_id = models.UUIDField()
    model = models.CharField(max_length=200)
    upstream = models.CharField(
        max_length=500, help_text="Base URL of the model server, or `demo`."
    )
    outcome = models.CharField(max_length=16, choices=Outcome)
    status = models.PositiveSmallIntegerField(
        help_text="HTTP status of the response to the caller."
    )
    prompt_tokens = models.PositiveIntegerField(default=0)
    completion_tokens = models.PositiveIntegerField(default=0)
    cached_tokens = models.PositiveIntegerField(default=0)
    cost_micros = models.PositiveBigIntegerField(default=0)
    seconds = models.FloatField(default=0)
    error = models.CharField(
        max_length=ERROR_MAX,
        default="",
        db_default="",
        blank=True,
        help_text="Message of a failed call, without secrets.",
    )
    created_at = models.DateTimeField(default=timezone.now, editable=False)

    objects = ModelCallQuerySet.as_manager()

    class Meta:
        indexes: ClassVar = [
            models.Index(fields=["conversation_id", "created_at"]),
            models.Index(fields=["organization", "created_at"]),
            models.Index(fields=["organization", "user", "created_at"]),
        ]

    def __str__(self) -> str:
        return f"{self.model} {self.created_at:%Y-%m-%d %H:%M:%S}"


class ConversationUsageQuerySet(models.QuerySet["ConversationUsage"]):
    def visible_to(self, user: Any) -> "ConversationUsageQuerySet":
        """Return the sums that a user can see.

        With ``usage.view`` in an organization, a user sees the conversations in which the user made calls. With
        ``usage.view_all``, a user sees all conversations. All calls in a conversation are made by the user who
        started the conversation.
        """
        if not user.is_authenticated or not user.is_active:
            return self.none()
        own = ModelCall.objects.filter(
            conversation_id=models.OuterRef("conversation_id"), user_id=user.pk
        )
        return self.filter(
            Q(organization__in=organizations_with(user, "usage.view_all"))
            | Q(models.Exists(own), organization__in=organizations_with(user, "usage.view"))
        )

    def totals(self) -> dict[str, int]:
        """Return the number of calls, and the sums of their tokens and of their cost in micro-dollars."""
        return self.aggregate(calls=Coalesce(Sum("calls"), 0), **_SUMS)


class ConversationUsage(models.Model):
    """The sums of a conversation's model calls, updated in the transaction that records each call."""

    conversation_id = models.UUIDField(primary_key=True)
    organization = models.ForeignKey("accounts.Organization", models.CASCADE)
    calls = models.PositiveIntegerField(default=0)
    prompt_tokens = models.PositiveBigIntegerField(default=0)
    completion_tokens = models.PositiveBigIntegerField(default=0)
    cached_tokens = models.PositiveBigIntegerField(default=0)
    cost_micros = models.PositiveBigIntegerField(default=0)

    objects = ConversationUsageQuerySet.as_manager()

    class Meta:
        verbose_name_plural = "conversation usage"
        indexes: ClassVar = [models.Index(fields=["organization", "conversation_id"])]

    def __str__(self) -> str:
        return f"usage of {self.conversation_id}"

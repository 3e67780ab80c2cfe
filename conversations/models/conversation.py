"""Conversations, each the head of an event log."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from django.contrib.postgres.fields import ArrayField
from django.db import connection, models
from django.utils import timezone
from uuid_utils.compat import uuid7

from accounts.models import Membership
from accounts.roles import ROLE_PERMISSIONS
from conversations.models.append import NewEvent, append_locked

if TYPE_CHECKING:
    from conversations.models.event import Event


class ConversationQuerySet(models.QuerySet["Conversation"]):
    def visible_to(self, user: Any) -> "ConversationQuerySet":
        """The only door to conversations for code that acts on a user's behalf.

        A user sees, in the organizations the user belongs to, what the user started and what is shared
        with the organization.
        """
        if not user.is_authenticated or not user.is_active:
            return self.none()
        found = self.filter(
            models.Q(created_by_id=user.pk)
            | models.Q(visibility=Conversation.Visibility.ORGANIZATION),
            organization__memberships__user_id=user.pk,
            organization__suspended_at=None,
            deleted_at=None,
        )
        if bound := getattr(user, "bound_organization_id", None):
            found = found.filter(organization_id=bound)
        if only := getattr(user, "bound_conversation_id", None):
            found = found.filter(pk=only)
        return found

    def readable_by(self, user: Any) -> "ConversationQuerySet":
        """Those of ``visible_to`` whose log the user may read: some roles see only that a shared one is there."""
        roles = [r for r, names in ROLE_PERMISSIONS.items() if "conversations.view" in names]
        readers = Membership.objects.filter(user_id=user.pk, role__in=roles)
        return self.visible_to(user).filter(organization__in=readers.values("organization_id"))


class Conversation(models.Model):
    """One person's work with one agent, and the head of its event log."""

    class Status(models.TextChoices):
        """The state of the place the agent works in."""

        STARTING = "starting"
        RUNNING = "running"
        PAUSED = "paused"
        STOPPED = "stopped"
        FAILED = "failed"

    class ExecutionStatus(models.TextChoices):
        """What the agent is doing, in the engine's words."""

        IDLE = "idle"
        RUNNING = "running"
        PAUSED = "paused"
        WAITING_FOR_CONFIRMATION = "waiting_for_confirmation"
        FINISHED = "finished"
        ERROR = "error"
        STUCK = "stuck"

    class Visibility(models.TextChoices):
        PRIVATE = "private"
        ORGANIZATION = "organization"

    class Trigger(models.TextChoices):
        """What asked for it, in the words of existing clients."""

        GUI = "gui"
        API = "openhands_api", "API"
        RESOLVER = "resolver"
        SUGGESTED_TASK = "suggested_task"
        MICROAGENT_MANAGEMENT = "microagent_management"
        SLACK = "slack"
        JIRA = "jira"
        JIRA_DC = "jira_dc"
        LINEAR = "linear"
        BITBUCKET = "bitbucket"

    class WireVersion(models.TextChoices):
        """The protocol that existing clients follow it by; both read the same log."""

        V0 = "V0", "V0 (Socket.IO)"
        V1 = "V1", "V1 (WebSocket)"

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    organization = models.ForeignKey("accounts.Organization", models.CASCADE)
    created_by = models.ForeignKey("accounts.User", models.CASCADE, related_name="conversations")
    title = models.CharField(max_length=200)
    visibility = models.CharField(max_length=16, choices=Visibility, default=Visibility.PRIVATE)
    status = models.CharField(max_length=16, choices=Status, default=Status.STARTING)
    execution_status = models.CharField(
        max_length=32, choices=ExecutionStatus, default=ExecutionStatus.IDLE
    )
    status_detail = models.TextField(
        blank=True, help_text="Why it failed, stopped or waits; a sentence for its owner."
    )
    model = models.CharField(max_length=200)
    repository = models.JSONField(null=True, blank=True)
    confirmation_policy = models.CharField(
        max_length=8,
        choices=[("never", "Never ask"), ("always", "Always ask"), ("risky", "Ask when risky")],
        default="never",
    )
    security_analyzer = models.CharField(
        max_length=40,
        blank=True,
        help_text="Who judges the risk of actions: llm, or none; empty for the usual one (llm).",
    )
    trigger = models.CharField(max_length=32, choices=Trigger, default=Trigger.GUI)
    wire_version = models.CharField(
        max_length=2, choices=WireVersion, default=WireVersion.V1, editable=False
    )
    parent = models.ForeignKey(
        "self", models.SET_NULL, null=True, blank=True, related_name="children"
    )
    forked_seq = models.PositiveBigIntegerField(
        null=True,
        editable=False,
        help_text="How many events of the parent's log this one began with.",
    )
    pull_requests = models.JSONField(
        default=list, blank=True, help_text="Numbers of the pull requests that came of it."
    )
    tags = ArrayField(models.CharField(max_length=50), default=list, blank=True)
    archived_at = models.DateTimeField(null=True, blank=True)
    is_external = models.BooleanField(
        default=False,
        editable=False,
        help_text="Its agent runs elsewhere and publishes its events; nothing can be asked of it here.",
    )
    sandbox = models.OneToOneField(
        "conversations.Sandbox", models.SET_NULL, null=True, blank=True, related_name="conversation"
    )
    last_seq = models.PositiveBigIntegerField(default=0, editable=False)
    pruned_seq = models.PositiveBigIntegerField(
        default=0,
        editable=False,
        help_text="Events up to here are no longer kept; readers behind it are reset.",
    )
    epoch = models.PositiveIntegerField(
        default=1, help_text="Raised when the log was restored: cursors of before mean nothing."
    )
    engine_seq = models.BigIntegerField(
        default=-1, editable=False, help_text="Index of the newest engine event in this log."
    )
    asked_seq = models.PositiveBigIntegerField(
        null=True,
        editable=False,
        help_text="Where in the log the open question to confirm was asked.",
    )
    asked_in_run = models.PositiveIntegerField(
        null=True, editable=False, help_text="The sandbox's run in which it was asked."
    )
    key_generation = models.PositiveIntegerField(
        default=1, editable=False, help_text="Raised to end every key to this conversation."
    )
    idempotency_key = models.CharField(max_length=255, null=True, blank=True, editable=False)
    idempotency_digest = models.CharField(max_length=64, blank=True, editable=False)
    created_at = models.DateTimeField(default=timezone.now, editable=False)
    updated_at = models.DateTimeField(default=timezone.now)
    deleted_at = models.DateTimeField(null=True, blank=True)

    objects = ConversationQuerySet.as_manager()

    class Meta:
        constraints: ClassVar = [
            models.UniqueConstraint(
                fields=["created_by", "idempotency_key"],
                condition=models.Q(idempotency_key__isnull=False),
                name="conversation_idempotency",
            )
        ]
        indexes: ClassVar = [
            models.Index(fields=["organization", "-created_at", "-id"]),
            models.Index(fields=["created_by", "-created_at", "-id"]),
            # A list takes the newest of each organization from these two, however many there are.
            models.Index(
                fields=["organization", "created_by", "-created_at", "-id"],
                condition=models.Q(deleted_at=None, archived_at=None),
                name="conversation_own_newest",
            ),
            models.Index(
                fields=["organization", "-created_at", "-id"],
                condition=models.Q(deleted_at=None, archived_at=None, visibility="organization"),
                name="conversation_shared_newest",
            ),
            models.Index(
                fields=["status"], condition=models.Q(deleted_at=None), name="live_status"
            ),
        ]

    def __str__(self) -> str:
        return self.title

    def append(self, *news: NewEvent, also_save: Sequence[str] = ()) -> list["Event"]:
        """Add events at the end of the log. The caller holds this row's lock: seq follows commit order.

        ``also_save`` names further changed fields of this row, to be written by the same statement.
        """
        events = [
            self.events.model(
                conversation=self,
                organization_id=self.organization_id,
                event_id=new.event_id,
                kind=new.kind,
                source=new.source,
                payload=new.payload,
                engine_seq=new.engine_seq,
                engine_time=new.engine_time,
            )
            for new in news
        ]
        ids = self.append_rows(news, also_save=also_save)
        first = self.last_seq - len(news) + 1
        for place, (event, pk) in enumerate(zip(events, ids, strict=True)):
            event.pk, event.seq, event.received_at = pk, first + place, self.updated_at
        return events

    def append_rows(
        self, news: Sequence[NewEvent], *, also_save: Sequence[str] = ()
    ) -> Sequence[int]:
        """Add events like ``append``, without an object each; return their primary keys."""
        fields: list[Any] = [self._meta.get_field(name) for name in also_save]
        values = {
            f.column: f.get_db_prep_save(getattr(self, f.attname), connection) for f in fields
        }
        self.updated_at = timezone.now()
        appended = append_locked(self.pk, news, at=self.updated_at, values=values)
        if appended is None:
            raise Conversation.DoesNotExist(f"{self.pk} is gone")
        self.last_seq, ids = appended
        return ids


BUSY_STATUSES = (
    Conversation.ExecutionStatus.RUNNING,
    Conversation.ExecutionStatus.WAITING_FOR_CONFIRMATION,
)
"""What an agent is doing that is at work, or waits for an answer to its question."""

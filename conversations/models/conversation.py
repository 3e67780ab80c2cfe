"""The conversation model. Its row is the head of an event log."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from django.contrib.postgres.fields import ArrayField
from django.db import connection, models
from django.utils import timezone
from uuid_utils.compat import uuid7

from accounts.roles import ADMINISTER, DISPOSING, ROLE_PERMISSIONS, STEERING, STOP
from accounts.settings.choices import ConfirmationPolicy
from conversations.models.append import NewEvent, append_locked

if TYPE_CHECKING:
    from conversations.models.event import Event


READERS = sorted(
    str(role) for role, names in ROLE_PERMISSIONS.items() if "conversations.view" in names
)
"""The roles whose members may read conversations."""


class ConversationQuerySet(models.QuerySet["Conversation"]):
    def visible_to(self, user: Any) -> "ConversationQuerySet":
        """Return the conversations that a user may see. Code that acts for a user must read only these.

        In each of their organizations whose conversations their role may read, users see the conversations that they
        created and the conversations that are shared with the organization. Billing contacts and auditors see none, in
        lists as in details: titles, statuses and models belong to the work. A key that is bound to an organization or a
        conversation limits the result further.
        """
        if not user.is_authenticated or not user.is_active:
            return self.none()
        visible = self.filter(
            models.Q(created_by_id=user.pk)
            | models.Q(visibility=Conversation.Visibility.ORGANIZATION),
            organization__memberships__user_id=user.pk,
            organization__memberships__role__in=READERS,
            organization__suspended_at=None,
            deleted_at=None,
        )
        if organization_id := getattr(user, "bound_organization_id", None):
            visible = visible.filter(organization_id=organization_id)
        if conversation_id := getattr(user, "bound_conversation_id", None):
            visible = visible.filter(pk=conversation_id)
        return visible


class Conversation(models.Model):
    """A user's work with an agent, and the head of its event log."""

    class Status(models.TextChoices):
        """The state of the agent's sandbox."""

        STARTING = "starting"
        RUNNING = "running"
        PAUSED = "paused"
        STOPPED = "stopped"
        FAILED = "failed"

    class ExecutionStatus(models.TextChoices):
        """The state of the agent, with the engine's own values."""

        IDLE = "idle"
        RUNNING = "running"
        PAUSED = "paused"
        WAITING_FOR_CONFIRMATION = "waiting_for_confirmation"
        FINISHED = "finished"
        ERROR = "error"
        STUCK = "stuck"

    BUSY = (ExecutionStatus.RUNNING, ExecutionStatus.WAITING_FOR_CONFIRMATION)
    """The states in which the agent works, or waits for an answer before it continues."""

    class Visibility(models.TextChoices):
        PRIVATE = "private"
        ORGANIZATION = "organization"

    class Lender(models.TextChoices):
        """The lender of the secrets, Git token, MCP servers, search key and model of a run."""

        CREATOR = "creator"
        ORGANIZATION = "organization"

    class Trigger(models.TextChoices):
        """The origin of the conversation, with the values that existing clients use."""

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
        """The OpenHands protocol with which clients follow the conversation. Both protocols read the same log."""

        V0 = "V0", "V0 (Socket.IO)"
        V1 = "V1", "V1 (WebSocket)"

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    organization = models.ForeignKey("accounts.Organization", models.CASCADE)
    created_by = models.ForeignKey("accounts.User", models.CASCADE, related_name="conversations")
    title = models.CharField(max_length=200)
    visibility = models.CharField(max_length=16, choices=Visibility, default=Visibility.PRIVATE)
    others_may_steer = models.BooleanField(
        default=False,
        db_default=False,
        help_text="Whether members who can read the conversation may also steer its agent. Without this, sharing is "
        "read-only.",
    )
    lends_personal = models.BooleanField(
        default=False,
        db_default=False,
        help_text="Whether the creator agreed that the run uses the creator's own secrets, Git token, MCP servers and "
        "model although others steer or steered it.",
    )
    steered_by_others = models.BooleanField(
        default=False,
        db_default=False,
        editable=False,
        help_text="Whether another member has sent a message, an answer or a file to the run.",
    )
    status = models.CharField(max_length=16, choices=Status, default=Status.STARTING)
    execution_status = models.CharField(
        max_length=32, choices=ExecutionStatus, default=ExecutionStatus.IDLE
    )
    status_detail = models.TextField(
        blank=True,
        help_text="A sentence for the owner that says why the conversation failed, stopped or waits.",
    )
    model = models.CharField(max_length=200)
    repository = models.JSONField(null=True, blank=True)
    confirmation_policy = models.CharField(
        max_length=8, choices=ConfirmationPolicy, default=ConfirmationPolicy.NEVER
    )
    security_analyzer = models.CharField(
        max_length=40,
        blank=True,
        help_text="The analyzer that rates the risk of actions: llm, pattern or none. Empty means llm.",
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
        help_text="The number of events copied from the parent's log.",
    )
    pull_requests = models.JSONField(
        default=list,
        blank=True,
        help_text="The numbers of the pull requests that were opened from the conversation.",
    )
    tags = ArrayField(models.CharField(max_length=50), default=list, blank=True)
    start_options = models.JSONField(
        null=True,
        blank=True,
        editable=False,
        help_text="The options that a program set when it created the conversation: max_iterations, tags and tools.",
    )
    archived_at = models.DateTimeField(null=True, blank=True)
    is_external = models.BooleanField(
        default=False,
        editable=False,
        help_text="Whether another program runs the agent and publishes its events. Such a conversation is read-only.",
    )
    sandbox = models.OneToOneField(
        "conversations.Sandbox", models.SET_NULL, null=True, blank=True, related_name="conversation"
    )
    last_seq = models.PositiveBigIntegerField(default=0, editable=False)
    pruned_seq = models.PositiveBigIntegerField(
        default=0,
        editable=False,
        help_text="Events up to this seq were removed. Readers with an older cursor must read the log again.",
    )
    epoch = models.PositiveIntegerField(
        default=1,
        help_text="A number that is raised when the log is restored from a backup, to make earlier cursors invalid.",
    )
    engine_seq = models.BigIntegerField(
        default=-1,
        editable=False,
        help_text="The index of the newest engine event in this log. The first index is 0; -1 means no event.",
    )
    asked_seq = models.PositiveBigIntegerField(
        null=True,
        editable=False,
        help_text="The seq of the event that asked the open confirmation question.",
    )
    asked_in_run = models.PositiveIntegerField(
        null=True,
        editable=False,
        help_text="The number of the sandbox run in which the open question was asked.",
    )
    key_generation = models.PositiveIntegerField(
        default=1,
        editable=False,
        help_text="A number that is raised to revoke all keys to this conversation.",
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
            # `log.lookups` reads the newest conversations of each organization from these two partial indexes,
            # so the cost of a list does not depend on how many conversations there are.
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
            # `log.summaries` lists archived conversations too, and reads them from these two.
            models.Index(
                fields=["organization", "created_by", "-created_at", "-id"],
                condition=models.Q(deleted_at=None, archived_at__isnull=False),
                name="conversation_own_archived",
            ),
            models.Index(
                fields=["organization", "-created_at", "-id"],
                condition=models.Q(
                    deleted_at=None, archived_at__isnull=False, visibility="organization"
                ),
                name="conversation_shared_archived",
            ),
            models.Index(
                fields=["status"], condition=models.Q(deleted_at=None), name="live_status"
            ),
        ]

    def __str__(self) -> str:
        # Not the title, which is private: admin pages, the audit log and error messages show this text.
        return f"conversation {self.pk}"

    @property
    def may_ask(self) -> bool:
        """Whether the agent may stop and ask for confirmation before it acts."""
        return self.confirmation_policy != ConfirmationPolicy.NEVER

    @property
    def others_steer(self) -> bool:
        """Whether other members than the creator may steer the agent now."""
        return self.others_may_steer and self.visibility == self.Visibility.ORGANIZATION

    @property
    def lender(self) -> str:
        """The lender of the run's secrets, Git token, MCP servers, search key and model: a value of ``Lender``.

        The creator's, unless others may steer the agent or have steered it (their messages stay in the agent's context,
        and their files in its workspace) and the creator has not agreed to lend them (ADR 20).
        """
        return find_lender(self)

    def may_drive(self, user: Any) -> bool:
        """Return whether the creator lets this member steer. The member's role counts too: see ``permissions_on``."""
        return self.created_by_id == user.pk or self.others_steer

    def limit_permissions(self, user: Any, granted: frozenset[str]) -> frozenset[str]:
        """Return the permissions that a user has on this conversation, of those ``granted`` in its organization.

        Only the creator, and members if others may steer, change or drive the run. Only the creator and
        administrators of the organization (``conversations.administer``) delete it. Administrators may also stop the
        agent.
        """
        limited = granted if self.may_drive(user) else granted - STEERING
        is_administrator = ADMINISTER in granted
        if self.created_by_id != user.pk and not is_administrator:
            limited -= DISPOSING
        if "conversations.steer" in limited or is_administrator:
            limited |= {STOP}
        return limited

    def explain_limit(self, permission: str) -> str:
        """Return why a member lacks a permission on this conversation that the member has in the organization."""
        if permission in DISPOSING:
            return "Only the creator of this conversation and administrators of the organization can do this."
        return (
            "This conversation is shared with you read-only. Ask its creator to choose “Others may steer” under "
            "Sharing, or fork it and continue in your own conversation."
        )

    def append(self, *news: NewEvent, also_save: Sequence[str] = ()) -> list["Event"]:
        """Append events to the log and return them. ``also_save`` names other changed fields of this row to save.

        The caller holds this row's lock, so the order of ``seq`` is the order of commits.
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
        """Append events like ``append``, but return only their primary keys, without creating model instances."""
        # The values as the ORM would write them, by the name of the database column.
        fields: list[Any] = [self._meta.get_field(name) for name in also_save]
        values = {
            f.column: f.get_db_prep_save(getattr(self, f.attname), connection) for f in fields
        }
        self.updated_at = timezone.now()
        appended = append_locked(self.pk, news, at=self.updated_at, values=values)
        if appended is None:
            raise Conversation.DoesNotExist(f"conversation {self.pk} does not exist")
        self.last_seq, ids = appended
        return ids


def find_lender(row: Any) -> str:
    """Return the ``lender`` of a conversation, which may also be a named tuple with the columns of the model."""
    is_shared = row.visibility == Conversation.Visibility.ORGANIZATION
    was_steered = row.steered_by_others or (row.others_may_steer and is_shared)
    if was_steered and not row.lends_personal:
        return Conversation.Lender.ORGANIZATION.value
    return Conversation.Lender.CREATOR.value

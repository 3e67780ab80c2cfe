"""Conversations and what makes them run: the event log, messages on their way, sandboxes, starts, leases."""

from collections.abc import Sequence
from datetime import datetime
from functools import lru_cache
from typing import Any, ClassVar

import msgspec
import orjson
from django.contrib.postgres.fields import ArrayField
from django.db import connection, models
from django.utils import timezone
from uuid_utils.compat import uuid7

from lib import crypto, prepared


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
        from accounts.models import Membership
        from accounts.roles import ROLE_PERMISSIONS

        roles = [r for r, names in ROLE_PERMISSIONS.items() if "conversations.view" in names]
        readers = Membership.objects.filter(user_id=user.pk, role__in=roles)
        return self.visible_to(user).filter(organization__in=readers.values("organization_id"))


class NewEvent(msgspec.Struct, frozen=True):
    """An event that is about to get its place in a log. ``payload`` is JSON text, kept as it came."""

    event_id: str
    kind: str
    source: str
    payload: str
    engine_seq: int | None = None
    engine_time: datetime | None = None


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
        ids = self.append_rows(news, also_save=also_save)
        first = self.last_seq - len(news) + 1
        return [
            Event(
                id=pk,
                conversation=self,
                organization_id=self.organization_id,
                seq=seq,
                event_id=new.event_id,
                kind=new.kind,
                source=new.source,
                payload=new.payload,
                engine_seq=new.engine_seq,
                engine_time=new.engine_time,
                received_at=self.updated_at,
            )
            for (seq, new), pk in zip(enumerate(news, start=first), ids, strict=True)
        ]

    def append_rows(
        self, news: Sequence[NewEvent], *, also_save: Sequence[str] = ()
    ) -> Sequence[int]:
        """The same for many, in one statement and without an object each; gives their primary keys."""
        self.updated_at = timezone.now()
        fields: list[Any] = [self._meta.get_field(name) for name in also_save]
        values = [f.get_db_prep_save(getattr(self, f.attname), connection) for f in fields]
        statement = appending(tuple(field.column for field in fields))
        columns = columns_of(news)
        rows = prepared.fetch(
            statement, [self.pk, len(news), self.updated_at, *values, self.updated_at, *columns]
        )
        if not rows:
            raise Conversation.DoesNotExist(f"{self.pk} is gone")
        [(self.last_seq, ids)] = rows
        return ids or ()


ADDING = """
added AS (
    INSERT INTO conversations_event (organization_id, conversation_id, seq, event_id, kind, source,
        payload, engine_seq, engine_time, received_at)
    SELECT moved.organization_id, moved.id, moved.last_seq - moved.news + new.place, new.event_id,
        new.kind, new.source, new.payload, new.engine_seq, new.engine_time, %s
    FROM moved, unnest(%b::text[], %b::text[], %b::text[], %b::text[], %b::bigint[], %b::timestamptz[])
        WITH ORDINALITY AS new (event_id, kind, source, payload, engine_seq, engine_time, place)
    RETURNING id, seq
)"""
"""The rows of a batch, by one array a column. Its parameters: the time, then ``columns_of``."""


@lru_cache(maxsize=32)
def appending(columns: tuple[str, ...]) -> str:
    """Moves the counter (and writes further columns) and adds the rows; gives ``last_seq`` and their ids."""
    further = "".join(f", {column} = %s" for column in columns)
    return f"""
WITH news AS (SELECT %s::uuid AS id, %s::bigint AS count, %s::timestamptz AS at),
moved AS (
    UPDATE conversations_conversation AS c
    SET last_seq = c.last_seq + news.count, updated_at = news.at{further}
    FROM news WHERE c.id = news.id
    RETURNING c.id, c.organization_id, c.last_seq, news.count AS news
),{ADDING}
SELECT last_seq, (SELECT array_agg(id ORDER BY seq) FROM added) FROM moved"""  # noqa: S608 - names of our own fields


def columns_of(news: Sequence[NewEvent]) -> list[Any]:
    """The parameters of ``ADDING`` that hold the events."""
    return [
        [new.event_id for new in news],
        [new.kind for new in news],
        [str(new.source) for new in news],
        [new.payload for new in news],
        [new.engine_seq for new in news],
        [new.engine_time for new in news],
    ]


class EventQuerySet(models.QuerySet["Event"]):
    def visible_to(self, user: Any) -> "EventQuerySet":
        """Events of the conversations whose log the user may read."""
        return self.filter(conversation__in=Conversation.objects.readable_by(user))


class Event(models.Model):
    """One thing that happened, at its place in a conversation's log. Never changed, never removed alone.

    ``payload`` is JSON text and not ``jsonb``: PostgreSQL's jsonb refuses NUL and lone surrogates and
    reorders and rounds what it takes, and this log loses nothing (docs/adr/0002).
    """

    class Source(models.TextChoices):
        USER = "user"
        AGENT = "agent"
        ENVIRONMENT = "environment"
        HOOK = "hook"
        SERVER = "server", "This server"
        UNKNOWN = "unknown"

    organization = models.ForeignKey("accounts.Organization", models.CASCADE, db_index=False)
    conversation = models.ForeignKey(
        Conversation, models.CASCADE, related_name="events", db_index=False
    )
    seq = models.PositiveBigIntegerField()
    event_id = models.CharField(max_length=80)
    kind = models.CharField(max_length=80)
    source = models.CharField(max_length=16, choices=Source)
    payload = models.TextField()
    engine_seq = models.BigIntegerField(null=True)
    engine_time = models.DateTimeField(null=True)
    received_at = models.DateTimeField(default=timezone.now)

    objects = EventQuerySet.as_manager()

    class Meta:
        constraints: ClassVar = [
            models.UniqueConstraint(fields=["conversation", "seq"], name="event_seq_unique"),
            models.UniqueConstraint(fields=["conversation", "event_id"], name="event_id_unique"),
        ]

    def __str__(self) -> str:
        return f"{self.seq} {self.kind}"

    def to_wire(self) -> dict[str, Any]:
        """The event as REST and sockets give it; the payload is spliced in as it was stored."""
        return wire_of([getattr(self, name) for name in WIRE])


def wire_of(columns: Sequence[Any]) -> dict[str, Any]:
    """The same of the columns in ``WIRE``."""
    seq, event_id, kind, source, payload, engine_time, received_at = columns
    return {
        "seq": seq,
        "event_id": event_id,
        "kind": kind,
        "source": source,
        "payload": orjson.Fragment(payload),
        "engine_time": engine_time,
        "received_at": received_at,
    }


WIRE = ("seq", "event_id", "kind", "source", "payload", "engine_time", "received_at")
"""What is told of an event, in this order."""


class OutgoingMessage(models.Model):
    """A user's message on its way to the agent: at most one delivery, found again after a crash."""

    class Status(models.TextChoices):
        PENDING = "pending"
        SENDING = "sending", "Sent at least once, not confirmed"
        DELIVERED = "delivered"
        FAILED = "failed"
        HELD = "held", "Waits for the word to run"

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    organization = models.ForeignKey("accounts.Organization", models.CASCADE)
    conversation = models.ForeignKey(
        Conversation, models.CASCADE, related_name="outgoing_messages", db_index=False
    )
    seq = models.PositiveBigIntegerField(help_text="The user's event in our log.")
    text = models.TextField()
    images = models.JSONField(default=list, blank=True)
    status = models.CharField(max_length=16, choices=Status, default=Status.PENDING)
    attempts = models.PositiveIntegerField(default=0)
    engine_mark = models.BigIntegerField(
        null=True, help_text="Newest engine event known when it was first sent."
    )
    engine_event_id = models.CharField(max_length=80, blank=True)
    error = models.TextField(blank=True)
    created_at = models.DateTimeField(default=timezone.now, editable=False)
    delivered_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        constraints: ClassVar = [
            models.UniqueConstraint(fields=["conversation", "seq"], name="outgoing_seq_unique")
        ]
        indexes: ClassVar = [
            models.Index(
                fields=["conversation", "seq"],
                condition=models.Q(status__in=["pending", "sending"]),
                name="outgoing_open",
            )
        ]

    def __str__(self) -> str:
        return f"message {self.seq} of {self.conversation_id}"


class SandboxQuerySet(models.QuerySet["Sandbox"]):
    def visible_to(self, user: Any) -> "SandboxQuerySet":
        """Sandboxes of the conversations that the user may see."""
        return self.filter(conversation__in=Conversation.objects.visible_to(user))


class Sandbox(models.Model):
    """The place an agent works in: what we want of it, and what its provider last reported."""

    class Desired(models.TextChoices):
        RUNNING = "running"
        STOPPED = "stopped"
        DESTROYED = "destroyed"

    class Observed(models.TextChoices):
        PENDING = "pending", "Not started yet"
        STARTING = "starting"
        RUNNING = "running"
        STOPPED = "stopped"
        FAILED = "failed"
        MISSING = "missing"

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    organization = models.ForeignKey("accounts.Organization", models.CASCADE)
    provider = models.CharField(max_length=16)
    desired = models.CharField(max_length=16, choices=Desired, default=Desired.RUNNING)
    observed = models.CharField(max_length=16, choices=Observed, default=Observed.PENDING)
    detail = models.TextField(blank=True)
    handle = models.JSONField(
        default=dict, blank=True, help_text="What the provider needs to find it again."
    )
    base_url = models.CharField(max_length=300, blank=True)
    workspace = models.CharField(
        max_length=300, blank=True, help_text="The agent's working folder, as the sandbox sees it."
    )
    run = models.PositiveIntegerField(
        default=0, help_text="How often its engine was started; questions belong to one run."
    )
    conversation_started = models.BooleanField(
        default=False, help_text="Whether the engine knows the conversation."
    )
    engine_version = models.CharField(max_length=40, blank=True)
    sealed_session_key = models.BinaryField(editable=False)
    sealed_secret_key = models.BinaryField(editable=False)
    created_at = models.DateTimeField(default=timezone.now, editable=False)
    started_at = models.DateTimeField(null=True, blank=True)
    stopped_at = models.DateTimeField(null=True, blank=True)
    active_at = models.DateTimeField(default=timezone.now, help_text="Last sign of use.")

    objects = SandboxQuerySet.as_manager()

    class Meta:
        verbose_name_plural = "sandboxes"
        indexes: ClassVar = [models.Index(fields=["observed", "desired"])]

    def __str__(self) -> str:
        return f"{self.provider} sandbox {self.pk}"

    SEALED_AS: ClassVar[dict[str, str]] = {
        "sealed_session_key": "sandbox.session:{pk}",
        "sealed_secret_key": "sandbox.secret:{pk}",
    }

    def session_key(self) -> str:
        """What opens this sandbox's engine, and nothing else."""
        return crypto.open_sealed(self.sealed_session_key, bound_to=f"sandbox.session:{self.pk}")

    def secret_key(self) -> str:
        """What the engine seals its own files with; the same over all its runs."""
        return crypto.open_sealed(self.sealed_secret_key, bound_to=f"sandbox.secret:{self.pk}")

    def set_keys(self, *, session: str, secret: str) -> None:
        self.sealed_session_key = crypto.seal(session, bound_to=f"sandbox.session:{self.pk}")
        self.sealed_secret_key = crypto.seal(secret, bound_to=f"sandbox.secret:{self.pk}")


class StartTask(models.Model):
    """One attempt to bring a conversation's sandbox and engine up, with the times of its phases."""

    class Phase(models.TextChoices):
        WORKING = "WORKING"
        WAITING_FOR_SANDBOX = "WAITING_FOR_SANDBOX"
        PREPARING_REPOSITORY = "PREPARING_REPOSITORY"
        RUNNING_SETUP_SCRIPT = "RUNNING_SETUP_SCRIPT"
        SETTING_UP_GIT_HOOKS = "SETTING_UP_GIT_HOOKS"
        SETTING_UP_SKILLS = "SETTING_UP_SKILLS"
        STARTING_CONVERSATION = "STARTING_CONVERSATION"
        READY = "READY"
        ERROR = "ERROR"

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    organization = models.ForeignKey("accounts.Organization", models.CASCADE)
    conversation = models.ForeignKey(
        Conversation, models.CASCADE, related_name="start_tasks", db_index=False
    )
    phase = models.CharField(max_length=32, choices=Phase, default=Phase.WORKING)
    phases = models.JSONField(
        default=list,
        help_text='The phases so far: {"phase", "started_at", "finished_at", "detail"}, times in RFC 3339.',
    )
    reason = models.CharField(max_length=200, help_text="What asked for it.")
    error = models.TextField(blank=True)
    attempts = models.PositiveIntegerField(default=0)
    queue_position = models.PositiveIntegerField(
        null=True,
        blank=True,
        help_text="Place in the line for a sandbox, from 1; empty when not waiting.",
    )
    created_at = models.DateTimeField(default=timezone.now, editable=False)
    updated_at = models.DateTimeField(default=timezone.now)
    finished_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        indexes: ClassVar = [models.Index(fields=["conversation", "-created_at"])]
        constraints: ClassVar = [
            models.UniqueConstraint(
                fields=["conversation"],
                condition=models.Q(finished_at=None),
                name="one_open_start",
                violation_error_message="This conversation is being started already.",
            )
        ]

    def __str__(self) -> str:
        return f"{self.phase} of {self.conversation_id}"


class Lease(models.Model):
    """Which manager follows a conversation. ``generation`` fences: a write of an older one is refused.

    It lasts as long as its owner is among the ``LiveManager`` rows, so nothing is written to keep it.
    """

    conversation = models.OneToOneField(
        Conversation, models.CASCADE, primary_key=True, related_name="lease"
    )
    organization = models.ForeignKey("accounts.Organization", models.CASCADE)
    owner = models.CharField(max_length=100, blank=True)
    generation = models.PositiveBigIntegerField(default=0)
    is_wanted = models.BooleanField(
        default=False, help_text="Whether there is an engine to follow, as far as is known."
    )
    following_run = models.PositiveIntegerField(
        null=True, help_text="The sandbox's run whose socket the owner has open."
    )

    class Meta:
        indexes: ClassVar = [
            models.Index(
                fields=["owner"], condition=models.Q(is_wanted=True), name="wanted_lease_by_owner"
            )
        ]

    def __str__(self) -> str:
        return f"generation {self.generation} of {self.conversation_id}"


OPEN_MESSAGES: Sequence[str] = (OutgoingMessage.Status.PENDING, OutgoingMessage.Status.SENDING)

"""Sandboxes and the attempts to start them."""

from typing import Any, ClassVar

from django.db import models
from django.utils import timezone
from uuid_utils.compat import uuid7

from conversations.models.conversation import Conversation
from lib import crypto


class SandboxQuerySet(models.QuerySet["Sandbox"]):
    def visible_to(self, user: Any) -> "SandboxQuerySet":
        """Return the sandboxes of the conversations that the user may see."""
        return self.filter(conversation__in=Conversation.objects.visible_to(user))


class Sandbox(models.Model):
    """The isolated environment in which an agent works, with its desired state and its last observed state."""

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
        default=dict,
        blank=True,
        help_text="The JSON by which the provider finds the sandbox again.",
    )
    workspace = models.CharField(
        max_length=300, blank=True, help_text="The agent's working folder inside the sandbox."
    )
    run = models.PositiveIntegerField(
        default=0,
        help_text="The number of times the engine was started. A confirmation question belongs to one run.",
    )
    conversation_started = models.BooleanField(
        default=False, help_text="Whether the conversation was created in the engine."
    )
    lent_by = models.CharField(
        max_length=16,
        blank=True,
        default="",
        db_default="",
        editable=False,
        help_text="Whose secrets and model the engine's conversation was given (a value of Conversation.Lender). Empty "
        "before the first start, and for the creator's in sandboxes of earlier releases.",
    )
    record_seq = models.PositiveBigIntegerField(
        null=True,
        editable=False,
        help_text="The engine's conversation was replaced, and its agent got the log up to this seq as a record.",
    )
    engine_version = models.CharField(max_length=40, blank=True)
    egress_position = models.TextField(
        blank=True,
        default="",
        db_default="",
        editable=False,
        help_text="The place in the sandbox's decision log up to which its decisions are stored.",
    )
    sealed_session_key = models.BinaryField(editable=False)
    sealed_secret_key = models.BinaryField(editable=False)
    created_at = models.DateTimeField(default=timezone.now, editable=False)
    started_at = models.DateTimeField(null=True, blank=True)
    stopped_at = models.DateTimeField(null=True, blank=True)
    active_at = models.DateTimeField(
        default=timezone.now, help_text="The time of the last recorded use."
    )

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

    SEALED_KINDS: ClassVar = dict.fromkeys(
        ("sealed_session_key", "sealed_secret_key"),
        crypto.SealedKind(
            "a key of this conversation's sandbox",
            "Its agent cannot start again. Fork the conversation to continue with the same history.",
        ),
    )

    def session_key(self) -> str:
        """Return the API key of this sandbox's engine."""
        return crypto.open_sealed(self.sealed_session_key, bound_to=f"sandbox.session:{self.pk}")

    def secret_key(self) -> str:
        """Return the key with which the engine encrypts its files. The key is the same in all runs."""
        return crypto.open_sealed(self.sealed_secret_key, bound_to=f"sandbox.secret:{self.pk}")

    def set_keys(self, *, session: str, secret: str) -> None:
        """Encrypt and set both keys. The caller saves the row."""
        # Each value is bound to its row and column, so a copy in another row or column cannot be decrypted.
        self.sealed_session_key = crypto.seal(session, bound_to=f"sandbox.session:{self.pk}")
        self.sealed_secret_key = crypto.seal(secret, bound_to=f"sandbox.secret:{self.pk}")


class StartTask(models.Model):
    """A request to start a conversation's sandbox and engine, with the times of its phases."""

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
        help_text='A list of {"phase", "started_at", "finished_at", "detail"}, with times in RFC 3339.',
    )
    reason = models.CharField(max_length=200, help_text="The cause of the start.")
    error = models.TextField(blank=True)
    attempts = models.PositiveIntegerField(default=0)
    queue_position = models.PositiveIntegerField(
        null=True,
        blank=True,
        help_text="The position in the organization's queue for a sandbox, from 1. Empty if the start is not waiting.",
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
                violation_error_message="This conversation is already starting.",
            )
        ]

    def __str__(self) -> str:
        return f"{self.phase} of {self.conversation_id}"


def find_wait(phases: list[dict[str, Any]]) -> str:
    """Return for what a start with these phases waits, as a sentence with the progress; empty if it does not wait.

    Only such a phase has a ``percent``: the share of the installation that is done, from 0 to 99, or None.
    """
    last = phases[-1] if phases else {}
    return str(last["detail"]) if "percent" in last and last["finished_at"] is None else ""

"""The events of conversation logs, as a model and as a light structure for readers."""

from datetime import datetime
from typing import Any, ClassVar

import msgspec
import orjson
from django.db import models
from django.utils import timezone

from conversations.models.conversation import Conversation


class EventQuerySet(models.QuerySet["Event"]):
    def visible_to(self, user: Any) -> "EventQuerySet":
        """Return the events of all conversations whose log the user may read."""
        return self.filter(conversation__in=Conversation.objects.visible_to(user))


class Event(models.Model):
    """An entry of a conversation's log, at the position ``seq``. Events are never changed or removed individually.

    ``payload`` is a text column instead of ``jsonb``, because ``jsonb`` rejects NUL and lone surrogates, reorders keys
    and rounds numbers, while the log must store every payload unchanged (ADR 2).
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
        """Return the event in the form that REST and sockets send."""
        return LoggedEvent(*[getattr(self, name) for name in COLUMNS]).to_wire()


class LoggedEvent(msgspec.Struct, gc=False):
    """The columns of an event that readers need, in the order of ``COLUMNS``. Cheaper than a model instance."""

    seq: int
    event_id: str
    kind: str
    source: str
    payload: str
    engine_time: datetime | None
    received_at: datetime

    def to_wire(self) -> dict[str, Any]:
        """Return the event in the form that REST and sockets send."""
        wire = msgspec.structs.asdict(self)
        # A fragment is copied into the response byte for byte, so a payload is never parsed again.
        wire["payload"] = orjson.Fragment(self.payload)
        return wire


COLUMNS = LoggedEvent.__struct_fields__
"""The columns that a query for ``LoggedEvent`` selects, in this order."""

"""The event log."""

from datetime import datetime
from typing import Any, ClassVar

import msgspec
import orjson
from django.db import models
from django.utils import timezone

from conversations.models.conversation import Conversation


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
        """Return the event as REST and sockets give it."""
        return LoggedEvent(*[getattr(self, name) for name in COLUMNS]).to_wire()


class LoggedEvent(msgspec.Struct, gc=False):
    """A row of the log without a model instance: the columns that readers need, in the order of ``COLUMNS``."""

    seq: int
    event_id: str
    kind: str
    source: str
    payload: str
    engine_time: datetime | None
    received_at: datetime

    def to_wire(self) -> dict[str, Any]:
        """Return the event as REST and sockets give it; the payload is spliced in as it was stored."""
        wire = msgspec.structs.asdict(self)
        wire["payload"] = orjson.Fragment(self.payload)
        return wire


COLUMNS = LoggedEvent.__struct_fields__
"""The columns that are read of an event, in this order."""

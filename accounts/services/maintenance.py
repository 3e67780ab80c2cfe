"""The verbs of maintenance mode: close and open the server, and ask whether it is closed."""

import time
from datetime import datetime

from django.db import DatabaseError, transaction

from accounts.models.maintenance import Maintenance
from accounts.services import audit

REMEMBERED_SECONDS = 1.0
SENTENCE = "The server is closed for maintenance. Please come back in a few minutes."


class _Memory:
    """What this process read last, and until when it holds."""

    row = Maintenance()
    until = 0.0


@transaction.atomic
def set_maintenance(
    *, is_on: bool, sentence: str = "", retry_after: int = 300, reason: str = ""
) -> Maintenance:
    """Close or open the server; every process knows within a second. Safe to repeat.

    ``retry_after`` in seconds tells callers when to come back.
    """
    Maintenance.objects.bulk_create([Maintenance()], ignore_conflicts=True)
    row = Maintenance.objects.select_for_update().get(pk=1)
    before = {"is_on": row.is_on, "sentence": row.sentence, "retry_after": row.retry_after}
    row.is_on, row.sentence, row.retry_after = is_on, sentence, retry_after
    row.save()
    after = {"is_on": is_on, "sentence": sentence, "retry_after": retry_after}
    if before != after:
        old, new = audit.changes(before, after)
        audit.record(
            action="maintenance.on" if is_on else "maintenance.off",
            subject=row,
            subject_name="maintenance",
            before=old,
            after=new,
            reason=reason,
        )
    _Memory.until = 0.0
    return row


@transaction.atomic
def plan_maintenance(*, at: datetime | None, reason: str = "") -> Maintenance:
    """Have clients announce when the server will be closed, or not any more; it closes nothing. Safe to repeat."""
    Maintenance.objects.bulk_create([Maintenance()], ignore_conflicts=True)
    row = Maintenance.objects.select_for_update().get(pk=1)
    before, row.planned_for = row.planned_for, at
    row.save()
    if before != at:
        audit.record(
            action="maintenance.planned",
            subject=row,
            subject_name="maintenance",
            before={"planned_for": before},
            after={"planned_for": at},
            reason=reason,
        )
    _Memory.until = 0.0
    return row


def maintenance() -> Maintenance:
    """The switch as it was at most a second ago; off while the database cannot say."""
    if time.monotonic() >= _Memory.until:
        try:
            _Memory.row = Maintenance.objects.filter(pk=1).first() or Maintenance()
        except DatabaseError:
            return Maintenance()
        _Memory.until = time.monotonic() + REMEMBERED_SECONDS
    return _Memory.row


def forget() -> None:
    """Read the switch anew at the next question."""
    _Memory.until = 0.0

"""Services for maintenance mode: turn it on or off, plan a maintenance, and read the state."""

import time
from datetime import datetime

from django.db import DatabaseError, transaction

from accounts.models.maintenance import Maintenance
from accounts.services import audit

CACHE_SECONDS = 1.0
"""Every request reads the state of maintenance mode, so each process caches the state for this time."""
SENTENCE = "The server is closed for maintenance. Please come back in a few minutes."


class _Cache:
    """The state that this process read last; valid until ``time.monotonic()`` reaches ``until``."""

    row = Maintenance()
    until = 0.0


@transaction.atomic
def set_maintenance(
    *, is_on: bool, sentence: str = "", retry_after: int = 300, reason: str = ""
) -> Maintenance:
    """Turn maintenance mode on or off. Every process notices the change within a second. Safe to repeat.

    ``sentence`` is the message for users, and ``retry_after`` the time in seconds after which clients try again.
    """
    # The table has at most one row. Create it on first use; a concurrent insert is not an error.
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
    _Cache.until = 0.0
    return row


@transaction.atomic
def plan_maintenance(*, at: datetime | None, reason: str = "") -> Maintenance:
    """Set the start of the next maintenance, which clients announce; None cancels the plan. Safe to repeat.

    Maintenance mode does not turn on automatically at this time.
    """
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
    _Cache.until = 0.0
    return row


def maintenance() -> Maintenance:
    """Return the state of maintenance mode, at most a second old. Return "off" if the database is unreachable."""
    if time.monotonic() >= _Cache.until:
        try:
            _Cache.row = Maintenance.objects.filter(pk=1).first() or Maintenance()
        except DatabaseError:
            # Not cached, so the next call asks the database again.
            return Maintenance()
        _Cache.until = time.monotonic() + CACHE_SECONDS
    return _Cache.row


def clear_cache() -> None:
    """Make the next call of ``maintenance`` read the database."""
    _Cache.until = 0.0

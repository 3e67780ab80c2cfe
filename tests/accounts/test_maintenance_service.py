"""The services of maintenance mode, and the arguments of the command."""

from datetime import UTC, datetime

import pytest
from django.core.management import CommandError, call_command
from django.db import DatabaseError

from accounts.models import AuditEntry, Maintenance
from accounts.services import maintenance


def list_actions():
    return list(AuditEntry.objects.order_by("position").values_list("action", flat=True))


def test_repeated_change_is_recorded_once(db):
    for is_on in (True, True, False, False):
        maintenance.set_maintenance(is_on=is_on, reason="upgrade")

    assert list_actions() == ["maintenance.on", "maintenance.off"]
    assert AuditEntry.objects.filter(reason="upgrade").count() == 2
    assert Maintenance.objects.count() == 1


def test_changed_sentence_is_recorded_with_both_values(db):
    for sentence in ("First.", "Second."):
        maintenance.set_maintenance(is_on=True, sentence=sentence)

    entry = AuditEntry.objects.latest("position")
    assert (entry.before, entry.after) == ({"sentence": "First."}, {"sentence": "Second."})


def test_plan_is_recorded_once_and_can_be_removed(db):
    at = datetime(2030, 1, 31, 22, tzinfo=UTC)
    for time in (at, at, None):
        maintenance.plan_maintenance(at=time)

    assert list_actions() == ["maintenance.planned"] * 2
    assert Maintenance.objects.get().planned_for is None


def test_server_is_open_while_the_database_is_unreachable(db, monkeypatch):
    maintenance.set_maintenance(is_on=True)
    maintenance.clear_cache()
    assert maintenance.maintenance().is_on
    maintenance.clear_cache()

    def fail(**_kwargs):
        raise DatabaseError

    with monkeypatch.context() as patch:
        patch.setattr(Maintenance.objects, "filter", fail)
        assert not maintenance.maintenance().is_on

    assert maintenance.maintenance().is_on


def test_planned_time_without_a_time_zone_is_an_error(db):
    with pytest.raises(CommandError, match="needs a time zone"):
        call_command("maintenance", "plan", "--at=2030-01-31T22:00")

    assert not Maintenance.objects.exists()

"""The squashed migrations: databases that this version takes over, and databases that it cannot upgrade."""

import pytest
from django.core.management import call_command
from django.core.management.base import SystemCheckError
from django.db import connection
from django.db.migrations.executor import MigrationExecutor
from django.db.migrations.recorder import MigrationRecorder

from openhands_site import doctor
from openhands_site.operating import tables

SQUASHED = (
    ("accounts", "0001_squashed_0007_settings_and_secrets"),
    ("conversations", "0001_squashed_0009_newest"),
)

pytestmark = pytest.mark.django_db


def forget(*migrations):
    recorder = MigrationRecorder(connection)
    for app, name in migrations:
        recorder.record_unapplied(app, name)


def test_database_with_all_replaced_migrations_needs_none_of_the_squashed_ones():
    forget(*SQUASHED)

    executor = MigrationExecutor(connection)

    assert executor.migration_plan(executor.loader.graph.leaf_nodes()) == []


@pytest.mark.parametrize(
    "missing", [("accounts", "0007_settings_and_secrets"), ("conversations", "0001_initial")]
)
def test_database_with_some_replaced_migrations_is_refused_with_the_way_to_upgrade_it(missing):
    tables.check_tables()
    forget(*SQUASHED, missing)

    with pytest.raises(tables.OldTables, match="Run the server once at commit 6505c08"):
        tables.check_tables()
    with pytest.raises(SystemCheckError, match="Run the server once at commit 6505c08"):
        call_command("migrate", skip_checks=False, verbosity=0)


def test_doctor_reports_tables_that_cannot_be_upgraded():
    forget(*SQUASHED, ("conversations", "0009_newest"))

    [check] = [check for check in doctor.run_checks() if check.name == "Migrations"]

    assert (check.state, check.detail) == ("failed", str(tables.OldTables()))

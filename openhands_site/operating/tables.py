"""The check for databases whose tables this version cannot upgrade."""

from collections.abc import Sequence
from typing import Any

from django.core import checks
from django.db import Error, connection
from django.db.migrations.loader import MigrationLoader

LAST_COMMIT_BEFORE_SQUASH = "6505c08"
"""The last commit with the single migrations, which can upgrade the oldest databases."""


class OldTables(Exception):
    """The database has only some of the migrations that a squashed migration replaces."""

    def __init__(self) -> None:
        super().__init__(
            "The tables in the database come from a commit before version 0.1.0 that this version cannot upgrade. "
            f"Run the server once at commit {LAST_COMMIT_BEFORE_SQUASH}, which upgrades them, and then this version. "
            "No data is lost."
        )


def check_tables() -> None:
    """Raise ``OldTables`` if the database has only some of the migrations that a squashed migration replaces.

    Django would run no migrations of such an app and report no error, because the project no longer contains the
    replaced migrations.
    """
    # The graph is not needed, and cannot always be built for such a database.
    loader = MigrationLoader(None, load=False)
    loader.load_disk()
    applied = _applied_migrations()
    for migration in loader.disk_migrations.values():
        replaced = {*migration.replaces}
        if replaced & applied and not replaced <= applied:
            raise OldTables


def _applied_migrations() -> set[tuple[str, str]]:
    with connection.cursor() as cursor:
        if "django_migrations" not in connection.introspection.table_names(cursor):
            return set()
        cursor.execute("SELECT app, name FROM django_migrations")
        return {(app, name) for app, name in cursor.fetchall()}


@checks.register(checks.Tags.database)
def check_tables_before_migrating(
    databases: Sequence[str] | None = None, **_: Any
) -> list[checks.CheckMessage]:
    """Report ``OldTables`` as a system check, which ``manage.py migrate`` runs first."""
    try:
        check_tables()
    except OldTables as error:
        return [checks.Error(str(error), id="openhands_site.E001")]
    except Error:
        return []  # ``migrate`` reports a database that cannot be reached
    return []

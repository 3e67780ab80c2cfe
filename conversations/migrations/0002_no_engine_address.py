"""Engines are reached through the provider's ``dial``, so no address of an engine is stored any more.

The column stays until the next release, because processes of the previous release still read and write it during an
upgrade. Its new default lets this release insert rows without the column.
"""

from django.db import migrations

CLEAR = """
UPDATE conversations_sandbox SET base_url = '' WHERE id IN (
    SELECT id FROM conversations_sandbox WHERE base_url <> '' LIMIT 1000 FOR UPDATE SKIP LOCKED
)
"""
RESTORE = """
UPDATE conversations_sandbox SET base_url = 'http://127.0.0.1:' || (handle ->> 'port')
WHERE provider = 'process' AND observed IN ('starting', 'running') AND handle ->> 'port' <> ''
"""


def clear_addresses(apps, schema_editor):
    """Clear the addresses in batches, so that no row stays locked for long. Safe to repeat."""
    with schema_editor.connection.cursor() as cursor:
        cursor.execute(CLEAR)
        while cursor.rowcount:
            cursor.execute(CLEAR)
        # Rows that another transaction had locked.
        cursor.execute("UPDATE conversations_sandbox SET base_url = '' WHERE base_url <> ''")


def restore_addresses(apps, schema_editor):
    """Give the previous release the addresses of engines that run."""
    with schema_editor.connection.cursor() as cursor:
        cursor.execute(RESTORE)


class Migration(migrations.Migration):
    atomic = False  # Each batch commits, and the lock of ALTER TABLE is released at once.

    dependencies = [
        ('conversations', '0001_squashed_0009_newest'),
    ]

    operations = [
        migrations.SeparateDatabaseAndState(
            state_operations=[migrations.RemoveField(model_name='sandbox', name='base_url')],
            database_operations=[
                migrations.RunSQL(
                    "ALTER TABLE conversations_sandbox ALTER COLUMN base_url SET DEFAULT ''",
                    "ALTER TABLE conversations_sandbox ALTER COLUMN base_url DROP DEFAULT",
                ),
            ],
        ),
        migrations.RunPython(clear_addresses, restore_addresses),
    ]

"""Indexes for usage per organization and user, built concurrently so that model calls are recorded meanwhile."""

from django.contrib.postgres.operations import AddIndexConcurrently
from django.db import migrations, models


class Migration(migrations.Migration):
    atomic = False  # PostgreSQL builds an index concurrently only outside a transaction.

    dependencies = [
        ('billing', '0001_initial'),
    ]

    operations = [
        # Connections have a statement timeout, and a large table takes longer.
        migrations.RunSQL('SET statement_timeout = 0', migrations.RunSQL.noop),
        AddIndexConcurrently(
            model_name='conversationusage',
            index=models.Index(fields=['organization', 'conversation_id'], name='billing_con_organiz_2ff953_idx'),
        ),
        AddIndexConcurrently(
            model_name='modelcall',
            index=models.Index(fields=['organization', 'user', 'created_at'], name='billing_mod_organiz_8c51e1_idx'),
        ),
        migrations.RunSQL('RESET statement_timeout', migrations.RunSQL.noop),
    ]

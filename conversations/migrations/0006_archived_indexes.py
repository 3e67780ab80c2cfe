"""Indexes for the lists of existing clients, which contain archived conversations. Built while requests continue."""

from django.contrib.postgres.operations import AddIndexConcurrently
from django.db import migrations, models


class Migration(migrations.Migration):
    atomic = False  # PostgreSQL builds an index concurrently only outside a transaction.

    dependencies = [
        ('conversations', '0005_start_options'),
    ]

    operations = [
        # Connections have a statement timeout, and a large table takes longer.
        migrations.RunSQL('SET statement_timeout = 0', migrations.RunSQL.noop),
        AddIndexConcurrently(
            model_name='conversation',
            index=models.Index(condition=models.Q(('archived_at__isnull', False), ('deleted_at', None)), fields=['organization', 'created_by', '-created_at', '-id'], name='conversation_own_archived'),
        ),
        AddIndexConcurrently(
            model_name='conversation',
            index=models.Index(condition=models.Q(('archived_at__isnull', False), ('deleted_at', None), ('visibility', 'organization')), fields=['organization', '-created_at', '-id'], name='conversation_shared_archived'),
        ),
        migrations.RunSQL('RESET statement_timeout', migrations.RunSQL.noop),
    ]

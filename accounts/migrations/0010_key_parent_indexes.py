"""Indexes for the child keys and the invitations of an API key, built concurrently so that requests continue."""

from django.contrib.postgres.operations import AddIndexConcurrently
from django.db import migrations, models


class Migration(migrations.Migration):
    atomic = False  # PostgreSQL builds an index concurrently only outside a transaction.

    dependencies = [
        ('accounts', '0009_key_parents'),
    ]

    operations = [
        # Connections have a statement timeout, and a large table takes longer.
        migrations.RunSQL('SET statement_timeout = 0', migrations.RunSQL.noop),
        AddIndexConcurrently(
            model_name='apikey',
            index=models.Index(condition=models.Q(('parent__isnull', False)), fields=['parent'], name='apikey_parent'),
        ),
        AddIndexConcurrently(
            model_name='invitation',
            index=models.Index(condition=models.Q(('made_with__isnull', False)), fields=['made_with'], name='invitation_made_with'),
        ),
        migrations.RunSQL('RESET statement_timeout', migrations.RunSQL.noop),
    ]

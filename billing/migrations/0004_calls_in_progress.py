"""Calls in progress with their reserved cost, and the error message of failed calls.

The new column has a default in the database, because processes of the previous release insert rows without it during an
upgrade.
"""

import django.db.models.deletion
import django.utils.timezone
import uuid_utils.compat
from django.db import migrations, models


class Migration(migrations.Migration):

    dependencies = [
        ('accounts', '0001_squashed_0007_settings_and_secrets'),
        ('billing', '0003_lent_models'),
    ]

    operations = [
        migrations.AddField(
            model_name='modelcall',
            name='error',
            field=models.CharField(blank=True, db_default='', default='', help_text='Message of a failed call, without secrets.', max_length=1000),
        ),
        migrations.CreateModel(
            name='RunningCall',
            fields=[
                ('id', models.UUIDField(default=uuid_utils.compat.uuid7, editable=False, primary_key=True, serialize=False)),
                ('conversation_id', models.UUIDField()),
                ('reserved_micros', models.PositiveBigIntegerField(default=0)),
                ('started_at', models.DateTimeField(default=django.utils.timezone.now, editable=False)),
                ('expires_at', models.DateTimeField()),
                ('organization', models.ForeignKey(on_delete=django.db.models.deletion.CASCADE, to='accounts.organization')),
            ],
            options={
                'indexes': [models.Index(fields=['conversation_id'], name='billing_run_convers_a94ba3_idx')],
            },
        ),
    ]

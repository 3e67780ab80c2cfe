"""Network profiles of organizations, host rules of conversations, and the decisions of sandboxes' proxies.

The new column of sandboxes has a default in the database, because processes of the previous release insert rows without
it during an upgrade.
"""

import django.db.models.deletion
import django.utils.timezone
import uuid_utils.compat
from django.conf import settings
from django.db import migrations, models


class Migration(migrations.Migration):

    dependencies = [
        ('accounts', '0001_squashed_0007_settings_and_secrets'),
        ('conversations', '0002_no_engine_address'),
        migrations.swappable_dependency(settings.AUTH_USER_MODEL),
    ]

    operations = [
        migrations.AddField(
            model_name='sandbox',
            name='egress_position',
            field=models.TextField(blank=True, db_default='', default='', editable=False, help_text="The place in the sandbox's decision log up to which its decisions are stored."),
        ),
        migrations.CreateModel(
            name='EgressPolicy',
            fields=[
                ('id', models.UUIDField(default=uuid_utils.compat.uuid7, editable=False, primary_key=True, serialize=False)),
                ('profile', models.CharField(blank=True, choices=[('public', 'Any public host'), ('list', 'Only listed hosts'), ('none', 'No hosts'), ('open', 'Full network')], help_text="Empty means the site's profile (SANDBOX_EGRESS).", max_length=8)),
                ('hosts', models.JSONField(blank=True, default=list, help_text='A list of host names and patterns that the profile “list” allows.')),
                ('updated_at', models.DateTimeField(default=django.utils.timezone.now)),
                ('organization', models.OneToOneField(on_delete=django.db.models.deletion.CASCADE, related_name='egress_policy', to='accounts.organization')),
                ('updated_by', models.ForeignKey(blank=True, null=True, on_delete=django.db.models.deletion.SET_NULL, related_name='+', to=settings.AUTH_USER_MODEL)),
            ],
            options={
                'verbose_name_plural': 'egress policies',
            },
        ),
        migrations.CreateModel(
            name='EgressDecision',
            fields=[
                ('id', models.UUIDField(default=uuid_utils.compat.uuid7, editable=False, primary_key=True, serialize=False)),
                ('at', models.DateTimeField(help_text='The time of the first of the equal decisions.')),
                ('host', models.CharField(max_length=255)),
                ('port', models.PositiveIntegerField()),
                ('address', models.CharField(blank=True, help_text='The address that was dialled. Empty after a refusal.', max_length=45)),
                ('allowed', models.BooleanField()),
                ('reason', models.CharField(help_text='A value of conversations.sandboxes.egress.policy.Reason.', max_length=20)),
                ('protocol', models.CharField(max_length=8)),
                ('count', models.PositiveIntegerField(default=1, help_text='The number of equal decisions within one second.')),
                ('conversation', models.ForeignKey(db_index=False, on_delete=django.db.models.deletion.CASCADE, related_name='egress_decisions', to='conversations.conversation')),
                ('organization', models.ForeignKey(db_index=False, on_delete=django.db.models.deletion.CASCADE, to='accounts.organization')),
            ],
            options={
                'indexes': [models.Index(fields=['conversation', '-at', '-id'], name='conversatio_convers_38875f_idx'), models.Index(fields=['conversation', 'host'], name='conversatio_convers_0257e5_idx'), models.Index(fields=['organization', '-at', '-id'], name='conversatio_organiz_0813ba_idx'), models.Index(fields=['organization', 'host', '-at'], name='conversatio_organiz_8f6471_idx')],
            },
        ),
        migrations.CreateModel(
            name='HostRule',
            fields=[
                ('id', models.UUIDField(default=uuid_utils.compat.uuid7, editable=False, primary_key=True, serialize=False)),
                ('host', models.CharField(max_length=255)),
                ('allowed', models.BooleanField()),
                ('decided_at', models.DateTimeField(default=django.utils.timezone.now)),
                ('conversation', models.ForeignKey(db_index=False, on_delete=django.db.models.deletion.CASCADE, related_name='host_rules', to='conversations.conversation')),
                ('decided_by', models.ForeignKey(blank=True, null=True, on_delete=django.db.models.deletion.SET_NULL, related_name='+', to=settings.AUTH_USER_MODEL)),
                ('organization', models.ForeignKey(on_delete=django.db.models.deletion.CASCADE, to='accounts.organization')),
            ],
            options={
                'constraints': [models.UniqueConstraint(fields=('conversation', 'host'), name='host_rule_unique')],
            },
        ),
    ]

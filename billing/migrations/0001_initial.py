"""All tables of this app as of 0.1.0."""

import django.db.models.deletion
import django.utils.timezone
import uuid_utils.compat
from django.conf import settings
from django.db import migrations, models


class Migration(migrations.Migration):

    initial = True

    dependencies = [
        ('accounts', '0001_squashed_0007_settings_and_secrets'),
        migrations.swappable_dependency(settings.AUTH_USER_MODEL),
    ]

    operations = [
        migrations.CreateModel(
            name='GatewayToken',
            fields=[
                ('id', models.UUIDField(default=uuid_utils.compat.uuid7, editable=False, primary_key=True, serialize=False)),
                ('conversation_id', models.UUIDField(db_index=True)),
                ('token_id', models.CharField(max_length=32, unique=True)),
                ('digest', models.CharField(max_length=64)),
                ('pepper_id', models.CharField(max_length=16)),
                ('created_at', models.DateTimeField(default=django.utils.timezone.now, editable=False)),
                ('expires_at', models.DateTimeField()),
                ('revoked_at', models.DateTimeField(blank=True, null=True)),
                ('organization', models.ForeignKey(on_delete=django.db.models.deletion.CASCADE, to='accounts.organization')),
                ('user', models.ForeignKey(on_delete=django.db.models.deletion.CASCADE, to=settings.AUTH_USER_MODEL)),
            ],
        ),
        migrations.CreateModel(
            name='ConversationUsage',
            fields=[
                ('conversation_id', models.UUIDField(primary_key=True, serialize=False)),
                ('calls', models.PositiveIntegerField(default=0)),
                ('prompt_tokens', models.PositiveBigIntegerField(default=0)),
                ('completion_tokens', models.PositiveBigIntegerField(default=0)),
                ('cached_tokens', models.PositiveBigIntegerField(default=0)),
                ('cost_micros', models.PositiveBigIntegerField(default=0)),
                ('organization', models.ForeignKey(on_delete=django.db.models.deletion.CASCADE, to='accounts.organization')),
            ],
            options={
                'verbose_name_plural': 'conversation usage',
            },
        ),
        migrations.CreateModel(
            name='ModelAccess',
            fields=[
                ('id', models.UUIDField(default=uuid_utils.compat.uuid7, editable=False, primary_key=True, serialize=False)),
                ('base_url', models.URLField(help_text='Base URL of an OpenAI-compatible API, including /v1.', max_length=500)),
                ('model', models.CharField(max_length=200)),
                ('sealed_api_key', models.BinaryField(null=True)),
                ('prompt_micros_per_million', models.PositiveBigIntegerField(default=0, help_text='Price of a million prompt tokens, in micro-dollars.')),
                ('completion_micros_per_million', models.PositiveBigIntegerField(default=0)),
                ('cached_micros_per_million', models.PositiveBigIntegerField(default=0)),
                ('created_at', models.DateTimeField(default=django.utils.timezone.now, editable=False)),
                ('updated_at', models.DateTimeField(auto_now=True)),
                ('organization', models.ForeignKey(on_delete=django.db.models.deletion.CASCADE, to='accounts.organization')),
                ('user', models.ForeignKey(on_delete=django.db.models.deletion.CASCADE, to=settings.AUTH_USER_MODEL)),
            ],
            options={
                'verbose_name_plural': 'model access',
                'constraints': [models.UniqueConstraint(fields=('organization', 'user'), name='model_access_unique')],
            },
        ),
        migrations.CreateModel(
            name='ModelCall',
            fields=[
                ('id', models.UUIDField(default=uuid_utils.compat.uuid7, editable=False, primary_key=True, serialize=False)),
                ('conversation_id', models.UUIDField()),
                ('model', models.CharField(max_length=200)),
                ('upstream', models.CharField(help_text='Base URL of the model server, or `demo`.', max_length=500)),
                ('outcome', models.CharField(choices=[('answered', 'Answered'), ('failed', 'Failed'), ('abandoned', 'Abandoned by the caller')], max_length=16)),
                ('status', models.PositiveSmallIntegerField(help_text='HTTP status of the response to the caller.')),
                ('prompt_tokens', models.PositiveIntegerField(default=0)),
                ('completion_tokens', models.PositiveIntegerField(default=0)),
                ('cached_tokens', models.PositiveIntegerField(default=0)),
                ('cost_micros', models.PositiveBigIntegerField(default=0)),
                ('seconds', models.FloatField(default=0)),
                ('created_at', models.DateTimeField(default=django.utils.timezone.now, editable=False)),
                ('organization', models.ForeignKey(on_delete=django.db.models.deletion.CASCADE, to='accounts.organization')),
                ('user', models.ForeignKey(on_delete=django.db.models.deletion.CASCADE, to=settings.AUTH_USER_MODEL)),
            ],
            options={
                'indexes': [models.Index(fields=['conversation_id', 'created_at'], name='billing_mod_convers_a68ea6_idx'), models.Index(fields=['organization', 'created_at'], name='billing_mod_organiz_4a8165_idx')],
            },
        ),
    ]

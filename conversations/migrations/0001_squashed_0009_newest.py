"""All tables of this app as of 0.1.0, in place of the migrations before the first release."""

import django.contrib.postgres.fields
import django.contrib.postgres.indexes
import django.contrib.postgres.search
import django.core.validators
import django.db.models.deletion
import django.utils.timezone
import uuid_utils.compat
from django.conf import settings
from django.db import migrations, models


class Migration(migrations.Migration):

    initial = True

    replaces = [
        ('conversations', '0001_initial'),
        ('conversations', '0002_details'),
        ('conversations', '0003_key_generation'),
        ('conversations', '0004_people'),
        ('conversations', '0005_managers'),
        ('conversations', '0006_external'),
        ('conversations', '0007_pruned_seq'),
        ('conversations', '0008_held_messages'),
        ('conversations', '0009_newest'),
    ]

    dependencies = [
        ('accounts', '0001_squashed_0007_settings_and_secrets'),
        migrations.swappable_dependency(settings.AUTH_USER_MODEL),
    ]

    operations = [
        migrations.CreateModel(
            name='LiveManager',
            fields=[
                ('owner', models.CharField(max_length=100, primary_key=True, serialize=False)),
                ('capacity', models.PositiveIntegerField(help_text='The largest number of conversations that the manager follows.')),
                ('followed', models.PositiveIntegerField(default=0)),
                ('started_at', models.DateTimeField()),
                ('expires_at', models.DateTimeField()),
            ],
        ),
        migrations.CreateModel(
            name='Sandbox',
            fields=[
                ('id', models.UUIDField(default=uuid_utils.compat.uuid7, editable=False, primary_key=True, serialize=False)),
                ('provider', models.CharField(max_length=16)),
                ('desired', models.CharField(choices=[('running', 'Running'), ('stopped', 'Stopped'), ('destroyed', 'Destroyed')], default='running', max_length=16)),
                ('observed', models.CharField(choices=[('pending', 'Not started yet'), ('starting', 'Starting'), ('running', 'Running'), ('stopped', 'Stopped'), ('failed', 'Failed'), ('missing', 'Missing')], default='pending', max_length=16)),
                ('detail', models.TextField(blank=True)),
                ('handle', models.JSONField(blank=True, default=dict, help_text='The JSON by which the provider finds the sandbox again.')),
                ('base_url', models.CharField(blank=True, max_length=300)),
                ('workspace', models.CharField(blank=True, help_text="The agent's working folder inside the sandbox.", max_length=300)),
                ('run', models.PositiveIntegerField(default=0, help_text='The number of times the engine was started. A confirmation question belongs to one run.')),
                ('conversation_started', models.BooleanField(default=False, help_text='Whether the conversation was created in the engine.')),
                ('engine_version', models.CharField(blank=True, max_length=40)),
                ('sealed_session_key', models.BinaryField()),
                ('sealed_secret_key', models.BinaryField()),
                ('created_at', models.DateTimeField(default=django.utils.timezone.now, editable=False)),
                ('started_at', models.DateTimeField(blank=True, null=True)),
                ('stopped_at', models.DateTimeField(blank=True, null=True)),
                ('active_at', models.DateTimeField(default=django.utils.timezone.now, help_text='The time of the last recorded use.')),
                ('organization', models.ForeignKey(on_delete=django.db.models.deletion.CASCADE, to='accounts.organization')),
            ],
            options={
                'verbose_name_plural': 'sandboxes',
            },
        ),
        migrations.CreateModel(
            name='Conversation',
            fields=[
                ('id', models.UUIDField(default=uuid_utils.compat.uuid7, editable=False, primary_key=True, serialize=False)),
                ('title', models.CharField(max_length=200)),
                ('visibility', models.CharField(choices=[('private', 'Private'), ('organization', 'Organization')], default='private', max_length=16)),
                ('status', models.CharField(choices=[('starting', 'Starting'), ('running', 'Running'), ('paused', 'Paused'), ('stopped', 'Stopped'), ('failed', 'Failed')], default='starting', max_length=16)),
                ('execution_status', models.CharField(choices=[('idle', 'Idle'), ('running', 'Running'), ('paused', 'Paused'), ('waiting_for_confirmation', 'Waiting For Confirmation'), ('finished', 'Finished'), ('error', 'Error'), ('stuck', 'Stuck')], default='idle', max_length=32)),
                ('status_detail', models.TextField(blank=True, help_text='A sentence for the owner that says why the conversation failed, stopped or waits.')),
                ('model', models.CharField(max_length=200)),
                ('repository', models.JSONField(blank=True, null=True)),
                ('confirmation_policy', models.CharField(choices=[('never', 'Never ask'), ('always', 'Always ask'), ('risky', 'Ask when risky')], default='never', max_length=8)),
                ('security_analyzer', models.CharField(blank=True, help_text='The analyzer that rates the risk of actions: llm, pattern or none. Empty means llm.', max_length=40)),
                ('trigger', models.CharField(choices=[('gui', 'Gui'), ('openhands_api', 'API'), ('resolver', 'Resolver'), ('suggested_task', 'Suggested Task'), ('microagent_management', 'Microagent Management'), ('slack', 'Slack'), ('jira', 'Jira'), ('jira_dc', 'Jira Dc'), ('linear', 'Linear'), ('bitbucket', 'Bitbucket')], default='gui', max_length=32)),
                ('wire_version', models.CharField(choices=[('V0', 'V0 (Socket.IO)'), ('V1', 'V1 (WebSocket)')], default='V1', editable=False, max_length=2)),
                ('forked_seq', models.PositiveBigIntegerField(editable=False, help_text="The number of events copied from the parent's log.", null=True)),
                ('pull_requests', models.JSONField(blank=True, default=list, help_text='The numbers of the pull requests that were opened from the conversation.')),
                ('tags', django.contrib.postgres.fields.ArrayField(base_field=models.CharField(max_length=50), blank=True, default=list, size=None)),
                ('archived_at', models.DateTimeField(blank=True, null=True)),
                ('is_external', models.BooleanField(default=False, editable=False, help_text='Whether another program runs the agent and publishes its events. Such a conversation is read-only.')),
                ('last_seq', models.PositiveBigIntegerField(default=0, editable=False)),
                ('pruned_seq', models.PositiveBigIntegerField(default=0, editable=False, help_text='Events up to this seq were removed. Readers with an older cursor must read the log again.')),
                ('epoch', models.PositiveIntegerField(default=1, help_text='A number that is raised when the log is restored from a backup, to make earlier cursors invalid.')),
                ('engine_seq', models.BigIntegerField(default=-1, editable=False, help_text='The index of the newest engine event in this log. The first index is 0; -1 means no event.')),
                ('asked_seq', models.PositiveBigIntegerField(editable=False, help_text='The seq of the event that asked the open confirmation question.', null=True)),
                ('asked_in_run', models.PositiveIntegerField(editable=False, help_text='The number of the sandbox run in which the open question was asked.', null=True)),
                ('key_generation', models.PositiveIntegerField(default=1, editable=False, help_text='A number that is raised to revoke all keys to this conversation.')),
                ('idempotency_key', models.CharField(blank=True, editable=False, max_length=255, null=True)),
                ('idempotency_digest', models.CharField(blank=True, editable=False, max_length=64)),
                ('created_at', models.DateTimeField(default=django.utils.timezone.now, editable=False)),
                ('updated_at', models.DateTimeField(default=django.utils.timezone.now)),
                ('deleted_at', models.DateTimeField(blank=True, null=True)),
                ('created_by', models.ForeignKey(on_delete=django.db.models.deletion.CASCADE, related_name='conversations', to=settings.AUTH_USER_MODEL)),
                ('organization', models.ForeignKey(on_delete=django.db.models.deletion.CASCADE, to='accounts.organization')),
                ('parent', models.ForeignKey(blank=True, null=True, on_delete=django.db.models.deletion.SET_NULL, related_name='children', to='conversations.conversation')),
                ('sandbox', models.OneToOneField(blank=True, null=True, on_delete=django.db.models.deletion.SET_NULL, related_name='conversation', to='conversations.sandbox')),
            ],
        ),
        migrations.CreateModel(
            name='SearchText',
            fields=[
                ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('seq', models.PositiveBigIntegerField()),
                ('text', models.TextField()),
                ('words', models.GeneratedField(db_persist=True, expression=django.contrib.postgres.search.SearchVector('text', config='simple'), output_field=django.contrib.postgres.search.SearchVectorField())),
                ('conversation', models.ForeignKey(db_index=False, on_delete=django.db.models.deletion.CASCADE, related_name='search_texts', to='conversations.conversation')),
                ('organization', models.ForeignKey(db_index=False, on_delete=django.db.models.deletion.CASCADE, to='accounts.organization')),
            ],
        ),
        migrations.CreateModel(
            name='ShareLink',
            fields=[
                ('id', models.UUIDField(default=uuid_utils.compat.uuid7, editable=False, primary_key=True, serialize=False)),
                ('pepper_id', models.CharField(editable=False, max_length=40)),
                ('digest', models.CharField(editable=False, max_length=64, unique=True)),
                ('through_seq', models.PositiveBigIntegerField(help_text='The seq of the last event shown.')),
                ('view_count', models.PositiveBigIntegerField(default=0)),
                ('expires_at', models.DateTimeField()),
                ('revoked_at', models.DateTimeField(blank=True, null=True)),
                ('created_at', models.DateTimeField(default=django.utils.timezone.now, editable=False)),
                ('conversation', models.ForeignKey(on_delete=django.db.models.deletion.CASCADE, related_name='shares', to='conversations.conversation')),
                ('created_by', models.ForeignKey(on_delete=django.db.models.deletion.CASCADE, related_name='+', to=settings.AUTH_USER_MODEL)),
                ('organization', models.ForeignKey(on_delete=django.db.models.deletion.CASCADE, to='accounts.organization')),
            ],
        ),
        migrations.CreateModel(
            name='ShareView',
            fields=[
                ('id', models.UUIDField(default=uuid_utils.compat.uuid7, editable=False, primary_key=True, serialize=False)),
                ('network', models.CharField(blank=True, max_length=50)),
                ('viewed_at', models.DateTimeField(default=django.utils.timezone.now)),
                ('organization', models.ForeignKey(on_delete=django.db.models.deletion.CASCADE, to='accounts.organization')),
                ('share', models.ForeignKey(db_index=False, on_delete=django.db.models.deletion.CASCADE, related_name='views', to='conversations.sharelink')),
            ],
        ),
        migrations.CreateModel(
            name='StartTask',
            fields=[
                ('id', models.UUIDField(default=uuid_utils.compat.uuid7, editable=False, primary_key=True, serialize=False)),
                ('phase', models.CharField(choices=[('WORKING', 'Working'), ('WAITING_FOR_SANDBOX', 'Waiting For Sandbox'), ('PREPARING_REPOSITORY', 'Preparing Repository'), ('RUNNING_SETUP_SCRIPT', 'Running Setup Script'), ('SETTING_UP_GIT_HOOKS', 'Setting Up Git Hooks'), ('SETTING_UP_SKILLS', 'Setting Up Skills'), ('STARTING_CONVERSATION', 'Starting Conversation'), ('READY', 'Ready'), ('ERROR', 'Error')], default='WORKING', max_length=32)),
                ('phases', models.JSONField(default=list, help_text='A list of {"phase", "started_at", "finished_at", "detail"}, with times in RFC 3339.')),
                ('reason', models.CharField(help_text='The cause of the start.', max_length=200)),
                ('error', models.TextField(blank=True)),
                ('attempts', models.PositiveIntegerField(default=0)),
                ('queue_position', models.PositiveIntegerField(blank=True, help_text="The position in the organization's queue for a sandbox, from 1. Empty if the start is not waiting.", null=True)),
                ('created_at', models.DateTimeField(default=django.utils.timezone.now, editable=False)),
                ('updated_at', models.DateTimeField(default=django.utils.timezone.now)),
                ('finished_at', models.DateTimeField(blank=True, null=True)),
                ('conversation', models.ForeignKey(db_index=False, on_delete=django.db.models.deletion.CASCADE, related_name='start_tasks', to='conversations.conversation')),
                ('organization', models.ForeignKey(on_delete=django.db.models.deletion.CASCADE, to='accounts.organization')),
            ],
        ),
        migrations.CreateModel(
            name='Lease',
            fields=[
                ('conversation', models.OneToOneField(on_delete=django.db.models.deletion.CASCADE, primary_key=True, related_name='lease', serialize=False, to='conversations.conversation')),
                ('owner', models.CharField(blank=True, max_length=100)),
                ('generation', models.PositiveBigIntegerField(default=0)),
                ('is_wanted', models.BooleanField(default=False, help_text='Whether the conversation has a running engine to follow.')),
                ('following_run', models.PositiveIntegerField(help_text='The number of the engine run to which the owner is connected.', null=True)),
                ('organization', models.ForeignKey(on_delete=django.db.models.deletion.CASCADE, to='accounts.organization')),
            ],
        ),
        migrations.CreateModel(
            name='SearchProgress',
            fields=[
                ('conversation', models.OneToOneField(on_delete=django.db.models.deletion.CASCADE, primary_key=True, related_name='search_progress', serialize=False, to='conversations.conversation')),
                ('indexed_seq', models.PositiveBigIntegerField(default=0)),
                ('indexed_title', models.CharField(blank=True, max_length=200)),
                ('organization', models.ForeignKey(db_index=False, on_delete=django.db.models.deletion.CASCADE, to='accounts.organization')),
            ],
            options={
                'verbose_name_plural': 'search progress',
            },
        ),
        migrations.CreateModel(
            name='Event',
            fields=[
                ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('seq', models.PositiveBigIntegerField()),
                ('event_id', models.CharField(max_length=80)),
                ('kind', models.CharField(max_length=80)),
                ('source', models.CharField(choices=[('user', 'User'), ('agent', 'Agent'), ('environment', 'Environment'), ('hook', 'Hook'), ('server', 'This server'), ('unknown', 'Unknown')], max_length=16)),
                ('payload', models.TextField()),
                ('engine_seq', models.BigIntegerField(null=True)),
                ('engine_time', models.DateTimeField(null=True)),
                ('received_at', models.DateTimeField(default=django.utils.timezone.now)),
                ('conversation', models.ForeignKey(db_index=False, on_delete=django.db.models.deletion.CASCADE, related_name='events', to='conversations.conversation')),
                ('organization', models.ForeignKey(db_index=False, on_delete=django.db.models.deletion.CASCADE, to='accounts.organization')),
            ],
            options={
                'constraints': [models.UniqueConstraint(fields=('conversation', 'seq'), name='event_seq_unique'), models.UniqueConstraint(fields=('conversation', 'event_id'), name='event_id_unique')],
            },
        ),
        migrations.CreateModel(
            name='Feedback',
            fields=[
                ('id', models.UUIDField(default=uuid_utils.compat.uuid7, editable=False, primary_key=True, serialize=False)),
                ('seq', models.PositiveBigIntegerField(help_text='The seq of the rated event.')),
                ('rating', models.PositiveSmallIntegerField(validators=[django.core.validators.MinValueValidator(1), django.core.validators.MaxValueValidator(5)])),
                ('reason', models.TextField(blank=True)),
                ('metadata', models.JSONField(blank=True, default=dict)),
                ('created_at', models.DateTimeField(default=django.utils.timezone.now, editable=False)),
                ('updated_at', models.DateTimeField(default=django.utils.timezone.now)),
                ('conversation', models.ForeignKey(db_index=False, on_delete=django.db.models.deletion.CASCADE, related_name='feedback', to='conversations.conversation')),
                ('organization', models.ForeignKey(on_delete=django.db.models.deletion.CASCADE, to='accounts.organization')),
                ('user', models.ForeignKey(on_delete=django.db.models.deletion.CASCADE, related_name='+', to=settings.AUTH_USER_MODEL)),
            ],
            options={
                'verbose_name_plural': 'feedback',
                'constraints': [models.UniqueConstraint(fields=('conversation', 'seq', 'user'), name='feedback_one_a_user'), models.CheckConstraint(condition=models.Q(('rating__gte', 1), ('rating__lte', 5)), name='feedback_rating_1_to_5')],
            },
        ),
        migrations.CreateModel(
            name='OutgoingMessage',
            fields=[
                ('id', models.UUIDField(default=uuid_utils.compat.uuid7, editable=False, primary_key=True, serialize=False)),
                ('seq', models.PositiveBigIntegerField(help_text="The seq of the message's event in the log.")),
                ('text', models.TextField()),
                ('images', models.JSONField(blank=True, default=list)),
                ('status', models.CharField(choices=[('pending', 'Pending'), ('sending', 'Sent at least once, not confirmed'), ('delivered', 'Delivered'), ('failed', 'Failed'), ('held', 'Held until the agent is run')], default='pending', max_length=16)),
                ('attempts', models.PositiveIntegerField(default=0)),
                ('engine_mark', models.BigIntegerField(help_text='The index of the newest known engine event when the message was first sent.', null=True)),
                ('engine_event_id', models.CharField(blank=True, max_length=80)),
                ('error', models.TextField(blank=True)),
                ('created_at', models.DateTimeField(default=django.utils.timezone.now, editable=False)),
                ('delivered_at', models.DateTimeField(blank=True, null=True)),
                ('conversation', models.ForeignKey(db_index=False, on_delete=django.db.models.deletion.CASCADE, related_name='outgoing_messages', to='conversations.conversation')),
                ('organization', models.ForeignKey(on_delete=django.db.models.deletion.CASCADE, to='accounts.organization')),
            ],
            options={
                'indexes': [models.Index(condition=models.Q(('status__in', ['pending', 'sending'])), fields=['conversation', 'seq'], name='outgoing_open')],
                'constraints': [models.UniqueConstraint(fields=('conversation', 'seq'), name='outgoing_seq_unique')],
            },
        ),
        migrations.AddIndex(
            model_name='sandbox',
            index=models.Index(fields=['observed', 'desired'], name='conversatio_observe_f1823d_idx'),
        ),
        migrations.AddIndex(
            model_name='conversation',
            index=models.Index(fields=['organization', '-created_at', '-id'], name='conversatio_organiz_db781f_idx'),
        ),
        migrations.AddIndex(
            model_name='conversation',
            index=models.Index(fields=['created_by', '-created_at', '-id'], name='conversatio_created_fbec92_idx'),
        ),
        migrations.AddIndex(
            model_name='conversation',
            index=models.Index(condition=models.Q(('archived_at', None), ('deleted_at', None)), fields=['organization', 'created_by', '-created_at', '-id'], name='conversation_own_newest'),
        ),
        migrations.AddIndex(
            model_name='conversation',
            index=models.Index(condition=models.Q(('archived_at', None), ('deleted_at', None), ('visibility', 'organization')), fields=['organization', '-created_at', '-id'], name='conversation_shared_newest'),
        ),
        migrations.AddIndex(
            model_name='conversation',
            index=models.Index(condition=models.Q(('deleted_at', None)), fields=['status'], name='live_status'),
        ),
        migrations.AddConstraint(
            model_name='conversation',
            constraint=models.UniqueConstraint(condition=models.Q(('idempotency_key__isnull', False)), fields=('created_by', 'idempotency_key'), name='conversation_idempotency'),
        ),
        migrations.AddIndex(
            model_name='searchtext',
            index=django.contrib.postgres.indexes.GinIndex(fields=['words'], name='search_text_words'),
        ),
        migrations.AddConstraint(
            model_name='searchtext',
            constraint=models.UniqueConstraint(fields=('conversation', 'seq'), name='search_text_place'),
        ),
        migrations.AddIndex(
            model_name='shareview',
            index=models.Index(fields=['share', '-viewed_at'], name='conversatio_share_i_d4f17a_idx'),
        ),
        migrations.AddIndex(
            model_name='starttask',
            index=models.Index(fields=['conversation', '-created_at'], name='conversatio_convers_a35524_idx'),
        ),
        migrations.AddConstraint(
            model_name='starttask',
            constraint=models.UniqueConstraint(condition=models.Q(('finished_at', None)), fields=('conversation',), name='one_open_start', violation_error_message='This conversation is already starting.'),
        ),
        migrations.AddIndex(
            model_name='lease',
            index=models.Index(condition=models.Q(('is_wanted', True)), fields=['owner'], name='wanted_lease_by_owner'),
        ),
    ]

"""Who may steer a conversation, and whose secrets and model its run gets (ADR 20).

Shared conversations become read-only for other members. The new columns have defaults in the database, because processes
of the previous release insert rows without them during an upgrade.
"""

import django.db.models.deletion
from django.conf import settings
from django.db import migrations, models


class Migration(migrations.Migration):

    dependencies = [
        ('conversations', '0003_egress'),
        migrations.swappable_dependency(settings.AUTH_USER_MODEL),
    ]

    operations = [
        migrations.AddField(
            model_name='conversation',
            name='lends_personal',
            field=models.BooleanField(db_default=False, default=False, help_text="Whether the creator agreed that the run uses the creator's own secrets, Git token, MCP servers and model although others steer or steered it."),
        ),
        migrations.AddField(
            model_name='conversation',
            name='others_may_steer',
            field=models.BooleanField(db_default=False, default=False, help_text='Whether members who can read the conversation may also steer its agent. Without this, sharing is read-only.'),
        ),
        migrations.AddField(
            model_name='conversation',
            name='steered_by_others',
            field=models.BooleanField(db_default=False, default=False, editable=False, help_text='Whether another member has sent a message, an answer or a file to the run.'),
        ),
        migrations.AddField(
            model_name='outgoingmessage',
            name='posted_by',
            field=models.ForeignKey(db_index=False, editable=False, help_text='The user who posted the message; empty if unknown.', null=True, on_delete=django.db.models.deletion.SET_NULL, related_name='+', to=settings.AUTH_USER_MODEL),
        ),
        migrations.AddField(
            model_name='sandbox',
            name='lent_by',
            field=models.CharField(blank=True, db_default='', default='', editable=False, help_text="Whose secrets and model the engine's conversation was given (a value of Conversation.Lender). Empty before the first start, and for the creator's in sandboxes of earlier releases.", max_length=16),
        ),
        migrations.AddField(
            model_name='sandbox',
            name='record_seq',
            field=models.PositiveBigIntegerField(editable=False, help_text="The engine's conversation was replaced, and its agent got the log up to this seq as a record.", null=True),
        ),
    ]

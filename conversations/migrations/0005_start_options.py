"""Options that a program sets for a conversation. Null, which the previous release writes, means none."""

from django.db import migrations, models


class Migration(migrations.Migration):

    dependencies = [
        ('conversations', '0004_lending'),
    ]

    operations = [
        migrations.AddField(
            model_name='conversation',
            name='start_options',
            field=models.JSONField(blank=True, editable=False, help_text='The options that a program set when it created the conversation: max_iterations, tags and tools.', null=True),
        ),
    ]

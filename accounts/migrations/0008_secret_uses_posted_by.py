"""The user on whose message the agent worked when it used a secret."""

import django.db.models.deletion
from django.conf import settings
from django.db import migrations, models


class Migration(migrations.Migration):

    dependencies = [
        ('accounts', '0001_squashed_0007_settings_and_secrets'),
    ]

    operations = [
        migrations.AddField(
            model_name='customsecretuse',
            name='posted_by',
            field=models.ForeignKey(db_index=False, editable=False, help_text='The user who posted the message on which the agent worked; empty if unknown.', null=True, on_delete=django.db.models.deletion.SET_NULL, related_name='+', to=settings.AUTH_USER_MODEL),
        ),
    ]

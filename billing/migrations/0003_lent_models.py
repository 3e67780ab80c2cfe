"""The model that an organization lends, and gateway tokens for it. Dropping NOT NULL does not rewrite the table."""

import django.db.models.deletion
from django.conf import settings
from django.db import migrations, models


class Migration(migrations.Migration):

    dependencies = [
        ('accounts', '0008_secret_uses_posted_by'),
        ('billing', '0002_usage_indexes'),
        migrations.swappable_dependency(settings.AUTH_USER_MODEL),
    ]

    operations = [
        migrations.AddField(
            model_name='gatewaytoken',
            name='is_lent_by_organization',
            field=models.BooleanField(db_default=False, default=False, help_text="Whether the token uses the organization's model and secrets instead of the user's."),
        ),
        migrations.AlterField(
            model_name='modelaccess',
            name='user',
            field=models.ForeignKey(blank=True, null=True, on_delete=django.db.models.deletion.CASCADE, to=settings.AUTH_USER_MODEL),
        ),
        migrations.AddConstraint(
            model_name='modelaccess',
            constraint=models.UniqueConstraint(condition=models.Q(('user__isnull', True)), fields=('organization',), name='organization_model_unique'),
        ),
    ]

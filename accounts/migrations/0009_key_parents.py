"""The parent of an API key, the limits that an invitation keeps, and providers whose addresses are trusted."""

import django.db.models.deletion
from django.db import migrations, models


class Migration(migrations.Migration):

    dependencies = [
        ('accounts', '0008_secret_uses_posted_by'),
    ]

    operations = [
        # The indexes of the two foreign keys follow in 0010, because they are built concurrently.
        migrations.AddField(
            model_name='apikey',
            name='parent',
            field=models.ForeignKey(blank=True, db_index=False, editable=False, help_text='The API key that sent the request which created this key; empty for other requests.', null=True, on_delete=django.db.models.deletion.SET_NULL, related_name='children', to='accounts.apikey'),
        ),
        migrations.AddField(
            model_name='invitation',
            name='made_with',
            field=models.ForeignKey(blank=True, db_index=False, editable=False, help_text='The API key that created the invitation; empty for a browser session.', null=True, on_delete=django.db.models.deletion.SET_NULL, related_name='invitations', to='accounts.apikey'),
        ),
        migrations.AddField(
            model_name='invitation',
            name='scopes',
            field=models.JSONField(blank=True, editable=False, help_text='The permissions of the API key that created the invitation; null for no limit.', null=True),
        ),
        migrations.AddField(
            model_name='identityprovider',
            name='trusts_email',
            field=models.BooleanField(db_default=False, default=False, help_text="Whether an address counts as verified if the provider does not send the claim email_verified. Set this only if the provider's administrators assign the addresses, as in most Microsoft Entra ID tenants. An address with email_verified false is always refused."),
        ),
        migrations.AlterField(
            model_name='identityprovider',
            name='requires_verified_email',
            field=models.BooleanField(default=True, help_text='Whether a new account needs an e-mail address that the provider has verified.'),
        ),
    ]

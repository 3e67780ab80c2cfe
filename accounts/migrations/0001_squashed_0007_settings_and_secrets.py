"""All tables of this app as of 0.1.0, in place of the migrations before the first release."""

import django.db.models.deletion
import django.db.models.functions.text
import django.utils.timezone
import uuid_utils.compat
from django.conf import settings
from django.db import migrations, models


GUARD = '''
CREATE FUNCTION accounts_audit_guard() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_TABLE_NAME = 'accounts_audithead' AND TG_OP = 'UPDATE' THEN
        IF NEW.chain = OLD.chain AND NEW.count = OLD.count + 1 THEN
            RETURN NEW;
        END IF;
    END IF;
    RAISE EXCEPTION 'the audit log is append-only' USING ERRCODE = 'insufficient_privilege';
END $$;
CREATE TRIGGER audit_entry_guard BEFORE UPDATE OR DELETE ON accounts_auditentry
    FOR EACH ROW EXECUTE FUNCTION accounts_audit_guard();
CREATE TRIGGER audit_head_guard BEFORE UPDATE OR DELETE ON accounts_audithead
    FOR EACH ROW EXECUTE FUNCTION accounts_audit_guard();
'''
NO_GUARD = '''
DROP TRIGGER audit_entry_guard ON accounts_auditentry;
DROP TRIGGER audit_head_guard ON accounts_audithead;
DROP FUNCTION accounts_audit_guard();
'''


class Migration(migrations.Migration):

    initial = True

    replaces = [
        ('accounts', '0001_initial'),
        ('accounts', '0002_identity'),
        ('accounts', '0003_audit'),
        ('accounts', '0004_organizations'),
        ('accounts', '0005_device_grant'),
        ('accounts', '0006_second_factor'),
        ('accounts', '0007_settings_and_secrets'),
    ]

    dependencies = [
        ('auth', '0012_alter_user_first_name_max_length'),
    ]

    operations = [
        migrations.CreateModel(
            name='AuditHead',
            fields=[
                ('chain', models.UUIDField(editable=False, primary_key=True, serialize=False)),
                ('count', models.PositiveBigIntegerField(default=0)),
                ('hash', models.CharField(blank=True, max_length=64)),
                ('seal', models.CharField(blank=True, max_length=64)),
                ('pepper_id', models.CharField(blank=True, max_length=16)),
            ],
        ),
        migrations.CreateModel(
            name='IdentityProvider',
            fields=[
                ('id', models.UUIDField(default=uuid_utils.compat.uuid7, editable=False, primary_key=True, serialize=False)),
                ('slug', models.SlugField(help_text='Part of the URLs /oidc/<slug>/callback and /oidc/<slug>/back-channel-logout.', max_length=40, unique=True)),
                ('name', models.CharField(help_text='The name on the sign-in button.', max_length=80)),
                ('kind', models.CharField(choices=[('keycloak', 'Keycloak'), ('generic', 'Generic')], default='generic', max_length=16)),
                ('issuer', models.URLField(help_text="The exact value of the iss claim in the provider's tokens.", max_length=400)),
                ('client_id', models.CharField(max_length=200)),
                ('sealed_client_secret', models.BinaryField(null=True)),
                ('scopes', models.CharField(default='openid email profile', max_length=400)),
                ('is_enabled', models.BooleanField(default=True)),
                ('creates_users', models.BooleanField(default=True, help_text='Whether the first sign-in of an unknown person creates an account.')),
                ('requires_verified_email', models.BooleanField(default=True)),
                ('audience', models.CharField(blank=True, help_text='The required audience (aud) of access tokens on the API; empty for the client id.', max_length=200)),
                ('bearer_clients', models.JSONField(blank=True, default=list, help_text='Client ids (azp). The API accepts access tokens that were issued to these clients.')),
                ('claim_rules', models.JSONField(blank=True, default=list, help_text='A list of rules. A rule gives a role in an organization: {"claim": "realm_access.roles", "value": "team-admins", "organization": "<id>", "role": "admin"}, or staff status: {"claim": …, "value": …, "staff": true}.')),
                ('is_preset', models.BooleanField(default=False, editable=False, help_text='Whether environment variables define this provider. They overwrite changes made here.')),
                ('created_at', models.DateTimeField(default=django.utils.timezone.now, editable=False)),
            ],
        ),
        migrations.CreateModel(
            name='Maintenance',
            fields=[
                ('id', models.PositiveSmallIntegerField(default=1, editable=False, primary_key=True, serialize=False)),
                ('is_on', models.BooleanField(default=False)),
                ('sentence', models.CharField(blank=True, max_length=300)),
                ('retry_after', models.PositiveIntegerField(default=300)),
                ('planned_for', models.DateTimeField(blank=True, help_text='When the next maintenance begins. Clients announce this time. Maintenance mode does not turn on automatically.', null=True)),
                ('changed_at', models.DateTimeField(auto_now=True)),
            ],
            options={
                'verbose_name_plural': 'maintenance',
            },
        ),
        migrations.CreateModel(
            name='SpentToken',
            fields=[
                ('id', models.UUIDField(default=uuid_utils.compat.uuid7, editable=False, primary_key=True, serialize=False)),
                ('digest', models.CharField(max_length=64, unique=True)),
                ('expires_at', models.DateTimeField(db_index=True)),
            ],
        ),
        migrations.CreateModel(
            name='User',
            fields=[
                ('password', models.CharField(max_length=128, verbose_name='password')),
                ('last_login', models.DateTimeField(blank=True, null=True, verbose_name='last login')),
                ('is_superuser', models.BooleanField(default=False, help_text='Designates that this user has all permissions without explicitly assigning them.', verbose_name='superuser status')),
                ('id', models.UUIDField(default=uuid_utils.compat.uuid7, editable=False, primary_key=True, serialize=False)),
                ('email', models.EmailField(max_length=254)),
                ('name', models.CharField(blank=True, max_length=120)),
                ('is_active', models.BooleanField(default=True)),
                ('is_staff', models.BooleanField(default=False, help_text='Whether the user can open the admin site.')),
                ('is_service_account', models.BooleanField(default=False, editable=False, help_text='Whether the user is a program that belongs to one organization and cannot sign in.')),
                ('created_at', models.DateTimeField(default=django.utils.timezone.now, editable=False)),
                ('groups', models.ManyToManyField(blank=True, help_text='The groups this user belongs to. A user will get all permissions granted to each of their groups.', related_name='user_set', related_query_name='user', to='auth.group', verbose_name='groups')),
                ('user_permissions', models.ManyToManyField(blank=True, help_text='Specific permissions for this user.', related_name='user_set', related_query_name='user', to='auth.permission', verbose_name='user permissions')),
            ],
        ),
        migrations.CreateModel(
            name='AuditEntry',
            fields=[
                ('id', models.UUIDField(editable=False, primary_key=True, serialize=False)),
                ('chain', models.UUIDField(editable=False)),
                ('position', models.PositiveBigIntegerField(editable=False)),
                ('created_at', models.DateTimeField(default=django.utils.timezone.now, editable=False)),
                ('action', models.CharField(max_length=60)),
                ('actor_kind', models.CharField(choices=[('person', 'Person'), ('key', 'Key'), ('service_account', 'Service Account'), ('command', 'Command'), ('system', 'System'), ('anonymous', 'Anonymous')], max_length=16)),
                ('actor_id', models.CharField(blank=True, max_length=64)),
                ('actor_name', models.CharField(blank=True, max_length=254)),
                ('subject_kind', models.CharField(blank=True, max_length=40)),
                ('subject_id', models.CharField(blank=True, max_length=64)),
                ('subject_name', models.CharField(blank=True, max_length=254)),
                ('before', models.JSONField(default=dict)),
                ('after', models.JSONField(default=dict)),
                ('reason', models.TextField(blank=True)),
                ('request_id', models.CharField(blank=True, max_length=64)),
                ('address', models.CharField(blank=True, max_length=45)),
                ('previous', models.CharField(blank=True, editable=False, max_length=64)),
                ('hash', models.CharField(editable=False, max_length=64)),
            ],
            options={
                'verbose_name_plural': 'audit log',
                'indexes': [models.Index(fields=['chain', '-created_at'], name='accounts_au_chain_f476f7_idx'), models.Index(fields=['-created_at'], name='accounts_au_created_848def_idx'), models.Index(fields=['subject_id', '-created_at'], name='accounts_au_subject_09cb92_idx'), models.Index(fields=['actor_id', '-created_at'], name='accounts_au_actor_i_ad2fcc_idx')],
                'constraints': [models.UniqueConstraint(fields=('chain', 'position'), name='audit_position_unique')],
            },
        ),
        migrations.CreateModel(
            name='CustomSecret',
            fields=[
                ('id', models.UUIDField(default=uuid_utils.compat.uuid7, editable=False, primary_key=True, serialize=False)),
                ('name', models.CharField(help_text='The name of the environment variable.', max_length=100)),
                ('description', models.CharField(blank=True, max_length=500)),
                ('sealed_value', models.BinaryField()),
                ('created_at', models.DateTimeField(default=django.utils.timezone.now, editable=False)),
                ('updated_at', models.DateTimeField(auto_now=True)),
                ('created_by', models.ForeignKey(null=True, on_delete=django.db.models.deletion.SET_NULL, related_name='made_secrets', to=settings.AUTH_USER_MODEL)),
                ('user', models.ForeignKey(blank=True, null=True, on_delete=django.db.models.deletion.CASCADE, related_name='custom_secrets', to=settings.AUTH_USER_MODEL)),
            ],
        ),
        migrations.CreateModel(
            name='EmailChange',
            fields=[
                ('id', models.UUIDField(default=uuid_utils.compat.uuid7, editable=False, primary_key=True, serialize=False)),
                ('email', models.EmailField(max_length=254)),
                ('digest', models.CharField(editable=False, max_length=64, unique=True)),
                ('pepper_id', models.CharField(editable=False, max_length=16)),
                ('created_at', models.DateTimeField(default=django.utils.timezone.now, editable=False)),
                ('expires_at', models.DateTimeField()),
                ('user', models.OneToOneField(on_delete=django.db.models.deletion.CASCADE, related_name='email_change', to=settings.AUTH_USER_MODEL)),
            ],
        ),
        migrations.CreateModel(
            name='Identity',
            fields=[
                ('id', models.UUIDField(default=uuid_utils.compat.uuid7, editable=False, primary_key=True, serialize=False)),
                ('issuer', models.CharField(max_length=400)),
                ('sub', models.CharField(max_length=255)),
                ('email', models.CharField(blank=True, max_length=254)),
                ('last_claims', models.JSONField(default=dict, editable=False)),
                ('is_staff_by_claims', models.BooleanField(default=False, editable=False)),
                ('created_at', models.DateTimeField(default=django.utils.timezone.now, editable=False)),
                ('last_seen_at', models.DateTimeField(default=django.utils.timezone.now, editable=False)),
                ('user', models.ForeignKey(on_delete=django.db.models.deletion.CASCADE, related_name='identities', to=settings.AUTH_USER_MODEL)),
                ('provider', models.ForeignKey(on_delete=django.db.models.deletion.PROTECT, related_name='identities', to='accounts.identityprovider')),
            ],
            options={
                'verbose_name_plural': 'identities',
            },
        ),
        migrations.CreateModel(
            name='Membership',
            fields=[
                ('id', models.UUIDField(default=uuid_utils.compat.uuid7, editable=False, primary_key=True, serialize=False)),
                ('role', models.CharField(choices=[('owner', 'Owner'), ('admin', 'Admin'), ('member', 'Member'), ('billing', 'Billing'), ('auditor', 'Auditor'), ('viewer', 'Viewer')], default='member', max_length=16)),
                ('created_at', models.DateTimeField(default=django.utils.timezone.now, editable=False)),
                ('user', models.ForeignKey(on_delete=django.db.models.deletion.CASCADE, related_name='memberships', to=settings.AUTH_USER_MODEL)),
            ],
        ),
        migrations.CreateModel(
            name='OfflineToken',
            fields=[
                ('id', models.UUIDField(default=uuid_utils.compat.uuid7, editable=False, primary_key=True, serialize=False)),
                ('sealed_token', models.BinaryField()),
                ('generation', models.PositiveIntegerField(default=1)),
                ('refreshed_at', models.DateTimeField(default=django.utils.timezone.now)),
                ('created_at', models.DateTimeField(default=django.utils.timezone.now, editable=False)),
                ('identity', models.OneToOneField(on_delete=django.db.models.deletion.CASCADE, related_name='offline_token', to='accounts.identity')),
            ],
        ),
        migrations.CreateModel(
            name='Organization',
            fields=[
                ('id', models.UUIDField(default=uuid_utils.compat.uuid7, editable=False, primary_key=True, serialize=False)),
                ('name', models.CharField(max_length=120)),
                ('suspended_at', models.DateTimeField(blank=True, null=True)),
                ('created_at', models.DateTimeField(default=django.utils.timezone.now, editable=False)),
                ('members', models.ManyToManyField(through='accounts.Membership', to=settings.AUTH_USER_MODEL)),
                ('personal_of', models.OneToOneField(blank=True, help_text='The user of this personal organization; empty for a team.', null=True, on_delete=django.db.models.deletion.CASCADE, related_name='personal_organization', to=settings.AUTH_USER_MODEL)),
            ],
        ),
        migrations.AddField(
            model_name='membership',
            name='organization',
            field=models.ForeignKey(on_delete=django.db.models.deletion.CASCADE, related_name='memberships', to='accounts.organization'),
        ),
        migrations.CreateModel(
            name='Invitation',
            fields=[
                ('id', models.UUIDField(default=uuid_utils.compat.uuid7, editable=False, primary_key=True, serialize=False)),
                ('role', models.CharField(choices=[('owner', 'Owner'), ('admin', 'Admin'), ('member', 'Member'), ('billing', 'Billing'), ('auditor', 'Auditor'), ('viewer', 'Viewer')], default='member', max_length=16)),
                ('email', models.EmailField(blank=True, max_length=254)),
                ('digest', models.CharField(editable=False, max_length=64)),
                ('pepper_id', models.CharField(editable=False, max_length=16)),
                ('max_uses', models.PositiveIntegerField(default=1)),
                ('uses', models.PositiveIntegerField(default=0)),
                ('created_at', models.DateTimeField(default=django.utils.timezone.now, editable=False)),
                ('expires_at', models.DateTimeField()),
                ('revoked_at', models.DateTimeField(blank=True, null=True)),
                ('created_by', models.ForeignKey(null=True, on_delete=django.db.models.deletion.SET_NULL, to=settings.AUTH_USER_MODEL)),
                ('organization', models.ForeignKey(on_delete=django.db.models.deletion.CASCADE, related_name='invitations', to='accounts.organization')),
            ],
        ),
        migrations.CreateModel(
            name='DeviceGrant',
            fields=[
                ('id', models.UUIDField(default=uuid_utils.compat.uuid7, editable=False, primary_key=True, serialize=False)),
                ('device_digest', models.CharField(editable=False, max_length=64)),
                ('user_digest', models.CharField(editable=False, max_length=64, unique=True)),
                ('pepper_id', models.CharField(editable=False, max_length=16)),
                ('client_name', models.CharField(max_length=80)),
                ('scopes', models.JSONField(default=list, help_text='Names of the requested permissions; empty for all permissions of the approving user.')),
                ('address', models.GenericIPAddressField(help_text='The IP address of the program that made the request.', null=True)),
                ('status', models.CharField(choices=[('pending', 'Pending'), ('approved', 'Approved'), ('denied', 'Denied'), ('used', 'Used')], default='pending', max_length=16)),
                ('created_at', models.DateTimeField(default=django.utils.timezone.now, editable=False)),
                ('expires_at', models.DateTimeField(db_index=True)),
                ('interval', models.PositiveSmallIntegerField(help_text='Minimum seconds between two polls.')),
                ('last_polled_at', models.DateTimeField(null=True)),
                ('user', models.ForeignKey(null=True, on_delete=django.db.models.deletion.CASCADE, related_name='device_grants', to=settings.AUTH_USER_MODEL)),
                ('organization', models.ForeignKey(null=True, on_delete=django.db.models.deletion.CASCADE, related_name='device_grants', to='accounts.organization')),
            ],
        ),
        migrations.CreateModel(
            name='CustomSecretUse',
            fields=[
                ('id', models.UUIDField(default=uuid_utils.compat.uuid7, editable=False, primary_key=True, serialize=False)),
                ('conversation_id', models.UUIDField()),
                ('used_at', models.DateTimeField(default=django.utils.timezone.now, editable=False)),
                ('secret', models.ForeignKey(on_delete=django.db.models.deletion.CASCADE, related_name='uses', to='accounts.customsecret')),
                ('organization', models.ForeignKey(on_delete=django.db.models.deletion.CASCADE, to='accounts.organization')),
            ],
        ),
        migrations.AddField(
            model_name='customsecret',
            name='organization',
            field=models.ForeignKey(on_delete=django.db.models.deletion.CASCADE, to='accounts.organization'),
        ),
        migrations.CreateModel(
            name='ClaimedRole',
            fields=[
                ('id', models.UUIDField(default=uuid_utils.compat.uuid7, editable=False, primary_key=True, serialize=False)),
                ('created_at', models.DateTimeField(default=django.utils.timezone.now, editable=False)),
                ('identity', models.ForeignKey(on_delete=django.db.models.deletion.CASCADE, related_name='claimed_roles', to='accounts.identity')),
                ('membership', models.OneToOneField(on_delete=django.db.models.deletion.CASCADE, related_name='claimed_role', to='accounts.membership')),
                ('organization', models.ForeignKey(on_delete=django.db.models.deletion.CASCADE, to='accounts.organization')),
            ],
        ),
        migrations.CreateModel(
            name='ApiKey',
            fields=[
                ('id', models.UUIDField(default=uuid_utils.compat.uuid7, editable=False, primary_key=True, serialize=False)),
                ('name', models.CharField(max_length=80)),
                ('key_id', models.CharField(editable=False, max_length=16, unique=True)),
                ('digest', models.CharField(editable=False, max_length=64)),
                ('pepper_id', models.CharField(editable=False, max_length=16)),
                ('scopes', models.JSONField(blank=True, default=list, help_text='Names of the permissions; empty for all permissions of the owner.')),
                ('created_at', models.DateTimeField(default=django.utils.timezone.now, editable=False)),
                ('expires_at', models.DateTimeField(blank=True, null=True)),
                ('revoked_at', models.DateTimeField(blank=True, null=True)),
                ('last_used_at', models.DateTimeField(blank=True, editable=False, null=True)),
                ('last_used_address', models.GenericIPAddressField(blank=True, editable=False, null=True)),
                ('allowed_networks', models.JSONField(blank=True, default=list, help_text='Networks (CIDR) from which the key works; empty for all networks.')),
                ('replaces', models.OneToOneField(blank=True, editable=False, help_text='The previous key, if rotation created this key.', null=True, on_delete=django.db.models.deletion.SET_NULL, related_name='replaced_by', to='accounts.apikey')),
                ('user', models.ForeignKey(on_delete=django.db.models.deletion.CASCADE, related_name='api_keys', to=settings.AUTH_USER_MODEL)),
                ('organization', models.ForeignKey(on_delete=django.db.models.deletion.CASCADE, related_name='api_keys', to='accounts.organization')),
            ],
            options={
                'verbose_name': 'API key',
            },
        ),
        migrations.CreateModel(
            name='OrganizationSettings',
            fields=[
                ('id', models.UUIDField(default=uuid_utils.compat.uuid7, editable=False, primary_key=True, serialize=False)),
                ('values', models.JSONField(default=dict)),
                ('sealed_secrets', models.BinaryField(null=True)),
                ('version', models.PositiveIntegerField(default=1, editable=False)),
                ('created_at', models.DateTimeField(default=django.utils.timezone.now, editable=False)),
                ('updated_at', models.DateTimeField(auto_now=True)),
                ('enforced', models.JSONField(blank=True, default=list)),
                ('organization', models.OneToOneField(on_delete=django.db.models.deletion.CASCADE, to='accounts.organization')),
            ],
            options={
                'verbose_name_plural': 'organization settings',
            },
        ),
        migrations.CreateModel(
            name='ProviderToken',
            fields=[
                ('id', models.UUIDField(default=uuid_utils.compat.uuid7, editable=False, primary_key=True, serialize=False)),
                ('provider', models.CharField(choices=[('github', 'GitHub'), ('gitlab', 'GitLab'), ('bitbucket', 'Bitbucket'), ('azure_devops', 'Azure DevOps'), ('enterprise_sso', 'Enterprise SSO')], max_length=20)),
                ('host', models.CharField(blank=True, help_text="The name of the host; empty for the provider's public host.", max_length=255)),
                ('sealed_token', models.BinaryField()),
                ('created_at', models.DateTimeField(default=django.utils.timezone.now, editable=False)),
                ('updated_at', models.DateTimeField(auto_now=True)),
                ('last_used_at', models.DateTimeField(editable=False, null=True)),
                ('organization', models.ForeignKey(on_delete=django.db.models.deletion.CASCADE, to='accounts.organization')),
                ('user', models.ForeignKey(on_delete=django.db.models.deletion.CASCADE, related_name='provider_tokens', to=settings.AUTH_USER_MODEL)),
            ],
        ),
        migrations.CreateModel(
            name='SecondFactor',
            fields=[
                ('id', models.UUIDField(default=uuid_utils.compat.uuid7, editable=False, primary_key=True, serialize=False)),
                ('sealed_secret', models.BinaryField()),
                ('last_used_step', models.BigIntegerField(default=0, editable=False)),
                ('created_at', models.DateTimeField(default=django.utils.timezone.now, editable=False)),
                ('confirmed_at', models.DateTimeField(editable=False, null=True)),
                ('user', models.OneToOneField(on_delete=django.db.models.deletion.CASCADE, related_name='second_factor', to=settings.AUTH_USER_MODEL)),
            ],
        ),
        migrations.CreateModel(
            name='RecoveryCode',
            fields=[
                ('id', models.UUIDField(default=uuid_utils.compat.uuid7, editable=False, primary_key=True, serialize=False)),
                ('digest', models.CharField(editable=False, max_length=64)),
                ('pepper_id', models.CharField(editable=False, max_length=16)),
                ('created_at', models.DateTimeField(default=django.utils.timezone.now, editable=False)),
                ('used_at', models.DateTimeField(editable=False, null=True)),
                ('factor', models.ForeignKey(on_delete=django.db.models.deletion.CASCADE, related_name='recovery_codes', to='accounts.secondfactor')),
            ],
        ),
        migrations.CreateModel(
            name='ServiceAccount',
            fields=[
                ('id', models.UUIDField(default=uuid_utils.compat.uuid7, editable=False, primary_key=True, serialize=False)),
                ('name', models.CharField(max_length=80)),
                ('created_at', models.DateTimeField(default=django.utils.timezone.now, editable=False)),
                ('revoked_at', models.DateTimeField(blank=True, null=True)),
                ('created_by', models.ForeignKey(null=True, on_delete=django.db.models.deletion.SET_NULL, related_name='made_service_accounts', to=settings.AUTH_USER_MODEL)),
                ('organization', models.ForeignKey(on_delete=django.db.models.deletion.CASCADE, related_name='service_accounts', to='accounts.organization')),
                ('user', models.OneToOneField(on_delete=django.db.models.deletion.CASCADE, related_name='service_account', to=settings.AUTH_USER_MODEL)),
            ],
        ),
        migrations.CreateModel(
            name='SetupLink',
            fields=[
                ('id', models.UUIDField(default=uuid_utils.compat.uuid7, editable=False, primary_key=True, serialize=False)),
                ('digest', models.CharField(editable=False, max_length=64, unique=True)),
                ('pepper_id', models.CharField(editable=False, max_length=16)),
                ('email', models.EmailField(blank=True, max_length=254)),
                ('created_at', models.DateTimeField(default=django.utils.timezone.now, editable=False)),
                ('expires_at', models.DateTimeField()),
                ('used_at', models.DateTimeField(blank=True, null=True)),
                ('used_by', models.ForeignKey(blank=True, null=True, on_delete=django.db.models.deletion.SET_NULL, to=settings.AUTH_USER_MODEL)),
            ],
        ),
        migrations.CreateModel(
            name='TermsAcceptance',
            fields=[
                ('id', models.UUIDField(default=uuid_utils.compat.uuid7, editable=False, primary_key=True, serialize=False)),
                ('version', models.CharField(max_length=40)),
                ('address', models.GenericIPAddressField(null=True)),
                ('accepted_at', models.DateTimeField(default=django.utils.timezone.now, editable=False)),
                ('user', models.ForeignKey(on_delete=django.db.models.deletion.CASCADE, related_name='accepted_terms', to=settings.AUTH_USER_MODEL)),
            ],
        ),
        migrations.CreateModel(
            name='UserSession',
            fields=[
                ('id', models.UUIDField(default=uuid_utils.compat.uuid7, editable=False, primary_key=True, serialize=False)),
                ('user_agent', models.CharField(blank=True, max_length=300)),
                ('address', models.GenericIPAddressField(null=True)),
                ('created_at', models.DateTimeField(default=django.utils.timezone.now, editable=False)),
                ('last_seen_at', models.DateTimeField(default=django.utils.timezone.now)),
                ('expires_at', models.DateTimeField()),
                ('ended_at', models.DateTimeField(null=True)),
                ('end_reason', models.CharField(blank=True, max_length=40)),
                ('user', models.ForeignKey(on_delete=django.db.models.deletion.CASCADE, related_name='user_sessions', to=settings.AUTH_USER_MODEL)),
            ],
        ),
        migrations.CreateModel(
            name='ProviderSession',
            fields=[
                ('id', models.UUIDField(default=uuid_utils.compat.uuid7, editable=False, primary_key=True, serialize=False)),
                ('sid', models.CharField(blank=True, db_index=True, max_length=255)),
                ('sealed_access_token', models.BinaryField(null=True)),
                ('sealed_refresh_token', models.BinaryField(null=True)),
                ('sealed_id_token', models.BinaryField(null=True)),
                ('access_expires_at', models.DateTimeField()),
                ('generation', models.PositiveIntegerField(default=1)),
                ('refresh_until', models.DateTimeField(null=True)),
                ('created_at', models.DateTimeField(default=django.utils.timezone.now, editable=False)),
                ('identity', models.ForeignKey(on_delete=django.db.models.deletion.CASCADE, related_name='sessions', to='accounts.identity')),
                ('session', models.OneToOneField(on_delete=django.db.models.deletion.CASCADE, related_name='provider_session', to='accounts.usersession')),
            ],
        ),
        migrations.CreateModel(
            name='UserSettings',
            fields=[
                ('id', models.UUIDField(default=uuid_utils.compat.uuid7, editable=False, primary_key=True, serialize=False)),
                ('values', models.JSONField(default=dict)),
                ('sealed_secrets', models.BinaryField(null=True)),
                ('version', models.PositiveIntegerField(default=1, editable=False)),
                ('created_at', models.DateTimeField(default=django.utils.timezone.now, editable=False)),
                ('updated_at', models.DateTimeField(auto_now=True)),
                ('organization', models.ForeignKey(on_delete=django.db.models.deletion.CASCADE, to='accounts.organization')),
                ('user', models.ForeignKey(on_delete=django.db.models.deletion.CASCADE, to=settings.AUTH_USER_MODEL)),
            ],
            options={
                'verbose_name_plural': 'user settings',
            },
        ),
        migrations.AddConstraint(
            model_name='user',
            constraint=models.UniqueConstraint(django.db.models.functions.text.Lower('email'), name='user_email_unique', violation_error_message='An account with this e-mail address already exists.'),
        ),
        migrations.AddConstraint(
            model_name='user',
            constraint=models.CheckConstraint(condition=models.Q(('is_service_account', False), models.Q(('is_staff', False), ('is_superuser', False)), _connector='OR'), name='service_account_is_no_staff'),
        ),
        migrations.AddConstraint(
            model_name='identity',
            constraint=models.UniqueConstraint(fields=('issuer', 'sub'), name='identity_issuer_sub_unique'),
        ),
        migrations.AddConstraint(
            model_name='identity',
            constraint=models.UniqueConstraint(fields=('user', 'provider'), name='identity_one_per_provider'),
        ),
        migrations.AddConstraint(
            model_name='membership',
            constraint=models.UniqueConstraint(fields=('organization', 'user'), name='membership_unique'),
        ),
        migrations.AddConstraint(
            model_name='membership',
            constraint=models.CheckConstraint(condition=models.Q(('role__in', ['owner', 'admin', 'member', 'billing', 'auditor', 'viewer'])), name='membership_role_known'),
        ),
        migrations.AddConstraint(
            model_name='invitation',
            constraint=models.CheckConstraint(condition=models.Q(('uses__lte', models.F('max_uses'))), name='invitation_uses_bounded'),
        ),
        migrations.AddConstraint(
            model_name='devicegrant',
            constraint=models.CheckConstraint(condition=models.Q(('status__in', ['pending', 'approved', 'denied', 'used'])), name='device_grant_status_known'),
        ),
        migrations.AddConstraint(
            model_name='devicegrant',
            constraint=models.CheckConstraint(condition=models.Q(models.Q(('status__in', ['approved', 'used']), _negated=True), models.Q(('organization__isnull', False), ('user__isnull', False)), _connector='OR'), name='device_grant_approved_for_somebody'),
        ),
        migrations.AddIndex(
            model_name='customsecretuse',
            index=models.Index(fields=['secret', '-used_at', '-id'], name='accounts_cu_secret__4d0ef9_idx'),
        ),
        migrations.AddConstraint(
            model_name='customsecret',
            constraint=models.UniqueConstraint(condition=models.Q(('user__isnull', False)), fields=('organization', 'user', 'name'), name='custom_secret_unique'),
        ),
        migrations.AddConstraint(
            model_name='customsecret',
            constraint=models.UniqueConstraint(condition=models.Q(('user__isnull', True)), fields=('organization', 'name'), name='shared_secret_unique'),
        ),
        migrations.AddIndex(
            model_name='apikey',
            index=models.Index(fields=['user', '-created_at'], name='accounts_ap_user_id_189362_idx'),
        ),
        migrations.AddConstraint(
            model_name='providertoken',
            constraint=models.UniqueConstraint(fields=('user', 'organization', 'provider'), name='provider_token_unique'),
        ),
        migrations.AddConstraint(
            model_name='recoverycode',
            constraint=models.UniqueConstraint(fields=('factor', 'digest'), name='recovery_code_unique'),
        ),
        migrations.AddConstraint(
            model_name='termsacceptance',
            constraint=models.UniqueConstraint(fields=('user', 'version'), name='terms_accepted_once'),
        ),
        migrations.AddIndex(
            model_name='usersession',
            index=models.Index(fields=['user', '-last_seen_at'], name='accounts_us_user_id_3587bb_idx'),
        ),
        migrations.AddConstraint(
            model_name='usersettings',
            constraint=models.UniqueConstraint(fields=('organization', 'user'), name='user_settings_unique'),
        ),
        migrations.RunSQL(GUARD, NO_GUARD),
    ]

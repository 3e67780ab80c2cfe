"""Identity providers, users' identities there, sign-in sessions, accepted terms and e-mail changes."""

from datetime import datetime
from typing import Any, ClassVar

from django.db import models
from django.utils import timezone
from uuid_utils.compat import uuid7

from lib import crypto


class IdentityProvider(models.Model):
    """An OpenID Connect provider for signing in. It belongs to the installation, not to an organization."""

    class Kind(models.TextChoices):
        KEYCLOAK = "keycloak"
        GENERIC = "generic"

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    slug = models.SlugField(
        max_length=40,
        unique=True,
        help_text="Part of the URLs /oidc/<slug>/callback and /oidc/<slug>/back-channel-logout.",
    )
    name = models.CharField(max_length=80, help_text="The name on the sign-in button.")
    kind = models.CharField(max_length=16, choices=Kind, default=Kind.GENERIC)
    issuer = models.URLField(
        max_length=400, help_text="The exact value of the iss claim in the provider's tokens."
    )
    client_id = models.CharField(max_length=200)
    sealed_client_secret = models.BinaryField(null=True, editable=False)
    client_secret = crypto.Sealed()
    SEALED_KINDS: ClassVar = {
        "sealed_client_secret": crypto.SealedKind(
            "the client secret of the identity provider",
            "An administrator of this server must enter it again on the provider's page of the admin site.",
        )
    }
    scopes = models.CharField(max_length=400, default="openid email profile")
    is_enabled = models.BooleanField(default=True)
    creates_users = models.BooleanField(
        default=True, help_text="Whether the first sign-in of an unknown person creates an account."
    )
    requires_verified_email = models.BooleanField(
        default=True,
        help_text="Whether a new account needs an e-mail address that the provider has verified.",
    )
    trusts_email = models.BooleanField(
        default=False,
        db_default=False,
        help_text=(
            "Whether an address counts as verified if the provider does not send the claim email_verified. Set this "
            "only if the provider's administrators assign the addresses, as in most Microsoft Entra ID tenants. "
            "An address with email_verified false is always refused."
        ),
    )
    audience = models.CharField(
        max_length=200,
        blank=True,
        help_text="The required audience (aud) of access tokens on the API; empty for the client id.",
    )
    bearer_clients = models.JSONField(
        default=list,
        blank=True,
        help_text="Client ids (azp). The API accepts access tokens that were issued to these clients.",
    )
    claim_rules = models.JSONField(
        default=list,
        blank=True,
        help_text=(
            "A list of rules. A rule gives a role in an organization: "
            '{"claim": "realm_access.roles", "value": "team-admins", "organization": "<id>", '
            '"role": "admin"}, or staff status: {"claim": …, "value": …, "staff": true}.'
        ),
    )
    is_preset = models.BooleanField(
        default=False,
        editable=False,
        help_text="Whether environment variables define this provider. They overwrite changes made here.",
    )
    created_at = models.DateTimeField(default=timezone.now, editable=False)

    def __str__(self) -> str:
        return self.name


class IdentityQuerySet(models.QuerySet["Identity"]):
    def visible_to(self, user: Any) -> "IdentityQuerySet":
        """Return the user's own identities."""
        return self.filter(user_id=user.pk) if user.is_authenticated else self.none()


class Identity(models.Model):
    """One user's account at one provider, identified by the pair (issuer, sub), never by the e-mail address."""

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    user = models.ForeignKey("accounts.User", models.CASCADE, related_name="identities")
    provider = models.ForeignKey(
        "accounts.IdentityProvider", models.PROTECT, related_name="identities"
    )
    issuer = models.CharField(max_length=400)
    sub = models.CharField(max_length=255)
    email = models.CharField(max_length=254, blank=True)
    last_claims = models.JSONField(default=dict, editable=False)
    is_staff_by_claims = models.BooleanField(default=False, editable=False)
    created_at = models.DateTimeField(default=timezone.now, editable=False)
    last_seen_at = models.DateTimeField(default=timezone.now, editable=False)

    objects = IdentityQuerySet.as_manager()

    class Meta:
        verbose_name_plural = "identities"
        constraints: ClassVar = [
            models.UniqueConstraint(fields=["issuer", "sub"], name="identity_issuer_sub_unique"),
            models.UniqueConstraint(fields=["user", "provider"], name="identity_one_per_provider"),
        ]

    def __str__(self) -> str:
        return f"{self.sub} at {self.issuer}"


class ClaimedRole(models.Model):
    """A mark on a membership: the claims of an identity provider created the membership.

    Later claims may change or remove only marked memberships.
    """

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    organization = models.ForeignKey("accounts.Organization", models.CASCADE)
    identity = models.ForeignKey("accounts.Identity", models.CASCADE, related_name="claimed_roles")
    membership = models.OneToOneField(
        "accounts.Membership", models.CASCADE, related_name="claimed_role"
    )
    created_at = models.DateTimeField(default=timezone.now, editable=False)

    def __str__(self) -> str:
        return f"membership {self.membership_id} claimed by identity {self.identity_id}"


class UserSessionQuerySet(models.QuerySet["UserSession"]):
    def visible_to(self, user: Any) -> "UserSessionQuerySet":
        """Return the user's own sessions."""
        return self.filter(user_id=user.pk) if user.is_authenticated else self.none()

    def live(self, *, now: datetime | None = None) -> "UserSessionQuerySet":
        """Return the sessions that have neither ended nor expired.

        A compiled query passes an example time as ``now`` and replaces it by the present time at each run.
        """
        return self.filter(ended_at=None, expires_at__gt=now or timezone.now())


class UserSession(models.Model):
    """One sign-in of one browser. The browser's Django session stores the id of this row.

    The Django session is valid only while this row is live, so ending the row signs the browser out.
    """

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    user = models.ForeignKey("accounts.User", models.CASCADE, related_name="user_sessions")
    user_agent = models.CharField(max_length=300, blank=True)
    address = models.GenericIPAddressField(null=True)
    created_at = models.DateTimeField(default=timezone.now, editable=False)
    last_seen_at = models.DateTimeField(default=timezone.now)
    expires_at = models.DateTimeField()
    ended_at = models.DateTimeField(null=True)
    end_reason = models.CharField(max_length=40, blank=True)

    is_personal = True
    """The row belongs to a user and to no organization."""

    objects = UserSessionQuerySet.as_manager()

    class Meta:
        indexes: ClassVar = [models.Index(fields=["user", "-last_seen_at"])]

    def __str__(self) -> str:
        return f"session of {self.user_id} since {self.created_at:%Y-%m-%d %H:%M}"


class ProviderSession(models.Model):
    """The data that the identity provider sent for a session: ``sid`` and the tokens. They never leave the server.

    ``generation`` counts how often the tokens were refreshed. While ``refresh_until`` is in the future, no other
    request may refresh the tokens.
    """

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    session = models.OneToOneField(
        "accounts.UserSession", models.CASCADE, related_name="provider_session"
    )
    identity = models.ForeignKey("accounts.Identity", models.CASCADE, related_name="sessions")
    sid = models.CharField(max_length=255, blank=True, db_index=True)
    sealed_access_token = models.BinaryField(null=True, editable=False)
    access_token = crypto.Sealed()
    sealed_refresh_token = models.BinaryField(null=True, editable=False)
    refresh_token = crypto.Sealed()
    sealed_id_token = models.BinaryField(null=True, editable=False)
    id_token = crypto.Sealed()
    SEALED_KINDS: ClassVar = dict.fromkeys(
        ("sealed_access_token", "sealed_refresh_token", "sealed_id_token"),
        crypto.SealedKind("the identity provider's token of a session", "Sign out and in again."),
    )
    access_expires_at = models.DateTimeField()
    generation = models.PositiveIntegerField(default=1)
    refresh_until = models.DateTimeField(null=True)
    created_at = models.DateTimeField(default=timezone.now, editable=False)

    def __str__(self) -> str:
        return f"{self.sid or 'session'} of {self.identity_id}"

    @property
    def is_readable(self) -> bool:
        """Whether all tokens can be decrypted."""
        try:
            _ = self.access_token, self.refresh_token, self.id_token
        except crypto.Undecryptable:
            return False
        return True


class OfflineToken(models.Model):
    """A provider's long-lived refresh token, stored by earlier versions of this server.

    Nothing writes or reads these tokens now. A row is deleted when its identity is unlinked.
    """

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    identity = models.OneToOneField(
        "accounts.Identity", models.CASCADE, related_name="offline_token"
    )
    sealed_token = models.BinaryField(editable=False)
    token = crypto.Sealed()
    SEALED_KINDS: ClassVar = {
        "sealed_token": crypto.SealedKind(
            "an offline token of an earlier version of this server", "It is not used any more."
        )
    }
    generation = models.PositiveIntegerField(default=1)
    refreshed_at = models.DateTimeField(default=timezone.now)
    created_at = models.DateTimeField(default=timezone.now, editable=False)

    def __str__(self) -> str:
        return f"offline token of {self.identity_id}"


class SpentToken(models.Model):
    """The hash of a value that was used and must not be used again, such as a logout token's ``jti``."""

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    # The unique constraint decides which of two concurrent requests uses the value.
    digest = models.CharField(max_length=64, unique=True)
    expires_at = models.DateTimeField(db_index=True)

    def __str__(self) -> str:
        return self.digest[:12]


class TermsAcceptance(models.Model):
    """One user's acceptance of one version of the terms of service."""

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    user = models.ForeignKey("accounts.User", models.CASCADE, related_name="accepted_terms")
    version = models.CharField(max_length=40)
    address = models.GenericIPAddressField(null=True)
    accepted_at = models.DateTimeField(default=timezone.now, editable=False)

    class Meta:
        constraints: ClassVar = [
            models.UniqueConstraint(fields=["user", "version"], name="terms_accepted_once")
        ]

    def __str__(self) -> str:
        return f"{self.user_id} accepted {self.version}"


class EmailChange(models.Model):
    """A new e-mail address that the user has not verified yet. Only an HMAC of the mailed link's token is stored."""

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    user = models.OneToOneField("accounts.User", models.CASCADE, related_name="email_change")
    email = models.EmailField(max_length=254)
    digest = models.CharField(max_length=64, unique=True, editable=False)
    pepper_id = models.CharField(max_length=16, editable=False)
    created_at = models.DateTimeField(default=timezone.now, editable=False)
    expires_at = models.DateTimeField()

    def __str__(self) -> str:
        return f"{self.user_id} to {self.email}"

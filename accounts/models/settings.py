"""Settings, custom secrets and provider tokens of users and organizations."""

import logging
from typing import Any, ClassVar

import orjson
from django.db import models
from django.utils import timezone
from uuid_utils.compat import uuid7

from lib import crypto

log = logging.getLogger(__name__)


def _binding(row: models.Model, column: str) -> str:
    """Return the text that binds a sealed value to its column and row. A copy in another row cannot be decrypted."""
    return f"{row._meta.db_table}.{column}:{row.pk}"  # noqa: SLF001 - Django documents _meta


def _is_readable(row: models.Model, name: str) -> bool:
    """Return whether a sealed value of a row can be decrypted."""
    try:
        getattr(row, name)
    except crypto.Undecryptable:
        return False
    return True


class StoredSettings(models.Model):
    """The abstract base of settings rows. ``values`` and ``secrets`` are dicts from setting name to value.

    A setting that has no value is absent from both dicts. ``version`` counts the changes: a client sends the version
    that it has read, so that a conflict is detected.
    """

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    values = models.JSONField(default=dict)
    sealed_secrets = models.BinaryField(null=True, editable=False)
    version = models.PositiveIntegerField(default=1, editable=False)
    created_at = models.DateTimeField(default=timezone.now, editable=False)
    updated_at = models.DateTimeField(auto_now=True)

    class Meta:
        abstract = True

    @property
    def secrets(self) -> dict[str, Any]:
        """The plain values of the secret settings, by name. If they cannot be decrypted, they count as not set."""
        try:
            return self.read_secrets()
        except crypto.Undecryptable as error:
            log.error("Stored settings are skipped: %s. Enter their secrets again.", error)  # noqa: TRY400
            return {}

    @secrets.setter
    def secrets(self, plain: dict[str, Any]) -> None:
        text = orjson.dumps(plain, option=orjson.OPT_SORT_KEYS).decode()
        self.sealed_secrets = (
            crypto.seal(text, bound_to=_binding(self, "sealed_secrets")) if plain else None
        )

    def read_secrets(self) -> dict[str, Any]:
        """Return the plain values of the secret settings, by name. Raise ``Undecryptable`` if that fails."""
        if self.sealed_secrets is None:
            return {}
        binding = _binding(self, "sealed_secrets")
        values: dict[str, Any] = orjson.loads(
            crypto.open_sealed(self.sealed_secrets, bound_to=binding)
        )
        return values

    @property
    def is_readable(self) -> bool:
        """Whether the secret settings can be decrypted, or there are none."""
        try:
            self.read_secrets()
        except crypto.Undecryptable:
            return False
        return True


class UserSettings(StoredSettings):
    """The settings that one user has changed for work in one organization."""

    SEALED_KINDS: ClassVar = {
        "sealed_secrets": crypto.SealedKind(
            "the stored search key and the configuration of MCP servers in your agent settings",
            "Enter them again under Settings, Agents, or through the API.",
        )
    }

    organization = models.ForeignKey("accounts.Organization", models.CASCADE)
    user = models.ForeignKey("accounts.User", models.CASCADE)

    class Meta:
        verbose_name_plural = "user settings"
        constraints: ClassVar = [
            models.UniqueConstraint(fields=["organization", "user"], name="user_settings_unique")
        ]

    def __str__(self) -> str:
        return f"settings of {self.user_id} in {self.organization_id}"


class OrganizationSettings(StoredSettings):
    """The settings that an organization has set for its members. Members cannot change the settings in ``enforced``."""

    SEALED_KINDS: ClassVar = {
        "sealed_secrets": crypto.SealedKind(
            "the stored search key and the configuration of MCP servers in the organization's agent settings",
            "An owner or admin must enter them again on the organization's page of agent settings, or through the API.",
        )
    }

    organization = models.OneToOneField("accounts.Organization", models.CASCADE)
    enforced = models.JSONField(default=list, blank=True)

    class Meta:
        verbose_name_plural = "organization settings"

    def __str__(self) -> str:
        return f"settings of {self.organization_id}"


class CustomSecretQuerySet(models.QuerySet["CustomSecret"]):
    def visible_to(self, user: Any) -> "CustomSecretQuerySet":
        """Return the user's own secrets and the shared secrets of the user's organizations.

        With an API key, return only the secrets in the key's organization.
        """
        if not user.is_authenticated:
            return self.none()
        rows = self.filter(
            models.Q(user_id=user.pk) | models.Q(user=None),
            organization__memberships__user_id=user.pk,
        )
        bound = getattr(user, "bound_organization_id", None)
        return rows.filter(organization_id=bound) if bound else rows


class CustomSecret(models.Model):
    """A secret that agents use by its name and that users cannot read back.

    A secret without ``user`` is shared with all members of the organization.
    """

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    organization = models.ForeignKey("accounts.Organization", models.CASCADE)
    user = models.ForeignKey(
        "accounts.User", models.CASCADE, null=True, blank=True, related_name="custom_secrets"
    )
    name = models.CharField(max_length=100, help_text="The name of the environment variable.")
    description = models.CharField(max_length=500, blank=True)
    sealed_value = models.BinaryField(editable=False)
    SEALED_KINDS: ClassVar = {
        "sealed_value": crypto.SealedKind(
            "the stored value of a custom secret", "Enter it again under Settings, Secrets."
        )
    }
    created_by = models.ForeignKey(
        "accounts.User", models.SET_NULL, null=True, related_name="made_secrets"
    )
    created_at = models.DateTimeField(default=timezone.now, editable=False)
    updated_at = models.DateTimeField(auto_now=True)

    objects = CustomSecretQuerySet.as_manager()

    class Meta:
        constraints: ClassVar = [
            models.UniqueConstraint(
                fields=["organization", "user", "name"],
                condition=models.Q(user__isnull=False),
                name="custom_secret_unique",
            ),
            models.UniqueConstraint(
                fields=["organization", "name"],
                condition=models.Q(user__isnull=True),
                name="shared_secret_unique",
            ),
        ]

    def __str__(self) -> str:
        # Not the name, which is private: admin pages and logs show this text.
        return f"secret {self.pk}"

    @property
    def scope(self) -> str:
        return "organization" if self.user_id is None else "user"

    @property
    def is_readable(self) -> bool:
        """Whether the value can be decrypted."""
        return _is_readable(self, "value")

    @property
    def value(self) -> str:
        return crypto.open_sealed(self.sealed_value, bound_to=_binding(self, "sealed_value"))

    @value.setter
    def value(self, plain: str) -> None:
        self.sealed_value = crypto.seal(plain, bound_to=_binding(self, "sealed_value"))


class CustomSecretUse(models.Model):
    """One use of a secret by the sandbox of a conversation.

    There is no foreign key to the conversation, because accounts may not depend on the conversations app.
    """

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    organization = models.ForeignKey("accounts.Organization", models.CASCADE)
    secret = models.ForeignKey("accounts.CustomSecret", models.CASCADE, related_name="uses")
    conversation_id = models.UUIDField()
    posted_by = models.ForeignKey(
        "accounts.User",
        models.SET_NULL,
        null=True,
        editable=False,
        related_name="+",
        db_index=False,
        help_text="The user who posted the message on which the agent worked; empty if unknown.",
    )
    used_at = models.DateTimeField(default=timezone.now, editable=False)

    class Meta:
        indexes: ClassVar = [models.Index(fields=["secret", "-used_at", "-id"])]

    def __str__(self) -> str:
        return f"{self.secret_id} in {self.conversation_id}"


class ProviderTokenQuerySet(models.QuerySet["ProviderToken"]):
    def visible_to(self, user: Any) -> "ProviderTokenQuerySet":
        """Return the user's own tokens in the user's organizations; with an API key, only those in its organization."""
        if not user.is_authenticated:
            return self.none()
        rows = self.filter(user_id=user.pk, organization__memberships__user_id=user.pk)
        bound = getattr(user, "bound_organization_id", None)
        return rows.filter(organization_id=bound) if bound else rows


class ProviderToken(models.Model):
    """One user's own token at a Git host, for work in one organization. Users cannot read the token back."""

    class Provider(models.TextChoices):
        GITHUB = "github", "GitHub"
        GITLAB = "gitlab", "GitLab"
        BITBUCKET = "bitbucket", "Bitbucket"
        AZURE_DEVOPS = "azure_devops", "Azure DevOps"
        ENTERPRISE_SSO = "enterprise_sso", "Enterprise SSO"

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    organization = models.ForeignKey("accounts.Organization", models.CASCADE)
    user = models.ForeignKey("accounts.User", models.CASCADE, related_name="provider_tokens")
    provider = models.CharField(max_length=20, choices=Provider)
    host = models.CharField(
        max_length=255,
        blank=True,
        help_text="The name of the host; empty for the provider's public host.",
    )
    sealed_token = models.BinaryField(editable=False)
    SEALED_KINDS: ClassVar = {
        "sealed_token": crypto.SealedKind(
            "the stored token of a Git host", "Enter it again under Settings, Git hosts."
        )
    }
    created_at = models.DateTimeField(default=timezone.now, editable=False)
    updated_at = models.DateTimeField(auto_now=True)
    last_used_at = models.DateTimeField(null=True, editable=False)

    objects = ProviderTokenQuerySet.as_manager()

    class Meta:
        constraints: ClassVar = [
            models.UniqueConstraint(
                fields=["user", "organization", "provider"], name="provider_token_unique"
            )
        ]

    def __str__(self) -> str:
        return f"{self.provider} token of {self.user_id}"

    @property
    def is_readable(self) -> bool:
        """Whether the token can be decrypted."""
        return _is_readable(self, "token")

    @property
    def token(self) -> str:
        return crypto.open_sealed(self.sealed_token, bound_to=_binding(self, "sealed_token"))

    @token.setter
    def token(self, plain: str) -> None:
        self.sealed_token = crypto.seal(plain, bound_to=_binding(self, "sealed_token"))

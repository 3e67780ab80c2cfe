"""Users, organizations, memberships with roles, API keys and setup links."""

import unicodedata
from datetime import datetime
from typing import TYPE_CHECKING, Any, ClassVar
from uuid import UUID

from django.contrib.auth.models import AbstractBaseUser, BaseUserManager, PermissionsMixin
from django.db import models
from django.db.models.functions import Lower
from django.utils import timezone
from uuid_utils.compat import uuid7

from accounts.roles import Role
from lib.connections import release_connection

if TYPE_CHECKING:
    from accounts.models.identity import UserSession


class UserManager(BaseUserManager["User"]):
    """A manager that finds users by e-mail address, ignoring case. ``accounts.services.create_user`` creates users."""

    def get_by_natural_key(self, username: str | None) -> "User":
        return self.get(email__iexact=username)

    def has_single_person(self) -> bool:
        """Return whether at most one active person has an account. Service accounts do not count."""
        people = self.filter(is_active=True, is_service_account=False)
        number = len(people.values_list("pk")[:2])
        # The check of an address runs in a thread without a request, which would keep the connection.
        release_connection()
        return number < 2

    def find_for_sign_in(self, email: str) -> "User | None":
        """Return the user whom an entered e-mail address signs in, or None.

        The rate limits count the user whom this method finds, so a sign-in must use it too. The database compares
        upper-case forms, in which some letters are equal, such as the dotless i. The exact address has priority.
        """
        text = unicodedata.normalize("NFKC", email).strip()
        if not text or "\0" in text or any("\ud800" <= letter <= "\udfff" for letter in text):
            return None
        rows = list(self.filter(email__iexact=text).order_by("pk")[:10])
        rows.sort(key=lambda user: user.email.lower() != text.lower())
        return rows[0] if rows else None


class User(AbstractBaseUser, PermissionsMixin):
    """A person or a service account. The e-mail address is unique, ignoring case."""

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    email = models.EmailField(max_length=254)
    name = models.CharField(max_length=120, blank=True)
    is_active = models.BooleanField(default=True)
    is_staff = models.BooleanField(
        default=False, help_text="Whether the user can open the admin site."
    )
    is_service_account = models.BooleanField(
        default=False,
        editable=False,
        help_text="Whether the user is a program that belongs to one organization and cannot sign in.",
    )
    created_at = models.DateTimeField(default=timezone.now, editable=False)

    USERNAME_FIELD = "email"
    REQUIRED_FIELDS: ClassVar[list[str]] = []
    objects = UserManager()

    bound_organization_id: UUID | None = None
    """The only organization that the request's API key or conversation key may access; None without a key."""
    key_scopes: frozenset[str] | None = None
    """The permissions to which the request's API key or conversation key limits the user; None for no limit.

    An empty set would allow nothing.
    """
    key_networks: tuple[str, ...] = ()
    """The networks from which the request's API key works; empty if it works from everywhere."""
    bound_conversation_id: UUID | None = None
    """The only conversation that the request's conversation key may access; None without such a key."""
    credential: "ApiKey | UserSession | None" = None
    """The API key or session that authenticated the request.

    A conversation key is derived from this credential and stops working when the credential ends.
    """
    credential_expires_at: datetime | None = None
    """The time at which the request's API key or access token expires; None for a session and for no limit.

    API keys and invitations that the request creates expire at this time at the latest.
    """

    class Meta:
        constraints: ClassVar = [
            models.UniqueConstraint(
                Lower("email"),
                name="user_email_unique",
                violation_error_message="An account with this e-mail address already exists.",
            ),
            models.CheckConstraint(
                condition=models.Q(is_service_account=False)
                | models.Q(is_staff=False, is_superuser=False),
                name="service_account_is_no_staff",
            ),
        ]

    def __str__(self) -> str:
        return self.email

    def get_full_name(self) -> str:
        return self.name or self.email

    def get_short_name(self) -> str:
        return (self.name or self.email.partition("@")[0]).split(" ")[0]


class OrganizationQuerySet(models.QuerySet["Organization"]):
    def visible_to(self, user: Any) -> "OrganizationQuerySet":
        """Return the organizations of which the user is a member; with an API key, only the key's organization."""
        if not user.is_authenticated:
            return self.none()
        rows = self.filter(memberships__user_id=user.pk)
        bound = getattr(user, "bound_organization_id", None)
        return rows.filter(pk=bound) if bound else rows


class Organization(models.Model):
    """A tenant. Every customer object belongs to exactly one organization."""

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    name = models.CharField(max_length=120)
    personal_of = models.OneToOneField(
        "accounts.User",
        models.CASCADE,
        null=True,
        blank=True,
        related_name="personal_organization",
        help_text="The user of this personal organization; empty for a team.",
    )
    suspended_at = models.DateTimeField(null=True, blank=True)
    created_at = models.DateTimeField(default=timezone.now, editable=False)
    members = models.ManyToManyField("accounts.User", through="accounts.Membership")

    objects = OrganizationQuerySet.as_manager()

    def __str__(self) -> str:
        return self.name


class Membership(models.Model):
    """One user's role in one organization."""

    Role = Role

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    organization = models.ForeignKey(
        "accounts.Organization", models.CASCADE, related_name="memberships"
    )
    user = models.ForeignKey("accounts.User", models.CASCADE, related_name="memberships")
    role = models.CharField(max_length=16, choices=Role, default=Role.MEMBER)
    created_at = models.DateTimeField(default=timezone.now, editable=False)

    class Meta:
        constraints: ClassVar = [
            models.UniqueConstraint(fields=["organization", "user"], name="membership_unique"),
            models.CheckConstraint(
                condition=models.Q(
                    role__in=["owner", "admin", "member", "billing", "auditor", "viewer"]
                ),
                name="membership_role_known",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.user_id} {self.role} of {self.organization_id}"


class ApiKeyQuerySet(models.QuerySet["ApiKey"]):
    def visible_to(self, user: Any) -> "ApiKeyQuerySet":
        """Return the user's own keys in the user's organizations; with an API key, only those in its organization."""
        if not user.is_authenticated:
            return self.none()
        rows = self.filter(user_id=user.pk, organization__memberships__user_id=user.pk)
        bound = getattr(user, "bound_organization_id", None)
        return rows.filter(organization_id=bound) if bound else rows

    def usable(self, *, now: datetime | None = None) -> "ApiKeyQuerySet":
        """Return the keys that are neither revoked nor expired.

        A compiled query passes an example time as ``now`` and replaces it by the present time at each run.
        """
        return self.filter(
            models.Q(expires_at__isnull=True) | models.Q(expires_at__gt=now or timezone.now()),
            revoked_at__isnull=True,
        )


class ApiKey(models.Model):
    """A long-lived secret with which a program acts as the key's owner, limited to one organization and to scopes.

    Only an HMAC of the secret is stored. ``prefix`` (``oh_<key id>``) identifies the key in lists.
    """

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    organization = models.ForeignKey(
        "accounts.Organization", models.CASCADE, related_name="api_keys"
    )
    user = models.ForeignKey("accounts.User", models.CASCADE, related_name="api_keys")
    name = models.CharField(max_length=80)
    key_id = models.CharField(max_length=16, unique=True, editable=False)
    digest = models.CharField(max_length=64, editable=False)
    pepper_id = models.CharField(max_length=16, editable=False)
    scopes = models.JSONField(
        default=list,
        blank=True,
        help_text="Names of the permissions; empty for all permissions of the owner.",
    )
    created_at = models.DateTimeField(default=timezone.now, editable=False)
    expires_at = models.DateTimeField(null=True, blank=True)
    revoked_at = models.DateTimeField(null=True, blank=True)
    last_used_at = models.DateTimeField(null=True, blank=True, editable=False)
    last_used_address = models.GenericIPAddressField(null=True, blank=True, editable=False)
    allowed_networks = models.JSONField(
        default=list,
        blank=True,
        help_text="Networks (CIDR) from which the key works; empty for all networks.",
    )
    replaces = models.OneToOneField(
        "self",
        models.SET_NULL,
        null=True,
        blank=True,
        editable=False,
        related_name="replaced_by",
        help_text="The previous key, if rotation created this key.",
    )
    parent = models.ForeignKey(
        "self",
        models.SET_NULL,
        null=True,
        blank=True,
        editable=False,
        db_index=False,
        related_name="children",
        help_text="The API key that sent the request which created this key; empty for other requests.",
    )

    objects = ApiKeyQuerySet.as_manager()

    class Meta:
        verbose_name = "API key"
        indexes: ClassVar = [
            models.Index(fields=["user", "-created_at"]),
            models.Index(
                fields=["parent"],
                name="apikey_parent",
                condition=models.Q(parent__isnull=False),
            ),
        ]

    def __str__(self) -> str:
        return f"{self.prefix} ({self.name})"

    @property
    def prefix(self) -> str:
        return f"oh_{self.key_id}"

    @property
    def is_usable(self) -> bool:
        return self.revoked_at is None and (
            self.expires_at is None or self.expires_at > timezone.now()
        )


class SetupLink(models.Model):
    """A one-time link for creating the first administrator. Only an HMAC of its token is stored."""

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    digest = models.CharField(max_length=64, unique=True, editable=False)
    pepper_id = models.CharField(max_length=16, editable=False)
    email = models.EmailField(blank=True)
    created_at = models.DateTimeField(default=timezone.now, editable=False)
    expires_at = models.DateTimeField()
    used_at = models.DateTimeField(null=True, blank=True)
    used_by = models.ForeignKey("accounts.User", models.SET_NULL, null=True, blank=True)

    def __str__(self) -> str:
        return f"setup link of {self.created_at:%Y-%m-%d %H:%M}"

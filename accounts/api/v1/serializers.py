"""Request and response bodies of the accounts API."""

from typing import Any

from django.conf import settings
from rest_framework import serializers

from accounts.models import ApiKey, Invitation, Membership, ServiceAccount
from accounts.permissions import granted_permissions
from accounts.roles import PERMISSIONS, PRESETS
from accounts.services.service_accounts import ROLES


class MembershipSerializer(serializers.ModelSerializer[Membership]):
    """An organization, with the caller's role and permissions in it."""

    id = serializers.UUIDField(source="organization.id")
    name = serializers.CharField(source="organization.name")
    is_personal = serializers.SerializerMethodField()
    permissions = serializers.SerializerMethodField()

    class Meta:
        model = Membership
        fields: tuple[str, ...] = ("id", "name", "role", "is_personal", "permissions")

    def get_is_personal(self, membership: Membership) -> bool:
        return membership.organization.personal_of_id is not None

    def get_permissions(self, membership: Membership) -> list[str]:
        if membership.organization.suspended_at:
            return []
        return sorted(granted_permissions(membership.role, self.context["request"].user))


class MeSerializer(serializers.Serializer[Any]):
    """The caller and the organizations that the caller can work in."""

    id = serializers.UUIDField()
    email = serializers.EmailField()
    name = serializers.CharField()
    is_staff = serializers.BooleanField()
    organizations = MembershipSerializer(many=True)


class ApiKeySerializer(serializers.ModelSerializer[ApiKey]):
    """An API key without its secret."""

    class Meta:
        model = ApiKey
        fields: tuple[str, ...] = (
            "id",
            "name",
            "prefix",
            "organization",
            "scopes",
            "created_at",
            "allowed_networks",
            "expires_at",
            "revoked_at",
            "last_used_at",
            "last_used_address",
            "replaces",
            "parent",
        )

    prefix = serializers.CharField(help_text="The public part of the key, which identifies it.")
    scopes = serializers.ListField(
        child=serializers.CharField(),
        help_text="Names of the key's permissions. Empty: all permissions of the owner.",
    )
    allowed_networks = serializers.ListField(
        child=serializers.CharField(),
        help_text="Networks in CIDR notation from which the key works. Empty: all networks.",
    )


class RevocationQuerySerializer(serializers.Serializer[Any]):
    """The query string of a revocation."""

    children = serializers.ChoiceField(choices=["keep", "revoke"], default="keep")


class RevocationSerializer(serializers.Serializer[Any]):
    """The keys that were created with a revoked key and still work."""

    children = ApiKeySerializer(many=True)


class IssuedApiKeySerializer(ApiKeySerializer):
    """A new API key with its secret."""

    key = serializers.CharField(help_text="The API key. Only this response contains it.")

    class Meta(ApiKeySerializer.Meta):
        fields = (*ApiKeySerializer.Meta.fields, "key")


class NewServiceAccountKeySerializer(serializers.Serializer[Any]):
    """The fields of a new API key of a service account."""

    name = serializers.CharField(max_length=80)
    days = serializers.IntegerField(
        required=False,
        min_value=1,
        help_text="Days until the key expires. Default: the maximum that the server allows.",
    )
    scopes = serializers.ListField(
        child=serializers.CharField(max_length=64),
        required=False,
        max_length=len(PERMISSIONS),
        help_text="Names of the key's permissions, which the owner must have. Empty: all permissions of the owner.",
    )
    preset = serializers.ChoiceField(
        choices=sorted(PRESETS),
        required=False,
        help_text="Name of a predefined set of scopes. Send either `preset` or `scopes`, not both.",
    )
    allowed_networks = serializers.ListField(
        child=serializers.CharField(max_length=60),
        required=False,
        max_length=20,
        help_text="Networks such as 192.0.2.0/24 from which the key works. Empty: all networks.",
    )

    def validate_days(self, days: int) -> int:
        if days > settings.API_KEY_MAX_DAYS:
            raise serializers.ValidationError(
                f"An API key is valid for at most {settings.API_KEY_MAX_DAYS} days. Enter a smaller number."
            )
        return days

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        if preset := attrs.pop("preset", None):
            if attrs.get("scopes"):
                raise serializers.ValidationError(
                    {"preset": ["Send either `preset` or `scopes`, not both."]}
                )
            attrs["scopes"] = sorted(PRESETS[preset])
        return attrs


class NewApiKeySerializer(NewServiceAccountKeySerializer):
    """The fields of a new API key of the caller."""

    organization = serializers.UUIDField(
        required=False,
        help_text="The only organization in which the key works. Default: the active organization.",
    )


class RotationSerializer(serializers.Serializer[Any]):
    """Options for the rotation of an API key."""

    overlap_hours = serializers.IntegerField(
        default=24,
        min_value=0,
        max_value=168,
        help_text="The time in hours for which the old key keeps working.",
    )


# --- Organizations ------------------------------------------------------------------


class OrganizationSerializer(MembershipSerializer):
    """An organization and the time of its suspension, with the caller's role and permissions in it."""

    suspended_at = serializers.DateTimeField(
        source="organization.suspended_at",
        allow_null=True,
        help_text="When the organization was suspended; null for an active organization.",
    )
    created_at = serializers.DateTimeField(source="organization.created_at")

    class Meta(MembershipSerializer.Meta):
        fields = (*MembershipSerializer.Meta.fields, "suspended_at", "created_at")


class OrganizationNameSerializer(serializers.Serializer[Any]):
    """The name of an organization."""

    name = serializers.CharField(max_length=120)


class TransferSerializer(serializers.Serializer[Any]):
    """The id of the member who becomes an owner of the organization."""

    user = serializers.UUIDField()


class RoleSerializer(serializers.Serializer[Any]):
    """The new role of a member."""

    role = serializers.ChoiceField(choices=Membership.Role.choices)


class MemberSerializer(serializers.ModelSerializer[Membership]):
    """A member of an organization."""

    id = serializers.UUIDField(source="user.id", help_text="The id of the user.")
    email = serializers.CharField(source="user.email")
    name = serializers.CharField(source="user.name")
    is_active = serializers.BooleanField(source="user.is_active")
    is_service_account = serializers.BooleanField(source="user.is_service_account")
    joined_at = serializers.DateTimeField(source="created_at")

    class Meta:
        model = Membership
        fields = ("id", "email", "name", "role", "is_active", "is_service_account", "joined_at")


class InvitationSerializer(serializers.ModelSerializer[Invitation]):
    """An invitation without its link."""

    is_open = serializers.BooleanField(help_text="Whether the invitation can still be accepted.")

    class Meta:
        model = Invitation
        fields: tuple[str, ...] = (
            "id",
            "role",
            "email",
            "max_uses",
            "uses",
            "is_open",
            "created_by",
            "created_at",
            "expires_at",
            "revoked_at",
        )


class IssuedInvitationSerializer(InvitationSerializer):
    """A new invitation with its link."""

    link = serializers.CharField(
        help_text="The link for the invited user. Only this response contains it."
    )
    mailed = serializers.BooleanField(help_text="Whether the mail server accepted the message.")

    class Meta(InvitationSerializer.Meta):
        fields = (*InvitationSerializer.Meta.fields, "link", "mailed")


class NewInvitationSerializer(serializers.Serializer[Any]):
    """The fields of a new invitation."""

    role = serializers.ChoiceField(
        choices=Membership.Role.choices, default=Membership.Role.MEMBER.value
    )
    email = serializers.CharField(
        max_length=254,
        required=False,
        help_text="If set, only the user with this e-mail address can accept the invitation, and only once.",
    )
    days = serializers.IntegerField(default=7, min_value=1, max_value=30)
    max_uses = serializers.IntegerField(default=1, min_value=1, max_value=500)


class AcceptSerializer(serializers.Serializer[Any]):
    """The token of an invitation, which is the last part of its link."""

    token = serializers.CharField(max_length=100)


class ServiceAccountSerializer(serializers.ModelSerializer[ServiceAccount]):
    """A service account: a program that is a member of one organization."""

    role = serializers.SerializerMethodField(help_text="Null after the service account is revoked.")

    class Meta:
        model = ServiceAccount
        fields = ("id", "name", "role", "created_by", "created_at", "revoked_at")

    def get_role(self, account: ServiceAccount) -> str | None:
        return next((m.role for m in account.user.memberships.all()), None)


class NewServiceAccountSerializer(serializers.Serializer[Any]):
    """The name and the role of a new service account."""

    name = serializers.CharField(max_length=80)
    role = serializers.ChoiceField(choices=ROLES, default=Membership.Role.MEMBER.value)


class ExplainQuery(serializers.Serializer[Any]):
    """The permission to explain, and the id of the organization. Default: the active organization."""

    permission = serializers.CharField(max_length=64)
    organization = serializers.UUIDField(required=False)


class ExplanationSerializer(serializers.Serializer[Any]):
    """The reason why the caller has a permission or lacks it."""

    permission = serializers.CharField()
    organization = serializers.UUIDField()
    allowed = serializers.BooleanField()
    decided_by = serializers.CharField(
        help_text="The check that decided: `role`, `key-scope`, `key-organization`, `membership` or `suspension`."
    )
    role = serializers.CharField(allow_null=True)
    sentence = serializers.CharField()
    change = serializers.CharField(
        help_text="How to get the permission; empty if the caller has the permission."
    )


class SignInSerializer(serializers.Serializer[Any]):
    """Credentials: an e-mail address, a password, and the code of the second factor if there is one."""

    email = serializers.CharField(max_length=254)
    password = serializers.CharField(max_length=1024, trim_whitespace=False, write_only=True)
    code = serializers.CharField(
        max_length=40,
        required=False,
        allow_blank=True,
        write_only=True,
        help_text="The six digits of the authenticator app, or a recovery code.",
    )


class CsrfSerializer(serializers.Serializer[Any]):
    """A CSRF token that matches the cookie in the response."""

    csrf_token = serializers.CharField()

    def to_representation(self, instance: Any) -> dict[str, str]:
        return {"csrf_token": instance}

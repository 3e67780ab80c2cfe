"""What the accounts API takes and gives."""

from typing import Any

from django.conf import settings
from rest_framework import serializers

from accounts.models import ApiKey, Invitation, Membership, ServiceAccount
from accounts.permissions import granted_permissions
from accounts.roles import PERMISSIONS, PRESETS
from accounts.services.service_accounts import ROLES


class MembershipSerializer(serializers.ModelSerializer[Membership]):
    """An organization from the view of one of its members."""

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
    """The caller."""

    id = serializers.UUIDField()
    email = serializers.EmailField()
    name = serializers.CharField()
    is_staff = serializers.BooleanField()
    organizations = MembershipSerializer(many=True)


class ApiKeySerializer(serializers.ModelSerializer[ApiKey]):
    """A key as it is seen after its creation: without its secret."""

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
        )

    prefix = serializers.CharField(help_text="Tells keys apart; opens nothing.")
    scopes = serializers.ListField(
        child=serializers.CharField(), help_text="Empty: all that the owner may do."
    )
    allowed_networks = serializers.ListField(
        child=serializers.CharField(), help_text="Empty: it works from everywhere."
    )


class IssuedApiKeySerializer(ApiKeySerializer):
    """A key at the moment of its creation."""

    key = serializers.CharField(help_text="The secret. It is shown this once.")

    class Meta(ApiKeySerializer.Meta):
        fields = (*ApiKeySerializer.Meta.fields, "key")


class NewServiceAccountKeySerializer(serializers.Serializer[Any]):
    """What a new key of a service account is to be."""

    name = serializers.CharField(max_length=80)
    days = serializers.IntegerField(
        required=False, min_value=1, help_text="Until it expires; the server has a maximum."
    )
    scopes = serializers.ListField(
        child=serializers.CharField(max_length=64),
        required=False,
        max_length=len(PERMISSIONS),
        help_text="Permission names among your own; empty means all of yours.",
    )
    preset = serializers.ChoiceField(
        choices=sorted(PRESETS),
        required=False,
        help_text="Scopes by what the key is for, in place of `scopes`.",
    )
    allowed_networks = serializers.ListField(
        child=serializers.CharField(max_length=60),
        required=False,
        max_length=20,
        help_text="Networks such as 192.0.2.0/24 that it works from; empty means everywhere.",
    )

    def validate_days(self, days: int) -> int:
        if days > settings.API_KEY_MAX_DAYS:
            raise serializers.ValidationError(
                f"A key lives at most {settings.API_KEY_MAX_DAYS} days here."
            )
        return days

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        if preset := attrs.pop("preset", None):
            if attrs.get("scopes"):
                raise serializers.ValidationError(
                    {"preset": ["Give a preset or scopes, not both."]}
                )
            attrs["scopes"] = sorted(PRESETS[preset])
        return attrs


class NewApiKeySerializer(NewServiceAccountKeySerializer):
    """What a new key is to be."""

    organization = serializers.UUIDField(
        required=False, help_text="The only one the key reaches; your personal one by default."
    )


class RotationSerializer(serializers.Serializer[Any]):
    """How a key is to be replaced."""

    overlap_hours = serializers.IntegerField(
        default=24, min_value=0, max_value=168, help_text="For so long the old key works too."
    )


# --- Organizations ------------------------------------------------------------------


class OrganizationSerializer(MembershipSerializer):
    """An organization and the caller's place in it."""

    suspended_at = serializers.DateTimeField(
        source="organization.suspended_at", allow_null=True, help_text="Since then it is closed."
    )
    created_at = serializers.DateTimeField(source="organization.created_at")

    class Meta(MembershipSerializer.Meta):
        fields = (*MembershipSerializer.Meta.fields, "suspended_at", "created_at")


class OrganizationNameSerializer(serializers.Serializer[Any]):
    """A name."""

    name = serializers.CharField(max_length=120)


class TransferSerializer(serializers.Serializer[Any]):
    """Who is to own an organization."""

    user = serializers.UUIDField()


class RoleSerializer(serializers.Serializer[Any]):
    """A role."""

    role = serializers.ChoiceField(choices=Membership.Role.choices)


class MemberSerializer(serializers.ModelSerializer[Membership]):
    """A member from the view of another."""

    id = serializers.UUIDField(source="user.id", help_text="The user's.")
    email = serializers.CharField(source="user.email")
    name = serializers.CharField(source="user.name")
    is_active = serializers.BooleanField(source="user.is_active")
    is_service_account = serializers.BooleanField(source="user.is_service_account")
    joined_at = serializers.DateTimeField(source="created_at")

    class Meta:
        model = Membership
        fields = ("id", "email", "name", "role", "is_active", "is_service_account", "joined_at")


class InvitationSerializer(serializers.ModelSerializer[Invitation]):
    """An invitation as it is seen after its creation: without its link."""

    is_open = serializers.BooleanField(help_text="Whether it still lets somebody in.")

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
    """An invitation at the moment of its creation."""

    link = serializers.CharField(help_text="What to hand on. It is shown this once.")
    mailed = serializers.BooleanField(help_text="Whether the mail server took it.")

    class Meta(InvitationSerializer.Meta):
        fields = (*InvitationSerializer.Meta.fields, "link", "mailed")


class NewInvitationSerializer(serializers.Serializer[Any]):
    """Who may join as what."""

    role = serializers.ChoiceField(
        choices=Membership.Role.choices, default=Membership.Role.MEMBER.value
    )
    email = serializers.CharField(
        max_length=254, required=False, help_text="Only this address may use it, once."
    )
    days = serializers.IntegerField(default=7, min_value=1, max_value=30)
    max_uses = serializers.IntegerField(default=1, min_value=1, max_value=500)


class AcceptSerializer(serializers.Serializer[Any]):
    """The last part of an invitation's link."""

    token = serializers.CharField(max_length=100)


class ServiceAccountSerializer(serializers.ModelSerializer[ServiceAccount]):
    """A program that belongs to an organization."""

    role = serializers.SerializerMethodField(help_text="Null once it is revoked.")

    class Meta:
        model = ServiceAccount
        fields = ("id", "name", "role", "created_by", "created_at", "revoked_at")

    def get_role(self, account: ServiceAccount) -> str | None:
        return next((m.role for m in account.user.memberships.all()), None)


class NewServiceAccountSerializer(serializers.Serializer[Any]):
    """A name, and a role that the caller covers wholly."""

    name = serializers.CharField(max_length=80)
    role = serializers.ChoiceField(choices=ROLES, default=Membership.Role.MEMBER.value)


class ExplainQuery(serializers.Serializer[Any]):
    """What is asked about."""

    permission = serializers.CharField(max_length=64)
    organization = serializers.UUIDField(required=False)


class ExplanationSerializer(serializers.Serializer[Any]):
    """Why somebody may do something or not."""

    permission = serializers.CharField()
    organization = serializers.UUIDField()
    allowed = serializers.BooleanField()
    decided_by = serializers.CharField(
        help_text="role, key-scope, key-organization, membership or suspension."
    )
    role = serializers.CharField(allow_null=True)
    sentence = serializers.CharField()
    change = serializers.CharField(help_text="What would have to change; empty when allowed.")


class SignInSerializer(serializers.Serializer[Any]):
    """An e-mail address and a password, and the code of the second factor where there is one."""

    email = serializers.CharField(max_length=254)
    password = serializers.CharField(max_length=1024, trim_whitespace=False, write_only=True)
    code = serializers.CharField(
        max_length=40,
        required=False,
        allow_blank=True,
        write_only=True,
        help_text="Six digits of the app, or a recovery code.",
    )


class CsrfSerializer(serializers.Serializer[Any]):
    """The token that goes with the cookie of the same request."""

    csrf_token = serializers.CharField()

    def to_representation(self, instance: Any) -> dict[str, str]:
        return {"csrf_token": instance}

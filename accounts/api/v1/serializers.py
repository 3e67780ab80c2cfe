"""What the accounts API takes and gives."""

from typing import Any

from django.conf import settings
from rest_framework import serializers

from accounts.models import ApiKey, Membership
from accounts.permissions import PERMISSIONS, granted_by


class MembershipSerializer(serializers.ModelSerializer):
    """An organization from the view of one of its members."""

    id = serializers.UUIDField(source="organization.id")
    name = serializers.CharField(source="organization.name")
    is_personal = serializers.SerializerMethodField()
    permissions = serializers.SerializerMethodField()

    class Meta:
        model = Membership
        fields = ("id", "name", "role", "is_personal", "permissions")

    def get_is_personal(self, membership: Membership) -> bool:
        return membership.organization.personal_of_id is not None

    def get_permissions(self, membership: Membership) -> list[str]:
        if membership.organization.suspended_at:
            return []
        return sorted(granted_by(membership.role, self.context["request"].user))


class MeSerializer(serializers.Serializer):
    """The caller."""

    id = serializers.UUIDField()
    email = serializers.EmailField()
    name = serializers.CharField()
    is_staff = serializers.BooleanField()
    organizations = MembershipSerializer(many=True)


class ApiKeySerializer(serializers.ModelSerializer):
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
            "expires_at",
            "revoked_at",
            "last_used_at",
        )

    prefix = serializers.CharField(help_text="Tells keys apart; opens nothing.")
    scopes = serializers.ListField(
        child=serializers.CharField(), help_text="Empty: all that the owner may do."
    )


class IssuedApiKeySerializer(ApiKeySerializer):
    """A key at the moment of its creation."""

    key = serializers.CharField(help_text="The secret. It is shown this once.")

    class Meta(ApiKeySerializer.Meta):
        fields = (*ApiKeySerializer.Meta.fields, "key")


class NewApiKeySerializer(serializers.Serializer):
    """What a new key is to be."""

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
    organization = serializers.UUIDField(
        required=False, help_text="The only one the key reaches; your personal one by default."
    )

    def validate_days(self, days: int) -> int:
        if days > settings.API_KEY_MAX_DAYS:
            raise serializers.ValidationError(
                f"A key lives at most {settings.API_KEY_MAX_DAYS} days here."
            )
        return days


class SignInSerializer(serializers.Serializer):
    """An e-mail address and a password."""

    email = serializers.CharField(max_length=254)
    password = serializers.CharField(max_length=1024, trim_whitespace=False, write_only=True)


class CsrfSerializer(serializers.Serializer):
    """The token that goes with the cookie of the same request."""

    csrf_token = serializers.CharField()

    def to_representation(self, instance: Any) -> dict[str, str]:
        return {"csrf_token": instance}

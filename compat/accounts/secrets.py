"""``/api/secrets``: the caller's own custom secrets, addressed by name as existing clients do."""

from typing import Any

from drf_spectacular.utils import extend_schema, inline_serializer
from rest_framework import serializers, status
from rest_framework.generics import get_object_or_404
from rest_framework.request import Request
from rest_framework.response import Response

from accounts.api.v1.settings import InActiveOrganization
from accounts.models import CustomSecret
from accounts.requests import ApiRequest
from accounts.services import custom_secrets
from compat.accounts.views import MESSAGE
from lib.routes import RouteFacts


class CompatSecretSerializer(serializers.Serializer[Any]):
    """What is told of a secret."""

    name = serializers.CharField()
    description = serializers.CharField()


class CompatSecretsSerializer(serializers.Serializer[Any]):
    """The caller's secrets."""

    custom_secrets = CompatSecretSerializer(many=True)


class NewCompatSecretSerializer(serializers.Serializer[Any]):
    """A secret to keep."""

    name = serializers.CharField(max_length=100)
    value = serializers.CharField(
        max_length=custom_secrets.VALUE_MAX, trim_whitespace=False, write_only=True
    )
    description = serializers.CharField(
        max_length=500, required=False, allow_blank=True, allow_null=True
    )


class CompatSecretChangeSerializer(serializers.Serializer[Any]):
    """Another name or description; the value stays."""

    name = serializers.CharField(max_length=100)
    description = serializers.CharField(
        max_length=500, required=False, allow_blank=True, allow_null=True
    )


TAKEN = inline_serializer(
    "SecretNameTaken", {"message": serializers.CharField(), "error": serializers.CharField()}
)


def taken(refusal: custom_secrets.SecretExists) -> Response:
    """The answer to a name that is taken, as existing clients know it."""
    body = {"message": refusal.detail, "error": refusal.detail}
    return Response(body, status=status.HTTP_400_BAD_REQUEST)


class OwnSecrets(InActiveOrganization):
    """A view of the caller's own secrets in the organization that the request works in."""

    def named(self, name: str) -> CustomSecret:
        """One of them; 404 without it."""
        user = self.request.user
        rows = CustomSecret.objects.visible_to(user)
        found: CustomSecret = get_object_or_404(
            rows, user=user, organization=self.organization(), name=name
        )
        return found


@RouteFacts(replaced_by="/api/v1/secrets")
@extend_schema(tags=["compat"])
class CompatSecretsView(OwnSecrets):
    """The caller's secrets."""

    serializer_class = CompatSecretsSerializer
    permissions_by_action = {"get": "secrets.view", "post": "secrets.edit"}  # noqa: RUF012

    @extend_schema(operation_id="compat_secrets_list")
    def get(self, request: ApiRequest) -> Response:
        """Names and descriptions; values are never told."""
        user = request.user
        organization = self.organization()
        rows = CustomSecret.objects.visible_to(user).filter(user=user, organization=organization)
        return Response(self.get_serializer({"custom_secrets": rows.order_by("name")}).data)

    @extend_schema(
        operation_id="compat_secrets_create",
        request=NewCompatSecretSerializer,
        responses={201: MESSAGE, 400: TAKEN},
    )
    def post(self, request: ApiRequest) -> Response:
        """Keep a secret; 400 when its name is taken."""
        user = request.user
        organization = self.organization()
        wanted = self.body(NewCompatSecretSerializer)
        try:
            custom_secrets.create_secret(
                organization=organization,
                by=user,
                name=wanted["name"],
                value=wanted["value"],
                description=wanted.get("description") or "",
            )
        except custom_secrets.SecretExists as refusal:
            return taken(refusal)
        return Response({"message": "Secret created"}, status=status.HTTP_201_CREATED)


@RouteFacts(replaced_by="/api/v1/secrets/{}")
@extend_schema(tags=["compat"])
class CompatSecretView(OwnSecrets):
    """One of the caller's secrets, by its name."""

    permission = "secrets.edit"
    serializer_class = None

    @extend_schema(
        operation_id="compat_secrets_update",
        request=CompatSecretChangeSerializer,
        responses={200: MESSAGE, 400: TAKEN},
    )
    def put(self, request: Request, name: str) -> Response:
        """Rename or describe it. Safe to repeat under the new name."""
        secret = self.named(name)
        wanted = self.body(CompatSecretChangeSerializer)
        try:
            custom_secrets.change_secret(
                secret=secret,
                name=wanted["name"],
                description=(wanted["description"] or "") if "description" in wanted else None,
            )
        except custom_secrets.SecretExists as refusal:
            return taken(refusal)
        return Response({"message": "Secret updated"})

    @extend_schema(operation_id="compat_secrets_destroy", responses={200: MESSAGE})
    def delete(self, request: Request, name: str) -> Response:
        """Forget it."""
        custom_secrets.delete_secret(secret=self.named(name))
        return Response({"message": "Secret deleted"})

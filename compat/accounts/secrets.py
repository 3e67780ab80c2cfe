"""``/api/secrets``: the caller's own custom secrets. The URL of a secret contains the secret's name, not its id."""

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
    """A secret without its value."""

    name = serializers.CharField()
    description = serializers.CharField()


class CompatSecretsSerializer(serializers.Serializer[Any]):
    """The caller's secrets."""

    custom_secrets = CompatSecretSerializer(many=True)


class NewCompatSecretSerializer(serializers.Serializer[Any]):
    """A new secret."""

    name = serializers.CharField(max_length=100)
    value = serializers.CharField(
        max_length=custom_secrets.VALUE_MAX, trim_whitespace=False, write_only=True
    )
    description = serializers.CharField(
        max_length=500, required=False, allow_blank=True, allow_null=True
    )


class CompatSecretChangeSerializer(serializers.Serializer[Any]):
    """A new name and, optionally, a new description of a secret. The secret's value stays unchanged."""

    name = serializers.CharField(max_length=100)
    description = serializers.CharField(
        max_length=500, required=False, allow_blank=True, allow_null=True
    )


NAME_TAKEN = inline_serializer(
    "SecretNameTaken", {"message": serializers.CharField(), "error": serializers.CharField()}
)


def duplicate_name_response(refusal: custom_secrets.SecretExists) -> Response:
    """Return the 400 response which says that a secret's name is in use. Clients show the text in ``message``."""
    body = {"message": refusal.detail, "error": refusal.detail}
    return Response(body, status=status.HTTP_400_BAD_REQUEST)


class OwnSecrets(InActiveOrganization):
    """The base class of the views for the caller's own secrets in the active organization."""

    def find(self, name: str) -> CustomSecret:
        """Return the secret with this name. Raise ``Http404`` if the caller has none."""
        user = self.request.user
        rows = CustomSecret.objects.visible_to(user)
        secret: CustomSecret = get_object_or_404(
            rows, user=user, organization=self.organization(), name=name
        )
        return secret


@RouteFacts(replaced_by="/api/v1/secrets")
@extend_schema(tags=["compat"])
class CompatSecretsView(OwnSecrets):
    """The caller's secrets."""

    serializer_class = CompatSecretsSerializer
    permissions_by_action = {"get": "secrets.view", "post": "secrets.edit"}  # noqa: RUF012

    @extend_schema(operation_id="compat_secrets_list")
    def get(self, request: ApiRequest) -> Response:
        """Return the names and descriptions of the secrets. Values are never returned."""
        user = request.user
        organization = self.organization()
        rows = CustomSecret.objects.visible_to(user).filter(user=user, organization=organization)
        return Response(self.get_serializer({"custom_secrets": rows.order_by("name")}).data)

    @extend_schema(
        operation_id="compat_secrets_create",
        request=NewCompatSecretSerializer,
        responses={201: MESSAGE, 400: NAME_TAKEN},
    )
    def post(self, request: ApiRequest) -> Response:
        """Create a secret. Respond with 400 if the caller already has a secret of this name."""
        user = request.user
        organization = self.organization()
        body = self.body(NewCompatSecretSerializer)
        try:
            custom_secrets.create_secret(
                organization=organization,
                by=user,
                name=body["name"],
                value=body["value"],
                description=body.get("description") or "",
            )
        except custom_secrets.SecretExists as refusal:
            return duplicate_name_response(refusal)
        # The web client expects 201 here, and 200 for changes and deletions.
        return Response({"message": "Secret created"}, status=status.HTTP_201_CREATED)


@RouteFacts(replaced_by="/api/v1/secrets/{}")
@extend_schema(tags=["compat"])
class CompatSecretView(OwnSecrets):
    """One secret, identified by its name."""

    permission = "secrets.edit"
    serializer_class = None

    @extend_schema(
        operation_id="compat_secrets_update",
        request=CompatSecretChangeSerializer,
        responses={200: MESSAGE, 400: NAME_TAKEN},
    )
    def put(self, request: Request, name: str) -> Response:
        """Change the name and the description. To repeat the request, use the new name in the URL."""
        secret = self.find(name)
        body = self.body(CompatSecretChangeSerializer)
        try:
            custom_secrets.change_secret(
                secret=secret,
                name=body["name"],
                description=(body["description"] or "") if "description" in body else None,
            )
        except custom_secrets.SecretExists as refusal:
            return duplicate_name_response(refusal)
        return Response({"message": "Secret updated"})

    @extend_schema(operation_id="compat_secrets_destroy", responses={200: MESSAGE})
    def delete(self, request: Request, name: str) -> Response:
        """Delete the secret."""
        custom_secrets.delete_secret(secret=self.find(name))
        return Response({"message": "Secret deleted"})

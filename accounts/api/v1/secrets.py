"""API endpoints for custom secrets of a user or of an organization. No response contains the value of a secret."""

from typing import Any

from django.db.models import QuerySet
from drf_spectacular.utils import extend_schema, extend_schema_view
from rest_framework import mixins, serializers, status, viewsets
from rest_framework.decorators import action
from rest_framework.request import Request
from rest_framework.response import Response

from accounts.active import active_organization
from accounts.api.bodies import parse_body
from accounts.api.permissions import permission_of
from accounts.models import CustomSecret, CustomSecretUse
from accounts.permissions import require
from accounts.requests import ApiRequest
from accounts.services import custom_secrets
from lib.api import parse_query

SCOPES = ["user", "organization"]


class SecretSerializer(serializers.ModelSerializer[CustomSecret]):
    """A secret without its value."""

    scope = serializers.ChoiceField(SCOPES)
    is_readable = serializers.BooleanField(
        help_text="Whether the value can be decrypted. If not, agents cannot use it: enter the value again."
    )

    class Meta:
        model = CustomSecret
        fields = (
            *("id", "organization", "scope", "name", "description", "is_readable"),
            *("created_by", "created_at", "updated_at"),
        )


class NewSecretSerializer(serializers.Serializer[Any]):
    """A secret to store. Sandboxes can read the value from the environment variable ``name``."""

    name = serializers.CharField(max_length=100)
    value = serializers.CharField(
        max_length=custom_secrets.VALUE_MAX, trim_whitespace=False, write_only=True
    )
    description = serializers.CharField(
        max_length=500, required=False, allow_blank=True, default=""
    )
    scope = serializers.ChoiceField(SCOPES, default="user")
    organization = serializers.UUIDField(required=False)


class SecretChangeSerializer(serializers.Serializer[Any]):
    """The fields to change in a secret; absent fields stay unchanged."""

    name = serializers.CharField(max_length=100, required=False)
    value = serializers.CharField(
        max_length=custom_secrets.VALUE_MAX,
        trim_whitespace=False,
        write_only=True,
        required=False,
    )
    description = serializers.CharField(max_length=500, required=False, allow_blank=True)


class SecretsQuery(serializers.Serializer[Any]):
    """Filters of the list of secrets."""

    organization = serializers.UUIDField(required=False)
    scope = serializers.ChoiceField(SCOPES, required=False)


class SecretUseSerializer(serializers.ModelSerializer[CustomSecretUse]):
    """One use of a secret by the sandbox of a conversation."""

    conversation = serializers.UUIDField(source="conversation_id")
    posted_by = serializers.UUIDField(
        source="posted_by_id",
        allow_null=True,
        help_text="The id of the user who posted the message on which the agent worked; null if unknown.",
    )

    class Meta:
        model = CustomSecretUse
        fields = ("id", "conversation", "posted_by", "used_at")


@extend_schema(tags=["secrets"])
@extend_schema_view(
    list=extend_schema(
        parameters=[SecretsQuery],
        description="Return the secrets of the caller and of the organization, newest first.",
    ),
    retrieve=extend_schema(description="Return one secret, without its value."),
    destroy=extend_schema(description="Delete a secret and the log of its uses."),
)
class SecretViewSet(
    mixins.ListModelMixin,
    mixins.RetrieveModelMixin,
    mixins.DestroyModelMixin,
    viewsets.GenericViewSet[CustomSecret],
):
    """The custom secrets of the caller, and those that the caller's organizations share."""

    serializer_class = SecretSerializer
    queryset = CustomSecret.objects.none()
    permissions_by_action = {  # noqa: RUF012 - a view's table, like DRF's own
        "list": "secrets.view",
        "retrieve": "secrets.view",
        "uses": "secrets.view",
        "create": "secrets.edit",
        "partial_update": "secrets.edit",
        "destroy": "secrets.edit",
    }

    def get_queryset(self) -> QuerySet[CustomSecret]:
        rows = CustomSecret.objects.visible_to(self.request.user)
        if self.action != "list":
            return rows
        query = parse_query(SecretsQuery, self.request, ignoring={"cursor", "limit"})
        organization = active_organization(self.request, query.get("organization"))
        require(self.request.user, organization.pk, permission_of(self) or "")
        rows = rows.filter(organization=organization)
        if "scope" in query:
            rows = rows.filter(user__isnull=query["scope"] == "organization")
        return rows

    def get_object(self) -> CustomSecret:
        """Return the secret that the URL names.

        To change a secret of the organization, the caller also needs the permission `organization_secrets.edit`.
        """
        secret: CustomSecret = super().get_object()
        is_write = permission_of(self) == "secrets.edit"
        if is_write and secret.user_id is None:
            require(self.request.user, secret.organization_id, "organization_secrets.edit")
        return secret

    @extend_schema(request=NewSecretSerializer, responses={201: SecretSerializer})
    def create(self, request: ApiRequest) -> Response:
        """Store a secret of the caller or of the organization. Respond 409 if the same owner already uses the name."""
        user = request.user
        fields = parse_body(NewSecretSerializer, request)
        organization = active_organization(request, fields.pop("organization", None))
        is_shared = fields.pop("scope") == "organization"
        require(user, organization.pk, "secrets.edit")
        if is_shared:
            require(user, organization.pk, "organization_secrets.edit")
        secret = custom_secrets.create_secret(
            organization=organization, by=user, is_shared=is_shared, **fields
        )
        return Response(self.get_serializer(secret).data, status=status.HTTP_201_CREATED)

    @extend_schema(request=SecretChangeSerializer, responses=SecretSerializer)
    def partial_update(self, request: Request, pk: Any) -> Response:
        """Rename a secret, change its description, or replace its value. Safe to repeat."""
        secret = self.get_object()
        changed = custom_secrets.change_secret(
            secret=secret, **parse_body(SecretChangeSerializer, request)
        )
        return Response(self.get_serializer(changed).data)

    def perform_destroy(self, instance: CustomSecret) -> None:
        custom_secrets.delete_secret(secret=instance)

    @extend_schema(responses=SecretUseSerializer(many=True))
    @action(detail=True, methods=["get"], serializer_class=SecretUseSerializer)
    def uses(self, request: Request, pk: Any) -> Response:
        """Return the uses of a secret by the sandboxes of conversations, newest first."""
        self.page_field = "used_at"
        rows: QuerySet[Any] = self.get_object().uses.all()
        page = self.paginate_queryset(rows)
        return self.get_paginated_response(self.get_serializer(page, many=True).data)

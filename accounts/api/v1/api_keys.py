"""API endpoints for the caller's API keys."""

from typing import Any

from django.db.models import QuerySet
from drf_spectacular.utils import extend_schema, extend_schema_view
from rest_framework import mixins, status, viewsets
from rest_framework.decorators import action
from rest_framework.response import Response

from accounts import services
from accounts.active import active_organization
from accounts.api.bodies import parse_body
from accounts.api.v1 import serializers
from accounts.models import ApiKey
from accounts.permissions import require
from accounts.requests import ApiRequest
from lib.routes import RouteFacts


@extend_schema(tags=["api-keys"])
@extend_schema_view(
    list=extend_schema(
        description="Return the caller's API keys, newest first, including revoked keys."
    ),
    retrieve=extend_schema(description="Return one of the caller's API keys, without its secret."),
    destroy=extend_schema(
        description="Revoke an API key. It stops working immediately and stays in the list. Safe to repeat."
    ),
)
class ApiKeyViewSet(
    mixins.ListModelMixin,
    mixins.RetrieveModelMixin,
    mixins.DestroyModelMixin,
    viewsets.GenericViewSet[ApiKey],
):
    """The caller's API keys."""

    queryset = ApiKey.objects.none()
    serializer_class = serializers.ApiKeySerializer
    lookup_value_converter = "uuid"
    permissions_by_action = {  # noqa: RUF012 - a view's table, like DRF's own
        "list": "api_keys.view",
        "retrieve": "api_keys.view",
        "create": "api_keys.edit",
        "destroy": "api_keys.edit",
        "rotate": "api_keys.edit",
    }

    def get_queryset(self) -> QuerySet[ApiKey]:
        return ApiKey.objects.visible_to(self.request.user)

    @RouteFacts(cost="keys")
    @extend_schema(
        request=serializers.NewApiKeySerializer,
        responses={201: serializers.IssuedApiKeySerializer},
    )
    def create(self, request: ApiRequest) -> Response:
        """Create an API key. Only this response contains the key."""
        fields = parse_body(serializers.NewApiKeySerializer, request)
        organization = active_organization(request, fields.pop("organization", None))
        require(request.user, organization.pk, "api_keys.edit")
        key, plain = services.issue_api_key(
            user=request.user,
            organization=organization,
            not_after=getattr(request.auth, "expires_at", None),
            **fields,
        )
        response = self.get_serializer(key).data | {"key": plain}
        return Response(response, status=status.HTTP_201_CREATED)

    @extend_schema(
        request=serializers.RotationSerializer,
        responses={201: serializers.IssuedApiKeySerializer},
    )
    @action(detail=True, methods=["post"])
    def rotate(self, request: ApiRequest, *args: Any, **kwargs: Any) -> Response:
        """Replace an API key by a new key with the same name, scopes and networks.

        The old key keeps working for `overlap_hours`. Only this response contains the new key. Respond 409 if the old
        key is expired or revoked, or was already rotated.
        """
        key = self.get_object()
        new, plain = services.rotate_api_key(
            key=key,
            by=request.user,
            not_after=getattr(request.auth, "expires_at", None),
            **parse_body(serializers.RotationSerializer, request),
        )
        response = self.get_serializer(new).data | {"key": plain}
        return Response(response, status=status.HTTP_201_CREATED)

    def perform_destroy(self, instance: ApiKey) -> None:
        services.revoke_api_key(key=instance)

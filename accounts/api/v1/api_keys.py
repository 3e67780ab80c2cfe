"""API endpoints for the caller's API keys."""

from typing import Any

from django.db.models import QuerySet
from drf_spectacular.utils import OpenApiParameter, extend_schema, extend_schema_view
from rest_framework import mixins, status, viewsets
from rest_framework.decorators import action
from rest_framework.request import Request
from rest_framework.response import Response

from accounts import services
from accounts.active import active_organization
from accounts.api.bodies import parse_body
from accounts.api.v1 import serializers
from accounts.models import ApiKey
from accounts.permissions import require
from accounts.requests import ApiRequest
from lib.routes import RouteFacts

CHILDREN = OpenApiParameter(
    "children",
    enum=["keep", "revoke"],
    default="keep",
    description="Whether to revoke the keys that were created with this key too.",
)


@extend_schema(tags=["api-keys"])
@extend_schema_view(
    list=extend_schema(
        description="Return the caller's API keys, newest first, including revoked keys."
    ),
    retrieve=extend_schema(description="Return one of the caller's API keys, without its secret."),
    destroy=extend_schema(
        description="Revoke an API key. It stops working immediately and stays in the list. Keys that were created "
        "with it continue to work: respond 200 with these keys, or revoke them too with `children=revoke`. Safe to "
        "repeat.",
        parameters=[CHILDREN],
        responses={200: serializers.RevocationSerializer, 204: None},
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
        "children": "api_keys.view",
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
            **parse_body(serializers.RotationSerializer, request),
        )
        response = self.get_serializer(new).data | {"key": plain}
        return Response(response, status=status.HTTP_201_CREATED)

    @extend_schema(responses=serializers.ApiKeySerializer(many=True), filters=False, parameters=[])
    @action(detail=True, pagination_class=None)
    def children(self, request: ApiRequest, *args: Any, **kwargs: Any) -> Response:
        """Return the usable keys that were created with this key, directly or by keys that it created."""
        rows = services.child_keys(keys=[self.get_object()])
        return Response(self.get_serializer(rows, many=True).data)

    def destroy(self, request: Request, *args: Any, **kwargs: Any) -> Response:
        return revoke(self, request)


def revoke(view: viewsets.GenericViewSet[ApiKey], request: Request) -> Response:
    """Revoke the key of a view's URL. Respond 204, or 200 with the keys created with it that still work."""
    query = serializers.RevocationQuerySerializer(data=request.query_params)
    query.is_valid(raise_exception=True)
    left = services.revoke_api_key(
        key=view.get_object(), with_children=query.validated_data["children"] == "revoke"
    )
    if not left:
        return Response(status=status.HTTP_204_NO_CONTENT)
    rows = serializers.ApiKeySerializer(left, many=True, context=view.get_serializer_context())
    return Response({"children": rows.data})

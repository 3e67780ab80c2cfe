"""The billing API: which model the caller's conversations use."""

from typing import Any

from drf_spectacular.utils import OpenApiParameter, extend_schema, extend_schema_view
from rest_framework import serializers as fields
from rest_framework import status
from rest_framework.generics import GenericAPIView, get_object_or_404
from rest_framework.request import Request
from rest_framework.response import Response

from accounts.api.permissions import permission_of
from accounts.api.v1.settings import OptionsSerializer
from accounts.models import Organization
from accounts.permissions import require
from accounts.requests import ApiRequest
from billing import services
from billing.api.v1 import serializers
from billing.gateway import checking, directory
from billing.models import ModelAccess
from lib.routes import RouteFacts

IN_ORGANIZATION = OpenApiParameter(
    "organization",
    type={"type": "string", "format": "uuid"},
    description="Absent: the organization of the API key, else the caller's own.",
)


class OrganizationQuery(fields.Serializer[Any]):
    """The query of the settings."""

    organization = fields.UUIDField(required=False)


def described(access: ModelAccess | None) -> dict[str, Any]:
    """Model access as ``ModelAccessSerializer`` wants it; none is the demo model."""
    shown = access or ModelAccess(base_url="", model=services.DEMO_MODEL)
    prices = ("prompt", "completion", "cached")
    return {
        "base_url": shown.base_url,
        "model": shown.model,
        "has_api_key": shown.has_api_key,
        **{
            f"{price}_micros_per_million": getattr(shown, f"{price}_micros_per_million")
            for price in prices
        },
        "is_demo": access is None,
    }


class InOrganization(GenericAPIView[Any]):
    """A view of the caller's settings in one organization."""

    request: ApiRequest

    def organization(self) -> Organization:
        """The organization asked for, in which the caller holds the permission of this action."""
        user = self.request.user
        query = OrganizationQuery(data=self.request.query_params)
        query.is_valid(raise_exception=True)
        wanted = query.validated_data.get("organization") or user.bound_organization_id
        visible = Organization.objects.visible_to(user)
        found = (
            get_object_or_404(visible, pk=wanted)
            if wanted
            else get_object_or_404(visible, personal_of=user)
        )
        require(user, found.pk, permission_of(self) or "")
        return found

    def access(self, organization: Organization) -> ModelAccess | None:
        """The caller's row, through the door."""
        visible = ModelAccess.objects.visible_to(self.request.user)
        return visible.filter(organization=organization).first()


@extend_schema(tags=["settings"], parameters=[IN_ORGANIZATION])
@extend_schema_view(
    get=extend_schema(operation_id="settings_model_access_retrieve"),
    put=extend_schema(
        operation_id="settings_model_access_update",
        request=serializers.NewModelAccessSerializer,
        responses=serializers.ModelAccessSerializer,
    ),
    delete=extend_schema(operation_id="settings_model_access_destroy", responses={204: None}),
)
class ModelAccessView(InOrganization):
    """The model server of the caller's conversations in an organization."""

    serializer_class = serializers.ModelAccessSerializer
    permissions_by_action = {  # noqa: RUF012 - a view's table, like DRF's own
        "get": "model_access.view",
        "put": "model_access.edit",
        "delete": "model_access.edit",
    }

    def get(self, request: Request) -> Response:
        """Which model is in force. The key itself is never told."""
        return Response(self.get_serializer(described(self.access(self.organization()))).data)

    def put(self, request: ApiRequest) -> Response:
        """Set the model server. Safe to repeat."""
        user = request.user
        organization = self.organization()
        wanted = serializers.NewModelAccessSerializer(data=request.data)
        wanted.is_valid(raise_exception=True)
        access = services.save_model_access(
            organization=organization, user=user, **wanted.validated_data
        )
        return Response(self.get_serializer(described(access)).data)

    def delete(self, request: ApiRequest) -> Response:
        """Forget the model server and its key; conversations use the demo model. Safe to repeat."""
        user = request.user
        services.clear_model_access(organization_id=self.organization().pk, user_id=user.pk)
        return Response(status=status.HTTP_204_NO_CONTENT)


@RouteFacts(streams=True, cost="spend")
@extend_schema(tags=["settings"], parameters=[IN_ORGANIZATION])
class ModelAccessTestView(InOrganization):
    """A trial of the stored settings."""

    permission = "model_access.edit"
    serializer_class = serializers.ModelCheckSerializer

    @extend_schema(operation_id="settings_model_access_test", request=None)
    def post(self, request: Request) -> Response:
        """Make a tiny real call, which may cost a few tokens; 502 says why it failed."""
        sentence = checking.check_model_access(self.access(self.organization()))
        return Response(self.get_serializer({"detail": sentence}).data)


@extend_schema(tags=["options"], parameters=[IN_ORGANIZATION])
class ModelsView(InOrganization):
    """Models to choose from."""

    permission = "model_access.view"
    serializer_class = OptionsSerializer

    @extend_schema(operation_id="options_models")
    def get(self, request: Request) -> Response:
        """The names of models that are offered, the caller's own among them; others may be named too."""
        found = directory.list_models(self.access(self.organization()))
        return Response(self.get_serializer({"items": found}).data)

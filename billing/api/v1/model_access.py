"""API endpoints for the model server of the caller's conversations."""

from typing import Any
from uuid import UUID

from drf_spectacular.utils import extend_schema, extend_schema_view
from rest_framework import status, viewsets
from rest_framework.decorators import action
from rest_framework.generics import get_object_or_404
from rest_framework.request import Request
from rest_framework.response import Response

from accounts.api.bodies import parse_body
from accounts.api.permissions import permission_of
from accounts.models import Organization
from accounts.permissions import require
from accounts.requests import ApiRequest
from billing import services
from billing.api.v1 import serializers
from billing.api.v1.places import IN_ORGANIZATION, InOrganization
from billing.gateway import checking
from billing.models import ModelAccess
from lib.routes import RouteFacts


@extend_schema(tags=["settings"], parameters=[IN_ORGANIZATION])
@extend_schema_view(
    retrieve=extend_schema(operation_id="settings_model_access_retrieve"),
    update=extend_schema(
        operation_id="settings_model_access_update",
        request=serializers.NewModelAccessSerializer,
        responses=serializers.ModelAccessSerializer,
    ),
    destroy=extend_schema(operation_id="settings_model_access_destroy", responses={204: None}),
)
class ModelAccessViewSet(InOrganization, viewsets.GenericViewSet[ModelAccess]):
    """The caller's model server in an organization. There is at most one, so the URL has no id."""

    queryset = ModelAccess.objects.none()
    serializer_class = serializers.ModelAccessSerializer
    permissions_by_action = {  # noqa: RUF012 - a view's table, like DRF's own
        "retrieve": "model_access.view",
        "update": "model_access.edit",
        "destroy": "model_access.edit",
        "test": "model_access.edit",
    }

    def retrieve(self, request: Request) -> Response:
        """Return the model server of the caller's conversations, without its API key."""
        access = self.access(self.organization())
        return Response(self.get_serializer(serialize_access(access)).data)

    def update(self, request: ApiRequest) -> Response:
        """Set the model server of the caller's conversations. Safe to repeat."""
        organization = self.organization()
        access = services.save_model_access(
            organization=organization,
            user=request.user,
            **parse_body(serializers.NewModelAccessSerializer, request),
        )
        return Response(self.get_serializer(serialize_access(access)).data)

    def destroy(self, request: ApiRequest) -> Response:
        """Delete the model server and its API key. Conversations then use the demo model. Safe to repeat."""
        services.clear_model_access(organization_id=self.organization().pk, user_id=request.user.pk)
        return Response(status=status.HTTP_204_NO_CONTENT)

    # Marked as streaming because it waits for the model server, which would block a thread of a `web` process.
    @RouteFacts(streams=True, cost="spend")
    @extend_schema(operation_id="settings_model_access_test", request=None)
    @action(detail=True, methods=["post"], serializer_class=serializers.ModelCheckSerializer)
    def test(self, request: Request) -> Response:
        """Send short requests in the form that conversations use. They cost a few tokens.

        The requests are streamed with a tool and the agent's parameters, and not streamed. Respond 502 with the reason
        and what will not work if a call fails, and 409 if the caller uses the demo model.
        """
        result = checking.check_model_access(self.access(self.organization()))
        fields = {"detail": result.text, "warnings": result.warnings}
        return Response(self.get_serializer(fields).data)


@extend_schema(tags=["organizations"])
class OrganizationModelViewSet(viewsets.GenericViewSet[ModelAccess]):
    """The model server that an organization lends to conversations that several members steer."""

    queryset = ModelAccess.objects.none()
    serializer_class = serializers.ModelAccessSerializer
    permissions_by_action = {  # noqa: RUF012 - a view's table, like DRF's own
        "retrieve": "organization_settings.view",
        "update": "organization_settings.edit",
        "destroy": "organization_settings.edit",
    }

    def _organization(self, pk: UUID) -> Organization:
        organization = get_object_or_404(Organization.objects.visible_to(self.request.user), pk=pk)
        # No role includes the empty name, so an action without a permission is refused.
        require(self.request.user, organization.pk, permission_of(self) or "")
        return organization

    def _respond(self, access: ModelAccess | None) -> Response:
        return Response(self.get_serializer(serialize_access(access)).data)

    @extend_schema(operation_id="organizations_model_access_retrieve")
    def retrieve(self, request: Request, pk: UUID) -> Response:
        """Return the model server that the organization lends, without its API key."""
        organization = self._organization(pk)
        return self._respond(
            services.get_model_access(organization_id=organization.pk, user_id=None)
        )

    @extend_schema(
        operation_id="organizations_model_access_update",
        request=serializers.NewModelAccessSerializer,
        responses=serializers.ModelAccessSerializer,
    )
    def update(self, request: ApiRequest, pk: UUID) -> Response:
        """Set the model server that the organization lends. Safe to repeat."""
        organization = self._organization(pk)
        return self._respond(
            services.save_model_access(
                organization=organization,
                user=None,
                **parse_body(serializers.NewModelAccessSerializer, request),
            )
        )

    @extend_schema(operation_id="organizations_model_access_destroy", responses={204: None})
    def destroy(self, request: Request, pk: UUID) -> Response:
        """Delete the model server and its API key. The organization then lends no model. Safe to repeat."""
        services.clear_model_access(organization_id=self._organization(pk).pk, user_id=None)
        return Response(status=status.HTTP_204_NO_CONTENT)


def serialize_access(access: ModelAccess | None) -> dict[str, Any]:
    """Return the data for ``ModelAccessSerializer``. If ``access`` is None, the data describes the demo model."""
    effective = access or ModelAccess(base_url="", model=services.DEMO_MODEL)
    prices = ("prompt", "completion", "cached")
    return {
        "base_url": effective.base_url,
        "model": effective.model,
        "has_api_key": effective.has_api_key,
        **{
            f"{price}_micros_per_million": getattr(effective, f"{price}_micros_per_million")
            for price in prices
        },
        "is_demo": access is None,
    }

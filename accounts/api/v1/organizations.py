"""API endpoints for organizations."""

from typing import Any
from uuid import UUID

from django.db.models import QuerySet
from drf_spectacular.utils import extend_schema, extend_schema_view
from rest_framework import mixins, status, viewsets
from rest_framework.decorators import action
from rest_framework.request import Request
from rest_framework.response import Response

from accounts.api.bodies import parse_body
from accounts.api.v1 import serializers
from accounts.api.v1.settings import (
    OrganizationSettingsChangeSerializer,
    OrganizationSettingsSerializer,
)
from accounts.models import Membership, Organization, OrganizationSettings
from accounts.requests import ApiRequest
from accounts.services import organizations, user_settings
from lib.problems import Problem


class NeedsSession(Problem):
    """Neither an API key nor a service account can do this, because each belongs to one organization."""

    status = 403
    code = "needs-session"
    sentence = (
        "An API key cannot do this, because it works in one organization only. "
        "Sign in with a browser and try again."
    )


@extend_schema(tags=["organizations"])
@extend_schema_view(
    list=extend_schema(
        description="Return the caller's organizations, newest membership first, including suspended organizations."
    ),
    retrieve=extend_schema(description="Return an organization and the caller's role in it."),
)
class OrganizationViewSet(
    mixins.ListModelMixin,
    mixins.RetrieveModelMixin,
    viewsets.GenericViewSet[Membership],
):
    """The caller's organizations.

    The queryset contains the caller's memberships, because each response contains the caller's role.
    """

    request: ApiRequest
    queryset = Membership.objects.none()
    serializer_class = serializers.OrganizationSerializer
    lookup_field = "organization_id"
    lookup_url_kwarg = "pk"
    lookup_value_converter = "uuid"
    url_names = {"leave": "leave", "transfer": "transfer"}  # noqa: RUF012 - read by Router
    permissions_by_action = {  # noqa: RUF012 - a view's table, like DRF's own
        "list": "organization.view",
        "retrieve": "organization.view",
        "create": "organization.create",
        "partial_update": "organization.edit",
        "leave": "organization.leave",
        "transfer": "organization.transfer",
        "agent_settings": "organization_settings.view",
        "change_agent_settings": "organization_settings.edit",
    }

    def get_queryset(self) -> QuerySet[Membership]:
        user = self.request.user
        visible = Organization.objects.visible_to(user)
        rows = Membership.objects.filter(user_id=user.pk, organization__in=visible)
        return rows.select_related("organization")

    @extend_schema(
        request=serializers.OrganizationNameSerializer,
        responses={201: serializers.OrganizationSerializer},
    )
    def create(self, request: ApiRequest) -> Response:
        """Create an organization with the caller as its owner."""
        if request.user.is_service_account:
            raise NeedsSession
        name = parse_body(serializers.OrganizationNameSerializer, request)["name"]
        organization = organizations.create_organization(user=request.user, name=name)
        membership = Membership(
            organization=organization, user=request.user, role=Membership.Role.OWNER
        )
        return Response(self.get_serializer(membership).data, status=status.HTTP_201_CREATED)

    @extend_schema(
        operation_id="organizations_update",
        request=serializers.OrganizationNameSerializer,
        responses=serializers.OrganizationSerializer,
    )
    def partial_update(self, request: Request, pk: UUID) -> Response:
        """Rename an organization. Safe to repeat."""
        membership = self.get_object()
        name = parse_body(serializers.OrganizationNameSerializer, request)["name"]
        membership.organization = organizations.rename_organization(
            organization=membership.organization, name=name
        )
        return Response(self.get_serializer(membership).data)

    @extend_schema(operation_id="organizations_leave", request=None, responses={204: None})
    @action(detail=True, methods=["post"])
    def leave(self, request: ApiRequest, pk: UUID) -> Response:
        """End the caller's own membership. Respond 409 if the caller is the last owner."""
        organizations.leave_organization(
            organization=self.get_object().organization, user=request.user
        )
        return Response(status=status.HTTP_204_NO_CONTENT)

    @extend_schema(
        operation_id="organizations_transfer",
        request=serializers.TransferSerializer,
        responses={204: None},
    )
    @action(detail=True, methods=["post"])
    def transfer(self, request: ApiRequest, pk: UUID) -> Response:
        """Make another member an owner and the caller an admin. Respond 403 if the caller is not an owner."""
        organization = self.get_object().organization
        body = parse_body(serializers.TransferSerializer, request)
        organizations.transfer_organization(
            organization=organization, by=request.user, user_id=body["user"]
        )
        return Response(status=status.HTTP_204_NO_CONTENT)

    # Not named ``settings``, because this attribute of a DRF view contains DRF's own settings.
    @extend_schema(
        operation_id="organizations_settings_retrieve", responses=OrganizationSettingsSerializer
    )
    @action(detail=True, url_path="settings", url_name="settings")
    def agent_settings(self, request: Request, pk: UUID) -> Response:
        """Return the agent settings of an organization, and the names of the settings that members cannot change."""
        organization_id = self.get_object().organization_id
        row = user_settings.organization_settings(organization_id=organization_id)
        return Response(serialize_settings(row))

    @extend_schema(
        operation_id="organizations_settings_partial_update",
        request=OrganizationSettingsChangeSerializer,
        responses=OrganizationSettingsSerializer,
    )
    @agent_settings.mapping.patch
    def change_agent_settings(self, request: Request, pk: UUID) -> Response:
        """Change some of an organization's settings. Safe to repeat.

        If `version` is sent and the settings have a newer version, respond 409.
        """
        organization = self.get_object().organization
        row = user_settings.change_organization_settings(
            organization=organization, **parse_body(OrganizationSettingsChangeSerializer, request)
        )
        return Response(serialize_settings(row))


def serialize_settings(row: OrganizationSettings) -> dict[str, Any]:
    """Return the response body for an organization's settings, with secrets replaced by masks."""
    values = {
        "version": row.version,
        "values": user_settings.masked_values(row),
        "enforced": row.enforced,
    }
    return dict(OrganizationSettingsSerializer(values).data)

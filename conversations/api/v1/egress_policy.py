"""API endpoints for the network profile of an organization's sandboxes."""

from typing import Any

from drf_spectacular.utils import extend_schema
from rest_framework import serializers, viewsets
from rest_framework.request import Request
from rest_framework.response import Response

from accounts.active import active_organization
from accounts.api.bodies import parse_body
from accounts.api.permissions import permission_of
from accounts.models import Organization
from accounts.permissions import require
from accounts.requests import ApiRequest
from conversations import services
from conversations.api.v1.egress import PROFILES, DeciderSerializer
from conversations.models import EgressPolicy
from lib.api import parse_query


class EgressPolicyQuery(serializers.Serializer[Any]):
    """The organization of the request."""

    organization = serializers.UUIDField(
        required=False,
        help_text="The id of the organization. If absent: that of the API key, else the active organization.",
    )


class NewEgressPolicySerializer(serializers.Serializer[Any]):
    """The network profile of an organization's sandboxes."""

    profile = serializers.ChoiceField(
        choices=PROFILES,
        allow_blank=True,
        help_text="`public`: any public host. `list`: only listed hosts. `none`: only this server. "
        "Empty: the profile of the site.",
    )
    hosts = serializers.ListField(
        child=serializers.CharField(max_length=1_000),
        max_length=1_000,
        help_text="Host names, patterns such as `*.example.com` and IP addresses, which the profile `list` allows.",
    )


class SiteEgressSerializer(serializers.Serializer[Any]):
    """The network settings of the site. Its hosts are allowed in addition to those of the organization."""

    profile = serializers.ChoiceField(choices=PROFILES)
    hosts = serializers.ListField(child=serializers.CharField())


class EgressPolicySerializer(NewEgressPolicySerializer):
    """The network profile of an organization's sandboxes, with the settings of the site."""

    site = SiteEgressSerializer()
    updated_by = DeciderSerializer(allow_null=True)
    updated_at = serializers.DateTimeField(
        allow_null=True, help_text="Null if the organization has set nothing."
    )


@extend_schema(tags=["organizations"], parameters=[EgressPolicyQuery])
class EgressPolicyViewSet(viewsets.ViewSet):
    """The network profile of the sandboxes of the active organization. Conversations' own rules are added to it."""

    permissions_by_action = {  # noqa: RUF012 - read by HasPermission
        "retrieve": "organization.view",
        "update": "egress.edit",
    }

    @extend_schema(operation_id="egress_policy_retrieve", responses=EgressPolicySerializer)
    def retrieve(self, request: Request) -> Response:
        """Return the network profile and the listed hosts of the organization."""
        row = services.get_egress_policy(organization_id=self._organization(request).pk)
        return _respond(row)

    @extend_schema(
        operation_id="egress_policy_update",
        request=NewEgressPolicySerializer,
        responses=EgressPolicySerializer,
    )
    def update(self, request: ApiRequest) -> Response:
        """Set the network profile and the listed hosts of the organization. Running sandboxes follow them at once.

        Repeating the request is safe.
        """
        organization = self._organization(request)
        body = parse_body(NewEgressPolicySerializer, request)
        row = services.set_egress_policy(organization=organization, by=request.user, **body)
        return _respond(row)

    def _organization(self, request: Request) -> Organization:
        query = parse_query(EgressPolicyQuery, request)
        organization = active_organization(request, query.get("organization"))
        # No role includes the empty name, so an action without a permission is refused.
        require(request.user, organization.pk, permission_of(self) or "")
        return organization


def _respond(row: EgressPolicy) -> Response:
    is_set = not row._state.adding  # noqa: SLF001
    data = {
        "profile": row.profile,
        "hosts": row.hosts,
        "site": services.site_egress(),
        "updated_by": row.updated_by,
        "updated_at": row.updated_at if is_set else None,
    }
    return Response(EgressPolicySerializer(data).data)

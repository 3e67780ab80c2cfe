"""The organization of a request about models or usage, and the rows that the caller can see there."""

from dataclasses import dataclass
from typing import Any
from uuid import UUID

from drf_spectacular.utils import OpenApiParameter
from rest_framework import serializers
from rest_framework.generics import GenericAPIView, get_object_or_404

from accounts.active import active_organization
from accounts.api.permissions import permission_of
from accounts.models import Organization
from accounts.permissions import permissions_in, require
from accounts.requests import ApiRequest
from billing.models import ModelAccess

IN_ORGANIZATION = OpenApiParameter(
    "organization",
    type={"type": "string", "format": "uuid"},
    description="The id of the organization. If absent: the organization of the API key, else the caller's "
    "personal organization.",
)


class OrganizationQuery(serializers.Serializer[Any]):
    """The organization in the query string of a request."""

    organization = serializers.UUIDField(required=False)


class InOrganization(GenericAPIView[Any]):
    """The base class of views for the caller's model access in one organization."""

    request: ApiRequest

    def organization(self) -> Organization:
        """Return the organization of the request.

        Raise ``Http404`` if the caller is not a member, and ``MissingPermission`` if the caller lacks the
        permission for the requested action.
        """
        user = self.request.user
        query = OrganizationQuery(data=self.request.query_params)
        query.is_valid(raise_exception=True)
        requested_id = query.validated_data.get("organization") or user.bound_organization_id
        visible = Organization.objects.visible_to(user)
        organization = (
            get_object_or_404(visible, pk=requested_id)
            if requested_id
            else get_object_or_404(visible, personal_of=user)
        )
        # No role includes the empty name, so an action without a permission is refused.
        require(user, organization.pk, permission_of(self) or "")
        return organization

    def access(self, organization: Organization) -> ModelAccess | None:
        """Return the caller's model access in an organization; None means the demo model."""
        visible = ModelAccess.objects.visible_to(self.request.user)
        return visible.filter(organization=organization).first()


@dataclass(frozen=True)
class UsageScope:
    """The organization of a request about usage, and whether the caller sees the model calls of all members."""

    organization: Organization
    sees_all: bool
    """Whether the caller sees the calls of all members. Otherwise the caller sees only calls made by the caller."""


def usage_scope(request: ApiRequest, requested_id: UUID | None) -> UsageScope:
    """Return the scope of a request about usage. If the request names no organization, the active one counts.

    Raise ``Http404`` if the caller is not a member, and ``MissingPermission`` if the caller lacks ``usage.view``.
    """
    organization = active_organization(request, requested_id)
    held = permissions_in(request.user, organization.pk)
    if "usage.view" not in held:
        # Raises the right exception: the permission is missing, or the organization is suspended.
        require(request.user, organization.pk, "usage.view")
    return UsageScope(organization, sees_all="usage.view_all" in held)

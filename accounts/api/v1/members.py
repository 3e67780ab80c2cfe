"""API endpoints for the members of an organization."""

from uuid import UUID

from django.db.models import QuerySet
from drf_spectacular.utils import extend_schema, extend_schema_view
from rest_framework import mixins, status
from rest_framework.response import Response

from accounts.api.bodies import parse_body
from accounts.api.v1 import serializers
from accounts.api.v1.nested import NestedViewSet
from accounts.models import Membership
from accounts.requests import ApiRequest
from accounts.services import organizations


@extend_schema(tags=["organizations"])
@extend_schema_view(
    list=extend_schema(
        description="Return the members, newest membership first, including service accounts."
    )
)
class MemberViewSet(mixins.ListModelMixin, NestedViewSet[Membership]):
    """The members of an organization."""

    queryset = Membership.objects.none()
    serializer_class = serializers.MemberSerializer
    lookup_field = "user_id"
    url_names = {"list": "members", "partial_update": "member"}  # noqa: RUF012 - read by Router
    permissions_by_action = {  # noqa: RUF012 - a view's table, like DRF's own
        "list": "members.view",
        "partial_update": "members.edit",
        "destroy": "members.edit",
    }

    def get_queryset(self) -> QuerySet[Membership]:
        return self.organization.memberships.select_related("user")

    # These actions do not use ``get_object``: the services look up the member after they have locked the organization.
    @extend_schema(
        operation_id="organizations_members_update",
        request=serializers.RoleSerializer,
        responses=serializers.MemberSerializer,
    )
    def partial_update(self, request: ApiRequest, pk: UUID, user_id: UUID) -> Response:
        """Change a member's role. Safe to repeat.

        Respond 403 if the old or the new role is above the caller's own role, and 409 if no owner would be left.
        """
        membership = organizations.change_role(
            organization=self.organization,
            by=request.user,
            user_id=user_id,
            **parse_body(serializers.RoleSerializer, request),
        )
        return Response(self.get_serializer(membership).data)

    @extend_schema(responses={204: None})
    def destroy(self, request: ApiRequest, pk: UUID, user_id: UUID) -> Response:
        """Remove a member, revoke the member's API keys in this organization, and close the member's open sockets."""
        organizations.remove_member(
            organization=self.organization, by=request.user, user_id=user_id
        )
        return Response(status=status.HTTP_204_NO_CONTENT)

"""API endpoints for invitations to an organization."""

from uuid import UUID

from django.db.models import QuerySet
from drf_spectacular.utils import extend_schema, extend_schema_view
from rest_framework import mixins, status, viewsets
from rest_framework.decorators import action
from rest_framework.response import Response

from accounts import limits
from accounts.api.bodies import parse_body
from accounts.api.v1 import serializers
from accounts.api.v1.nested import NestedViewSet
from accounts.api.v1.organizations import NeedsSession
from accounts.models import Invitation
from accounts.requests import ApiRequest
from accounts.services import invitations


@extend_schema(tags=["organizations"])
@extend_schema_view(
    list=extend_schema(
        description="Return the invitations, newest first, including used and revoked invitations."
    ),
    destroy=extend_schema(description="Revoke an invitation. Safe to repeat."),
)
class InvitationViewSet(mixins.ListModelMixin, mixins.DestroyModelMixin, NestedViewSet[Invitation]):
    """The invitations of an organization."""

    queryset = Invitation.objects.none()
    serializer_class = serializers.InvitationSerializer
    lookup_url_kwarg = "invitation_id"
    url_names = {"destroy": "invitation"}  # noqa: RUF012 - read by Router
    permissions_by_action = {  # noqa: RUF012 - a view's table, like DRF's own
        "list": "invitations.view",
        "create": "invitations.edit",
        "destroy": "invitations.edit",
    }

    def get_queryset(self) -> QuerySet[Invitation]:
        rows = Invitation.objects.visible_to(self.request.user)
        return rows.filter(organization=self.organization).select_related("organization")

    @extend_schema(
        request=serializers.NewInvitationSerializer,
        responses={201: serializers.IssuedInvitationSerializer},
    )
    def create(self, request: ApiRequest, pk: UUID) -> Response:
        """Create an invitation link, and mail it if the body has an e-mail address.

        Only this response contains the link.
        """
        body = parse_body(serializers.NewInvitationSerializer, request)
        if body.get("email"):
            limits.check_mail(request._request, recipient=body["email"])  # noqa: SLF001
        invitation, link = invitations.invite(
            organization=self.organization, by=request.user, **body
        )
        mailed = invitations.mail_invitation(invitation=invitation, link=link)
        response = self.get_serializer(invitation).data | {"link": link, "mailed": mailed}
        return Response(response, status=status.HTTP_201_CREATED)

    def perform_destroy(self, instance: Invitation) -> None:
        invitations.revoke_invitation(invitation=instance)


@extend_schema(tags=["organizations"])
class ReceivedInvitationViewSet(viewsets.GenericViewSet[Invitation]):
    """Invitations that the caller received.

    The URL contains no organization id, because the caller is not a member yet. The token identifies the invitation.
    """

    queryset = Invitation.objects.none()
    serializer_class = serializers.AcceptSerializer
    url_names = {"accept": "invitation-accept"}  # noqa: RUF012 - read by Router
    permissions_by_action = {"accept": "organization.join"}  # noqa: RUF012

    @extend_schema(
        operation_id="invitations_accept",
        responses={200: serializers.OrganizationSerializer},
    )
    @action(detail=False, methods=["post"])
    def accept(self, request: ApiRequest) -> Response:
        """Join the organization of an invitation. A user who is already a member keeps the present role.

        Respond 403 to a request with an API key, because a key belongs to one organization.
        """
        if request.user.bound_organization_id:
            raise NeedsSession
        body = parse_body(serializers.AcceptSerializer, request)
        membership = invitations.accept_invitation(token=body["token"], user=request.user)
        response = serializers.OrganizationSerializer(
            membership, context=self.get_serializer_context()
        )
        return Response(response.data)

"""The organizations API: teams, members, invitations, service accounts, and why somebody may or may not."""

from dataclasses import asdict
from typing import Any

from django.db.models import QuerySet
from drf_spectacular.utils import extend_schema
from rest_framework import serializers as fields
from rest_framework import status
from rest_framework.exceptions import ValidationError
from rest_framework.generics import GenericAPIView, get_object_or_404
from rest_framework.request import Request
from rest_framework.response import Response

from accounts.active import active_organization
from accounts.api.permissions import permission_of
from accounts.api.v1 import serializers
from accounts.models import ApiKey, Invitation, Membership, Organization, ServiceAccount
from accounts.permissions import explain, require
from accounts.requests import ApiRequest
from accounts.roles import PERMISSIONS
from accounts.services import organizations as verbs
from accounts.services import revoke_api_key, service_accounts
from lib.problems import Problem


class NeedsSession(Problem):
    """What a key cannot do, because it reaches one organization."""

    status = 403
    code = "needs-session"
    sentence = "A key reaches one organization and joins no other. Do this signed in, on the pages."


class OfOrganization(GenericAPIView[Any]):
    """A view of one organization, in which the caller holds the permission of this action."""

    request: ApiRequest

    def organization(self) -> Organization:
        """The organization of the address; 404 for those who do not belong to it."""
        visible = Organization.objects.visible_to(self.request.user)
        found = get_object_or_404(visible, pk=self.kwargs["pk"])
        require(self.request.user, found.pk, permission_of(self) or "")
        return found

    def body(self, kind: type[fields.Serializer[Any]]) -> dict[str, Any]:
        """The request's body, validated."""
        body = kind(data=self.request.data)
        body.is_valid(raise_exception=True)
        return dict(body.validated_data)

    def listed(self, rows: QuerySet[Any]) -> Response:
        """A page of rows."""
        page = self.paginate_queryset(rows)
        return self.get_paginated_response(self.get_serializer(page, many=True).data)

    def memberships(self) -> QuerySet[Membership]:
        """The caller's memberships; with an API key, only that in the key's organization."""
        user = self.request.user
        rows = Membership.objects.filter(user_id=user.pk).select_related("organization")
        bound = user.bound_organization_id
        return rows.filter(organization_id=bound) if bound else rows

    def own(self) -> Membership:
        """The caller's membership in the organization of the address."""
        return self.memberships().get(organization=self.organization())


@extend_schema(tags=["organizations"])
class OrganizationsView(OfOrganization):
    """The caller's organizations."""

    serializer_class = serializers.OrganizationSerializer
    permissions_by_action = {  # noqa: RUF012 - a view's table, like DRF's own
        "get": "organization.view",
        "post": "organization.create",
    }

    @extend_schema(
        operation_id="organizations_list",
        responses=serializers.OrganizationSerializer(many=True),
    )
    def get(self, request: Request) -> Response:
        """Organizations that the caller belongs to, suspended ones included."""
        return self.listed(self.memberships())

    @extend_schema(
        operation_id="organizations_create",
        request=serializers.OrganizationNameSerializer,
        responses={201: serializers.OrganizationSerializer},
    )
    def post(self, request: ApiRequest) -> Response:
        """Make a team; the caller owns it."""
        if request.user.is_service_account:
            raise NeedsSession
        name = self.body(serializers.OrganizationNameSerializer)["name"]
        made = verbs.create_organization(user=request.user, name=name)
        own = Membership(organization=made, user=request.user, role=Membership.Role.OWNER)
        return Response(self.get_serializer(own).data, status=status.HTTP_201_CREATED)


@extend_schema(tags=["organizations"])
class OrganizationView(OfOrganization):
    """One organization."""

    serializer_class = serializers.OrganizationSerializer
    permissions_by_action = {  # noqa: RUF012
        "get": "organization.view",
        "patch": "organization.edit",
    }

    @extend_schema(operation_id="organizations_retrieve")
    def get(self, request: Request, **kwargs: Any) -> Response:
        """One organization, and the caller's place in it."""
        return Response(self.get_serializer(self.own()).data)

    @extend_schema(
        operation_id="organizations_update", request=serializers.OrganizationNameSerializer
    )
    def patch(self, request: Request, **kwargs: Any) -> Response:
        """Rename it."""
        own = self.own()
        name = self.body(serializers.OrganizationNameSerializer)["name"]
        own.organization = verbs.rename_organization(organization=own.organization, name=name)
        return Response(self.get_serializer(own).data)


@extend_schema(tags=["organizations"])
class LeaveView(OfOrganization):
    """The end of the caller's own membership."""

    permission = "organization.leave"
    serializer_class = None

    @extend_schema(operation_id="organizations_leave", request=None, responses={204: None})
    def post(self, request: ApiRequest, **kwargs: Any) -> Response:
        """Leave; the last owner cannot (409)."""
        verbs.leave_organization(organization=self.organization(), user=request.user)
        return Response(status=status.HTTP_204_NO_CONTENT)


@extend_schema(tags=["organizations"])
class TransferView(OfOrganization):
    """Handing an organization over."""

    permission = "organization.transfer"
    serializer_class = serializers.TransferSerializer

    @extend_schema(operation_id="organizations_transfer", responses={204: None})
    def post(self, request: ApiRequest, **kwargs: Any) -> Response:
        """Make another member the owner; the caller becomes an admin."""
        organization = self.organization()
        body = self.body(serializers.TransferSerializer)
        verbs.transfer_organization(
            organization=organization, by=request.user, user_id=body["user"]
        )
        return Response(status=status.HTTP_204_NO_CONTENT)


@extend_schema(tags=["organizations"])
class MembersView(OfOrganization):
    """Who belongs to an organization."""

    permission = "members.view"
    serializer_class = serializers.MemberSerializer

    @extend_schema(
        operation_id="organizations_members_list",
        responses=serializers.MemberSerializer(many=True),
    )
    def get(self, request: Request, **kwargs: Any) -> Response:
        """Members, the newest first; service accounts among them."""
        return self.listed(self.organization().memberships.select_related("user"))


@extend_schema(tags=["organizations"])
class MemberView(OfOrganization):
    """One member."""

    permission = "members.edit"
    serializer_class = serializers.MemberSerializer

    @extend_schema(operation_id="organizations_members_update", request=serializers.RoleSerializer)
    def patch(self, request: ApiRequest, **kwargs: Any) -> Response:
        """Give another role, not above one's own; an organization keeps an owner."""
        organization = self.organization()
        role = self.body(serializers.RoleSerializer)["role"]
        membership = verbs.change_role(
            organization=organization, by=request.user, user_id=kwargs["user_id"], role=role
        )
        return Response(self.get_serializer(membership).data)

    @extend_schema(operation_id="organizations_members_destroy", responses={204: None})
    def delete(self, request: ApiRequest, **kwargs: Any) -> Response:
        """Take a member out; the member's keys here are revoked and open sockets end."""
        verbs.remove_member(
            organization=self.organization(), by=request.user, user_id=kwargs["user_id"]
        )
        return Response(status=status.HTTP_204_NO_CONTENT)


@extend_schema(tags=["organizations"])
class InvitationsView(OfOrganization):
    """Invitations of an organization."""

    serializer_class = serializers.InvitationSerializer
    permissions_by_action = {  # noqa: RUF012
        "get": "invitations.view",
        "post": "invitations.edit",
    }

    @extend_schema(
        operation_id="organizations_invitations_list",
        responses=serializers.InvitationSerializer(many=True),
    )
    def get(self, request: ApiRequest, **kwargs: Any) -> Response:
        """Invitations, the newest first, used and revoked ones included."""
        rows = Invitation.objects.visible_to(request.user)
        return self.listed(rows.filter(organization=self.organization()))

    @extend_schema(
        operation_id="organizations_invitations_create",
        request=serializers.NewInvitationSerializer,
        responses={201: serializers.IssuedInvitationSerializer},
    )
    def post(self, request: ApiRequest, **kwargs: Any) -> Response:
        """Invite by a link, or by e-mail. The link is in this answer and in no other."""
        organization = self.organization()
        body = self.body(serializers.NewInvitationSerializer)
        invitation, link = verbs.invite(organization=organization, by=request.user, **body)
        mailed = verbs.mail_invitation(invitation=invitation, link=link)
        answer = self.get_serializer(invitation).data | {"link": link, "mailed": mailed}
        return Response(answer, status=status.HTTP_201_CREATED)


@extend_schema(tags=["organizations"])
class InvitationView(OfOrganization):
    """One invitation."""

    permission = "invitations.edit"
    serializer_class = None

    @extend_schema(operation_id="organizations_invitations_destroy", responses={204: None})
    def delete(self, request: ApiRequest, **kwargs: Any) -> Response:
        """Take it back. Safe to repeat."""
        rows = Invitation.objects.visible_to(request.user).filter(organization=self.organization())
        invitation = get_object_or_404(
            rows.select_related("organization"), pk=kwargs["invitation_id"]
        )
        verbs.revoke_invitation(invitation=invitation)
        return Response(status=status.HTTP_204_NO_CONTENT)


@extend_schema(tags=["organizations"])
class AcceptView(OfOrganization):
    """Joining by an invitation."""

    permission = "organization.join"
    serializer_class = serializers.AcceptSerializer

    @extend_schema(
        operation_id="invitations_accept",
        responses={200: serializers.OrganizationSerializer},
    )
    def post(self, request: ApiRequest) -> Response:
        """Join the organization of an invitation. Needs a session: a key reaches one organization."""
        if request.user.bound_organization_id:
            raise NeedsSession
        token = self.body(serializers.AcceptSerializer)["token"]
        own = verbs.accept_invitation(token=token, user=request.user)
        answer = serializers.OrganizationSerializer(own, context=self.get_serializer_context())
        return Response(answer.data)


@extend_schema(tags=["organizations"])
class ServiceAccountsView(OfOrganization):
    """Programs that belong to an organization."""

    serializer_class = serializers.ServiceAccountSerializer
    permissions_by_action = {  # noqa: RUF012
        "get": "service_accounts.view",
        "post": "service_accounts.edit",
    }

    @extend_schema(
        operation_id="organizations_service_accounts_list",
        responses=serializers.ServiceAccountSerializer(many=True),
    )
    def get(self, request: ApiRequest, **kwargs: Any) -> Response:
        """Service accounts, the newest first, revoked ones included."""
        rows = ServiceAccount.objects.visible_to(request.user)
        rows = rows.filter(organization=self.organization())
        return self.listed(rows.prefetch_related("user__memberships"))

    @extend_schema(
        operation_id="organizations_service_accounts_create",
        request=serializers.NewServiceAccountSerializer,
        responses={201: serializers.ServiceAccountSerializer},
    )
    def post(self, request: ApiRequest, **kwargs: Any) -> Response:
        """Make one, in a role that the caller covers wholly."""
        organization = self.organization()
        body = self.body(serializers.NewServiceAccountSerializer)
        made = service_accounts.create_service_account(
            organization=organization, by=request.user, **body
        )
        return Response(self.get_serializer(made).data, status=status.HTTP_201_CREATED)


class OfServiceAccount(OfOrganization):
    """A view of one service account."""

    def account(self) -> ServiceAccount:
        """The service account of the address."""
        rows = ServiceAccount.objects.visible_to(self.request.user)
        rows = rows.filter(organization=self.organization()).select_related("user", "organization")
        return get_object_or_404(rows, pk=self.kwargs["account_id"])


@extend_schema(tags=["organizations"])
class ServiceAccountView(OfServiceAccount):
    """One service account."""

    serializer_class = serializers.ServiceAccountSerializer
    permissions_by_action = {  # noqa: RUF012
        "get": "service_accounts.view",
        "delete": "service_accounts.edit",
    }

    @extend_schema(operation_id="organizations_service_accounts_retrieve")
    def get(self, request: Request, **kwargs: Any) -> Response:
        """One service account."""
        return Response(self.get_serializer(self.account()).data)

    @extend_schema(operation_id="organizations_service_accounts_destroy", responses={204: None})
    def delete(self, request: Request, **kwargs: Any) -> Response:
        """Revoke it with its keys, for ever. Safe to repeat."""
        service_accounts.revoke_service_account(account=self.account())
        return Response(status=status.HTTP_204_NO_CONTENT)


@extend_schema(tags=["organizations"])
class ServiceAccountKeysView(OfServiceAccount):
    """The keys of a service account."""

    serializer_class = serializers.ApiKeySerializer
    permissions_by_action = {  # noqa: RUF012
        "get": "service_accounts.view",
        "post": "service_accounts.edit",
    }

    @extend_schema(
        operation_id="organizations_service_accounts_keys_list",
        responses=serializers.ApiKeySerializer(many=True),
    )
    def get(self, request: Request, **kwargs: Any) -> Response:
        """Its keys, the newest first, revoked ones included."""
        return self.listed(self.account().user.api_keys.all())

    @extend_schema(
        operation_id="organizations_service_accounts_keys_create",
        request=serializers.NewServiceAccountKeySerializer,
        responses={201: serializers.IssuedApiKeySerializer},
    )
    def post(self, request: ApiRequest, **kwargs: Any) -> Response:
        """Make a key of it. Its secret is in this answer and in no other."""
        account = self.account()
        body = self.body(serializers.NewServiceAccountKeySerializer)
        key, secret = service_accounts.issue_service_account_key(
            account=account, by=request.user, **body
        )
        answer = self.get_serializer(key).data | {"key": secret}
        return Response(answer, status=status.HTTP_201_CREATED)


@extend_schema(tags=["organizations"])
class ServiceAccountKeyView(OfServiceAccount):
    """One key of a service account."""

    permission = "service_accounts.edit"
    serializer_class = None

    @extend_schema(
        operation_id="organizations_service_accounts_keys_destroy", responses={204: None}
    )
    def delete(self, request: Request, **kwargs: Any) -> Response:
        """Revoke it now. Safe to repeat."""
        keys: QuerySet[ApiKey] = self.account().user.api_keys.all()
        revoke_api_key(key=get_object_or_404(keys, pk=kwargs["key_id"]))
        return Response(status=status.HTTP_204_NO_CONTENT)


@extend_schema(tags=["users"])
class ExplainView(GenericAPIView[Any]):
    """Why the caller may, or may not."""

    permission = "account.view"
    serializer_class = serializers.ExplanationSerializer
    pagination_class = None

    @extend_schema(operation_id="permissions_explain", parameters=[serializers.ExplainQuery])
    def get(self, request: ApiRequest) -> Response:
        """Whether the caller holds a permission in an organization, what decides it, what would change it."""
        query = serializers.ExplainQuery(data=request.query_params)
        query.is_valid(raise_exception=True)
        permission = query.validated_data["permission"]
        if permission not in PERMISSIONS:
            raise ValidationError({"permission": ["There is no permission of this name."]})
        organization_id = query.validated_data.get("organization")
        if organization_id is None:
            organization_id = active_organization(request).pk
        found = explain(request.user, organization_id, permission)
        return Response(self.get_serializer(asdict(found)).data)

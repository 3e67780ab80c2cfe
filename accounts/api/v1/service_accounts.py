"""API endpoints for the service accounts of an organization, and for their API keys."""

from typing import Any
from uuid import UUID

from django.db.models import QuerySet
from drf_spectacular.utils import extend_schema, extend_schema_view
from rest_framework import mixins, status
from rest_framework.generics import get_object_or_404
from rest_framework.request import Request
from rest_framework.response import Response

from accounts.api.bodies import parse_body
from accounts.api.v1 import serializers
from accounts.api.v1.api_keys import CHILDREN, revoke
from accounts.api.v1.nested import NestedViewSet
from accounts.models import ApiKey, ServiceAccount
from accounts.requests import ApiRequest
from accounts.services import service_accounts


@extend_schema(tags=["organizations"])
@extend_schema_view(
    list=extend_schema(
        description="Return the service accounts, newest first, including revoked accounts."
    ),
    retrieve=extend_schema(description="Return one service account."),
    destroy=extend_schema(
        description="Permanently revoke a service account and its API keys. Safe to repeat."
    ),
)
class ServiceAccountViewSet(
    mixins.ListModelMixin,
    mixins.RetrieveModelMixin,
    mixins.DestroyModelMixin,
    NestedViewSet[ServiceAccount],
):
    """The service accounts of an organization."""

    queryset = ServiceAccount.objects.none()
    serializer_class = serializers.ServiceAccountSerializer
    lookup_url_kwarg = "account_id"
    url_names = {"destroy": "service-account"}  # noqa: RUF012 - read by Router
    permissions_by_action = {  # noqa: RUF012 - a view's table, like DRF's own
        "list": "service_accounts.view",
        "retrieve": "service_accounts.view",
        "create": "service_accounts.edit",
        "destroy": "service_accounts.edit",
    }

    def get_queryset(self) -> QuerySet[ServiceAccount]:
        rows = ServiceAccount.objects.visible_to(self.request.user)
        rows = rows.filter(organization=self.organization).select_related("user", "organization")
        return rows.prefetch_related("user__memberships")

    @extend_schema(
        request=serializers.NewServiceAccountSerializer,
        responses={201: serializers.ServiceAccountSerializer},
    )
    def create(self, request: ApiRequest, pk: UUID) -> Response:
        """Create a service account. Respond 403 if its role has a permission that the caller does not have."""
        account = service_accounts.create_service_account(
            organization=self.organization,
            by=request.user,
            **parse_body(serializers.NewServiceAccountSerializer, request),
        )
        return Response(self.get_serializer(account).data, status=status.HTTP_201_CREATED)

    def perform_destroy(self, instance: ServiceAccount) -> None:
        service_accounts.revoke_service_account(account=instance)


@extend_schema(tags=["organizations"])
@extend_schema_view(
    list=extend_schema(
        description="Return the API keys of a service account, newest first, including revoked keys."
    ),
    destroy=extend_schema(
        description="Revoke an API key of a service account. It stops working immediately. Keys that were created with "
        "it continue to work: respond 200 with these keys, or revoke them too with `children=revoke`.",
        parameters=[CHILDREN],
        responses={200: serializers.RevocationSerializer, 204: None},
    ),
)
class ServiceAccountKeyViewSet(
    mixins.ListModelMixin, mixins.DestroyModelMixin, NestedViewSet[ApiKey]
):
    """The API keys of a service account."""

    queryset = ApiKey.objects.none()
    serializer_class = serializers.ApiKeySerializer
    account: ServiceAccount
    lookup_url_kwarg = "key_id"
    url_names = {"list": "service-account-keys", "destroy": "service-account-key"}  # noqa: RUF012 - read by Router
    permissions_by_action = {  # noqa: RUF012 - a view's table, like DRF's own
        "list": "service_accounts.view",
        "create": "service_accounts.edit",
        "destroy": "service_accounts.edit",
    }

    def initial(self, request: Request, *args: Any, **kwargs: Any) -> None:
        super().initial(request, *args, **kwargs)
        visible = ServiceAccount.objects.visible_to(request.user)
        visible = visible.filter(organization=self.organization)
        self.account = get_object_or_404(
            visible.select_related("user", "organization"), pk=kwargs["account_id"]
        )

    def get_queryset(self) -> QuerySet[ApiKey]:
        # Not ``ApiKey.objects.visible_to``, which returns only the caller's own keys. ``initial`` has checked access.
        return self.account.user.api_keys.all()

    @extend_schema(
        request=serializers.NewServiceAccountKeySerializer,
        responses={201: serializers.IssuedApiKeySerializer},
    )
    def create(self, request: ApiRequest, pk: UUID, account_id: UUID) -> Response:
        """Create an API key for a service account. Only this response contains the key."""
        key, plain = service_accounts.issue_service_account_key(
            account=self.account,
            by=request.user,
            **parse_body(serializers.NewServiceAccountKeySerializer, request),
        )
        response = self.get_serializer(key).data | {"key": plain}
        return Response(response, status=status.HTTP_201_CREATED)

    def destroy(self, request: Request, *args: Any, **kwargs: Any) -> Response:
        return revoke(self, request)

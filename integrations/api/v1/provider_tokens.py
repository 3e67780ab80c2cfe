"""API endpoints for provider tokens, the caller's tokens at Git hosts."""

from dataclasses import asdict
from typing import Any

from drf_spectacular.utils import extend_schema
from rest_framework import viewsets
from rest_framework.response import Response

from accounts.models import ProviderToken
from accounts.requests import ApiRequest
from accounts.services import provider_tokens
from integrations import services
from integrations.api.v1 import serializers
from integrations.api.v1.mixins import GitHostMixin
from integrations.api.v1.parameters import ORGANIZATION, PROVIDER
from lib.routes import RouteFacts


@extend_schema(tags=["integrations"], parameters=[ORGANIZATION])
class ProviderTokenViewSet(GitHostMixin, viewsets.ViewSet):
    """The caller's tokens for Git hosts, stored for one organization."""

    permission = "integrations.edit"
    permissions_by_action = {"list": "integrations.view"}  # noqa: RUF012 - read by HasPermission
    lookup_url_kwarg = "provider"
    lookup_value_converter = "slug"
    url_names = {"update": "provider-token"}  # noqa: RUF012 - read by Router

    @extend_schema(
        operation_id="provider_tokens_list", responses=serializers.ProviderTokenListSerializer
    )
    def list(self, request: ApiRequest) -> Response:
        """List the Git hosts that you have connected, ordered by provider. The tokens are never returned."""
        organization = self.get_organization(request)
        rows = provider_tokens.provider_tokens(
            user_id=request.user.pk, organization_id=organization.pk
        )
        return Response({"items": [_serialize(row) for row in rows], "next": None})

    @RouteFacts(streams=True)
    @extend_schema(
        operation_id="provider_tokens_put",
        parameters=[PROVIDER],
        request=serializers.NewTokenSerializer,
        responses=serializers.ConnectedSerializer,
    )
    def update(self, request: ApiRequest, provider: str) -> Response:
        """Connect a Git host with a token, replacing your earlier token.

        The token is stored only if the Git host accepts it.
        """
        organization = self.get_organization(request)
        body = serializers.NewTokenSerializer(data=request.data)
        body.is_valid(raise_exception=True)
        row, owner = services.connect(
            user=request.user,
            organization=organization,
            provider_name=provider,
            token=body.validated_data["token"],
            host_name=body.validated_data.get("host"),
        )
        return Response(_serialize(row) | {"user": asdict(owner)})

    @extend_schema(
        operation_id="provider_tokens_delete", parameters=[PROVIDER], responses={204: None}
    )
    def destroy(self, request: ApiRequest, provider: str) -> Response:
        """Delete your token for a Git host. Safe to repeat."""
        organization = self.get_organization(request)
        provider_tokens.remove_provider_token(
            user=request.user, organization=organization, provider=provider
        )
        return Response(status=204)


def _serialize(row: ProviderToken) -> dict[str, Any]:
    return {
        "provider": row.provider,
        "host": row.host,
        "created_at": row.created_at,
        "updated_at": row.updated_at,
        "last_used_at": row.last_used_at,
    }

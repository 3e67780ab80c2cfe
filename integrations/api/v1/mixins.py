"""The mixin of the views of Git hosts."""

from typing import Any

from rest_framework import serializers
from rest_framework.request import Request

from accounts.active import active_organization
from accounts.api.permissions import permission_of
from accounts.models import Organization
from accounts.permissions import require
from accounts.requests import ApiRequest
from integrations import services
from integrations.provider import GitProvider
from lib.api import parse_query


class GitHostMixin:
    """The organization of a request, and the Git host with the caller's token."""

    def get_organization(self, request: ApiRequest) -> Organization:
        """Return the organization of the request.

        Raise ``Http404`` if the caller is not a member of it, and ``MissingPermission`` if the caller lacks the
        view's permission there.
        """
        organization = active_organization(request)
        require(request.user, organization.pk, permission_of(self) or "")
        return organization

    def get_host(self, request: ApiRequest, provider: str) -> GitProvider:
        """Return the Git host with the caller's token. Raise ``NotConnected`` or ``UnknownProvider``."""
        organization = self.get_organization(request)
        return services.provider_for(
            user_id=request.user.pk, organization_id=organization.pk, provider=provider
        )

    def parse_query(
        self, kind: type[serializers.Serializer[Any]], request: Request
    ) -> dict[str, Any]:
        """Return the validated query. Every route of Git hosts also takes ``organization``."""
        return parse_query(kind, request, ignoring={"organization"})

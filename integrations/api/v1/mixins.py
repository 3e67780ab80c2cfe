"""The mixin for API views of Git hosts."""

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
    """A mixin for views that act in an organization, or at a Git host with the caller's token."""

    def get_organization(self, request: ApiRequest) -> Organization:
        """Return the organization of the request.

        Raise ``Http404`` if the caller is not a member of the organization, and ``MissingPermission`` if the caller
        lacks the permission for the requested action.
        """
        organization = active_organization(request)
        # No role includes the empty name, so an action without a permission is refused.
        require(request.user, organization.pk, permission_of(self) or "")
        return organization

    def get_git_provider(self, request: ApiRequest, provider_name: str) -> GitProvider:
        """Return the ``GitProvider`` for the requested Git host, which uses the caller's token.

        Raise ``NotConnected``, ``UnknownProvider`` or the exceptions of ``get_organization``.
        """
        organization = self.get_organization(request)
        return services.provider_for(
            user_id=request.user.pk, organization_id=organization.pk, provider_name=provider_name
        )

    def parse_query(
        self, kind: type[serializers.Serializer[Any]], request: Request
    ) -> dict[str, Any]:
        """Return the validated query string without ``organization``, which all routes of Git hosts accept."""
        return parse_query(kind, request, ignoring={"organization"})

"""API endpoints for the caller's settings, for the options that clients can offer, and for the public configuration.

The endpoints for the settings of an organization are actions of ``OrganizationViewSet``.
"""

from typing import Any
from uuid import UUID

from django.http import HttpResponse
from django.middleware.csrf import get_token
from drf_spectacular.utils import OpenApiParameter, extend_schema, extend_schema_field
from rest_framework import serializers
from rest_framework.generics import GenericAPIView
from rest_framework.request import Request
from rest_framework.response import Response

from accounts.active import active_organization, requested_organization_id
from accounts.api.bodies import parse_body
from accounts.api.permissions import PUBLIC, permission_of
from accounts.models import Organization
from accounts.permissions import require
from accounts.requests import ApiRequest
from accounts.services import site, user_settings
from accounts.settings.fields import AGENTS, ANALYZERS, FIELDS
from lib.api import conditional_response

IN_ORGANIZATION = OpenApiParameter(
    "organization",
    type={"type": "string", "format": "uuid"},
    description="The id of the organization. If absent: the organization of the API key, else the organization "
    "chosen on the pages, else the caller's personal organization.",
)


@extend_schema_field(
    {
        "type": "object",
        "properties": {
            field.name: field.schema | {"nullable": True, "description": field.help}
            for field in FIELDS.values()
        },
    }
)
class ValuesField(serializers.DictField):
    """A dict from setting to value. ``accounts.settings.fields`` validates the values."""


@extend_schema_field(
    {
        "type": "object",
        "additionalProperties": {"type": "string", "enum": list(user_settings.SETTERS)},
    }
)
class SetByField(serializers.DictField):
    """A dict from setting to the level that set its value: ``default``, ``organization``, ``user`` or ``enforced``."""


class VersionField(serializers.IntegerField):
    """The version of the settings that a client has read."""

    def __init__(self, **options: Any) -> None:
        super().__init__(min_value=0, max_value=2**31 - 1, **options)


class SettingsSerializer(serializers.Serializer[Any]):
    """The effective settings of the caller. A secret is shown as a mask; a mask that is sent back changes nothing."""

    organization = serializers.UUIDField()
    version = VersionField()
    values = ValuesField()
    set_by = SetByField()


class SettingsChangeSerializer(serializers.Serializer[Any]):
    """Settings to change. If one value is invalid, no setting changes. Null removes the caller's value."""

    version = VersionField(
        required=False,
        help_text="The version that the client has read. If there is a newer version, the response is 409.",
    )
    values = ValuesField()


class OrganizationSettingsSerializer(serializers.Serializer[Any]):
    """The settings that an organization sets for its members. Null means that the organization sets no value."""

    version = VersionField()
    values = ValuesField()
    enforced = serializers.ListField(child=serializers.CharField(max_length=60), max_length=100)


class OrganizationSettingsChangeSerializer(serializers.Serializer[Any]):
    """The settings to change in an organization. ``enforced`` replaces the whole list of enforced settings."""

    version = VersionField(required=False)
    values = ValuesField(required=False, default=dict)
    enforced = serializers.ListField(
        child=serializers.CharField(max_length=60), max_length=100, required=False
    )


class InActiveOrganization(GenericAPIView[Any]):
    """The base class of views for the caller's own data in the active organization of the request."""

    request: ApiRequest

    def organization(self) -> Organization:
        """Return the active organization.

        Raise ``Http404`` in the same cases as ``active_organization``. Raise the exceptions of ``require`` if the
        caller lacks the permission for the requested action in this organization.
        """
        organization = active_organization(self.request)
        # No role includes the empty name, so an action without a permission is refused.
        require(self.request.user, organization.pk, permission_of(self) or "")
        return organization

    def body(self, kind: type[serializers.Serializer[Any]]) -> dict[str, Any]:
        """Return the validated body of the request."""
        return parse_body(kind, self.request)


@extend_schema(tags=["settings"], parameters=[IN_ORGANIZATION])
class SettingsView(InActiveOrganization):
    """The caller's settings in an organization.

    No viewset: the URL has no collection, and ``bench rest`` measures this route, which skips DRF's
    serializer and renderer.
    """

    serializer_class = SettingsSerializer
    permissions_by_action = {  # noqa: RUF012 - a view's table, like DRF's own
        "get": "settings.view",
        "patch": "settings.edit",
    }

    @extend_schema(operation_id="settings_retrieve")
    def get(self, request: ApiRequest) -> HttpResponse:
        """Return the caller's effective settings, and for each setting the level that set its value."""
        user = request.user
        organization_id: Any = requested_organization_id(request)
        # For a request with an API key, one query reads the settings and checks the permission. Other requests, and
        # keys without the permission, get None and take the usual path below.
        effective = user_settings.effective_settings_for_key(
            user, organization_id, permission_of(self) or ""
        )
        if effective is None:
            organization_id = self.organization().pk
            effective = user_settings.effective_settings(
                user_id=user.pk, organization_id=organization_id
            )
        return conditional_response(request, serialize_effective(organization_id, effective))

    @extend_schema(
        operation_id="settings_partial_update",
        request=SettingsChangeSerializer,
        responses=SettingsSerializer,
    )
    def patch(self, request: ApiRequest) -> Response:
        """Change some of the caller's settings. Safe to repeat.

        If `version` is sent and the settings have a newer version, respond 409.
        """
        user = request.user
        organization = self.organization()
        changed = user_settings.change_settings(
            user=user, organization=organization, **self.body(SettingsChangeSerializer)
        )
        return Response(serialize_effective(organization.pk, changed))


def serialize_effective(
    organization_id: UUID, effective: user_settings.EffectiveSettings
) -> dict[str, Any]:
    """Return the response body for effective settings, with secrets replaced by masks."""
    return {
        "organization": organization_id,
        "version": effective.version,
        "values": effective.masked_values(),
        "set_by": effective.set_by,
    }


class OptionsSerializer(serializers.Serializer[Any]):
    """The options that a setting can have."""

    items = serializers.ListField(child=serializers.CharField())


@extend_schema(tags=["options"])
class AgentsView(GenericAPIView[Any]):
    """The possible values of the setting `agent`.

    No viewset: the list is a constant in the code, not database rows.
    """

    permission = "account.view"
    serializer_class = OptionsSerializer

    @extend_schema(operation_id="options_agents")
    def get(self, request: Request) -> Response:
        """Return the names of the agents."""
        return Response(self.get_serializer({"items": AGENTS}).data)


@extend_schema(tags=["options"])
class AnalyzersView(GenericAPIView[Any]):
    """The possible values of the setting `security_analyzer`.

    No viewset: the list is a constant in the code, not database rows.
    """

    permission = "account.view"
    serializer_class = OptionsSerializer

    @extend_schema(operation_id="options_security_analyzers")
    def get(self, request: Request) -> Response:
        """Return the names of the security analyzers."""
        return Response(self.get_serializer({"items": ANALYZERS}).data)


class SiteConfigSerializer(serializers.Serializer[Any]):
    """The configuration that a client needs before a user signs in."""

    app_mode = serializers.ChoiceField(["saas", "oss"])
    providers = serializers.ListField(child=serializers.CharField())
    auth_url = serializers.CharField()
    features = serializers.DictField(child=serializers.BooleanField())
    maintenance_at = serializers.DateTimeField(allow_null=True)


@extend_schema(tags=["options"])
class SiteConfigView(GenericAPIView[Any]):
    """The configuration of this installation.

    No viewset: the configuration is not a database row, and the response also sets a cookie.
    """

    permission = PUBLIC
    serializer_class = SiteConfigSerializer

    @extend_schema(operation_id="options_config")
    def get(self, request: Request) -> Response:
        """Return the configuration for clients, and set the cookie `XSRF-TOKEN`."""
        get_token(request._request)  # noqa: SLF001 - Django's own functions refuse DRF's wrapper
        return Response(self.get_serializer(site.site_config()).data)

"""The settings API: what is in force for the caller, what an organization sets, and what may be chosen."""

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
from accounts.api.permissions import PUBLIC, permission_of
from accounts.api.v1.organizations import OfOrganization
from accounts.models import Organization, OrganizationSettings
from accounts.permissions import require
from accounts.requests import ApiRequest
from accounts.services import site, user_settings
from accounts.settings.fields import AGENTS, ANALYZERS, FIELDS
from lib.api import conditional_response

IN_ORGANIZATION = OpenApiParameter(
    "organization",
    type={"type": "string", "format": "uuid"},
    description="Absent: the organization of the API key, else the one chosen, else the caller's own.",
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
    """Values of settings by name; the table of fields checks them."""


@extend_schema_field(
    {
        "type": "object",
        "additionalProperties": {"type": "string", "enum": list(user_settings.SETTERS)},
    }
)
class SetByField(serializers.DictField):
    """Who set each value."""


class VersionField(serializers.IntegerField):
    """The version that a writer has seen."""

    def __init__(self, **options: Any) -> None:
        super().__init__(min_value=0, max_value=2**31 - 1, **options)


class SettingsSerializer(serializers.Serializer[Any]):
    """What is in force. Secrets are shown as a mask; sent back, the mask leaves them as they are."""

    organization = serializers.UUIDField()
    version = VersionField()
    values = ValuesField()
    set_by = SetByField()


class SettingsChangeSerializer(serializers.Serializer[Any]):
    """Some settings to change, all or none. Null takes a choice back; no mask is taken for a secret."""

    version = VersionField(
        required=False, help_text="The version read; 409 if it is not the newest."
    )
    values = ValuesField()


class OrganizationSettingsSerializer(serializers.Serializer[Any]):
    """What an organization sets for its members; null where it sets nothing."""

    version = VersionField()
    values = ValuesField()
    enforced = serializers.ListField(child=serializers.CharField(max_length=60), max_length=100)


class OrganizationSettingsChangeSerializer(serializers.Serializer[Any]):
    """What to change of it; ``enforced``, where it is given, is the whole list of names."""

    version = VersionField(required=False)
    values = ValuesField(required=False, default=dict)
    enforced = serializers.ListField(
        child=serializers.CharField(max_length=60), max_length=100, required=False
    )


class InActiveOrganization(GenericAPIView[Any]):
    """A view of what is the caller's in the organization that the request works in."""

    request: ApiRequest

    def organization(self) -> Organization:
        """That organization, in which the caller holds the permission of this action."""
        found = active_organization(self.request)
        require(self.request.user, found.pk, permission_of(self) or "")
        return found

    def body(self, kind: type[serializers.Serializer[Any]]) -> dict[str, Any]:
        """The request's body, validated."""
        body = kind(data=self.request.data)
        body.is_valid(raise_exception=True)
        return dict(body.validated_data)


@extend_schema(tags=["settings"], parameters=[IN_ORGANIZATION])
class SettingsView(InActiveOrganization):
    """The caller's settings in an organization."""

    serializer_class = SettingsSerializer
    permissions_by_action = {  # noqa: RUF012 - a view's table, like DRF's own
        "get": "settings.view",
        "patch": "settings.edit",
    }

    @extend_schema(operation_id="settings_retrieve")
    def get(self, request: ApiRequest) -> HttpResponse:
        """What is in force, and who set it: the default, the organization or the user; or it is enforced."""
        user = request.user
        place: Any = requested_organization_id(request)
        found = user_settings.effective_settings_for_key(user, place, permission_of(self) or "")
        if found is None:
            place = self.organization().pk
            found = user_settings.effective_settings(user_id=user.pk, organization_id=place)
        return conditional_response(request, _told(place, found))

    @extend_schema(
        operation_id="settings_partial_update",
        request=SettingsChangeSerializer,
        responses=SettingsSerializer,
    )
    def patch(self, request: ApiRequest) -> Response:
        """Change some settings. Safe to repeat; with `version`, 409 when others were faster."""
        user = request.user
        organization = self.organization()
        changed = user_settings.change_settings(
            user=user, organization=organization, **self.body(SettingsChangeSerializer)
        )
        return Response(_told(organization.pk, changed))


def _told(organization_id: UUID, found: user_settings.EffectiveSettings) -> dict[str, Any]:
    return {
        "organization": organization_id,
        "version": found.version,
        "values": found.masked_values(),
        "set_by": found.set_by,
    }


@extend_schema(tags=["organizations"])
class OrganizationSettingsView(OfOrganization):
    """What an organization sets for its members."""

    serializer_class = OrganizationSettingsSerializer
    permissions_by_action = {  # noqa: RUF012
        "get": "organization_settings.view",
        "patch": "organization_settings.edit",
    }

    @extend_schema(operation_id="organizations_settings_retrieve")
    def get(self, request: Request, pk: Any) -> Response:
        """The organization's own values, and the names of those that members may not change."""
        row = user_settings.organization_settings(organization_id=self.organization().pk)
        return self._told(row)

    @extend_schema(
        operation_id="organizations_settings_partial_update",
        request=OrganizationSettingsChangeSerializer,
        responses=OrganizationSettingsSerializer,
    )
    def patch(self, request: Request, pk: Any) -> Response:
        """Change some of them. Safe to repeat; with `version`, 409 when others were faster."""
        row = user_settings.change_organization_settings(
            organization=self.organization(), **self.body(OrganizationSettingsChangeSerializer)
        )
        return self._told(row)

    def _told(self, row: OrganizationSettings) -> Response:
        return Response(
            self.get_serializer(
                {
                    "version": row.version,
                    "values": user_settings.masked_values(row),
                    "enforced": row.enforced,
                }
            ).data
        )


class OptionsSerializer(serializers.Serializer[Any]):
    """What may be chosen."""

    items = serializers.ListField(child=serializers.CharField())


@extend_schema(tags=["options"])
class AgentsView(GenericAPIView[Any]):
    """Agents that a setting may name."""

    permission = "account.view"
    serializer_class = OptionsSerializer

    @extend_schema(operation_id="options_agents")
    def get(self, request: Request) -> Response:
        """The agents there are."""
        return Response(self.get_serializer({"items": AGENTS}).data)


@extend_schema(tags=["options"])
class AnalyzersView(GenericAPIView[Any]):
    """Security analyzers that a setting may name."""

    permission = "account.view"
    serializer_class = OptionsSerializer

    @extend_schema(operation_id="options_security_analyzers")
    def get(self, request: Request) -> Response:
        """The analyzers there are."""
        return Response(self.get_serializer({"items": ANALYZERS}).data)


class SiteConfigSerializer(serializers.Serializer[Any]):
    """What a client needs to know before anybody signs in."""

    app_mode = serializers.ChoiceField(["saas", "oss"])
    providers = serializers.ListField(child=serializers.CharField())
    auth_url = serializers.CharField()
    features = serializers.DictField(child=serializers.BooleanField())
    maintenance_at = serializers.DateTimeField(allow_null=True)


@extend_schema(tags=["options"])
class SiteConfigView(GenericAPIView[Any]):
    """What this installation is."""

    permission = PUBLIC
    serializer_class = SiteConfigSerializer

    @extend_schema(operation_id="options_config")
    def get(self, request: Request) -> Response:
        """The configuration of clients; sets the cookie `XSRF-TOKEN` too."""
        get_token(request._request)  # noqa: SLF001 - Django's own functions refuse DRF's wrapper
        return Response(self.get_serializer(site.site_config()).data)

"""``/api/settings`` as existing clients know it: one flat record of settings and the model together.

It stands here and not in accounts because the model belongs to billing. A post changes what it names and
leaves the rest; a secret that comes back as it was shown, or is not named, stays.
"""

from typing import Any

from django.db import transaction
from drf_spectacular.utils import extend_schema, inline_serializer
from rest_framework import serializers
from rest_framework.generics import GenericAPIView
from rest_framework.request import Request
from rest_framework.response import Response

from accounts.api.permissions import PUBLIC
from accounts.api.v1.settings import InActiveOrganization
from accounts.models import Organization, User
from accounts.permissions import require
from accounts.requests import ApiRequest
from accounts.services import provider_tokens, user_settings
from accounts.settings.fields import FIELDS
from billing import services
from billing.gateway import directory
from billing.models import ModelAccess
from lib.masks import is_mask
from lib.problems import Problem
from lib.routes import RouteFacts

MESSAGE = inline_serializer("SettingsMessage", {"message": serializers.CharField()})
NO_SERVERS: dict[str, list[Any]] = {"sse_servers": [], "stdio_servers": [], "shttp_servers": []}
BY_COMPAT = {field.compat or field.name: field for field in FIELDS.values()}
PRICES = ("prompt", "completion", "cached")


class UnknownModelServer(Problem):
    """A model without an address whose name does not say where it is."""

    code = "unknown-model-server"


class ResetGone(Problem):
    """What clients used to call to forget everything."""

    status = 410
    code = "gone"
    sentence = "Settings are not reset as a whole any more. Set those that should be others."


RECORD = {
    "type": "object",
    "properties": {
        **{
            name: (field.schema if not field.compat else {"type": "number"}) | {"nullable": True}
            for name, field in BY_COMPAT.items()
        },
        "llm_model": {"type": "string"},
        "llm_base_url": {"type": "string"},
        "llm_api_key": {"type": "string", "nullable": True},
        "llm_api_key_set": {"type": "boolean", "readOnly": True},
        "search_api_key_set": {"type": "boolean", "readOnly": True},
        "provider_tokens_set": {
            "type": "object",
            "readOnly": True,
            "additionalProperties": {"type": "string", "nullable": True},
        },
        "email": {"type": "string", "readOnly": True},
        "email_verified": {"type": "boolean", "readOnly": True},
    },
}


class CompatSettingsSerializer(serializers.Serializer[Any]):
    """Texts of the model; everything else is checked by the table of fields."""

    llm_model = serializers.CharField(
        max_length=250, required=False, allow_null=True, allow_blank=True
    )
    llm_base_url = serializers.CharField(
        max_length=500, required=False, allow_null=True, allow_blank=True
    )
    llm_api_key = serializers.CharField(
        max_length=2_000, required=False, allow_null=True, allow_blank=True, write_only=True
    )


@RouteFacts(replaced_by="/api/v1/settings")
@extend_schema(tags=["compat"])
class CompatSettingsView(InActiveOrganization):
    """The caller's settings."""

    serializer_class = CompatSettingsSerializer
    permissions_by_action = {"get": "settings.view", "post": "settings.edit"}  # noqa: RUF012

    @extend_schema(operation_id="compat_settings_retrieve", responses={200: RECORD})
    def get(self, request: ApiRequest) -> Response:
        """What is in force. There is always a record; keys of secrets are null and say whether they are set."""
        return Response(record(request.user, self.organization()))

    @extend_schema(
        operation_id="compat_settings_update",
        request={"application/json": RECORD},
        responses=MESSAGE,
    )
    def post(self, request: ApiRequest) -> Response:
        """Change what is named. An empty `llm_api_key` clears it; an empty `search_api_key` keeps it."""
        user = request.user
        organization = self.organization()
        model = self.body(CompatSettingsSerializer)
        values = wanted(dict(request.data))
        with transaction.atomic():
            user_settings.change_settings(
                user=user, organization=organization, values=values, skip_effective=True
            )
            change_model(user, organization, model)
        return Response({"message": "Settings stored"})


@RouteFacts(replaced_by="/api/v1/settings")
@extend_schema(tags=["compat"])
class CompatResetView(GenericAPIView[Any]):
    """An address that existing clients may still call."""

    permission = PUBLIC
    serializer_class = None

    @extend_schema(operation_id="compat_settings_reset", request=None, responses={410: None})
    def post(self, request: Request) -> Response:
        """Gone: always 410."""
        raise ResetGone


@RouteFacts(replaced_by="/api/v1/options/models")
@extend_schema(tags=["compat"])
class CompatModelsView(InActiveOrganization):
    """Models to choose from."""

    permission = "model_access.view"
    serializer_class = None

    @extend_schema(
        operation_id="compat_options_models",
        responses={200: {"type": "array", "items": {"type": "string"}}},
    )
    def get(self, request: ApiRequest) -> Response:
        """Their names, the caller's own among them."""
        organization = self.organization()
        access = services.model_access_of(organization_id=organization.pk, user_id=request.user.pk)
        return Response(directory.models_for(access))


def record(user: User, organization: Organization) -> dict[str, Any]:
    """The flat record that clients know; secrets are null, and MCP servers carry masks."""
    found = user_settings.effective_settings(user_id=user.pk, organization_id=organization.pk)
    access = services.model_access_of(organization_id=organization.pk, user_id=user.pk)
    told = {name: field.to_compat(found.values[field.name]) for name, field in BY_COMPAT.items()}
    model, base_url = directory.named_access(access)
    return told | {
        "mcp_config": found.masked_values()["mcp_config"] or NO_SERVERS,
        "search_api_key": None,
        "search_api_key_set": found.values["search_api_key"] is not None,
        "llm_model": model,
        "llm_base_url": base_url,
        "llm_api_key": None,
        "llm_api_key_set": access is not None and access.has_api_key,
        "provider_tokens_set": provider_tokens.provider_hosts(
            user_id=user.pk, organization_id=organization.pk
        ),
        "email": user.email,
        "email_verified": True,  # an address counts here from its verification on
    }


def wanted(body: dict[str, Any]) -> dict[str, Any]:
    """The settings that a client's record names, without what only says back what it was shown."""
    values: dict[str, Any] = {}
    for name, field in BY_COMPAT.items():
        if name not in body:
            continue
        value = body[name]
        if name == "search_api_key" and (not value or is_mask(str(value))):
            continue  # sent empty on every save of any page
        if name == "mcp_config" and isinstance(value, dict) and not any(value.values()):
            value = None
        if name == "user_consents_to_analytics" and value is None:
            continue
        values[field.name] = field.from_compat(value)
    return values


def change_model(user: User, organization: Organization, body: dict[str, Any]) -> None:
    """Take over the model, its address and key where they are named and other than they are."""
    access = services.model_access_of(organization_id=organization.pk, user_id=user.pk)
    model, base_url = directory.named_access(access)
    key = body.get("llm_api_key")
    if key and is_mask(key):
        key = None
    named = body.get("llm_model") or model
    address = body.get("llm_base_url", base_url) or ""
    if (named, address) == (model, base_url) and (
        key is None or (not key and not _has_key(access))
    ):
        return
    require(user, organization.pk, "model_access.edit")
    if named == services.DEMO_MODEL and not address:
        if access is not None:
            services.clear_model_access(organization_id=organization.pk, user_id=user.pk)
        return
    place = directory.located(named, address)
    if place is None:
        raise UnknownModelServer(
            f"Where is {named[:80]}? Give its base URL, or name it as one of: "
            + ", ".join(f"{first}/…" for first in directory.SERVERS)
            + "."
        )
    is_same = access is not None and (access.model, access.base_url) == place
    prices = {
        f"{price}_micros_per_million": getattr(access, f"{price}_micros_per_million")
        for price in (PRICES if is_same else ())
    }
    services.save_model_access(
        organization=organization,
        user=user,
        model=place[0],
        base_url=place[1],
        api_key=key,
        **prices,
    )


def _has_key(access: ModelAccess | None) -> bool:
    return access is not None and access.has_api_key

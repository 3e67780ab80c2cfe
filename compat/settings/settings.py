"""``/api/settings`` of existing clients: one flat record with the settings and the caller's model server.

A POST changes only the fields in its body, because the web client's page for MCP servers sends only one field. (On
OpenHands' own server that page resets all other settings.) If the body omits a secret or contains only
the secret's mask, the secret stays unchanged.
"""

from typing import Any

from django.db import transaction
from django.http import Http404, HttpResponse
from drf_spectacular.utils import extend_schema, inline_serializer
from rest_framework import serializers
from rest_framework.generics import GenericAPIView
from rest_framework.request import Request
from rest_framework.response import Response

from accounts.api.permissions import PUBLIC, permission_of
from accounts.api.v1.settings import InActiveOrganization
from accounts.models import Organization, User
from accounts.permissions import require
from accounts.requests import ApiRequest
from accounts.services import user_settings
from accounts.settings.fields import FIELDS, UnknownSetting
from billing import services
from billing.gateway import directory
from billing.models import ModelAccess
from compat.reads import json_response
from compat.settings.reading import StoredRecord, read_record, read_record_in
from lib.api import parse_body
from lib.masks import is_mask
from lib.problems import Problem
from lib.routes import RouteFacts

MESSAGE = inline_serializer("SettingsMessage", {"message": serializers.CharField()})
NO_SERVERS: dict[str, list[Any]] = {"sse_servers": [], "stdio_servers": [], "shttp_servers": []}
"""The form of "no MCP servers" that clients send and expect."""
FIELDS_BY_COMPAT_NAME = {field.compat or field.name: field for field in FIELDS.values()}
PRICES = ("prompt", "completion", "cached")
MODEL_FIELDS = ("llm_model", "llm_base_url", "llm_api_key")
READ_ONLY = frozenset(
    {
        *("id", "name", "email", "email_verified", "is_staff", "organizations", "is_new_user"),
        *("llm_api_key_set", "search_api_key_set", "provider_tokens_set", "provider_hosts"),
        "secrets_store",
    }
)
"""Fields of responses that clients send back. A request cannot change them."""
NULL_KEEPS = ("mcp_config", "confirmation_mode", "user_consents_to_analytics")
"""Settings that a null keeps. Removing them could send texts to other servers, or stop the agent from asking.

For ``user_consents_to_analytics``, null means that the user has not decided.
"""


class UnknownModelServer(Problem):
    """The model has no base URL, and its name has no prefix that identifies its server."""

    code = "unknown-model-server"


class ResetGone(Problem):
    """The route that reset all settings was removed. OpenHands' own server responds with 410 too."""

    status = 410
    code = "gone"
    sentence = "Settings can no longer be reset as a whole. Change the individual settings instead."


RECORD = {
    "type": "object",
    "properties": {
        **{
            name: (field.schema if not field.compat else {"type": "number"}) | {"nullable": True}
            for name, field in FIELDS_BY_COMPAT_NAME.items()
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
    """The fields that select a model and its server. ``FIELDS_BY_COMPAT_NAME`` validates all other fields."""

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
    """The caller's settings and model server, as one flat record."""

    serializer_class = CompatSettingsSerializer
    permissions_by_action = {"get": "settings.view", "post": "settings.edit"}  # noqa: RUF012

    @extend_schema(operation_id="compat_settings_retrieve", responses={200: RECORD})
    def get(self, request: ApiRequest) -> HttpResponse:
        """Return the effective settings. Each secret is null; a field `…_set` says whether the secret is set."""
        # The web client treats a 404 as the first use of the server and may block the whole page, so always return
        # a record.
        permission = permission_of(self) or ""
        record = read_record(request, permission)
        if record is None:
            # Raises the right exception, or finds another organization than the one that the session names.
            organization = self.organization()
            record = read_record_in(request.user, organization.pk, permission)
        if record is None:  # the membership ended between the two
            raise Http404
        return json_response(serialize_settings(request.user, record))

    @extend_schema(
        operation_id="compat_settings_update",
        request={"application/json": RECORD},
        responses=MESSAGE,
    )
    def post(self, request: ApiRequest) -> Response:
        """Change the settings in the body.

        An empty `llm_api_key` removes the key. An empty `search_api_key` keeps the key. Null keeps the model, its
        server, all keys, the MCP servers and the confirmation mode.
        """
        user = request.user
        organization = self.organization()
        sent: Any = request.data
        is_object = isinstance(sent, dict)
        # Every other name is checked by ``check_names``.
        fields = {name: sent[name] for name in MODEL_FIELDS if name in sent} if is_object else sent
        model = parse_body(CompatSettingsSerializer, fields)
        body = dict(sent)
        check_names(body)
        values = parse_settings(body)
        with transaction.atomic():
            user_settings.change_settings(
                user=user, organization=organization, values=values, skip_effective=True
            )
            change_model(user, organization, model)
        return Response({"message": "Settings stored"})


@RouteFacts(replaced_by="/api/v1/settings")
@extend_schema(tags=["compat"])
class CompatResetView(GenericAPIView[Any]):
    """The route that formerly reset all settings. It is removed and responds with 410."""

    permission = PUBLIC
    serializer_class = None

    @extend_schema(operation_id="compat_settings_reset", request=None, responses={410: None})
    def post(self, request: Request) -> Response:
        """Respond with 410: settings can no longer be reset as a whole."""
        raise ResetGone


@RouteFacts(replaced_by="/api/v1/options/models")
@extend_schema(tags=["compat"])
class CompatModelsView(InActiveOrganization):
    """The names of models to choose from."""

    permission = "model_access.view"
    serializer_class = None

    @extend_schema(
        operation_id="compat_options_models",
        responses={200: {"type": "array", "items": {"type": "string"}}},
    )
    def get(self, request: ApiRequest) -> Response:
        """Return the names of the models, including the caller's own."""
        organization = self.organization()
        access = services.get_model_access(organization_id=organization.pk, user_id=request.user.pk)
        return Response(directory.list_models(access))


def serialize_settings(user: User, record: StoredRecord) -> dict[str, Any]:
    """Return the flat record of settings. Secrets are null, and the keys of MCP servers are masks."""
    stored, access = record.effective.values, record.access
    values = {
        name: field.to_compat(stored[field.name]) for name, field in FIELDS_BY_COMPAT_NAME.items()
    }
    model, base_url = directory.format_access(access)
    return values | {
        "mcp_config": FIELDS["mcp_config"].mask(stored["mcp_config"]) or NO_SERVERS,
        "search_api_key": None,
        "search_api_key_set": stored["search_api_key"] is not None,
        "llm_model": model,
        "llm_base_url": base_url,
        "llm_api_key": None,
        "llm_api_key_set": access is not None and access.has_api_key,
        "provider_tokens_set": record.hosts,
        "email": user.email,
        "email_verified": True,  # an address is stored only after its verification
    }


def check_names(body: dict[str, Any]) -> None:
    """Raise ``UnknownSetting`` for a field that this server cannot store, unless its value asks for nothing."""
    for name, value in body.items():
        is_known = name in FIELDS_BY_COMPAT_NAME or name in MODEL_FIELDS or name in READ_ONLY
        asks_for_nothing = value is None or value is False or value in ("", [], {})
        if not (is_known or asks_for_nothing or (name == "v1_enabled" and value is True)):
            raise UnknownSetting(
                f"{str(name)[:80]}: This server has no such setting. Leave it out.",
                field=str(name)[:80],
            )


def parse_settings(body: dict[str, Any]) -> dict[str, Any]:
    """Return the settings to change from a client's record, under this server's names.

    Leave out the values that clients only send back as they received them, such as masks.
    """
    values: dict[str, Any] = {}
    for name, field in FIELDS_BY_COMPAT_NAME.items():
        if name not in body:
            continue
        value = body[name]
        if value is None and name in NULL_KEEPS:
            continue
        if name == "search_api_key" and (not value or is_mask(str(value))):
            continue  # every page of the web client sends this field empty when it saves
        # Clients receive "no servers" as three empty lists and send them back. A list that is null keeps its servers.
        is_mcp = name == "mcp_config" and isinstance(value, dict) and None not in value.values()
        if is_mcp and not any(value.values()):
            value = None
        values[field.name] = field.from_compat(value)
    return values


def change_model(user: User, organization: Organization, body: dict[str, Any]) -> None:
    """Change the caller's model access if the body contains another model, server or API key than the stored one.

    If the body names the demo model, delete the caller's model access. Raise ``UnknownModelServer`` if the model's
    server is unknown, and ``MissingPermission`` if the caller may not change the model access.
    """
    access = services.get_model_access(organization_id=organization.pk, user_id=user.pk)
    model, base_url = directory.format_access(access)
    key = body.get("llm_api_key")
    if key and is_mask(key):
        key = None
    new_model = body.get("llm_model") or model
    # Null keeps the server, like an absent field: otherwise a null would send the conversations to another one.
    new_base_url = base_url if body.get("llm_base_url") is None else body["llm_base_url"]
    # Most requests change another setting and repeat the model. They need no permission for the model. A key of None
    # keeps the stored key, and an empty key removes it.
    is_same_key = key is None or (not key and not _has_key(access))
    if (new_model, new_base_url) == (model, base_url) and is_same_key:
        return
    require(user, organization.pk, "model_access.edit")
    if new_model == services.DEMO_MODEL and not new_base_url:
        if access is not None:
            services.clear_model_access(organization_id=organization.pk, user_id=user.pk)
        return
    location = directory.locate_model(new_model, new_base_url)
    if location is None:
        raise UnknownModelServer(
            f"The server of the model {new_model[:80]} is unknown. Enter its base URL, or use a name that starts with "
            + ", ".join(f"{prefix}/" for prefix in directory.SERVERS)
            + "."
        )
    # Prices belong to one model on one server. Keep them only if neither changes.
    is_same_model = access is not None and (access.model, access.base_url) == location
    prices = {
        f"{price}_micros_per_million": getattr(access, f"{price}_micros_per_million")
        for price in (PRICES if is_same_model else ())
    }
    services.save_model_access(
        organization=organization,
        user=user,
        model=location[0],
        base_url=location[1],
        api_key=key,
        **prices,
    )


def _has_key(access: ModelAccess | None) -> bool:
    return access is not None and access.has_api_key

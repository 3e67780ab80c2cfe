"""``GET /api/v1/users/me`` with the settings fields that existing clients look for in it."""

from typing import Any
from uuid import UUID

from django.db.models import FilteredRelation, Q
from django.http import Http404, HttpResponse
from drf_spectacular.utils import extend_schema

from accounts import services
from accounts.active import active_organization
from accounts.api.v1.views import MeView
from accounts.models import Organization
from accounts.requests import ApiRequest
from accounts.services import user_settings
from billing.gateway import directory
from billing.models import ModelAccess
from compat.settings.settings import BY_COMPAT, NO_SERVERS, RECORD
from lib.api import conditional
from lib.compiled import Compiled, Rows
from lib.masks import MASK

NEEDED = {"settings.view", "model_access.view"}
ABSENT: dict[str, Any] = {
    "sandbox_api_key": None,
    "sandbox_base_container_image": None,
    "sandbox_runtime_container_image": None,
    "secrets_store": {},
    "v1_enabled": True,
}
"""What this server has no settings for, as clients that look for it read it."""
_PROPERTIES: Any = RECORD["properties"]
_TOLD = {n: s for n, s in _PROPERTIES.items() if n != "email" and not n.endswith("_set")}
SCHEMA = {
    "allOf": [
        {"$ref": "#/components/schemas/Me"},
        {
            "type": "object",
            "properties": _TOLD
            | {name: {"type": "string", "nullable": True} for name in list(ABSENT)[:3]}
            | {"secrets_store": {"type": "object"}, "v1_enabled": {"type": "boolean"}}
            | {"search_api_key": {"type": "string", "nullable": True}},
        },
    ]
}


class WholeMeView(MeView):
    """The caller, and the caller's settings where the request works, if these may be seen."""

    @extend_schema(operation_id="users_me_retrieve", tags=["users"], responses={200: SCHEMA})
    def get(self, request: ApiRequest) -> HttpResponse:
        """Who asks and which organizations that reaches; the settings in force, with masks for secrets."""
        user = request.user
        told = {name: getattr(user, name) for name in ("id", "email", "name", "is_staff")}
        reached = services.reachable_organizations(user)
        try:
            place = user.bound_organization_id or active_organization(request).pk
        except Http404:  # who one is does not depend on the place that the request names
            place = None
        held: Any = next((one["permissions"] for one in reached if one["id"] == place), [])
        settings: dict[str, Any] = {}
        if place is not None and {*held} >= NEEDED:
            settings = settings_of(user_id=user.pk, organization_id=place)
        return conditional(request, settings | told | {"organizations": reached})


def settings_of(*, user_id: UUID, organization_id: UUID) -> dict[str, Any]:
    """The settings as clients name them; secrets are masks. One query."""
    [row] = _SETTINGS.rows(user=user_id, organization=organization_id)
    own, shared, access = _ROWS.instances(row)
    found = user_settings.merge_settings(own, shared)
    shown = found.masked_values()
    model, base_url = directory.named_access(access)
    told = {name: field.to_compat(found.values[field.name]) for name, field in BY_COMPAT.items()}
    return (
        told
        | ABSENT
        | {
            "mcp_config": shown["mcp_config"] or NO_SERVERS,
            "search_api_key": shown["search_api_key"],
            "llm_model": model,
            "llm_base_url": base_url,
            "llm_api_key": MASK if access is not None and access.has_api_key else None,
            "email_verified": True,
        }
    )


_ROWS = Rows(**user_settings.SETTINGS_RELATIONS, access=ModelAccess)


def _settings(user: UUID, organization: UUID) -> Any:
    found = user_settings.with_own_settings(Organization.objects.filter(pk=organization), user)
    mine = FilteredRelation("modelaccess", condition=Q(modelaccess__user_id=user))
    return found.annotate(access=mine).values_list(*_ROWS.columns)


_SETTINGS = Compiled(_settings, user=UUID(int=1), organization=UUID(int=2))

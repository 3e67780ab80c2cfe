"""``GET /api/v1/users/me`` with the settings fields that existing clients read from it."""

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
from compat.settings.settings import FIELDS_BY_COMPAT_NAME, NO_SERVERS, RECORD
from lib.api import conditional_response
from lib.compiled import Compiled, Rows
from lib.masks import MASK

REQUIRED_PERMISSIONS = {"settings.view", "model_access.view"}
ABSENT: dict[str, Any] = {
    "sandbox_api_key": None,
    "sandbox_base_container_image": None,
    "sandbox_runtime_container_image": None,
    "secrets_store": {},
    "v1_enabled": True,
}
"""OpenHands settings that this server does not have, with the values that clients receive."""
_PROPERTIES: Any = RECORD["properties"]
_SETTINGS_PROPERTIES = {
    n: s for n, s in _PROPERTIES.items() if n != "email" and not n.endswith("_set")
}
SCHEMA = {
    "allOf": [
        {"$ref": "#/components/schemas/Me"},
        {
            "type": "object",
            "properties": _SETTINGS_PROPERTIES
            | {name: {"type": "string", "nullable": True} for name in list(ABSENT)[:3]}
            | {"secrets_store": {"type": "object"}, "v1_enabled": {"type": "boolean"}}
            | {"search_api_key": {"type": "string", "nullable": True}},
        },
    ]
}


class WholeMeView(MeView):
    """The caller's account, organizations, and settings in the active organization."""

    @extend_schema(operation_id="users_me_retrieve", tags=["users"], responses={200: SCHEMA})
    def get(self, request: ApiRequest) -> HttpResponse:
        """Return the caller's account, the organizations that the caller can access, and the effective settings.

        Secrets are masked. Settings require the permissions `settings.view` and `model_access.view`.
        """
        user = request.user
        account = {name: getattr(user, name) for name in ("id", "email", "name", "is_staff")}
        organizations = services.reachable_organizations(user)
        try:
            active_id = user.bound_organization_id or active_organization(request).pk
        except Http404:  # an unknown organization in the request does not hide the caller's account
            active_id = None
        permissions: Any = next(
            (row["permissions"] for row in organizations if row["id"] == active_id), []
        )
        settings: dict[str, Any] = {}
        if active_id is not None and {*permissions} >= REQUIRED_PERMISSIONS:
            settings = serialize_settings(user_id=user.pk, organization_id=active_id)
        return conditional_response(request, settings | account | {"organizations": organizations})


def serialize_settings(*, user_id: UUID, organization_id: UUID) -> dict[str, Any]:
    """Return a user's effective settings under the names that clients use.

    A mask replaces each secret. Runs one database query.
    """
    [row] = _SETTINGS.rows(user=user_id, organization=organization_id)
    own, shared, access = _ROWS.instances(row)
    effective = user_settings.merge_settings(own, shared)
    masked = effective.masked_values()
    model, base_url = directory.format_access(access)
    values = {
        name: field.to_compat(effective.values[field.name])
        for name, field in FIELDS_BY_COMPAT_NAME.items()
    }
    return (
        values
        | ABSENT
        | {
            "mcp_config": masked["mcp_config"] or NO_SERVERS,
            "search_api_key": masked["search_api_key"],
            "llm_model": model,
            "llm_base_url": base_url,
            "llm_api_key": MASK if access is not None and access.has_api_key else None,
            "email_verified": True,
        }
    )


_ROWS = Rows(**user_settings.SETTINGS_RELATIONS, access=ModelAccess)


def _settings_query(user: UUID, organization: UUID) -> Any:
    rows = user_settings.with_own_settings(Organization.objects.filter(pk=organization), user)
    own_access = FilteredRelation("modelaccess", condition=Q(modelaccess__user_id=user))
    return rows.annotate(access=own_access).values_list(*_ROWS.columns)


_SETTINGS = Compiled(_settings_query, user=UUID(int=1), organization=UUID(int=2))

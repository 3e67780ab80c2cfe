"""One database query for everything in the flat record of settings: settings, model server and Git hosts."""

from dataclasses import dataclass
from typing import Any
from uuid import UUID

from django.contrib.postgres.expressions import ArraySubquery
from django.db.models import FilteredRelation, OuterRef, Q

from accounts.active import SESSION_KEY, requested_organization_id
from accounts.models import Organization, ProviderToken
from accounts.permissions import granted_permissions
from accounts.services.user_settings import (
    SETTINGS_RELATIONS,
    EffectiveSettings,
    merge_settings,
    with_own_settings,
)
from billing.models import ModelAccess
from lib.compiled import Compiled, Rows, caller


@dataclass(frozen=True, slots=True)
class StoredRecord:
    """The settings and the model server of a user in an organization.

    ``access`` is None for the demo model. ``hosts`` is a dict from provider to the host of the user's token, or None
    for the provider's public host.
    """

    effective: EffectiveSettings
    access: ModelAccess | None
    hosts: dict[str, str | None]


def read_record(request: Any, permission: str) -> StoredRecord | None:
    """Return the record of the caller in the active organization of a request. Runs one database query.

    Return None if the caller has no access to the organization or lacks the permission there. The caller of this
    function then uses ``active_organization`` and ``require``, which raise the right exception, and
    ``read_record_in``. Raise ``Http404`` if the request names an organization by an id that is not a UUID.
    """
    user = request.user
    organization_id = requested_organization_id(request)
    if organization_id is None and (chosen := getattr(request, "session", {}).get(SESSION_KEY)):
        try:
            organization_id = UUID(str(chosen))
        except ValueError:
            return None
    return read_record_in(user, organization_id, permission)


def read_record_in(user: Any, organization_id: UUID | None, permission: str) -> StoredRecord | None:
    """Return the record of a user in an organization (None: the personal one), or None without the permission there.

    Runs one database query.
    """
    bound = user.bound_organization_id
    if not user.is_active or (bound and organization_id != bound):
        return None
    if organization_id is None:
        rows = _OF_PERSONAL.rows(user=user.pk)
    else:
        statement = _BY_KEY if bound else _BY_ID
        rows = statement.rows(user=user.pk, organization=organization_id)
    for role, providers, hosts, *row in rows:
        if permission in granted_permissions(role, user):
            own, shared, access = _ROWS.instances(row)
            named_hosts = (host or None for host in hosts)
            tokens = dict(zip(providers, named_hosts, strict=True))
            return StoredRecord(merge_settings(own, shared), access, tokens)
    return None


_ROWS = Rows(**SETTINGS_RELATIONS, access=ModelAccess)


def _select(organizations: Any, user: UUID) -> Any:
    tokens = ProviderToken.objects.filter(user_id=user, organization_id=OuterRef("pk"))
    tokens = tokens.order_by("provider", "pk")
    rows = with_own_settings(organizations.filter(suspended_at=None), user).annotate(
        access=FilteredRelation("modelaccess", condition=Q(modelaccess__user_id=user)),
        providers=ArraySubquery(tokens.values("provider")),
        hosts=ArraySubquery(tokens.values("host")),
    )
    return rows.values_list("memberships__role", "providers", "hosts", *_ROWS.columns)


# ``caller`` is a stand-in for the user, so that ``visible_to`` stays the only definition of the access rule.
_BY_KEY = Compiled(
    lambda user, organization: _select(
        Organization.objects.visible_to(caller(user, organization)), user
    ),
    user=UUID(int=1),
    organization=UUID(int=2),
)
_BY_ID = Compiled(
    lambda user, organization: _select(
        Organization.objects.visible_to(caller(user)).filter(pk=organization), user
    ),
    user=UUID(int=1),
    organization=UUID(int=2),
)
_OF_PERSONAL = Compiled(
    lambda user: _select(
        Organization.objects.visible_to(caller(user)).filter(personal_of_id=user), user
    ),
    user=UUID(int=1),
)

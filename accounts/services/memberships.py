"""The organizations that a user, or the key of a request, reaches."""

from typing import Any
from uuid import UUID

from accounts.models import Membership
from accounts.permissions import granted_by
from lib.compiled import Compiled


def reached_by(user: Any) -> list[dict[str, Any]]:
    """The organizations that a user (or the key a request came with) reaches, eldest membership first.

    Each with the role and the permission names there, none in a suspended one; one query.
    """
    bound = user.bound_organization_id
    values = {"user": user.pk} | ({"organization": bound} if bound else {})
    return [
        {
            "id": pk,
            "name": name,
            "role": role,
            "is_personal": personal_of is not None,
            "permissions": sorted(granted_by(role, user)) if suspended_at is None else [],
        }
        for pk, name, role, personal_of, suspended_at in _REACHED[bound is not None].rows(**values)
    ]


_PERSON, _PLACE = UUID(int=1), UUID(int=2)
_REACHED_AS = (
    "organization_id",
    "organization__name",
    "role",
    "organization__personal_of_id",
    "organization__suspended_at",
)


def _memberships(user: UUID, **only: UUID) -> Any:
    found = Membership.objects.filter(user_id=user, **{f"{k}_id": v for k, v in only.items()})
    return found.order_by("created_at", "pk").values_list(*_REACHED_AS)


_REACHED = {
    False: Compiled(_memberships, user=_PERSON),
    True: Compiled(_memberships, user=_PERSON, organization=_PLACE),
}

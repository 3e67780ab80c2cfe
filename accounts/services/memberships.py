"""Memberships: the list of a user's organizations, and the end of a membership."""

from typing import Any
from uuid import UUID

from django.utils import timezone

from accounts.models import ApiKey, Membership, Organization
from accounts.permissions import granted_permissions
from lib.compiled import Compiled


def reachable_organizations(user: Any) -> list[dict[str, Any]]:
    """Return a user's organizations, oldest membership first. With an API key, return only the key's organization.

    Each item has the keys ``id``, ``name``, ``role``, ``is_personal`` and ``permissions``. In a suspended organization
    the list of permissions is empty. Runs one database query.
    """
    bound = user.bound_organization_id
    values = {"user": user.pk} | ({"organization": bound} if bound else {})
    return [
        {
            "id": pk,
            "name": name,
            "role": role,
            "is_personal": personal_of is not None,
            "permissions": sorted(granted_permissions(role, user)) if suspended_at is None else [],
        }
        for pk, name, role, personal_of, suspended_at in _QUERIES[bound is not None].rows(**values)
    ]


def lock_organization(organization_id: UUID) -> None:
    """Lock an organization's row. Without the lock, two owners who leave concurrently could leave no owner."""
    # no_key: other transactions may still insert rows that reference the organization.
    Organization.objects.select_for_update(no_key=True).get(pk=organization_id)


def is_last_owner(membership: Membership) -> bool:
    """Return whether no other active person is an owner. Suspended users and service accounts do not count."""
    if membership.role != Membership.Role.OWNER:
        return False
    others = Membership.objects.filter(
        organization_id=membership.organization_id,
        role=Membership.Role.OWNER,
        user__is_active=True,
        user__is_service_account=False,
    )
    return not others.exclude(pk=membership.pk).exists()


def ownerless_without(user: Any) -> list[Organization]:
    """Return the team organizations of which the user is the last active owner, oldest first."""
    rows = Membership.objects.filter(
        user=user, role=Membership.Role.OWNER, organization__personal_of=None
    ).select_related("organization")
    return [row.organization for row in rows.order_by("created_at") if is_last_owner(row)]


def end_membership(membership: Membership) -> None:
    """Delete a membership and revoke the user's API keys in its organization.

    Call this in a transaction with the organization locked (``lock_organization``). The caller must make sure that an
    owner remains (``is_last_owner``), write the audit entry and announce the change.
    """
    # Without this, the keys would work again if the user joined the organization later.
    keys = ApiKey.objects.filter(
        user_id=membership.user_id, organization_id=membership.organization_id, revoked_at=None
    )
    keys.update(revoked_at=timezone.now())
    Membership.objects.filter(pk=membership.pk).delete()


# Example values: ``Compiled`` replaces them in the SQL, so they only have to differ.
_USER, _ORGANIZATION = UUID(int=1), UUID(int=2)
_COLUMNS = (
    "organization_id",
    "organization__name",
    "role",
    "organization__personal_of_id",
    "organization__suspended_at",
)


def _memberships(user: UUID, **only: UUID) -> Any:
    rows = Membership.objects.filter(user_id=user, **{f"{k}_id": v for k, v in only.items()})
    return rows.order_by("created_at", "pk").values_list(*_COLUMNS)


_QUERIES = {
    False: Compiled(_memberships, user=_USER),
    True: Compiled(_memberships, user=_USER, organization=_ORGANIZATION),
}

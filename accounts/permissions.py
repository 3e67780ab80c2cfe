"""Permission checks for users and API keys in an organization.

A permission is a name, and a role is a set of permission names (``accounts.roles``). The scopes of an API key
are permission names too. A key can do only what both its scopes and its owner's role allow.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol
from uuid import UUID

from accounts.models import Membership, Organization
from accounts.roles import OPERATING, ROLE_PERMISSIONS, STOP
from lib.problems import Problem


class MissingPermission(Problem):
    """The caller may see the object, but lacks the named permission."""

    status = 403
    code = "missing-permission"


class OrganizationSuspended(Problem):
    """An administrator of the server has suspended the organization."""

    status = 403
    code = "organization-suspended"
    sentence = "This organization is suspended. Ask an administrator of this server."


def permissions_in(user: Any, organization_id: UUID) -> frozenset[str]:
    """Return the names of the permissions that a user has in an organization, limited by the request's API key.

    The set is empty for a user who is inactive or not a member, and for a suspended organization.
    """
    if not user.is_authenticated or not user.is_active:
        return frozenset()
    bound = getattr(user, "bound_organization_id", None)
    if bound and bound != organization_id:
        return frozenset()
    membership = Membership.objects.filter(
        user_id=user.pk, organization_id=organization_id, organization__suspended_at=None
    ).first()
    return granted_permissions(membership.role, user) if membership else frozenset()


def granted_permissions(role: str, user: Any) -> frozenset[str]:
    """Return the permission names of a role, limited to the scopes of the API key that the user sent."""
    names = ROLE_PERMISSIONS.get(role, frozenset())
    # None means no limit: the request has no API key, or the key has no scopes. An empty set would allow nothing.
    scopes = getattr(user, "key_scopes", None)
    return names & scopes if scopes is not None else names


def may_grant(user: Any, organization_id: UUID, role: str) -> bool:
    """Return whether a user may give a role: all permissions of the role must be in ``permissions_in``.

    Do not compare roles instead: an API key with few scopes has fewer permissions than the role of its owner.
    """
    return ROLE_PERMISSIONS[role] <= permissions_in(user, organization_id)


def may_operate(user: Any, permission: str) -> bool:
    """Return whether a user has a permission for the whole installation (a key of ``OPERATING``).

    The user must be staff with the matching Django permission. If the request has an API key, the key must include the
    permission or have no scopes.
    """
    scopes = getattr(user, "key_scopes", None)
    is_staff = user.is_authenticated and user.is_active and user.is_staff
    has_scope = scopes is None or permission in scopes
    return bool(is_staff and has_scope and user.has_perm(OPERATING[permission]))


def is_administrator(user: Any) -> bool:
    """Return whether a user administers the whole installation, as the first administrator does.

    Staff with single permissions do not count, and neither does a request with an API key.
    """
    if not user.is_authenticated:
        return False
    has_key = user.key_scopes is not None or user.bound_organization_id is not None
    is_superuser = user.is_active and user.is_staff and user.is_superuser
    return bool(is_superuser and not has_key)


def require(user: Any, organization_id: UUID, permission: str) -> None:
    """Raise ``MissingPermission`` if a user lacks a permission in an organization.

    Raise ``OrganizationSuspended`` instead if the user is a member and the organization is suspended.
    """
    if permission not in permissions_in(user, organization_id):
        # Members of a suspended organization have no permissions: find out whether this is the reason.
        suspended = Organization.objects.visible_to(user).exclude(suspended_at=None)
        if suspended.filter(pk=organization_id).exists():
            raise OrganizationSuspended(permission=permission)
        raise MissingPermission(
            f"This action needs the permission {permission}, which you do not have in this "
            "organization.",
            permission=permission,
        )


class InOrganization(Protocol):
    """A row that belongs to an organization.

    A row may have the method ``limit_permissions(user, granted)``, which returns the permissions that the user has on
    this row out of those in its organization, and ``explain_limit(permission)``, which returns a sentence.
    """

    @property
    def organization_id(self) -> UUID: ...


def permissions_on(user: Any, row: InOrganization) -> frozenset[str]:
    """Return the names of the permissions that a user has on one row. Runs one database query.

    For a conversation, this and ``permissions_on_each`` are the only places that decide who may steer, stop and delete
    it. Code that acts for a user on a conversation must call one of these functions or ``require_on``, and not
    ``permissions_in``.
    """
    return permissions_on_each(user, [row])[0]


def permissions_on_each(user: Any, rows: Sequence[InOrganization]) -> list[frozenset[str]]:
    """Return what ``permissions_on`` returns for each row, in order. Runs one database query for each organization."""
    granted = {key: permissions_in(user, key) for key in {row.organization_id for row in rows}}
    permissions = []
    for row in rows:
        limit: Callable[[Any, frozenset[str]], frozenset[str]] | None = getattr(
            row, "limit_permissions", None
        )
        names = granted[row.organization_id]
        permissions.append(limit(user, names) if limit else names)
    return permissions


def require_on(user: Any, row: InOrganization, permission: str) -> None:
    """Raise ``MissingPermission`` if a user lacks a permission on one row. See ``permissions_on``.

    Raise ``OrganizationSuspended`` instead if the user is a member and the organization is suspended.
    """
    if permission in permissions_on(user, row):
        return
    # Members who lack the permission in the whole organization get the same answer for every row.
    require(user, row.organization_id, "conversations.steer" if permission == STOP else permission)
    explain_limit: Callable[[str], str] = row.explain_limit  # type: ignore[attr-defined]
    raise MissingPermission(explain_limit(permission), permission=permission)


@dataclass(frozen=True)
class Explanation:
    """The reason why a user has or lacks a permission.

    ``decided_by`` is for programs. It names the check that decided: ``role``, ``key-scope``, ``key-organization``,
    ``membership`` or ``suspension``. ``sentence`` and ``change`` are for people: the reason, and how to get the
    permission.
    """

    permission: str
    organization: UUID
    allowed: bool
    decided_by: str
    role: str | None
    sentence: str
    change: str


def explain(user: Any, organization_id: UUID, permission: str) -> Explanation:
    """Explain why a user has or lacks a permission in an organization. The API key of the request counts too.

    For a user who is not a member, the explanation does not reveal whether the organization exists.
    """

    def explanation(
        decided_by: str, sentence: str, change: str = "", *, allowed: bool = False
    ) -> Explanation:
        return Explanation(permission, organization_id, allowed, decided_by, role, sentence, change)

    # The checks follow the order of permissions_in, so that the explanation matches its decision.
    role = None
    bound = getattr(user, "bound_organization_id", None)
    if bound and bound != organization_id:
        return explanation(
            "key-organization",
            "This API key belongs to another organization.",
            "Use a key that was created in this organization.",
        )
    rows = Membership.objects.filter(user_id=user.pk, organization_id=organization_id)
    membership = rows.select_related("organization").first()
    if membership is None:
        return explanation(
            "membership",
            "You are not a member of this organization, or it does not exist.",
            "Ask an owner or admin of the organization for an invitation.",
        )
    role = membership.role
    if membership.organization.suspended_at:
        return explanation(
            "suspension",
            OrganizationSuspended.sentence,
            "An administrator of this server can activate the organization again.",
        )
    if permission not in ROLE_PERMISSIONS[role]:
        roles = sorted(name for name, names in ROLE_PERMISSIONS.items() if permission in names)
        return explanation(
            "role",
            f"Your role in this organization is {role}, which does not include {permission}.",
            f"An owner or admin can give you a role that includes it: {', '.join(roles)}.",
        )
    scopes = getattr(user, "key_scopes", None)
    if scopes is not None and permission not in scopes:
        return explanation(
            "key-scope",
            f"Your role {role} includes {permission}, but the scopes of this key do not.",
            f"Create a key with the scope {permission}.",
        )
    includes = "and the scopes of this key include" if scopes is not None else "includes"
    return explanation(
        "key-scope" if scopes is not None else "role",
        f"You have this permission: your role {role} {includes} {permission}.",
        allowed=True,
    )

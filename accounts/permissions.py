"""Decide what a user, or the API key that a request came with, may do in an organization.

A permission is a name. A role is a set of names (``accounts.roles``). An API key's scopes are names, and a key
never exceeds its owner: the intersection counts.
"""

from dataclasses import dataclass
from typing import Any
from uuid import UUID

from accounts.models import Membership, Organization
from accounts.roles import OPERATING, ROLE_PERMISSIONS
from lib.problems import Problem


class MissingPermission(Problem):
    """The caller may see this, but lacks the named permission for it."""

    status = 403
    code = "missing-permission"


class OrganizationSuspended(Problem):
    """The organization is closed by whoever runs the server."""

    status = 403
    code = "organization-suspended"
    sentence = "This organization is suspended. Ask whoever runs this server."


def permissions_in(user: Any, organization_id: UUID) -> frozenset[str]:
    """The permission names a user (or the key a request came with) holds in an organization."""
    if not user.is_authenticated or not user.is_active:
        return frozenset()
    bound = getattr(user, "bound_organization_id", None)
    if bound and bound != organization_id:
        return frozenset()
    membership = Membership.objects.filter(
        user_id=user.pk, organization_id=organization_id, organization__suspended_at=None
    ).first()
    return granted_by(membership.role, user) if membership else frozenset()


def granted_by(role: str, user: Any) -> frozenset[str]:
    """What a role allows, less what the key that the user came with leaves out."""
    granted = ROLE_PERMISSIONS.get(role, frozenset())
    scopes = getattr(user, "key_scopes", None)
    return granted & scopes if scopes is not None else granted


def may_operate(user: Any, permission: str) -> bool:
    """Whether somebody holds a permission of ``OPERATING``. A key must have been given it, or be unlimited."""
    scopes = getattr(user, "key_scopes", None)
    is_staff = user.is_authenticated and user.is_active and user.is_staff
    has_scope = scopes is None or permission in scopes
    return bool(is_staff and has_scope and user.has_perm(OPERATING[permission]))


def require(user: Any, organization_id: UUID, permission: str) -> None:
    """Raise ``MissingPermission`` naming what is missing, or ``OrganizationSuspended``."""
    if permission not in permissions_in(user, organization_id):
        closed = Organization.objects.visible_to(user).exclude(suspended_at=None)
        if closed.filter(pk=organization_id).exists():
            raise OrganizationSuspended(permission=permission)
        raise MissingPermission(
            f"This needs the permission {permission}, which you do not have here.",
            permission=permission,
        )


@dataclass(frozen=True)
class Explanation:
    """Why somebody may do something or not; ``decided_by`` is a word for programs, the rest sentences."""

    permission: str
    organization: UUID
    allowed: bool
    decided_by: str
    role: str | None
    sentence: str
    change: str


def explain(user: Any, organization_id: UUID, permission: str) -> Explanation:
    """Whether a user (or key) holds a permission in an organization, what decides it, what would change it.

    Whether an organization of which the caller is no member exists is not told.
    """

    def because(
        decided_by: str, sentence: str, change: str = "", *, allowed: bool = False
    ) -> Explanation:
        return Explanation(permission, organization_id, allowed, decided_by, role, sentence, change)

    role = None
    bound = getattr(user, "bound_organization_id", None)
    if bound and bound != organization_id:
        return because(
            "key-organization",
            "This key reaches one organization, and it is not this one.",
            "Use a key that was made in that organization.",
        )
    membership = Membership.objects.filter(user_id=user.pk, organization_id=organization_id)
    found = membership.select_related("organization").first()
    if found is None:
        return because(
            "membership",
            "You are not a member of this organization, or there is none.",
            "Ask one of its owners or admins for an invitation.",
        )
    role = found.role
    if found.organization.suspended_at:
        return because(
            "suspension",
            OrganizationSuspended.sentence,
            "Whoever runs this server can open it again.",
        )
    if permission not in ROLE_PERMISSIONS[role]:
        givers = sorted(name for name, held in ROLE_PERMISSIONS.items() if permission in held)
        return because(
            "role",
            f"Your role here is {role}, which does not have {permission}.",
            f"An owner or admin can give you a role that has it: {', '.join(givers)}.",
        )
    scopes = getattr(user, "key_scopes", None)
    if scopes is not None and permission not in scopes:
        return because(
            "key-scope",
            f"Your role here, {role}, has {permission}, but this key was not given that scope.",
            f"Make a key with the scope {permission}.",
        )
    source = "role and the scopes of this key have" if scopes is not None else "role has"
    return because(
        "key-scope" if scopes is not None else "role",
        f"You may: your {source} {permission} ({role}).",
        allowed=True,
    )

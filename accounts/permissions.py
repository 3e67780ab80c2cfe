"""Which role may do what: one list of permission names, and the DRF class that asks it.

A permission is a name. A role is a set of names. An API key's scopes are names, and a key never exceeds
its owner: what counts is the intersection.
"""

from typing import Any
from uuid import UUID

from rest_framework.exceptions import NotAuthenticated
from rest_framework.permissions import BasePermission
from rest_framework.request import Request

from accounts.models import Membership
from openhands_site.lib.problems import Problem

OWN = {"sessions.view", "sessions.edit"}
"""What everybody may do with what is theirs."""
READING = {"conversations.view", "files.view", "usage.view", "model_access.view", "account.view"}
WORKING = READING | {
    "conversations.create",
    "conversations.steer",
    "conversations.delete",
    "files.edit",
    "model_access.edit",
    "api_keys.view",
    "api_keys.edit",
}
ROLE_PERMISSIONS: dict[str, frozenset[str]] = {
    Membership.Role.OWNER: frozenset(WORKING | OWN),
    Membership.Role.ADMIN: frozenset(WORKING | OWN),
    Membership.Role.MEMBER: frozenset(WORKING | OWN),
    Membership.Role.BILLING: frozenset({"usage.view", "account.view", "api_keys.view"} | OWN),
    Membership.Role.AUDITOR: frozenset({"usage.view", "account.view", "api_keys.view"} | OWN),
    Membership.Role.VIEWER: frozenset(READING | OWN),
}
PERMISSIONS = frozenset().union(*ROLE_PERMISSIONS.values())
PUBLIC = "public"
"""The ``permission`` of a view that anybody may call."""


class MissingPermission(Problem):
    """The caller may see this, but lacks the named permission for it."""

    status = 403
    code = "missing-permission"


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


def require(user: Any, organization_id: UUID, permission: str) -> None:
    """Raise ``MissingPermission`` naming what is missing."""
    if permission not in permissions_in(user, organization_id):
        raise MissingPermission(
            f"This needs the permission {permission}, which you do not have here.",
            permission=permission,
        )


class HasPermission(BasePermission):
    """Asks for the permission that the view names for its action.

    A view states ``permission = "name"`` or ``permissions_by_action = {"action": "name"}``; one that states
    neither does not start (a guard test) and is refused here. Objects are checked against their own
    organization, creations against the organization they are made in.
    """

    def has_permission(self, request: Request, view: Any) -> bool:
        name = permission_of(view)
        if name == PUBLIC:
            return True
        if not request.user.is_authenticated:
            raise NotAuthenticated
        if name is None:
            return False
        scopes = getattr(request.user, "key_scopes", None)
        if scopes is not None and name not in scopes:
            raise MissingPermission(f"This key lacks the scope {name}.", permission=name)
        return True

    def has_object_permission(self, request: Request, view: Any, obj: Any) -> bool:
        name = permission_of(view)
        if getattr(obj, "is_personal", False):  # nobody's but its user's, in whatever organization
            return bool(obj.user_id == request.user.pk)
        if name not in (None, PUBLIC):
            require(request.user, obj.organization_id, name)
        return True


def permission_of(view: Any) -> str | None:
    """The permission name that a view asks for the action it is about to carry out."""
    by_action = getattr(view, "permissions_by_action", {})
    action = getattr(view, "action", None) or getattr(view.request, "method", "").lower()
    return by_action.get(action, getattr(view, "permission", None))

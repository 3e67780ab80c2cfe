"""Which role may do what: one list of permission names, and the DRF class that asks it.

A permission is a name. A role is a set of names. An API key's scopes are names, and a key never exceeds
its owner: what counts is the intersection.
"""

from dataclasses import dataclass
from typing import Any
from uuid import UUID

from rest_framework.exceptions import MethodNotAllowed, NotAuthenticated
from rest_framework.permissions import BasePermission
from rest_framework.request import Request

from accounts.models import Membership, Organization
from lib.problems import Problem

OWN = {"sessions.view", "sessions.edit", "settings.view", "settings.edit"}
"""What everybody may do with what is theirs."""
READING = {
    "conversations.view",
    "files.view",
    "usage.view",
    "model_access.view",
    "account.view",
    "settings.view",
    "integrations.view",
}
RUNNING = READING | {
    "conversations.create",
    "conversations.steer",
    "files.edit",
    "pull_requests.create",
}
PUBLISHING = {"conversations.view", "events.publish"}
"""For programs that publish runs of agents which work elsewhere."""
WORKING = READING | {
    "events.publish",
    "conversations.create",
    "conversations.steer",
    "conversations.delete",
    "conversations.share",
    "files.edit",
    "model_access.edit",
    "integrations.edit",
    "pull_requests.create",
    "api_keys.view",
    "api_keys.edit",
    "secrets.view",
    "secrets.edit",
}
BELONGING = OWN | {
    "organization.view",
    "organization.create",
    "organization.join",
    "organization.leave",
    "members.view",
}
"""What comes with being somebody's member, in whatever role."""
ADMINISTERING = {
    "organization.edit",
    "members.edit",
    "invitations.view",
    "invitations.edit",
    "service_accounts.view",
    "service_accounts.edit",
    "organization_settings.view",
    "organization_settings.edit",
    "organization_secrets.edit",
    "audit.view",
}
OVERSEEING = BELONGING | {"usage.view", "account.view", "api_keys.view"}
ROLE_PERMISSIONS: dict[str, frozenset[str]] = {
    Membership.Role.OWNER: frozenset(
        WORKING | BELONGING | ADMINISTERING | {"organization.transfer"}
    ),
    Membership.Role.ADMIN: frozenset(WORKING | BELONGING | ADMINISTERING),
    Membership.Role.MEMBER: frozenset(WORKING | BELONGING),
    Membership.Role.BILLING: frozenset(OVERSEEING),
    Membership.Role.AUDITOR: frozenset(OVERSEEING | {"audit.view", "service_accounts.view"}),
    Membership.Role.VIEWER: frozenset(READING | BELONGING),
}
RANKS: dict[str, int] = {
    Membership.Role.OWNER: 3,
    Membership.Role.ADMIN: 2,
    Membership.Role.MEMBER: 1,
    Membership.Role.BILLING: 1,
    Membership.Role.AUDITOR: 1,
    Membership.Role.VIEWER: 0,
}
"""Who may give and take which role: nobody one above their own."""
OPERATING: dict[str, str] = {"nodes.view": "conversations.view_lease"}
"""What concerns the installation and no organization: for staff who hold the named permission of the desk."""
PERMISSIONS = frozenset(OPERATING).union(*ROLE_PERMISSIONS.values())
PRESETS: dict[str, frozenset[str]] = {
    "read": frozenset(READING),
    "run": frozenset(RUNNING),
    "publish": frozenset(PUBLISHING),
    "ci": frozenset(
        {"account.view", "conversations.view", "conversations.create", "conversations.steer"}
        | {"files.view"}
    ),
}
"""Scopes of keys by what the key is for."""
PUBLIC = "public"
"""The ``permission`` of a view that anybody may call."""


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

    def because(decided_by: str, sentence: str, change: str = "", *, allowed: bool = False) -> Any:
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
            if not hasattr(view, str(request.method).lower()):
                raise MethodNotAllowed(str(request.method))
            return False
        scopes = getattr(request.user, "key_scopes", None)
        if scopes is not None and name not in scopes:
            raise MissingPermission(f"This key lacks the scope {name}.", permission=name)
        if name in OPERATING and not may_operate(request.user, name):
            raise MissingPermission(
                "This is for those who run the server.",
                permission=name,
            )
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
    method = getattr(view.request, "method", "").lower()
    action = getattr(view, "action", None) or ("get" if method == "head" else method)
    return by_action.get(action, getattr(view, "permission", None))

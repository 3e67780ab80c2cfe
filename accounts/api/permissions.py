"""The DRF permission class: every view names the permission that it asks for."""

from typing import Any

from rest_framework.exceptions import MethodNotAllowed, NotAuthenticated
from rest_framework.permissions import BasePermission
from rest_framework.request import Request

from accounts.permissions import MissingPermission, may_operate, require
from accounts.roles import OPERATING

PUBLIC = "public"
"""The ``permission`` of a view that anybody may call."""


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

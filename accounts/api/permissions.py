"""The DRF permission class of every view, and the permission that an action needs."""

from typing import Any

from rest_framework.exceptions import MethodNotAllowed, NotAuthenticated
from rest_framework.permissions import BasePermission
from rest_framework.request import Request

from accounts.permissions import MissingPermission, may_operate, require
from accounts.roles import OPERATING

PUBLIC = "public"
"""The value of ``permission`` for a view without a permission check."""


class HasPermission(BasePermission):
    """Check the permission that a view declares for the requested action.

    A view declares ``permission = "name"`` or ``permissions_by_action = {"action": "name"}``. A view that
    declares neither fails a guard test and refuses every request. ``has_object_permission`` checks the
    permission in the organization of the object; views check creations themselves, in the organization of
    the new object.
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
            raise MissingPermission(
                f"This API key does not have the scope {name}.", permission=name
            )
        if name in OPERATING and not may_operate(request.user, name):
            raise MissingPermission(
                "Only staff who operate this server can do this.",
                permission=name,
            )
        return True

    def has_object_permission(self, request: Request, view: Any, obj: Any) -> bool:
        name = permission_of(view)
        # A personal row belongs to its user alone: no role in the organization gives access to it.
        if getattr(obj, "is_personal", False):
            return bool(obj.user_id == request.user.pk)
        if name not in (None, PUBLIC):
            require(request.user, obj.organization_id, name)
        return True


def permission_of(view: Any) -> str | None:
    """Return the name of the permission that the requested action of a view needs, or None."""
    by_action = getattr(view, "permissions_by_action", {})
    method = getattr(view.request, "method", "").lower()
    action = getattr(view, "action", None) or ("get" if method == "head" else method)
    return by_action.get(action, getattr(view, "permission", None))

"""The DRF permission class of all views, and the function that finds the permission name of an action.

If a view declares no permission, it refuses every request, and a test in the suite fails.
"""

from typing import Any

from rest_framework.exceptions import MethodNotAllowed, NotAuthenticated
from rest_framework.permissions import BasePermission
from rest_framework.request import Request

from accounts.permissions import MissingPermission, may_operate, require_on
from accounts.roles import OPERATING

PUBLIC = "public"
"""The value of ``permission`` in a view that needs no permission and no authentication."""


class HasPermission(BasePermission):
    """Check the permission that a view declares for the requested action.

    A view declares ``permission = "name"`` for all actions, ``permissions_by_action = {"action": "name"}``, or both.
    If a view declares neither, it refuses every request. ``has_object_permission`` checks the permission in the
    organization of the object, and on the object itself (``require_on``). A view declares
    ``object_permissions_by_action`` or ``object_permission`` if the permission on the object differs, as for stopping
    an agent. A create request has no object yet, so the view itself checks the permission in the
    organization of the new object.
    """

    def has_permission(self, request: Request, view: Any) -> bool:
        name = permission_of(view)
        if name == PUBLIC:
            return True
        if not request.user.is_authenticated:
            raise NotAuthenticated
        if name is None:
            # A method that the view does not implement has no permission either: respond 405 and not 403.
            if not hasattr(view, str(request.method).lower()):
                raise MethodNotAllowed(str(request.method))
            return False
        # Only the scopes of the API key are checked here. The role depends on the organization, which is not known yet.
        # None means no limit: there is no API key, or the key has no scopes.
        scopes = getattr(request.user, "key_scopes", None)
        if scopes is not None and name not in scopes:
            raise MissingPermission(
                f"This API key does not have the scope {name}.", permission=name
            )
        if name in OPERATING and not may_operate(request.user, name):
            raise MissingPermission(
                "Only staff with the matching Django permission can do this. Ask an administrator of this server.",
                permission=name,
            )
        return True

    def has_object_permission(self, request: Request, view: Any, obj: Any) -> bool:
        name = permission_of(view)
        # A personal row belongs to one user: no role in an organization gives other users access.
        if getattr(obj, "is_personal", False):
            return bool(obj.user_id == request.user.pk)
        if name not in (None, PUBLIC):
            require_on(request.user, obj, object_permission_of(view) or str(name))
        return True


def permission_of(view: Any) -> str | None:
    """Return the name of the permission that the requested action needs, or None if the view declares none.

    An action is the name of a viewset's method; in other views, it is the HTTP method in lower case.
    """
    by_action = getattr(view, "permissions_by_action", {})
    method = getattr(view.request, "method", "").lower()
    action = getattr(view, "action", None) or ("get" if method == "head" else method)
    return by_action.get(action, getattr(view, "permission", None))


def object_permission_of(view: Any) -> str | None:
    """Return the name of the permission that the requested action needs on its object, or None if the view has none."""
    by_action = getattr(view, "object_permissions_by_action", {})
    own = by_action.get(getattr(view, "action", None), getattr(view, "object_permission", None))
    return own or permission_of(view)

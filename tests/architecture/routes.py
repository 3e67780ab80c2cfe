"""The entry points of the program: HTTP routes, WebSocket routes and gRPC methods."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from django.urls import URLPattern, URLResolver, get_resolver

from conversations.grpc.v1 import events_pb2
from tests.architecture.policy import POLICY

METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE")


@dataclass(frozen=True)
class Route:
    """One method of one path. ``permission`` is the declaration of a DRF view; other views declare none."""

    method: str
    path: str
    view: Any
    permission: str | None = None
    is_drf: bool = False

    @property
    def row(self) -> str:
        return f"{self.method} {self.path}"


def list_http_routes() -> Iterator[Route]:
    """Yield every method of every DRF view, and every other view once, with the method ``*``."""
    for path, view in _patterns(get_resolver().url_patterns):
        if path.startswith("/admin/"):
            continue  # the admin site has one row; test_policy tests its paths
        view_class = getattr(view, "cls", None)
        if view_class is None:
            yield Route("*", path, view)
            continue
        for method, action in _actions(view, view_class).items():
            yield Route(method, path, view, _read_permission(view_class, action), is_drf=True)


def find_missing_rows() -> set[str]:
    """Return the entry points without a row in the policy: API methods, sockets, gRPC methods and paths of pages."""
    routes = list(list_http_routes())
    known = {row.partition(" ")[2] for row in POLICY}
    missing = {route.row for route in routes if route.is_drf}
    missing |= set(list_socket_routes()) | list_grpc_routes().keys()
    pages = {route.path for route in routes if not route.is_drf}
    return (missing - POLICY.keys()) | (pages - known)


def list_admin_paths() -> list[str]:
    """Return every path of the admin site. Parameters are replaced by ``0``, which no row has as its key."""
    paths = [
        path for path, _ in _patterns(get_resolver().url_patterns) if path.startswith("/admin/")
    ]
    return sorted({re.sub(r"\{\w+\}", "0", path) for path in paths})


def list_socket_routes() -> list[str]:
    """Return the policy rows of the WebSocket routes. The router is inside several layers of middleware."""
    from compat.v0.sockets import PATH, SocketIO
    from openhands_site.asgi import application
    from openhands_site.routing import UNKNOWN, route_socket, websocket_urlpatterns

    rows = []
    layer = application.application_mapping["websocket"]
    while layer is not route_socket:
        if isinstance(layer, SocketIO):
            rows.append(f"WS {PATH}")
        layer = layer.application
    # The last route refuses every other path.
    served = [route for route in websocket_urlpatterns if route.callback is not UNKNOWN]
    return rows + [f"WS {_address(str(route.pattern))}" for route in served]


def list_grpc_routes() -> dict[str, str]:
    """Return the policy rows of the gRPC methods, and the permission that each method requires."""
    from conversations.grpc import service

    descriptor = events_pb2.DESCRIPTOR.services_by_name["EventService"]
    return {
        f"GRPC {descriptor.full_name}/{method.name}": service.PERMISSIONS[method.name]
        for method in descriptor.methods
    }


def _patterns(patterns: list[Any], before: str = "") -> Iterator[tuple[str, Any]]:
    for pattern in patterns:
        whole = before + str(pattern.pattern)
        if isinstance(pattern, URLResolver):
            yield from _patterns(pattern.url_patterns, whole)
        else:
            assert isinstance(pattern, URLPattern)
            yield _address(whole), pattern.callback


def _address(pattern: str) -> str:
    text = re.sub(r"<(?:\w+:)?(\w+)>", r"{\1}", pattern)
    text = re.sub(r"\(\?P<(\w+)>[^)]*\)", r"{\1}", text)
    return "/" + re.sub(r"[\^$]|\\Z", "", text).replace("{pk}", "{id}")


def _actions(view: Any, view_class: Any) -> dict[str, str]:
    bound = getattr(view, "actions", None)
    if bound:
        return {method.upper(): action for method, action in bound.items() if method != "head"}
    return {m: m.lower() for m in METHODS if hasattr(view_class, m.lower())}


def _read_permission(view_class: Any, action: str) -> str | None:
    by_action = getattr(view_class, "permissions_by_action", {})
    return by_action.get(action, getattr(view_class, "permission", None))

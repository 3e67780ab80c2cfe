"""The entry points as the program has them: HTTP from the URL conf, sockets from the ASGI application."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from channels.routing import URLRouter
from django.urls import URLPattern, URLResolver, get_resolver

from conversations.grpc.v1 import events_pb2
from tests.architecture.policy import POLICY

METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE")


@dataclass(frozen=True)
class Route:
    """One method of one address. ``permission`` is what a DRF view declares; pages declare none."""

    method: str
    path: str
    view: Any
    permission: str | None = None
    is_drf: bool = False

    @property
    def row(self) -> str:
        return f"{self.method} {self.path}"


def http_routes() -> Iterator[Route]:
    """Every method of every DRF view; other views by their address alone, with the method ``*``."""
    for path, view in _patterns(get_resolver().url_patterns):
        if path.startswith("/admin/"):
            continue  # one desk, one row; test_policy walks it on its own
        view_class = getattr(view, "cls", None)
        if view_class is None:
            yield Route("*", path, view)
            continue
        for method, action in _actions(view, view_class).items():
            yield Route(method, path, view, _declared(view_class, action), is_drf=True)


def missing_rows() -> set[str]:
    """Entry points without a row in the policy: methods of the API, sockets, and addresses of pages."""
    routes = list(http_routes())
    known = {row.partition(" ")[2] for row in POLICY}
    missing = {route.row for route in routes if route.is_drf}
    missing |= set(socket_routes()) | grpc_routes().keys()
    pages = {route.path for route in routes if not route.is_drf}
    return (missing - POLICY.keys()) | (pages - known)


def admin_paths() -> list[str]:
    """Every address of the admin desk, with its parameters filled in by something that does not exist."""
    found = [
        path for path, _ in _patterns(get_resolver().url_patterns) if path.startswith("/admin/")
    ]
    return sorted({re.sub(r"\{\w+\}", "0", path) for path in found})


def socket_routes() -> list[str]:
    """Rows of the sockets, found under whatever wraps the router."""
    from compat.v0.sockets import PATH, SocketIO
    from openhands_site.asgi import application

    found = []
    layer = application.application_mapping["websocket"]
    while not isinstance(layer, URLRouter):
        if isinstance(layer, SocketIO):
            found.append(f"WS {PATH}")
        layer = getattr(layer, "application", None) or layer.inner
    return found + [f"WS {_address(str(route.pattern))}" for route in layer.routes]


def grpc_routes() -> dict[str, str]:
    """Rows of the methods of the gRPC service, as its descriptor has them, and what each one asks for."""
    from conversations.grpc import service

    described = events_pb2.DESCRIPTOR.services_by_name["EventService"]
    return {
        f"GRPC {described.full_name}/{method.name}": service.PERMISSIONS[method.name]
        for method in described.methods
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


def _declared(view_class: Any, action: str) -> str | None:
    by_action = getattr(view_class, "permissions_by_action", {})
    return by_action.get(action, getattr(view_class, "permission", None))

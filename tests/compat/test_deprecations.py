"""Deprecated routes: their successors, their headers and the metric of their clients."""

from datetime import timedelta

import pytest
import yaml
from django.conf import settings
from prometheus_client import REGISTRY

from compat import deprecations
from compat.deprecations import CLIENTS_MAX, SINCE, SUNSET, normalize_route, replacements
from tests.architecture.routes import list_http_routes

DOCUMENT = yaml.safe_load((settings.BASE_DIR / "docs/openapi.yaml").read_text())
PATHS = {normalize_route(path): operations for path, operations in DOCUMENT["paths"].items()}
DEPRECATED = {route: successor for route, successor in replacements().items() if successor}
WITHOUT_SUCCESSOR = replacements().keys() - DEPRECATED.keys()
CANONICAL = {"/api/v1/users/me"}
"""Routes of ``compat`` that are not deprecated, because they only add fields that older clients read."""
ROUTES = {normalize_route(route.path) for route in list_http_routes()}


def test_deprecated_routes_are_served_for_at_least_a_year():
    assert timedelta(days=365) <= SUNSET - SINCE


@pytest.mark.parametrize("route", DEPRECATED)
def test_deprecated_route_and_its_successor_are_served_and_the_successor_is_current(route):
    successor = DEPRECATED[route]

    assert route in ROUTES
    assert normalize_route(successor) in ROUTES
    assert normalize_route(successor) not in DEPRECATED


def test_every_compat_route_is_listed_with_or_without_a_successor():
    compat = {
        normalize_route(route.path)
        for route in list_http_routes()
        if route.is_drf and route.view.cls.__module__.startswith("compat.")
    } - CANONICAL

    assert compat
    assert not compat - DEPRECATED.keys() - WITHOUT_SUCCESSOR
    assert not WITHOUT_SUCCESSOR - ROUTES
    assert not WITHOUT_SUCCESSOR & DEPRECATED.keys()


def test_openapi_document_marks_exactly_the_routes_with_a_successor_as_deprecated():
    marked = {
        path
        for path, operations in PATHS.items()
        if any(isinstance(op, dict) and op.get("deprecated") for op in operations.values())
    }

    assert marked == DEPRECATED.keys() & PATHS.keys()


def test_deprecated_route_sends_deprecation_sunset_and_link_headers(client, db):
    response = client.post("/api/authenticate", headers={"User-Agent": "OldClient/1.2 (x)"})

    assert response.headers["Deprecation"] == f"@{int(SINCE.timestamp())}"
    assert response.headers["Sunset"] == "Sat, 01 Jan 2028 00:00:00 GMT"
    assert response.headers["Link"] == '</api/v1/users/me>; rel="successor-version"'


def test_current_route_sends_no_deprecation_header(client, db):
    response = client.get("/api/v1/users/me")

    assert (response.status_code, "Deprecation" in response.headers) == (401, False)


def test_metric_counts_requests_to_deprecated_routes_by_client(client, db, monkeypatch):
    monkeypatch.setattr(deprecations, "_clients", set())

    def count(name):
        labels = {"route": "/api/authenticate", "client": name}
        return REGISTRY.get_sample_value("deprecated_requests_total", labels) or 0

    before = [count(name) for name in ("OldClient", "unnamed", "other")]
    client.post("/api/authenticate", headers={"User-Agent": "OldClient/1.2"})
    client.post("/api/authenticate", headers={"User-Agent": "<script>"})
    for n in range(CLIENTS_MAX + 3):
        client.post("/api/authenticate", headers={"User-Agent": f"made-up-{n}"})
    after = [count(name) for name in ("OldClient", "unnamed", "other")]

    assert [b - a for a, b in zip(before, after, strict=True)] == [1, 1, 5]


def test_deprecated_view_still_exposes_its_class():
    """Other tests find views by class, so the wrapper with the headers must not hide the class."""
    routes = [route for route in list_http_routes() if normalize_route(route.path) in DEPRECATED]

    assert {normalize_route(route.path) for route in routes} == DEPRECATED.keys()
    assert [route.row for route in routes if not route.is_drf] == []

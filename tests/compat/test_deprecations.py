import re
from datetime import timedelta

import pytest
import yaml
from django.conf import settings
from django.urls import get_resolver
from prometheus_client import REGISTRY

from compat import deprecations
from compat.deprecations import CLIENTS_MAX, SINCE, SUNSET, normalize_route, replacements
from tests.architecture.routes import list_http_routes

DOCUMENT = yaml.safe_load((settings.BASE_DIR / "docs/openapi.yaml").read_text())
PATHS = {normalize_route(path): operations for path, operations in DOCUMENT["paths"].items()}
DEPRECATED = {route: successor for route, successor in replacements().items() if successor}
WITHOUT_SUCCESSOR = replacements().keys() - DEPRECATED.keys()
CANONICAL = {"/api/v1/users/me"}
"""Canonical, with the fields that existing clients look for beside its own."""
ROUTES = {normalize_route(route.path) for route in list_http_routes()}


def test_lives_at_least_a_year():
    assert timedelta(days=365) <= SUNSET - SINCE


@pytest.mark.parametrize("route", DEPRECATED)
def test_it_and_its_successor_are_served_and_the_successor_is_not_deprecated(route):
    successor = DEPRECATED[route]

    assert route in ROUTES
    assert normalize_route(successor) in ROUTES
    assert normalize_route(successor) not in DEPRECATED


def test_every_address_of_existing_clients_is_declared_or_said_to_stay():
    compat = {
        normalize_route(route.path)
        for route in list_http_routes()
        if route.is_drf and route.view.cls.__module__.startswith("compat.")
    } - CANONICAL

    assert compat
    assert not compat - DEPRECATED.keys() - WITHOUT_SUCCESSOR
    assert not WITHOUT_SUCCESSOR - ROUTES
    assert not WITHOUT_SUCCESSOR & DEPRECATED.keys()


def test_the_document_marks_exactly_these():
    marked = {
        path
        for path, operations in PATHS.items()
        if any(isinstance(o, dict) and o.get("deprecated") for o in operations.values())
    }

    assert marked == DEPRECATED.keys() & PATHS.keys()


def test_answers_tell(client, db):
    response = client.post("/api/authenticate", headers={"User-Agent": "OldClient/1.2 (x)"})

    assert response.headers["Deprecation"] == f"@{int(SINCE.timestamp())}"
    assert response.headers["Sunset"] == "Sat, 01 Jan 2028 00:00:00 GMT"
    assert response.headers["Link"] == '</api/v1/users/me>; rel="successor-version"'


def test_others_do_not(client, db):
    assert "Deprecation" not in client.get("/api/v1/users/me").headers


def test_the_metric_says_who_still_calls(client, db, monkeypatch):
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


def test_views_keep_what_guards_look_at():
    """A wrapped view is still found by its class, actions and exemptions."""
    for pattern in get_resolver().url_patterns:
        view = getattr(pattern, "callback", None)
        if view is not None and normalize_route(str(pattern.pattern)) in DEPRECATED:
            assert re.match("[A-Z]", view.cls.__name__)

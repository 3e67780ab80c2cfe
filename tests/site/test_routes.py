"""The parts of the server that depend on route facts: each follows the facts of every route in the URL conf."""

import inspect
import re

import pytest
from django.conf import settings
from django.test import Client
from django.urls import get_resolver

from compat.deprecations import SUNSET, normalize_route
from compat.engine.unserved import BASH_ROUTES, CONVERSATION_ROUTES
from conversations.web.pages import ACTIONS
from lib import routes
from lib.routes import facts_of
from openhands_site import asgi, realtime
from openhands_site.middleware import access_log, maintenance, rate_limits
from openhands_site.routing import is_held
from openhands_site.serving.bodies import body_limit

SAMPLES = {
    "path": "a/b.c",
    "int": "7",
    "conversation_action": min(ACTIONS),
    "unserved": min(CONVERSATION_ROUTES),
    "unserved_bash": min(BASH_ROUTES),
}
SERVICES = re.compile(
    r"\bservices\.(create_conversation|fork_conversation|post_message|resume|wake|answer_confirmation)\("
)
UNSAFE = ("post", "put", "patch", "delete")


def build_address(route):
    """Return an address of a route, with sample values for its parameters."""
    uuid = "0b5b4e4e-1111-4222-8333-123456789abc"
    return "/" + re.sub(r"<(?:(\w+):)?\w+>", lambda match: SAMPLES.get(match[1], uuid), route)


ROUTES = [
    (route, build_address(route), view, facts_of(view))
    for route, view in routes._views(get_resolver().url_patterns)
    if not route.startswith("admin/")
]


def select_routes(condition):
    """Return the routes for which ``condition(address, view, facts)`` is true."""
    return {route for route, address, view, facts in ROUTES if condition(address, view, facts)}


def test_sample_addresses_resolve_to_their_views():
    for _, address, view, _ in ROUTES:
        assert get_resolver().resolve(address).func == view


def test_streaming_routes_are_served_on_the_event_loop():
    on_loop = select_routes(lambda address, *_: asgi.application_for(address) is asgi.on_loop)

    assert on_loop
    assert on_loop == select_routes(lambda _, __, facts: facts.streams)


@pytest.mark.parametrize(("query", "kinds"), [(b"", {"always"}), (b"wait=1", {"always", "wait"})])
def test_held_routes_are_held_for_the_queries_of_their_kind(query, kinds):
    held = select_routes(lambda address, *_: is_held(address, query))

    assert len(held) == len(kinds)
    assert held == select_routes(lambda _, __, facts: facts.held in kinds)


@pytest.mark.parametrize("name", ["UPLOAD_MAX_BYTES", "GATEWAY_BODY_MAX_BYTES"])
def test_body_limit_is_the_setting_that_the_route_names(settings, name):
    settings.BODY_MAX_BYTES, settings.UPLOAD_MAX_BYTES, settings.GATEWAY_BODY_MAX_BYTES = 1, 2, 3
    limited = select_routes(lambda address, *_: body_limit(address) == getattr(settings, name))

    assert limited
    assert limited == select_routes(lambda _, __, facts: facts.body_limit == name)


@pytest.mark.parametrize("cost", ["spend", "keys"])
def test_changing_requests_count_against_the_rate_of_their_cost(cost):
    counted = select_routes(lambda _, view, __: rate_limits.select_rate("POST", view) == cost)

    assert counted
    assert counted == select_routes(lambda _, __, facts: facts.cost == cost)
    for _, _, view, _ in ROUTES:
        assert rate_limits.select_rate("GET", view) == "read"


def test_uncounted_routes_have_no_rate():
    uncounted = select_routes(lambda address, *_: rate_limits.uncounted().fullmatch(address))

    assert uncounted == select_routes(lambda _, __, facts: facts.cost == "uncounted")
    assert uncounted == {"alive", "ready", "metrics", *list_gateway_routes()}


def list_gateway_routes():
    return {route for route, *_ in ROUTES if route.startswith("api/llm/")}


def list_handlers(view):
    """Return the methods of a class-based view that change data, or the view function itself."""
    view_class = getattr(view, "cls", None)
    if view_class is None:
        return [view]
    names = getattr(view, "actions", None) or {method: method for method in UNSAFE}
    return [
        getattr(view_class, names[method])
        for method in UNSAFE
        if method in names and hasattr(view_class, names[method])
    ]


def test_routes_that_start_runs_cost_spend():
    starting = {
        route
        for route, _, view, _ in ROUTES
        if any(SERVICES.search(inspect.getsource(handler)) for handler in list_handlers(view))
    }

    assert {"api/v1/conversations", "api/v1/conversations/<uuid:pk>/resume"} <= starting
    assert starting <= select_routes(lambda _, __, facts: facts.cost == "spend")


def test_deprecated_routes_cost_spend_if_their_successor_does():
    spending = {normalize_route(route) for route, _, _, facts in ROUTES if facts.cost == "spend"}
    assert spending
    cheaper = {
        route
        for route, _, view, facts in ROUTES
        if facts.replaced_by in spending
        and list_handlers(view)
        and normalize_route(route) not in spending
    }

    assert cheaper == set()


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("route", "address", "facts"),
    [
        pytest.param(route, address, facts, id=route)
        for route, address, _, facts in ROUTES
        if facts.replaced_by
    ],
)
def test_deprecated_route_sends_its_sunset_date_and_successor(route, address, facts):
    response = Client().get(address)

    assert response.headers["Sunset"] == SUNSET.strftime("%a, %d %b %Y %H:%M:%S GMT")
    if "{" not in facts.replaced_by:
        assert f'<{facts.replaced_by}>; rel="successor-version"' in response.headers["Link"]


def test_probes_are_not_logged_and_are_served_by_every_role():
    probes = select_routes(lambda _, __, facts: facts.called_by == "probe")

    assert probes == {"alive", "ready", "metrics", "health", "server_info"}
    assert probes == select_routes(lambda address, *_: access_log.probe_urls().fullmatch(address))
    assert probes == select_routes(lambda address, *_: realtime.probes.fullmatch(address))


def test_probes_and_agents_may_use_plain_http():
    exempt = select_routes(
        lambda address, *_: any(
            re.search(expression, address.removeprefix("/"))
            for expression in settings.SECURE_REDIRECT_EXEMPT
        )
    )

    assert exempt == select_routes(lambda _, __, facts: facts.called_by)


def test_maintenance_keeps_routes_for_programs_and_the_sign_in_open():
    opened = select_routes(lambda address, *_: maintenance.open_routes().fullmatch(address))

    assert {"sign-in", "api/v1/auth/sign-in", "alive", *list_gateway_routes()} <= opened
    assert opened == select_routes(
        lambda _, __, facts: facts.called_by or facts.open_in_maintenance
    )

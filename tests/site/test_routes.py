"""Each consumer of the facts of routes sees them, for every route of the URL conf and for no other."""

import inspect
import re

import pytest
from django.conf import settings
from django.test import Client
from django.urls import get_resolver

from compat.deprecations import SUNSET, normalize_route
from conversations.web.pages import ACTIONS
from lib import routes
from lib.routes import facts_of
from openhands_site import asgi, realtime
from openhands_site.middleware import access_log, maintenance, rate_limits
from openhands_site.routing import is_held
from openhands_site.serving.bodies import body_limit

SAMPLES = {"path": "a/b.c", "int": "7", "conversation_action": min(ACTIONS)}
SERVICES = re.compile(
    r"\bservices\.(create_conversation|fork_conversation|post_message|resume|wake|answer_confirmation)\("
)
UNSAFE = ("post", "put", "patch", "delete")


def parse_address(route):
    """An address of a route, with made-up values for its parameters."""
    uuid = "0b5b4e4e-1111-4222-8333-123456789abc"
    return "/" + re.sub(r"<(?:(\w+):)?\w+>", lambda found: SAMPLES.get(found[1], uuid), route)


ROUTES = [
    (route, parse_address(route), view, facts_of(view))
    for route, view in routes._views(get_resolver().url_patterns)
    if not route.startswith("admin/")
]


def routes_where(is_so):
    return {route for route, address, view, facts in ROUTES if is_so(address, view, facts)}


def test_addresses_made_up_here_are_those_of_their_routes():
    for _, address, view, _ in ROUTES:
        assert get_resolver().resolve(address).func == view


def test_routes_that_stream_are_served_on_the_loop():
    on_loop = routes_where(lambda address, *_: asgi.application_for(address) is asgi.on_loop)

    assert on_loop
    assert on_loop == routes_where(lambda *found: found[2].streams)


@pytest.mark.parametrize(("query", "kinds"), [(b"", {"always"}), (b"wait=1", {"always", "wait"})])
def test_held_routes_go_through_held(query, kinds):
    held = routes_where(lambda address, *_: is_held(address, query))

    assert len(held) == len(kinds)
    assert held == routes_where(lambda *found: found[2].held in kinds)


@pytest.mark.parametrize("name", ["UPLOAD_MAX_BYTES", "GATEWAY_BODY_MAX_BYTES"])
def test_body_limit_is_the_setting_that_the_route_names(settings, name):
    settings.BODY_MAX_BYTES, settings.UPLOAD_MAX_BYTES, settings.GATEWAY_BODY_MAX_BYTES = 1, 2, 3
    limited = routes_where(lambda address, *_: body_limit(address) == getattr(settings, name))

    assert limited
    assert limited == routes_where(lambda *found: found[2].body_limit == name)


@pytest.mark.parametrize("cost", ["spend", "keys"])
def test_cost_is_the_rate_that_changes_count_against(cost):
    counted = routes_where(lambda _, view, __: rate_limits.select_rate("POST", view) == cost)

    assert counted
    assert counted == routes_where(lambda *found: found[2].cost == cost)
    for _, _, view, _ in ROUTES:
        assert rate_limits.select_rate("GET", view) == "read"


def test_uncounted_routes_have_no_rate():
    uncounted = routes_where(lambda address, *_: rate_limits.uncounted().fullmatch(address))

    assert uncounted == routes_where(lambda *found: found[2].cost == "uncounted")
    assert uncounted == {"alive", "ready", "metrics", *gateway()}


def gateway():
    return {route for route, *_ in ROUTES if route.startswith("api/llm/")}


def handlers(view):
    """The methods of a class-based view that change something, or the function."""
    view_class = getattr(view, "cls", None)
    if view_class is None:
        return [view]
    names = getattr(view, "actions", None) or {method: method for method in UNSAFE}
    return [
        getattr(view_class, names[method])
        for method in UNSAFE
        if method in names and hasattr(view_class, names[method])
    ]


def test_routes_whose_view_starts_runs_cost_spend():
    starting = {
        route
        for route, _, view, _ in ROUTES
        if any(SERVICES.search(inspect.getsource(handler)) for handler in handlers(view))
    }

    assert {"api/v1/conversations", "api/v1/conversations/<uuid:pk>/resume"} <= starting
    assert starting <= routes_where(lambda *found: found[2].cost == "spend")


def test_deprecated_routes_cost_what_their_successor_does():
    spending = {normalize_route(route) for route, _, _, facts in ROUTES if facts.cost == "spend"}
    cheaper = {
        route
        for route, _, view, facts in ROUTES
        if facts.replaced_by in spending
        and handlers(view)
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
def test_deprecated_routes_say_so(route, address, facts):
    response = Client().get(address)

    assert response.headers["Sunset"] == SUNSET.strftime("%a, %d %b %Y %H:%M:%S GMT")
    if "{" not in facts.replaced_by:
        assert f'<{facts.replaced_by}>; rel="successor-version"' in response.headers["Link"]


def test_probes_are_not_logged_and_every_role_answers_them():
    probes = routes_where(lambda *found: found[2].called_by == "probe")

    assert probes == {"alive", "ready", "metrics"}
    assert probes == routes_where(lambda address, *_: access_log.probe_urls().fullmatch(address))
    assert probes == routes_where(lambda address, *_: realtime.probes.fullmatch(address))


def test_probes_and_agents_may_use_plain_http():
    exempt = routes_where(
        lambda address, *_: any(
            re.search(expression, address.removeprefix("/"))
            for expression in settings.SECURE_REDIRECT_EXEMPT
        )
    )

    assert exempt == routes_where(lambda *found: found[2].called_by)


def test_maintenance_leaves_open_what_programs_call_and_where_staff_sign_in():
    opened = routes_where(lambda address, *_: maintenance.open_routes().fullmatch(address))

    assert {"sign-in", "api/v1/auth/sign-in", "alive", *gateway()} <= opened
    assert opened == routes_where(lambda *found: found[2].called_by or found[2].open_in_maintenance)

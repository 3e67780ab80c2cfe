"""Facts about routes, such as whether a route streams, and regular expressions for all URLs that share a fact.

Views declare the facts. The ASGI application, the size and rate limits, the deprecation headers and the tests of the
load balancer files read the facts through this module.
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal, TypeVar

from django.core.exceptions import ImproperlyConfigured
from django.urls import URLResolver, get_resolver

View = TypeVar("View", bound=Callable[..., Any])
NOTHING = ""
"""The ``replaced_by`` of a compatibility route that has no counterpart in the canonical API. It stays supported."""


@dataclass(frozen=True, kw_only=True)
class RouteFacts:
    """The facts of a route. Use an instance as the decorator of a view or of a viewset's action.

    A subclass inherits the facts of its view. If the subclass declares facts, they replace all inherited facts.
    """

    streams: bool = False
    """Whether the route streams or waits for other servers. It then runs on the event loop of ``realtime``."""
    held: Literal["", "always", "wait"] = ""
    """Whether ``conversations.realtime.held`` keeps the response open: always, or with `wait=` in the query string."""
    body_limit: Literal["", "UPLOAD_MAX_BYTES", "GATEWAY_BODY_MAX_BYTES"] = ""
    """The setting with the size limit of the body, if it is not ``BODY_MAX_BYTES``."""
    cost: Literal["", "spend", "keys", "uncounted"] = ""
    """The rate limit of methods other than GET, if it is not ``write``. ``uncounted`` means no limit at all."""
    replaced_by: str | None = None
    """The canonical route that replaces this compatibility route, with ``{}`` for each parameter, or ``NOTHING``."""
    called_by: Literal["", "probe", "agent"] = ""
    """The program that calls the route: an orchestrator or metrics scraper (``probe``), or a running agent."""
    open_in_maintenance: bool = False
    """Whether the route stays open during maintenance, for example so that staff can sign in."""

    def __call__(self, view: View) -> View:
        """Declare these facts on a view."""
        view.route_facts = self  # type: ignore[attr-defined]  # functions take attributes
        return view


@cache
def facts_of(view: Callable[..., Any]) -> RouteFacts:
    """Return the facts that a view declares. In a viewset, the facts of an action replace those of the class.

    The actions at one URL (one per HTTP method) share their facts, so it is enough that one action declares facts.
    Raise ``ImproperlyConfigured`` if two actions declare different facts.
    """
    view_class = getattr(view, "cls", view)
    actions = getattr(view, "actions", None) or {}
    methods = [getattr(view_class, name) for name in actions.values()]
    declared = {method.route_facts for method in methods if hasattr(method, "route_facts")}
    if len(declared) > 1:
        raise ImproperlyConfigured(
            f"The actions of {view_class} at one URL declare different facts: {actions}."
        )
    default: RouteFacts = getattr(view_class, "route_facts", RouteFacts())
    return declared.pop() if declared else default


def routes_with_facts() -> tuple[tuple[str, RouteFacts], ...]:
    """Return each URL pattern whose view declares facts, together with these facts."""
    return _routes_with_facts(get_resolver())


@cache
def _routes_with_facts(resolver: URLResolver) -> tuple[tuple[str, RouteFacts], ...]:
    return tuple(
        (route, facts)
        for route, view in _views(resolver.url_patterns)
        if (facts := facts_of(view)) != RouteFacts()
    )


def _views(patterns: list[Any], prefix: str = "") -> Iterator[tuple[str, Callable[..., Any]]]:
    for pattern in patterns:
        route = prefix + str(pattern.pattern)
        if isinstance(pattern, URLResolver):
            yield from _views(pattern.url_patterns, route)
        else:
            yield route, pattern.callback


def url_pattern(where: Callable[[RouteFacts], object]) -> re.Pattern[str]:
    """Return a pattern whose ``fullmatch`` accepts the URL paths of all routes whose facts satisfy ``where``.

    The pattern accepts any text for a parameter, so it may match more than its routes. Its syntax is valid in Python,
    nginx and HAProxy. The function reads the whole URL configuration, so call it once, not per request.
    """
    return re.compile(expression(route for route, facts in routes_with_facts() if where(facts)))


def expression(routes: Iterator[str]) -> str:
    """Return one regular expression for the URL paths of all these routes. It contains each common prefix only once."""
    tree: dict[str | None, Any] = {}
    for route in routes:
        branch = tree
        for part in route.split("/"):
            branch = branch.setdefault(_part(part), {})
        branch[None] = {}  # a route ends here
    return _join(tree) or "(?!)"  # an expression that matches nothing


def _part(text: str) -> str:
    # Python escapes the hyphen, although it is not special here.
    text = re.escape(text).replace(r"\-", "-")
    text = re.sub(r"<path:\w+>", ".+", text)
    return re.sub(r"<[^>]+>", "[^/]+", text)


def _join(tree: dict[str | None, Any]) -> str:
    parts = [f"{part}{_join(branch)}" for part, branch in tree.items() if part is not None]
    if not parts:
        return ""
    joined = f"/({'|'.join(parts)})" if len(parts) > 1 else f"/{parts[0]}"
    return f"({joined})?" if None in tree else joined

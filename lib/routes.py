"""How a route behaves: facts declared on its view, and the addresses of the routes that share a fact.

A view says what it does; the dispatcher, the limits, the deprecation headers and the balancers read it from here.
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
"""``replaced_by`` of a route of existing clients that the canonical API does not need; it stays."""


@dataclass(frozen=True, kw_only=True)
class RouteFacts:
    """The facts of a route; an instance is the decorator that declares them on a view or on a viewset's action.

    A subclass of a view inherits its facts, or declares all of its own.
    """

    streams: bool = False
    """Streams its answer or waits for other servers: served on the event loop, by ``realtime`` processes."""
    held: Literal["", "always", "wait"] = ""
    """Is held open by ``conversations.realtime.held``: always, or with ``wait=`` in the query."""
    body_limit: Literal["", "UPLOAD_MAX_BYTES", "GATEWAY_BODY_MAX_BYTES"] = ""
    """The setting that bounds the body instead of ``BODY_MAX_BYTES``."""
    cost: Literal["", "spend", "keys", "uncounted"] = ""
    """The rate that methods other than GET count against, instead of ``write``; or no rate for any method."""
    replaced_by: str | None = None
    """The canonical route, with ``{}`` for each parameter, that replaces this deprecated one; or ``NOTHING``."""
    called_by: Literal["", "probe", "agent"] = ""
    """Programs of the installation: orchestrators and scrapers, or agents that run."""
    open_in_maintenance: bool = False
    """Stays open to people during maintenance, so that staff can sign in."""

    def __call__(self, view: View) -> View:
        """Declare these facts on a view."""
        view.route_facts = self  # type: ignore[attr-defined]  # functions take attributes
        return view


@cache
def facts_of(view: Callable[..., Any]) -> RouteFacts:
    """Return what the view of a URL pattern declares; in a viewset, an action's facts replace those of the class.

    The actions that share an address share its facts, so one of them declares them. Raises
    ``ImproperlyConfigured`` if two differ.
    """
    view_class = getattr(view, "cls", view)
    actions = getattr(view, "actions", None) or {}
    methods = [getattr(view_class, name) for name in actions.values()]
    found = {method.route_facts for method in methods if hasattr(method, "route_facts")}
    if len(found) > 1:
        raise ImproperlyConfigured(f"Actions of {view_class} differ in their facts: {actions}.")
    default: RouteFacts = getattr(view_class, "route_facts", RouteFacts())
    return found.pop() if found else default


def declared() -> tuple[tuple[str, RouteFacts], ...]:
    """Return the routes of the URL conf that declare facts, as the URL conf writes them, with their facts."""
    return _declared(get_resolver())


@cache
def _declared(resolver: URLResolver) -> tuple[tuple[str, RouteFacts], ...]:
    return tuple(
        (route, facts)
        for route, view in _views(resolver.url_patterns)
        if (facts := facts_of(view)) != RouteFacts()
    )


def _views(patterns: list[Any], before: str = "") -> Iterator[tuple[str, Callable[..., Any]]]:
    for pattern in patterns:
        route = before + str(pattern.pattern)
        if isinstance(pattern, URLResolver):
            yield from _views(pattern.url_patterns, route)
        else:
            yield route, pattern.callback


def addresses(where: Callable[[RouteFacts], object]) -> re.Pattern[str]:
    """Return an expression for ``fullmatch`` with the addresses of the routes whose facts satisfy ``where``.

    It takes anything for a parameter, so it may match more than its routes, and it is written in the dialect
    that Python, nginx and HAProxy share. Walks the URL conf: call it once, not for each request.
    """
    return re.compile(expression(route for route, facts in declared() if where(facts)))


def expression(routes: Iterator[str]) -> str:
    """Return one regular expression for the addresses of all routes, with common beginnings written once."""
    tree: dict[str | None, Any] = {}
    for route in routes:
        branch = tree
        for part in route.split("/"):
            branch = branch.setdefault(_part(part), {})
        branch[None] = {}  # a route ends here
    return _joined(tree) or "(?!)"


def _part(text: str) -> str:
    text = re.escape(text).replace(r"\-", "-")
    text = re.sub(r"<path:\w+>", ".+", text)
    return re.sub(r"<[^>]+>", "[^/]+", text)


def _joined(tree: dict[str | None, Any]) -> str:
    parts = [f"{part}{_joined(below)}" for part, below in tree.items() if part is not None]
    if not parts:
        return ""
    joined = f"/({'|'.join(parts)})" if len(parts) > 1 else f"/{parts[0]}"
    return f"({joined})?" if None in tree else joined

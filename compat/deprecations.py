"""Deprecated routes, which only existing clients should use. Each view declares its successor (``lib.routes``).

From this declaration, this module adds the ``Deprecation`` (RFC 9745), ``Sunset`` (RFC 8594) and ``Link`` headers to
every response, marks the route in the OpenAPI document, and counts the requests by route and client in the metric
``deprecated_requests``.
"""

import re
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from functools import wraps
from typing import Any

from django.http import HttpRequest, HttpResponseBase
from django.urls import URLResolver
from django.utils.http import http_date
from prometheus_client import Counter

from lib import routes

SINCE = datetime(2026, 11, 23, tzinfo=UTC)
"""The date from which the routes are deprecated, for the ``Deprecation`` header."""
SUNSET = datetime(2028, 1, 1, tzinfo=UTC)
"""The earliest date on which the routes may be removed, for the ``Sunset`` header."""
CLIENTS_MAX = 50
"""The maximum number of different client names in the metric. Further names are counted as ``other``."""

calls = Counter("deprecated_requests", "Requests to deprecated routes.", ["route", "client"])
_clients: set[str] = set()


def normalize_route(route: str) -> str:
    """Replace each parameter of a route by ``{}``. This makes Django's and OpenAPI's notations of a route equal."""
    return "/" + re.sub(r"<[^>]+>|\{[^}]+\}", "{}", route).lstrip("/")


def replacements() -> dict[str, str]:
    """Return a dict from each compatibility route (normalized) to its successor, or to ``NOTHING``."""
    return {
        normalize_route(route): facts.replaced_by
        for route, facts in routes.routes_with_facts()
        if facts.replaced_by is not None
    }


def add_deprecation_headers(patterns: list[Any], prefix: str = "") -> list[Any]:
    """Wrap the views of all deprecated routes below ``prefix``, in place, and return ``patterns``.

    The wrapped views count their requests and add the deprecation headers to their responses.
    """
    for pattern in patterns:
        route = prefix + str(pattern.pattern)
        if isinstance(pattern, URLResolver):
            add_deprecation_headers(pattern.url_patterns, route)
        # None means that the route is canonical. ``NOTHING`` is the empty string: the route has no successor, so it
        # stays supported and is not deprecated. Both values are false here, so these routes are not wrapped.
        elif successor := routes.facts_of(pattern.callback).replaced_by:
            pattern.callback = _count_and_add_headers(
                pattern.callback, normalize_route(route), successor
            )
    return patterns


def _count_and_add_headers(
    view: Callable[..., HttpResponseBase], route: str, successor: str
) -> Callable[..., HttpResponseBase]:
    """Return a view that counts its requests in the metric and adds the deprecation headers to its responses."""
    # RFC 9745 writes the date as Unix seconds after an ``@``, RFC 8594 as an HTTP date.
    deprecation, sunset = f"@{int(SINCE.timestamp())}", http_date(SUNSET.timestamp())
    if "{" in successor:
        # A route with parameters is not a URL that a client could follow, so link to the documentation instead.
        link = '</api/v1/docs>; rel="deprecation"; type="text/html"'
    else:
        link = f'<{successor}>; rel="successor-version"'

    @wraps(view)
    def count_and_add_headers(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:
        calls.labels(route, client_name(request)).inc()
        response = view(request, *args, **kwargs)
        response["Deprecation"] = deprecation
        response["Sunset"] = sunset
        # The view may have set a ``Link`` of its own, for example to the next page.
        response["Link"] = f"{response['Link']}, {link}" if response.has_header("Link") else link
        return response

    return count_and_add_headers


def client_name(request: HttpRequest) -> str:
    """Return the product name in a request's ``User-Agent`` header, to use as a label of the metric.

    If the header has no product name, return ``unnamed``. After ``CLIENTS_MAX`` different names, return ``other`` for
    every new name, because every value of a label uses memory.
    """
    match = re.match(r"[A-Za-z][A-Za-z0-9_.-]{0,39}", request.headers.get("User-Agent", ""))
    name = match[0] if match else "unnamed"
    if name not in _clients and len(_clients) >= CLIENTS_MAX:
        return "other"
    _clients.add(name)
    return name


def mark_deprecated_operations(
    *, result: dict[str, Any], generator: Any, request: Any, public: bool
) -> dict[str, Any]:
    """Mark the operations of deprecated routes in the OpenAPI document."""
    for operation, successor in _deprecated_operations(result):
        operation["deprecated"] = True
        note = f"Deprecated: use `{successor}`. This route works until {SUNSET:%Y-%m-%d} at least."
        operation["description"] = "\n\n".join(filter(None, [operation.get("description"), note]))
    return result


def _deprecated_operations(result: dict[str, Any]) -> Iterator[tuple[dict[str, Any], str]]:
    successors = replacements()
    for path, operations in result["paths"].items():
        if successor := successors.get(normalize_route(path)):
            for operation in operations.values():
                # A path may also contain a list of parameters, which is not an operation.
                if isinstance(operation, dict):
                    yield operation, successor

"""Addresses that existing clients use and new ones should not: each view declares what replaces it (``lib.routes``).

From a declaration come the ``Deprecation`` (RFC 9745), ``Sunset`` (RFC 8594) and ``Link`` headers of every
answer, the mark in the OpenAPI document, and the metric ``deprecated_requests`` that says who still calls.
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
SUNSET = datetime(2028, 1, 1, tzinfo=UTC)
"""Not removed before; at least a year after they were declared."""
CLIENTS_MAX = 50
"""Names of clients that the metric tells apart; who comes later is counted as ``other``."""

calls = Counter(
    "deprecated_requests", "Requests to addresses with a successor.", ["route", "client"]
)
_clients: set[str] = set()


def normal(route: str) -> str:
    """Return a route of the URL conf or of the OpenAPI document with ``{}`` for each parameter."""
    return "/" + re.sub(r"<[^>]+>|\{[^}]+\}", "{}", route).lstrip("/")


def replacements() -> dict[str, str]:
    """Return the routes of existing clients, as ``normal`` writes them, each with its successor or ``NOTHING``."""
    return {
        normal(route): facts.replaced_by
        for route, facts in routes.routes_with_facts()
        if facts.replaced_by is not None
    }


def declared(patterns: list[Any], before: str = "") -> list[Any]:
    """Wrap the views of deprecated routes so that their responses say so; return the URL patterns."""
    for pattern in patterns:
        route = before + str(pattern.pattern)
        if isinstance(pattern, URLResolver):
            declared(pattern.url_patterns, route)
        elif successor := routes.facts_of(pattern.callback).replaced_by:
            pattern.callback = _telling(pattern.callback, normal(route), successor)
    return patterns


def _telling(
    view: Callable[..., HttpResponseBase], route: str, successor: str
) -> Callable[..., HttpResponseBase]:
    headers = {
        "Deprecation": f"@{int(SINCE.timestamp())}",
        "Sunset": http_date(SUNSET.timestamp()),
    }
    # A template is no address: a successor with parameters is described, not linked to.
    if "{" not in successor:
        headers["Link"] = f'<{successor}>; rel="successor-version"'
    else:
        headers["Link"] = '</api/v1/docs>; rel="deprecation"; type="text/html"'

    @wraps(view)
    def with_headers(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:
        calls.labels(route, client_of(request)).inc()
        response = view(request, *args, **kwargs)
        for name, value in headers.items():
            if name == "Link" and response.has_header(name):
                value = f"{response[name]}, {value}"  # noqa: PLW2901
            response[name] = value
        return response

    return with_headers


def client_of(request: HttpRequest) -> str:
    """The product at the head of a caller's ``User-Agent``: a word of bounded number for a metric."""
    found = re.match(r"[A-Za-z][A-Za-z0-9_.-]{0,39}", request.headers.get("User-Agent", ""))
    name = found[0] if found else "unnamed"
    if name not in _clients and len(_clients) >= CLIENTS_MAX:
        return "other"
    _clients.add(name)
    return name


def mark(*, result: dict[str, Any], generator: Any, request: Any, public: bool) -> dict[str, Any]:
    """Mark the operations of deprecated routes in the OpenAPI document."""
    for operation, successor in _operations(result):
        operation["deprecated"] = True
        note = f"Deprecated: use `{successor}`. Served until {SUNSET:%Y-%m-%d} at least."
        operation["description"] = "\n\n".join(filter(None, [operation.get("description"), note]))
    return result


def _operations(result: dict[str, Any]) -> Iterator[tuple[dict[str, Any], str]]:
    successors = replacements()
    for path, operations in result["paths"].items():
        if successor := successors.get(normal(path)):
            for operation in operations.values():
                if isinstance(operation, dict):
                    yield operation, successor

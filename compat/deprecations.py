"""Deprecated addresses, which only existing clients should use. Each view declares its successor (``lib.routes``).

The declaration produces the ``Deprecation`` (RFC 9745), ``Sunset`` (RFC 8594) and ``Link`` headers of every
response, the mark in the OpenAPI document, and the metric ``deprecated_requests``, which counts the calls by client.
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
"""The earliest date of their removal, at least a year after the deprecation."""
CLIENTS_MAX = 50
"""The number of different client names in the metric. Further names are counted as ``other``."""

calls = Counter(
    "deprecated_requests", "Requests to addresses with a successor.", ["route", "client"]
)
_clients: set[str] = set()


def normalize_route(route: str) -> str:
    """Return a route of the URL conf or of the OpenAPI document with ``{}`` for each parameter."""
    return "/" + re.sub(r"<[^>]+>|\{[^}]+\}", "{}", route).lstrip("/")


def replacements() -> dict[str, str]:
    """Return the deprecated routes, normalized, each with its successor or ``NOTHING``."""
    return {
        normalize_route(route): facts.replaced_by
        for route, facts in routes.routes_with_facts()
        if facts.replaced_by is not None
    }


def add_deprecation_headers(patterns: list[Any], before: str = "") -> list[Any]:
    """Wrap the views of deprecated routes so that their responses have the headers. Return the URL patterns."""
    for pattern in patterns:
        route = before + str(pattern.pattern)
        if isinstance(pattern, URLResolver):
            add_deprecation_headers(pattern.url_patterns, route)
        elif successor := routes.facts_of(pattern.callback).replaced_by:
            pattern.callback = _with_headers(pattern.callback, normalize_route(route), successor)
    return patterns


def _with_headers(
    view: Callable[..., HttpResponseBase], route: str, successor: str
) -> Callable[..., HttpResponseBase]:
    headers = {
        "Deprecation": f"@{int(SINCE.timestamp())}",
        "Sunset": http_date(SUNSET.timestamp()),
    }
    # A route with parameters is no address that a client could follow, so link to the documentation instead.
    if "{" not in successor:
        headers["Link"] = f'<{successor}>; rel="successor-version"'
    else:
        headers["Link"] = '</api/v1/docs>; rel="deprecation"; type="text/html"'

    @wraps(view)
    def with_headers(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:
        calls.labels(route, client_name(request)).inc()
        response = view(request, *args, **kwargs)
        for name, value in headers.items():
            if name == "Link" and response.has_header(name):
                value = f"{response[name]}, {value}"  # noqa: PLW2901
            response[name] = value
        return response

    return with_headers


def client_name(request: HttpRequest) -> str:
    """Return the product name in a request's ``User-Agent``, as a label for the metric.

    The number of different names is limited, because every value of a label costs memory.
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
    for operation, successor in _operations(result):
        operation["deprecated"] = True
        note = f"Deprecated: use `{successor}`. This route works until {SUNSET:%Y-%m-%d} at least."
        operation["description"] = "\n\n".join(filter(None, [operation.get("description"), note]))
    return result


def _operations(result: dict[str, Any]) -> Iterator[tuple[dict[str, Any], str]]:
    successors = replacements()
    for path, operations in result["paths"].items():
        if successor := successors.get(normalize_route(path)):
            for operation in operations.values():
                if isinstance(operation, dict):
                    yield operation, successor

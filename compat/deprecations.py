"""Addresses that existing clients use and new ones should not: declared here once, each with what replaces it.

From a declaration come the ``Deprecation`` (RFC 9745), ``Sunset`` (RFC 8594) and ``Link`` headers of every
answer, the mark in the OpenAPI document, and the metric ``deprecated_requests`` that says who still calls.
"""

import re
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from functools import wraps
from typing import Any

from django.http import HttpRequest, HttpResponseBase
from django.urls import URLPattern, URLResolver
from django.utils.http import http_date
from prometheus_client import Counter

SINCE = datetime(2026, 11, 23, tzinfo=UTC)
SUNSET = datetime(2028, 1, 1, tzinfo=UTC)
"""Not removed before; at least a year after they were declared."""
CLIENTS_MAX = 50
"""Names of clients that the metric tells apart; who comes later is counted as ``other``."""

DEPRECATED: dict[str, str] = {
    "/api/add-git-providers": "/api/v1/provider-tokens/{}",
    "/api/authenticate": "/api/v1/users/me",
    "/api/conversations": "/api/v1/conversations",
    "/api/conversations/{}": "/api/v1/conversations/{}",
    "/api/conversations/{}/config": "/api/v1/conversations/{}",
    "/api/conversations/{}/events": "/api/v1/conversations/{}/events",
    "/api/conversations/{}/events/count": "/api/v1/conversations/{}",
    "/api/conversations/{}/events/respond_to_confirmation": "/api/v1/conversations/{}/confirmation",
    "/api/conversations/{}/events/search": "/api/v1/conversations/{}/events",
    "/api/conversations/{}/git/changes": "/api/v1/conversations/{}/git/changes",
    "/api/conversations/{}/git/diff": "/api/v1/conversations/{}/git/diff",
    "/api/conversations/{}/interrupt": "/api/v1/conversations/{}/interrupt",
    "/api/conversations/{}/list-files": "/api/v1/conversations/{}/files",
    "/api/conversations/{}/message": "/api/v1/conversations/{}/messages",
    "/api/conversations/{}/pause": "/api/v1/conversations/{}/interrupt",
    "/api/conversations/{}/run": "/api/v1/conversations/{}/resume",
    "/api/conversations/{}/select-file": "/api/v1/conversations/{}/files/content",
    "/api/conversations/{}/start": "/api/v1/conversations/{}/resume",
    "/api/conversations/{}/stop": "/api/v1/conversations/{}/interrupt",
    "/api/conversations/{}/submit-feedback": "/api/v1/conversations/{}/events/{}/feedback",
    "/api/conversations/{}/trajectory": "/api/v1/conversations/{}/trajectory",
    "/api/conversations/{}/upload-files": "/api/v1/conversations/{}/files/upload",
    "/api/conversations/{}/zip-directory": "/api/v1/conversations/{}/archive",
    "/api/file/download": "/api/v1/conversations/{}/files/content",
    "/api/file/upload": "/api/v1/conversations/{}/files/upload",
    "/api/file/upload/{}": "/api/v1/conversations/{}/files/upload",
    "/api/git/changes": "/api/v1/conversations/{}/git/changes",
    "/api/git/changes/{}": "/api/v1/conversations/{}/git/changes",
    "/api/git/diff": "/api/v1/conversations/{}/git/diff",
    "/api/git/diff/{}": "/api/v1/conversations/{}/git/diff",
    "/api/keys": "/api/v1/api-keys",
    "/api/keys/{}": "/api/v1/api-keys/{}",
    "/api/logout": "/api/v1/auth/sign-out",
    "/api/microagent-management/conversations": "/api/v1/conversations",
    "/api/options/agents": "/api/v1/options/agents",
    "/api/options/config": "/api/v1/options/config",
    "/api/options/models": "/api/v1/options/models",
    "/api/options/security-analyzers": "/api/v1/options/security-analyzers",
    "/api/reset-settings": "/api/v1/settings",
    "/api/secrets": "/api/v1/secrets",
    "/api/secrets/{}": "/api/v1/secrets/{}",
    "/api/settings": "/api/v1/settings",
    "/api/unset-provider-tokens": "/api/v1/provider-tokens/{}",
    "/api/user/info": "/api/v1/integrations/{}/user",
    "/api/user/installations": "/api/v1/integrations/{}/installations",
    "/api/user/repositories": "/api/v1/integrations/{}/repositories",
    "/api/user/repository/branches": "/api/v1/integrations/{}/branches",
    "/api/user/repository/{}/microagents": "/api/v1/integrations/{}/microagents",
    "/api/user/repository/{}/microagents/content": "/api/v1/integrations/{}/microagents/content",
    "/api/user/search/branches": "/api/v1/integrations/{}/branches",
    "/api/user/search/repositories": "/api/v1/integrations/{}/repositories",
    "/api/user/suggested-tasks": "/api/v1/integrations/{}/suggested-tasks",
    "/api/v1/app-conversations": "/api/v1/conversations",
    "/api/v1/app-conversations/count": "/api/v1/conversations",
    "/api/v1/app-conversations/search": "/api/v1/conversations",
    "/api/v1/app-conversations/start-tasks": "/api/v1/conversations/{}/start-tasks",
    "/api/v1/app-conversations/start-tasks/count": "/api/v1/conversations/{}/start-tasks",
    "/api/v1/app-conversations/start-tasks/search": "/api/v1/conversations/{}/start-tasks",
    "/api/v1/app-conversations/stream-start": "/api/v1/conversations",
    "/api/v1/events": "/api/v1/conversations/{}/events",
    "/api/v1/events/count": "/api/v1/conversations/{}",
    "/api/v1/events/search": "/api/v1/conversations/{}/events",
    "/api/v1/sandboxes/{}/resume": "/api/v1/conversations/{}/resume",
    "/feedback/conversation": "/api/v1/conversations/{}/events/{}/feedback",
    "/feedback/conversation/{}/batch": "/api/v1/conversations/{}/feedback",
    "/health": "/alive",
}
"""Route, with ``{}`` for each parameter, to the canonical one that does its work."""
WITHOUT_SUCCESSOR = frozenset(
    {
        "/api/accept_tos",
        "/api/email",
        "/api/email/verify",
        "/api/conversations/{}/exp-config",
        "/api/conversations/{}/microagents",
        "/api/conversations/{}/remember-prompt",
        "/api/conversations/{}/vscode-url",
        "/api/conversations/{}/web-hosts",
        "/api/keys/llm/byor",
        "/api/keys/llm/byor/refresh",
        "/api/v1/sandbox-specs",
        "/api/v1/sandbox-specs/search",
        "/api/v1/sandboxes",
        "/api/v1/sandboxes/search",
        "/api/v1/sandboxes/{}",
        "/api/v1/sandboxes/{}/pause",
        "/api/v1/webhooks/{}/conversations",
        "/api/v1/webhooks/{}/events/{}",
        "/saas",
        "/server_info",
    }
)
"""Addresses of existing clients that say or do what the canonical API has no need of; they stay."""

calls = Counter(
    "deprecated_requests", "Requests to addresses with a successor.", ["route", "client"]
)
_clients: set[str] = set()


def normal(route: str) -> str:
    """A route of the URL conf or of the OpenAPI document as it is written in ``DEPRECATED``."""
    return "/" + re.sub(r"<[^>]+>|\{[^}]+\}", "{}", route).lstrip("/")


def declared(patterns: list[Any], before: str = "") -> list[Any]:
    """Wrap the views of deprecated routes so that their responses say so; return the URL patterns."""
    for pattern in patterns:
        route = before + str(pattern.pattern)
        if isinstance(pattern, URLResolver):
            declared(pattern.url_patterns, route)
        elif isinstance(pattern, URLPattern) and (successor := DEPRECATED.get(normal(route))):
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
    def told(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:
        calls.labels(route, client_of(request)).inc()
        response = view(request, *args, **kwargs)
        for name, value in headers.items():
            if name == "Link" and response.has_header(name):
                value = f"{response[name]}, {value}"  # noqa: PLW2901
            response[name] = value
        return response

    return told


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
    for path, operations in result["paths"].items():
        if successor := DEPRECATED.get(normal(path)):
            for operation in operations.values():
                if isinstance(operation, dict):
                    yield operation, successor

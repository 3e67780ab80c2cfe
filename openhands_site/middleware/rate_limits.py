"""Middleware that limits the requests of each network address, user and key, and reports the limit in headers."""

import re
from collections.abc import Callable
from functools import cache
from typing import Any

from django.conf import settings
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render

from accounts.limits import caller_name, client_network
from accounts.sign_in.authentication import find_caller
from lib import limits
from lib.api import problem
from lib.routes import facts_of, url_pattern

FAIL_CLOSED = {"keys", "spend"}
"""Rates whose requests are refused while Redis is unavailable. ``accounts.limits`` limits sign-ins separately."""
SAFE = ("GET", "HEAD", "OPTIONS")


@cache
def uncounted() -> re.Pattern[str]:
    """Return a pattern of the URL paths without a limit: probes, and the model gateway, which is limited by funds.

    A cached function and not a constant: while this module is imported, the URL configuration may not be loaded yet.
    """
    return url_pattern(lambda facts: facts.cost == "uncounted")


class RateLimits:
    """Middleware that returns 429 to requests beyond a rate of ``RATE_LIMITS``.

    While Redis is unavailable, it returns 503 to requests that count against a rate in ``FAIL_CLOSED``, and lets all
    others pass.
    """

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        path = request.path
        if (
            not settings.RATE_LIMITS
            or path.startswith(settings.STATIC_URL)
            or uncounted().fullmatch(path)
        ):
            return self.get_response(request)
        response = self._refuse_address(request) or self.get_response(request)
        usage: limits.Usage | None = getattr(request, "rate_usage", None)
        if usage is not None:
            for name, value in usage.headers().items():
                response.headers.setdefault(name, value)
        return response

    def process_view(
        self, request: HttpRequest, view: Any, args: Any, kwargs: Any
    ) -> HttpResponse | None:
        if not settings.RATE_LIMITS or facts_of(view).cost == "uncounted":
            return None
        match = request.resolver_match
        name = select_rate(request.method or "", view)
        caller = identify_caller(request, view)
        # ``RATE_LIMITS`` may contain a rate for a single route, under this name.
        route = f"{request.method} {match.route if match else ''}"
        return self._refuse_over(request, name, caller) or self._refuse_over(request, route, caller)

    def _refuse_address(self, request: HttpRequest) -> HttpResponse | None:
        return self._refuse_over(request, "address", client_network(request))

    def _refuse_over(self, request: HttpRequest, group: str, value: str) -> HttpResponse | None:
        rate = settings.RATE_LIMITS.get(group)
        if rate is None or (group not in FAIL_CLOSED and not limits.is_redis_available()):
            return None
        try:
            # Limits that protect money or keys must be exact. The others count in blocks to save calls to Redis.
            count = limits.count if group in FAIL_CLOSED else limits.count_in_blocks
            usage = count(request, group=f"{group}|", value=value, rate=rate)
        except limits.NotCounted as error:
            return _refuse_uncounted(request, str(error)) if group in FAIL_CLOSED else None
        if not usage.is_over:
            return None
        sentence = f"Too many requests. Try again in {usage.reset} seconds."
        return refuse(request, 429, "too-many-requests", sentence, usage.headers())


def select_rate(method: str, view: Callable[..., Any]) -> str:
    """Return the rate that a request counts against: ``keys``, ``spend``, ``write`` or ``read``."""
    return "read" if method in SAFE else facts_of(view).cost or "write"


def identify_caller(request: HttpRequest, view: Callable[..., Any]) -> str:
    """Return the key, user or network address that a request is counted for.

    A key counts only if it is valid and the view accepts it. Otherwise a client could get a new counter for each
    invented key, or use up the counter of a key whose public prefix it knows. A view of a program that is no user,
    such as a sandbox, has an attribute ``counted_as``: a function that returns the verified name of the program or "".
    """
    if counted_as := getattr(view, "counted_as", None):
        return str(counted_as(request)) or client_network(request)
    user = find_caller(request, view)
    return caller_name(user) if user else client_network(request)


def _refuse_uncounted(request: HttpRequest, cause: str) -> HttpResponse:
    sentence = f"The rate limit cannot be checked. {cause}"
    return refuse(request, 503, "requests-not-counted", sentence, {"Retry-After": "5"})


def refuse(
    request: HttpRequest, status: int, code: str, sentence: str, headers: dict[str, str]
) -> HttpResponse:
    """Return an error response without calling the view: problem details for the API, otherwise a page."""
    if request.path.startswith(("/api/", "/mcp")):
        return problem(status=status, code=code, detail=sentence, headers=headers)
    page = render(
        request, "site/error.html", {"status": status, "sentence": sentence}, status=status
    )
    for name, value in headers.items():
        page.headers[name] = value
    return page

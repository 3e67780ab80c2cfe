"""Middleware that limits the requests of each network address, user and key, and reports the limit in headers."""

import hashlib
import re
from collections.abc import Callable
from functools import cache
from typing import Any

from django.conf import settings
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render

from accounts.limits import client_network
from accounts.sign_in.authentication import read_bearer_token
from lib import limits
from lib.api import problem
from lib.routes import facts_of, url_pattern

FAIL_CLOSED = {"keys", "spend"}
"""Rates whose requests are refused while Redis is unavailable. ``accounts.limits`` limits sign-ins separately."""
SAFE = ("GET", "HEAD", "OPTIONS")
KEY_PREFIXES = ("oh_", "ocs_")
"""Prefixes of API keys and conversation keys. The part of a key before its dot is public."""


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
        caller = identify_caller(request)
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
        except limits.NotCounted:
            return _refuse_uncounted(request) if group in FAIL_CLOSED else None
        if not usage.is_over:
            return None
        sentence = f"Too many requests. Try again in {usage.reset} seconds."
        return refuse(request, 429, "too-many-requests", sentence, usage.headers())


def select_rate(method: str, view: Callable[..., Any]) -> str:
    """Return the rate that a request counts against: ``keys``, ``spend``, ``write`` or ``read``."""
    return "read" if method in SAFE else facts_of(view).cost or "write"


def identify_caller(request: HttpRequest) -> str:
    """Return the key, user or network address that a request is counted for.

    The public part of a key identifies the key, which is not verified here. If a client invents keys, its network
    address is limited.
    """
    header = request.headers.get("X-Session-API-Key", "")
    if token := read_bearer_token(request.headers) or (
        header if header.startswith(KEY_PREFIXES) else ""
    ):
        public = token.partition(".")[0] if token.startswith(KEY_PREFIXES) else token
        return "key " + hashlib.sha256(public.encode(errors="replace")).hexdigest()
    user = getattr(request, "user", None)
    if user is not None and user.is_authenticated:
        return f"user {user.pk}"
    return client_network(request)


def _refuse_uncounted(request: HttpRequest) -> HttpResponse:
    sentence = (
        "The rate limit cannot be checked because Redis is unavailable. Try again in a few seconds."
    )
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

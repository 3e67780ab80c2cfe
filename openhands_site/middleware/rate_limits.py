"""How many requests an address, a user or a key may make: counted before the view, told in every answer."""

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
from lib.routes import addresses, facts_of

CLOSED = {"keys", "spend"}
"""What nobody may do while Redis cannot count; signing in counts for itself (``accounts.limits``)."""
SAFE = ("GET", "HEAD", "OPTIONS")
STATIC = "/static/"
OURS = ("oh_", "ocs_")
"""API keys and conversation keys begin so; what follows up to the dot is no secret."""


@cache
def uncounted() -> re.Pattern[str]:
    """Return the addresses of probes, and of the model gateway, whose budget is money."""
    return addresses(lambda facts: facts.cost == "uncounted")


class RateLimits:
    """429 beyond a rate of ``RATE_LIMITS``; 503 where uncounted use would be unlimited use."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        path = request.path
        if not settings.RATE_LIMITS or path.startswith(STATIC) or uncounted().fullmatch(path):
            return self.get_response(request)
        response = self._address(request) or self.get_response(request)
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
        name = class_of(request.method or "", view)
        who = caller(request)
        route = f"{request.method} {match.route if match else ''}"
        return self._refusal(request, name, who) or self._refusal(request, route, who)

    def _address(self, request: HttpRequest) -> HttpResponse | None:
        return self._refusal(request, "address", client_network(request))

    def _refusal(self, request: HttpRequest, group: str, value: str) -> HttpResponse | None:
        rate = settings.RATE_LIMITS.get(group)
        if rate is None or (group not in CLOSED and not limits.may_ask()):
            return None
        try:
            count = limits.count if group in CLOSED else limits.count_ahead
            usage = count(request, group=f"{group}|", value=value, rate=rate)
        except limits.NotCounted:
            return _closed(request) if group in CLOSED else None
        if not usage.is_over:
            return None
        sentence = f"Too many requests. Try again in {usage.reset} seconds."
        return answer(request, 429, "too-many-requests", sentence, usage.headers())


def class_of(method: str, view: Callable[..., Any]) -> str:
    """Return the rate that a request counts against: ``keys``, ``spend``, ``write`` or ``read``."""
    return "read" if method in SAFE else facts_of(view).cost or "write"


def caller(request: HttpRequest) -> str:
    """The key, user or address that a request is counted for.

    A key is told by its public part, unchecked: whoever invents keys is held by the limit of the address.
    """
    carried = request.headers.get("X-Session-API-Key", "")
    if token := read_bearer_token(request.headers) or (carried if carried.startswith(OURS) else ""):
        public = token.partition(".")[0] if token.startswith(OURS) else token
        return "key " + hashlib.sha256(public.encode(errors="replace")).hexdigest()
    user = getattr(request, "user", None)
    if user is not None and user.is_authenticated:
        return f"user {user.pk}"
    return client_network(request)


def _closed(request: HttpRequest) -> HttpResponse:
    sentence = "This is closed for a moment: the server cannot count requests. Try again soon."
    return answer(request, 503, "requests-not-counted", sentence, {"Retry-After": "5"})


def answer(
    request: HttpRequest, status: int, code: str, sentence: str, headers: dict[str, str]
) -> HttpResponse:
    """A refusal before the view: problem details to the API, a page to people."""
    if request.path.startswith(("/api/", "/mcp")):
        return problem(status=status, code=code, detail=sentence, headers=headers)
    page = render(
        request, "site/error.html", {"status": status, "sentence": sentence}, status=status
    )
    for name, value in headers.items():
        page.headers[name] = value
    return page

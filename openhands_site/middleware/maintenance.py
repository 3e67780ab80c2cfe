"""Maintenance mode: 503 with ``Retry-After`` to everybody but staff."""

import re
from collections.abc import Callable
from functools import cache

from django.http import HttpRequest, HttpResponse

from accounts.services import maintenance
from lib.routes import addresses
from openhands_site.middleware.rate_limits import answer

OPEN = ("/static/", "/admin/")
"""Files, and the desk with its own sign-in."""


@cache
def open_routes() -> re.Pattern[str]:
    """Return the addresses of probes and of running agents, and those by which staff sign in."""
    return addresses(lambda facts: facts.called_by or facts.open_in_maintenance)


class MaintenanceMode:
    """Problem details to the API, a page to people; staff pass, and agents that run finish."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        if request.path.startswith(OPEN) or open_routes().fullmatch(request.path):
            return self.get_response(request)
        switch = maintenance.maintenance()
        if not switch.is_on or (request.user.is_authenticated and request.user.is_staff):
            return self.get_response(request)
        headers = {"Retry-After": str(switch.retry_after)}
        sentence = switch.sentence or maintenance.SENTENCE
        return answer(request, 503, "maintenance", sentence, headers)

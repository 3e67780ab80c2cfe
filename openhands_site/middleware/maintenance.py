"""Maintenance mode: middleware that returns 503 with ``Retry-After`` to all users except staff."""

import re
from collections.abc import Callable
from functools import cache

from django.http import HttpRequest, HttpResponse

from accounts.services import maintenance
from lib.routes import url_pattern
from openhands_site.middleware.rate_limits import refuse

OPEN = ("/static/", "/admin/")
"""Path prefixes that stay open: static files, and the admin site, which has its own sign-in."""


@cache
def open_routes() -> re.Pattern[str]:
    """Return a pattern of the URL paths that stay open: those of probes, of running agents and of the staff's sign-in.

    A cached function and not a constant: while this module is imported, the URL configuration may not be loaded yet.
    """
    return url_pattern(lambda facts: facts.called_by or facts.open_in_maintenance)


class MaintenanceMode:
    """Middleware that returns 503 during maintenance. Staff can still work, and running agents can finish."""

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
        return refuse(request, 503, "maintenance", sentence, headers)

"""Maintenance mode: 503 with ``Retry-After`` to everybody but staff."""

from collections.abc import Callable

from django.http import HttpRequest, HttpResponse

from accounts.services import maintenance
from openhands_site.middleware.rate_limits import answer

OPEN = (
    *("/alive", "/ready", "/metrics", "/static/", "/admin/", "/sign-in", "/sign-out"),
    *("/api/llm/", "/api/sandbox/"),
)
"""Probes, the desk with its own sign-in, the ways in by which staff come, and calls of running agents."""
OPEN_API = ("/api/v1/auth/", "/api/v1/schema", "/api/v1/docs")


class MaintenanceMode:
    """Problem details to the API, a page to people; staff pass, and agents that run finish."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        if request.path.startswith(OPEN + OPEN_API):
            return self.get_response(request)
        switch = maintenance.maintenance()
        if not switch.is_on or (request.user.is_authenticated and request.user.is_staff):
            return self.get_response(request)
        headers = {"Retry-After": str(switch.retry_after)}
        sentence = switch.sentence or maintenance.SENTENCE
        return answer(request, 503, "maintenance", sentence, headers)

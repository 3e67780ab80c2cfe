"""A request id for every request, and one JSON log line when it is answered."""

import logging
import re
import time
from collections.abc import Callable
from functools import cache
from uuid import uuid4

from django.http import HttpRequest, HttpResponse

from lib.logs import request_id
from lib.routes import addresses

log = logging.getLogger("access")
_GOOD_ID = re.compile(r"[A-Za-z0-9._-]{8,64}")
STATIC = "/static/"


@cache
def probes() -> re.Pattern[str]:
    """Return the addresses that orchestrators call every few seconds, which are not logged."""
    return addresses(lambda facts: facts.called_by == "probe")


class RequestId:
    """Takes a well-formed ``X-Request-ID`` or makes one, returns it, logs the request without its query."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        given = request.headers.get("X-Request-ID", "")
        value = given if _GOOD_ID.fullmatch(given) else uuid4().hex
        token = request_id.set(value)
        started = time.monotonic()
        try:
            response = self.get_response(request)
            response.headers["X-Request-ID"] = value
            if not (request.path.startswith(STATIC) or probes().fullmatch(request.path)):
                self._log(request, response, time.monotonic() - started)
            return response
        finally:
            request_id.reset(token)

    def _log(self, request: HttpRequest, response: HttpResponse, seconds: float) -> None:
        match = request.resolver_match
        user = getattr(request, "user", None)
        organization = getattr(user, "bound_organization_id", None)
        # A path may hold a one-time token; such a request is told by its route alone.
        has_token = match is not None and "token" in match.kwargs
        log.info(
            "%s %s %d",
            request.method,
            f"/{match.route}" if match and has_token else request.path,
            response.status_code,
            extra={
                "method": request.method,
                "route": match.route if match else None,
                "status": response.status_code,
                "duration_ms": round(seconds * 1000, 1),
                "user": str(user.pk) if user is not None and user.is_authenticated else None,
                "organization": str(organization) if organization else None,
            },
        )

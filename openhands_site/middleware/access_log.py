"""Middleware that gives every request an id and writes one log line per request."""

import logging
import re
import time
from collections.abc import Callable
from functools import cache
from uuid import uuid4

from django.http import HttpRequest, HttpResponse

from lib.logs import request_id
from lib.routes import url_pattern

log = logging.getLogger("access")
_VALID_ID = re.compile(r"[A-Za-z0-9._-]{8,64}")
STATIC = "/static/"


@cache
def probes() -> re.Pattern[str]:
    """Return a pattern of the URLs that orchestrators call every few seconds. They are not logged."""
    return url_pattern(lambda facts: facts.called_by == "probe")


class RequestId:
    """Middleware that sets a request's id, returns it in ``X-Request-ID`` and logs the request without its query.

    The id comes from the request's own ``X-Request-ID`` header if it is well-formed; otherwise it is random.
    """

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        header = request.headers.get("X-Request-ID", "")
        value = header if _VALID_ID.fullmatch(header) else uuid4().hex
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
        # A path may contain a one-time token. Log the route's pattern instead of such a path.
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

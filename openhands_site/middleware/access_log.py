"""Middleware that gives every request an id and writes the access log, one line per request or per problem."""

import logging
import re
import time
from collections.abc import Callable
from functools import cache
from os import urandom

from django.conf import settings
from django.http import HttpRequest, HttpResponse

from lib.logs import hide_long_segments, request_id
from lib.routes import url_pattern

log = logging.getLogger("access")
SECRET_ARGUMENTS = {"token", "link"}
"""The names of URL parameters that are the secret of a link."""
SLOW_SECONDS = 1.0
"""With ``ACCESS_LOG=problems``, requests that take longer have a line."""
_VALID_ID = re.compile(r"[A-Za-z0-9._-]{8,64}")


@cache
def probe_urls() -> re.Pattern[str]:
    """Return a pattern that matches the URL paths that orchestrators call every few seconds.

    A cached function and not a constant: while this module is imported, the URL configuration may not be loaded yet.
    """
    return url_pattern(lambda facts: facts.called_by == "probe")


@cache
def waiting_urls() -> re.Pattern[str]:
    """Return a pattern that matches the URL paths of routes that stream or wait, which are slow by design."""
    return url_pattern(lambda facts: facts.streams or bool(facts.held))


class RequestIdAndAccessLog:
    """Middleware that gives each request an id and logs the request, except static files and probes.

    The id is the request's ``X-Request-ID`` header if that header is well-formed, otherwise a random id. The response
    returns the id in the same header. The log contains no query string, which may contain secrets.
    """

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        header = request.META.get("HTTP_X_REQUEST_ID", "")
        current_id = header if _VALID_ID.fullmatch(header) else urandom(16).hex()
        previous = request_id.set(current_id)
        started = time.monotonic()
        try:
            response = self.get_response(request)
            response.headers["X-Request-ID"] = current_id
            path = request.path
            if not (path.startswith(settings.STATIC_URL) or probe_urls().fullmatch(path)):
                # The duration of a streaming response ends here, before its content is sent.
                self._log(request, response, time.monotonic() - started)
            return response
        finally:
            request_id.reset(previous)

    def _log(self, request: HttpRequest, response: HttpResponse, seconds: float) -> None:
        is_slow = seconds > SLOW_SECONDS and not waiting_urls().fullmatch(request.path)
        is_problem = response.status_code >= 400 or is_slow
        is_hidden = settings.ACCESS_LOG == "problems" and not is_problem
        if is_hidden or not log.isEnabledFor(logging.INFO):
            return
        match = request.resolver_match
        user = getattr(request, "user", None)
        organization = getattr(user, "bound_organization_id", None)
        log.info(
            "%s %s %d",
            request.method,
            _path(request),
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


def _path(request: HttpRequest) -> str:
    """Return the path for the log: the pattern of the route if it has a secret, else the path without secrets."""
    match = request.resolver_match
    if match is None:
        return hide_long_segments(request.path)
    return f"/{match.route}" if SECRET_ARGUMENTS & match.kwargs.keys() else request.path

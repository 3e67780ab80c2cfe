"""Middleware that turns errors outside DRF into problem details under ``/api/`` and into pages elsewhere."""

import logging
import sys
from collections.abc import Callable

from django.core.exceptions import (
    BadRequest,
    PermissionDenied,
    RequestDataTooBig,
    SuspiciousOperation,
)
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseBadRequest
from django.shortcuts import render
from django.views import defaults

from lib import causes
from lib.api import problem
from lib.problems import Problem

log = logging.getLogger(__name__)
PLAIN = "text/plain; charset=utf-8"
FOR_PROGRAMS = ("/api/", "/mcp", "/feedback/")
"""Path prefixes where errors are JSON. On all other paths they are pages."""
SENTENCES = {
    400: ("bad-request", "The request is malformed."),
    403: ("forbidden", "You do not have permission to do this."),
    404: ("not-found", "There is nothing at this URL."),
    405: ("method-not-allowed", "This URL does not support this HTTP method."),
    411: (
        "length-required",
        "Send the body with a Content-Length header. Chunked bodies are not supported here.",
    ),
    413: ("too-large", "The body is too large."),
    500: (
        "server-error",
        "An unexpected error occurred on the server. Include the request id when you report it.",
    ),
}


class ProblemDetails:
    """Middleware that returns JSON, never HTML, for API requests that fail before or outside a view."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        response = refuse_unreadable(request) or self.get_response(request)
        is_page = response.headers.get("Content-Type", "").startswith("text/")
        if response.status_code >= 400 and request.path.startswith(FOR_PROGRAMS) and is_page:
            return self._replace_page(response)
        return response

    def _replace_page(self, page: HttpResponse) -> HttpResponse:
        """Return problem details in place of an error page that Django created without calling a view.

        Examples are an unknown path, an unknown host and a wrong method.
        """
        code, sentence = SENTENCES.get(page.status_code, SENTENCES[500])
        response = problem(status=page.status_code, code=code, detail=sentence)
        for name in ("Allow", "Retry-After", "WWW-Authenticate"):
            if name in page.headers:
                response.headers[name] = page.headers[name]
        return response

    def process_exception(self, request: HttpRequest, error: Exception) -> HttpResponse | None:
        is_api = request.path.startswith(FOR_PROGRAMS)
        if isinstance(error, Problem) and not is_api:
            context = {"status": error.status, "sentence": error.detail}
            return render(request, "site/error.html", context, status=error.status)
        if isinstance(error, Problem):
            return problem(status=error.status, code=error.code, detail=error.detail, **error.extra)
        if cause := causes.find_cause(error):
            causes.log_cause(log, cause, error)
            return respond_with_cause(request, cause)
        if not is_api:
            return None
        if isinstance(error, Http404):
            return problem(
                status=404,
                code="not-found",
                detail="This does not exist, or you have no access to it.",
            )
        if isinstance(error, PermissionDenied):
            return problem(
                status=403, code="forbidden", detail="You do not have permission to do this."
            )
        if isinstance(error, RequestDataTooBig):
            return problem(status=413, code="too-large", detail="The body is too large.")
        if isinstance(error, BadRequest | SuspiciousOperation):
            return problem(status=400, code="bad-request", detail="The request is malformed.")
        log.error("unexpected error at %s", request.path, exc_info=error)
        return problem(
            status=500,
            code="server-error",
            detail=SENTENCES[500][1],
        )


def respond_with_cause(request: HttpRequest, cause: causes.Cause) -> HttpResponse:
    """Return the response for an error of PostgreSQL, Redis or the operating system: problem details or a page."""
    if request.path.startswith(FOR_PROGRAMS):
        return problem(
            status=cause.status, code=cause.code, detail=cause.sentence, headers=cause.headers
        )
    try:
        context = {"status": cause.status, "sentence": cause.sentence}
        page = render(request, "site/error.html", context, status=cause.status)
    except Exception:  # noqa: BLE001 - the page shows the user's name, for which it needs the database
        page = HttpResponse(cause.sentence, status=cause.status, content_type=PLAIN)
    for name, value in cause.headers.items():
        page.headers[name] = value
    return page


def server_error(request: HttpRequest) -> HttpResponse:
    """Return the response for an exception of a middleware. Django calls this ``handler500`` in an ``except`` block."""
    if cause := causes.find_cause(sys.exc_info()[1]):
        return respond_with_cause(request, cause)
    return defaults.server_error(request)


def refuse_unreadable(request: HttpRequest) -> HttpResponse | None:
    """Return an error response if views cannot process the request correctly, otherwise None."""
    query = request.META.get("QUERY_STRING", "")
    if "\0" in request.path or "\0" in query or "%00" in query:
        # PostgreSQL cannot store NUL in text, so a query with it would fail with a server error.
        return HttpResponseBadRequest("The URL contains a NUL character.", content_type=PLAIN)
    if "Transfer-Encoding" in request.headers and "Content-Length" not in request.headers:
        # DRF treats a body of unknown length as empty and would return 200.
        return HttpResponse("Send a Content-Length header.", status=411, content_type=PLAIN)
    return None

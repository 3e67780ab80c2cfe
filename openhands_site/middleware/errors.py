"""Errors outside DRF as problem details under ``/api/``, and as pages elsewhere."""

import logging
from collections.abc import Callable

from django.core.exceptions import (
    BadRequest,
    PermissionDenied,
    RequestDataTooBig,
    SuspiciousOperation,
)
from django.db import OperationalError
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseBadRequest
from django.shortcuts import render

from lib.api import problem
from lib.problems import Problem

log = logging.getLogger(__name__)
PLAIN = "text/plain; charset=utf-8"
FOR_PROGRAMS = ("/api/", "/mcp", "/feedback/")
"""Where errors are JSON; elsewhere they are pages."""
SENTENCES = {
    400: ("bad-request", "The request is malformed."),
    403: ("forbidden", "You may not do this."),
    404: ("not-found", "There is no such address."),
    405: ("method-not-allowed", "This address does not take that method."),
    411: (
        "length-required",
        "Send the body with its Content-Length; chunked bodies are not taken.",
    ),
    413: ("too-large", "The body is too large."),
    500: ("server-error", "The server failed. Quote the request id when you report this."),
}


class ProblemDetails:
    """Answers API requests that fail before or outside a view with JSON, never with HTML."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        response = refusal(request) or self.get_response(request)
        is_page = response.headers.get("Content-Type", "").startswith("text/")
        if response.status_code >= 400 and request.path.startswith(FOR_PROGRAMS) and is_page:
            return self._instead_of(response)
        return response

    def _instead_of(self, page: HttpResponse) -> HttpResponse:
        """Django answers some requests before any view: an unknown address or host, a wrong method."""
        code, sentence = SENTENCES.get(page.status_code, SENTENCES[500])
        answer = problem(status=page.status_code, code=code, detail=sentence)
        for name in ("Allow", "Retry-After", "WWW-Authenticate"):
            if name in page.headers:
                answer.headers[name] = page.headers[name]
        return answer

    def process_exception(self, request: HttpRequest, error: Exception) -> HttpResponse | None:
        is_api = request.path.startswith(FOR_PROGRAMS)
        if isinstance(error, Problem) and not is_api:
            shown = {"status": error.status, "sentence": error.detail}
            return render(request, "site/error.html", shown, status=error.status)
        if isinstance(error, Problem):
            return problem(status=error.status, code=error.code, detail=error.detail, **error.extra)
        if not is_api:
            return None
        if isinstance(error, Http404):
            return problem(
                status=404, code="not-found", detail="There is nothing here that you may see."
            )
        if isinstance(error, PermissionDenied):
            return problem(status=403, code="forbidden", detail="You may not do this.")
        if isinstance(error, RequestDataTooBig):
            return problem(status=413, code="too-large", detail="The body is too large.")
        if isinstance(error, BadRequest | SuspiciousOperation):
            return problem(status=400, code="bad-request", detail="The request is malformed.")
        if isinstance(error, OperationalError):
            log.error("database unavailable", exc_info=error)
            return problem(
                status=503,
                code="unavailable",
                detail="The database does not answer; try again in a moment.",
                headers={"Retry-After": "2"},
            )
        log.error("unexpected error at %s", request.path, exc_info=error)
        return problem(
            status=500,
            code="server-error",
            detail=SENTENCES[500][1],
        )


def refusal(request: HttpRequest) -> HttpResponse | None:
    """The answer to a request that no view could carry out faithfully, or None."""
    query = request.META.get("QUERY_STRING", "")
    if "\0" in request.path or "\0" in query or "%00" in query:
        # PostgreSQL's text cannot hold it.
        return HttpResponseBadRequest("The address holds a NUL character.", content_type=PLAIN)
    if "Transfer-Encoding" in request.headers and "Content-Length" not in request.headers:
        # DRF would take a body of unknown length for an empty one and answer 200.
        return HttpResponse("Send the body's Content-Length.", status=411, content_type=PLAIN)
    return None

"""Errors outside DRF as problem details under ``/api/``, and as pages elsewhere."""

import logging
from collections.abc import Callable

from django.core.exceptions import BadRequest, PermissionDenied, RequestDataTooBig, SuspiciousOperation
from django.db import OperationalError
from django.http import Http404, HttpRequest, HttpResponse

from openhands_site.lib.api import problem
from openhands_site.lib.problems import Problem

log = logging.getLogger(__name__)


class ProblemDetails:
    """Answers API requests that fail before or outside a view with JSON, never with HTML."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        response = self.get_response(request)
        if (
            response.status_code == 404
            and request.path.startswith("/api/")
            and "json" not in response.headers.get("Content-Type", "")
        ):
            return problem(status=404, code="not-found", detail="There is no such address.")
        return response

    def process_exception(self, request: HttpRequest, error: Exception) -> HttpResponse | None:
        if isinstance(error, Problem):
            return problem(status=error.status, code=error.code, detail=error.detail, **error.extra)
        if not request.path.startswith("/api/"):
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
            log.exception("database unavailable")
            return problem(
                status=503,
                code="unavailable",
                detail="The database does not answer; try again in a moment.",
                headers={"Retry-After": "2"},
            )
        log.exception("unexpected error at %s", request.path)
        return problem(
            status=500,
            code="server-error",
            detail="The server failed. Quote the request id when you report this.",
        )

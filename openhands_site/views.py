"""Answers that belong to no app: a failed CSRF check, liveness, readiness, metrics."""

import hmac

from django.conf import settings
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import render
from django_prometheus.exports import ExportToDjangoView

from lib import nodes
from lib.api import problem
from lib.routes import RouteFacts
from openhands_site import health


def csrf_failure(request: HttpRequest, reason: str = "") -> HttpResponse:
    """A form or API call whose CSRF token is missing or old."""
    sentence = "This page was open too long or came from elsewhere. Reload it and try again."
    if request.path.startswith(("/api/", "/mcp")):
        return problem(
            status=403,
            code="csrf",
            detail=f"{reason} Send the XSRF-TOKEN cookie as the header X-XSRF-TOKEN.",
        )
    return render(request, "site/error.html", {"status": 403, "sentence": sentence}, status=403)


@RouteFacts(cost="uncounted", called_by="probe")
def alive(request: HttpRequest) -> HttpResponse:
    """The process answers."""
    return JsonResponse({"status": "ok"})


@RouteFacts(cost="uncounted", called_by="probe")
def ready(request: HttpRequest) -> HttpResponse:
    """Each dependency by name; 503 while one that requests need is missing, or this process is about to end."""
    checks = health.check()
    is_ready = all(check["ok"] for check in checks.values() if check["required"])
    is_draining = nodes.is_draining()
    status = "draining" if is_draining else "ready" if is_ready else "not ready"
    is_ready = is_ready and not is_draining
    body = {"status": status, "checks": checks}
    return JsonResponse(body, status=200 if is_ready else 503)


@RouteFacts(cost="uncounted", called_by="probe")
def metrics(request: HttpRequest) -> HttpResponse:
    """Prometheus metrics, for whoever holds ``METRICS_TOKEN``; without one they do not exist."""
    expected = f"Bearer {settings.METRICS_TOKEN}"
    given = request.headers.get("Authorization", "")
    if not settings.METRICS_TOKEN or not hmac.compare_digest(given.encode(), expected.encode()):
        return HttpResponse(status=404)
    exported: HttpResponse = ExportToDjangoView(request)
    return exported

"""Views that belong to no app: failed CSRF checks, liveness, readiness and metrics."""

import hmac

from django.conf import settings
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import redirect, render
from django.urls import reverse
from django.views.decorators.csrf import csrf_exempt
from django.views.decorators.http import require_safe
from django_prometheus.exports import ExportToDjangoView

from lib import nodes
from lib.api import problem
from lib.routes import RouteFacts
from openhands_site import health


def csrf_failure(request: HttpRequest, reason: str = "") -> HttpResponse:
    """Return 403 for a form or API call with a missing or outdated CSRF token.

    The sign-in form of a second tab has an outdated token once the first tab has signed in: redirect to the site.
    """
    user = getattr(request, "user", None)
    if request.path == reverse("sign-in") and user is not None and user.is_authenticated:
        return redirect("home")
    sentence = "This page was open too long or came from another site. Reload it and try again."
    if request.path.startswith(("/api/", "/mcp")):
        return problem(
            status=403,
            code="csrf",
            detail=f"{reason} Send the value of the XSRF-TOKEN cookie in the X-XSRF-TOKEN header.",
        )
    return render(request, "site/error.html", {"status": 403, "sentence": sentence}, status=403)


@RouteFacts(cost="uncounted", called_by="probe")
@csrf_exempt
@require_safe
def alive(request: HttpRequest) -> HttpResponse:
    """Return 200 while the process is running. Checks no dependency."""
    return JsonResponse({"status": "ok"})


@RouteFacts(cost="uncounted", called_by="probe")
@csrf_exempt
@require_safe
def ready(request: HttpRequest) -> HttpResponse:
    """Return the state of each dependency, with 503 while a required one fails or while this process is stopping."""
    checks = health.check()
    is_ready = all(check["ok"] for check in checks.values() if check["required"])
    is_draining = nodes.is_draining()
    status = "draining" if is_draining else "ready" if is_ready else "not ready"
    is_ready = is_ready and not is_draining
    body = {"status": status, "checks": checks}
    return JsonResponse(body, status=200 if is_ready else 503)


@RouteFacts(cost="uncounted", called_by="probe")
@csrf_exempt
@require_safe
def metrics(request: HttpRequest) -> HttpResponse:
    """Return Prometheus metrics if the request has the token ``METRICS_TOKEN``, otherwise 404."""
    expected = f"Bearer {settings.METRICS_TOKEN}"
    header = request.headers.get("Authorization", "")
    # 404 rather than 401, so that the route is not visible from outside.
    if not settings.METRICS_TOKEN or not hmac.compare_digest(header.encode(), expected.encode()):
        return HttpResponse(status=404)
    exported: HttpResponse = ExportToDjangoView(request)
    return exported

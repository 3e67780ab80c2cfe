"""The benchmark of middleware: the time that each class adds to a plain API request, handled in this process."""

import time
from io import BytesIO
from typing import Any

from django.conf import settings
from django.core.handlers.wsgi import WSGIHandler
from django.http import HttpRequest, HttpResponse
from django.test import override_settings
from django.urls import path

from bench import report

CALLS, ROUNDS = 400, 7
METRICS = (
    "openhands_site.middleware.metrics.RequestMetrics",
    "openhands_site.middleware.metrics.ViewMetrics",
)


def plain(request: HttpRequest) -> HttpResponse:
    return HttpResponse(b"{}", content_type="application/json")


urlpatterns = [path("api/v1/plain", plain)]


def run() -> list[dict]:
    """Return the microseconds of processor time per request that each middleware adds, outermost first."""
    before = _microseconds([])
    figures = [report.figure("middleware", "Django with none", before, unit="us")]
    chain = [name for name in settings.MIDDLEWARE if name not in METRICS]
    chain = [METRICS[0], *chain, METRICS[1]]  # as with METRICS_TOKEN
    for number, dotted in enumerate(chain, start=1):
        now = _microseconds(chain[:number])
        name = dotted.rpartition(".")[2]
        figures.append(
            report.figure("middleware", name, now - before, unit="us", sum_us=round(now))
        )
        before = now
    return figures


def _microseconds(middleware: list[str]) -> float:
    with override_settings(
        MIDDLEWARE=middleware, ROOT_URLCONF="bench.middleware", ALLOWED_HOSTS=["bench"], DEBUG=False
    ):
        handler = WSGIHandler()
        _calls(handler)
        return min(_calls(handler) for _ in range(ROUNDS))


def _calls(handler: Any) -> float:
    started = time.thread_time()
    for _ in range(CALLS):
        environ = {
            "REQUEST_METHOD": "GET",
            "PATH_INFO": "/api/v1/plain",
            "QUERY_STRING": "",
            "HTTP_HOST": "bench",
            "HTTP_AUTHORIZATION": "Bearer oh_bench.bench",
            "SERVER_NAME": "bench",
            "SERVER_PORT": "80",
            "SERVER_PROTOCOL": "HTTP/1.1",
            "REMOTE_ADDR": "127.0.0.1",
            "wsgi.input": BytesIO(),
            "wsgi.url_scheme": "http",
        }
        response = handler(environ, lambda *_: None)
        response.close()
        assert response.status_code == 200, response.content
    return (time.thread_time() - started) / CALLS * 1_000_000

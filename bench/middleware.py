"""The benchmark of layers: the time of each middleware and of DRF's steps for a plain API request in this process."""

import time
from collections.abc import Callable
from functools import partial
from io import BytesIO
from typing import Any

from django.conf import settings
from django.http import HttpRequest, HttpResponse
from django.test import RequestFactory, override_settings
from django.urls import path
from rest_framework.request import Request
from rest_framework.views import APIView

from accounts.models import User
from accounts.sign_in.authentication import AccessTokenAuthentication, ApiKeyAuthentication
from bench import report
from openhands_site.serving.charsets import ThreadHandler

CALLS, ROUNDS = 400, 15
METRICS = (
    "openhands_site.middleware.metrics.RequestMetrics",
    "openhands_site.middleware.metrics.ViewMetrics",
)


def plain(request: HttpRequest) -> HttpResponse:
    return HttpResponse(b"{}", content_type="application/json")


urlpatterns = [path("api/v1/plain", plain)]


def run() -> list[dict]:
    """Return the microseconds of processor time per request of each middleware, outermost first, and of DRF's steps."""
    chain = [name for name in settings.MIDDLEWARE if name not in METRICS]
    chain = [METRICS[0], *chain, METRICS[1]]  # as with METRICS_TOKEN
    sums = _microseconds([chain[:number] for number in range(len(chain) + 1)])
    figures = [report.figure("middleware", "Django with none", sums[0], unit="us")]
    for dotted, before, now in zip(chain, sums, sums[1:], strict=False):
        name = dotted.rpartition(".")[2]
        figures.append(
            report.figure("middleware", name, now - before, unit="us", sum_us=round(now))
        )
    return figures + [
        report.figure("middleware", f"DRF: {name}", microseconds, unit="us")
        for name, microseconds in _measure_drf().items()
    ]


def _microseconds(chains: list[list[str]]) -> list[float]:
    """Return the shortest time of a request with each list of middleware. All are measured in turn."""
    with override_settings(ROOT_URLCONF="bench.middleware", ALLOWED_HOSTS=["bench"], DEBUG=False):
        handlers = []
        for chain in chains:
            with override_settings(MIDDLEWARE=chain):
                handlers.append(ThreadHandler())
        times = [[_calls(handler) for handler in handlers] for _ in range(ROUNDS)]
    return [min(column) for column in zip(*times, strict=True)]


class ApiView(APIView):
    """A view of the API that does nothing."""

    permission = "conversations.view"

    def get(self, request: Request) -> HttpResponse:
        return HttpResponse(b"{}", content_type="application/json")


def _measure_drf() -> dict[str, float]:
    """Return the microseconds of the steps of an API view whose caller the rate limits have found already."""
    plain_request: Any = RequestFactory().get("/api/v1/plain")
    user = User()
    plain_request.authentication_results = {
        AccessTokenAuthentication: (None, None),
        ApiKeyAuthentication: ((user, None), None),
    }
    view = ApiView()
    view.setup(plain_request)
    request = view.initialize_request(plain_request)
    view.initial(request)
    view.request, view.headers = request, {}  # as ``dispatch`` does
    response = view.get(request)

    def authenticate() -> None:
        request._authenticate()  # noqa: SLF001

    steps: dict[str, Callable[[], Any]] = {
        "request": lambda: view.initialize_request(plain_request),
        "negotiation": lambda: view.perform_content_negotiation(request),
        "authentication": authenticate,
        "permissions": lambda: view.check_permissions(request),
        "throttles": lambda: view.check_throttles(request),
        "response": lambda: view.finalize_response(request, response),
        "whole view": partial(ApiView.as_view(), plain_request),
    }
    times = [[_time(step) for step in steps.values()] for _ in range(ROUNDS)]
    return {name: min(column) for name, column in zip(steps, zip(*times, strict=True), strict=True)}


def _time(step: Callable[[], Any]) -> float:
    started = time.thread_time()
    for _ in range(CALLS):
        step()
    return (time.thread_time() - started) / CALLS * 1_000_000


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

"""Request metrics for Prometheus: django-prometheus' middlewares with bounded labels."""

from typing import Any

from django.http import HttpRequest
from django.http.response import HttpResponseBase
from django_prometheus.middleware import PrometheusAfterMiddleware, PrometheusBeforeMiddleware


class RequestMetrics(PrometheusBeforeMiddleware):
    """Count requests and time them, all other middlewares included. The outermost middleware."""

    async def __acall__(self, request: HttpRequest) -> HttpResponseBase:
        # The inherited method moves each hook to a thread; counting never blocks, so it can stay here.
        self.process_request(request)
        response: HttpResponseBase = await self.get_response(request)
        self.process_response(request, response)
        return response


class ViewMetrics(PrometheusAfterMiddleware):
    """Count requests by view, method and status, and time them. The innermost middleware.

    The label ``view`` is the name of a URL pattern, so the code bounds the number of its values.
    """

    async def __acall__(self, request: HttpRequest) -> HttpResponseBase:
        self.process_request(request)
        response: HttpResponseBase = await self.get_response(request)
        self.process_response(request, response)
        return response

    def process_request(self, request: HttpRequest) -> None:
        # django-prometheus parses the header with int(); a WSGI server may pass on one that is not a number.
        if not request.META.get("CONTENT_LENGTH", "").isdecimal():
            request.META.pop("CONTENT_LENGTH", None)
            vars(request).pop("headers", None)
        super().process_request(request)

    def label_metric(
        self, metric: Any, request: HttpRequest, response: Any = None, **labels: str
    ) -> Any:
        # One of the histograms takes the method from the request line, which a client can invent.
        if "method" in labels:
            labels["method"] = self._method(request)
        return super().label_metric(metric, request, response, **labels)

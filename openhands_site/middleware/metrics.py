"""Request metrics for Prometheus: the middleware of django-prometheus, with a bounded number of label values."""

from typing import Any

from django.http import HttpRequest
from django.http.response import HttpResponseBase
from django_prometheus.middleware import PrometheusAfterMiddleware, PrometheusBeforeMiddleware


class RequestMetrics(PrometheusBeforeMiddleware):
    """The outermost middleware. It counts requests, and measures their duration with all other middleware."""

    async def __acall__(self, request: HttpRequest) -> HttpResponseBase:
        # The inherited method runs each hook in a thread. Counting never blocks, so no thread is needed.
        self.process_request(request)
        response: HttpResponseBase = await self.get_response(request)
        self.process_response(request, response)
        return response


class ViewMetrics(PrometheusAfterMiddleware):
    """The innermost middleware. It counts requests by view, method and status, and measures their duration.

    The label ``view`` is the name of a URL pattern, so requests cannot create new values.
    """

    async def __acall__(self, request: HttpRequest) -> HttpResponseBase:
        self.process_request(request)
        response: HttpResponseBase = await self.get_response(request)
        self.process_response(request, response)
        return response

    def process_request(self, request: HttpRequest) -> None:
        # django-prometheus parses the header with int(). A WSGI server may pass on a header that is not a number.
        if not request.META.get("CONTENT_LENGTH", "").isdecimal():
            request.META.pop("CONTENT_LENGTH", None)
            vars(request).pop("headers", None)  # Django's cached copy of the headers
        super().process_request(request)

    def label_metric(
        self, metric: Any, request: HttpRequest, response: Any = None, **labels: str
    ) -> Any:
        # One of the histograms takes the method from the request line, which a client can invent.
        if "method" in labels:
            labels["method"] = self._method(request)
        return super().label_metric(metric, request, response, **labels)

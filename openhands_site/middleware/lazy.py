"""Middleware of packages that does its work only for requests that use it. Most API clients do not."""

from collections.abc import Awaitable

from corsheaders.middleware import CorsMiddleware
from django.contrib.messages.middleware import MessageMiddleware
from django.contrib.messages.storage import default_storage
from django.http import HttpRequest, HttpResponse
from django.http.response import HttpResponseBase
from django.utils.functional import SimpleLazyObject, empty


class Cors(CorsMiddleware):
    """The middleware of django-cors-headers. A response to a request without ``Origin`` gets only the header ``Vary``.

    The signal ``check_request_enabled``, for which this project has no receiver, is not sent below ``/api/`` then.
    """

    def __call__(self, request: HttpRequest) -> HttpResponseBase | Awaitable[HttpResponseBase]:
        # ``OPTIONS`` may be a preflight request.
        if self.async_mode or "HTTP_ORIGIN" in request.META or request.method == "OPTIONS":
            return super().__call__(request)
        response = self.get_response(request)
        assert isinstance(response, HttpResponseBase)
        if "Vary" in response.headers or not request.path_info.startswith("/api/"):
            return self.add_response_headers(request, response)
        response.headers["Vary"] = "origin"
        return response


class Messages(MessageMiddleware):
    """Django's middleware. The storage is created when a view or a page first uses it, which API views never do."""

    def process_request(self, request: HttpRequest) -> None:
        request._messages = SimpleLazyObject(lambda: default_storage(request))  # type: ignore[attr-defined]  # noqa: SLF001

    def process_response(self, request: HttpRequest, response: HttpResponse) -> HttpResponse:
        messages = getattr(request, "_messages", None)
        # A storage that nothing has used has nothing to store.
        if isinstance(messages, SimpleLazyObject) and messages._wrapped is empty:  # noqa: SLF001
            return response
        return super().process_response(request, response)

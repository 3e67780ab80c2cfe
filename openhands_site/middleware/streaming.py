"""Middleware that sends streaming responses in pieces under ASGI too."""

from collections.abc import AsyncIterator, Callable, Iterator

from asgiref.sync import sync_to_async
from django.core.handlers.asgi import ASGIRequest
from django.http import HttpRequest, StreamingHttpResponse
from django.http.response import HttpResponseBase


class PieceByPiece:
    """Middleware that turns the synchronous stream of a response into an asynchronous stream.

    Without this, Django's ASGI handler reads the whole stream into memory before it sends the first byte.
    """

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponseBase]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        response = self.get_response(request)
        if (
            isinstance(response, StreamingHttpResponse)
            and not response.is_async
            and isinstance(request, ASGIRequest)
        ):
            response.streaming_content = _pieces(iter(response))
        return response


async def _pieces(stream: Iterator[bytes]) -> AsyncIterator[bytes]:
    # ``next`` has a default, because a thread cannot pass ``StopIteration`` to a coroutine.
    def piece() -> bytes | None:
        return next(stream, None)

    while (content := await sync_to_async(piece, thread_sensitive=False)()) is not None:
        yield content

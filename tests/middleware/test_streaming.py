"""Streaming responses under ASGI, which are sent piece by piece."""

import pytest
from django.http import StreamingHttpResponse
from django.test import AsyncRequestFactory, RequestFactory

from openhands_site.middleware.streaming import PieceByPiece


def endless():
    while True:
        yield b"piece"


async def test_stream_under_asgi_is_sent_piece_by_piece():
    middleware = PieceByPiece(lambda request: StreamingHttpResponse(endless()))

    response = middleware(AsyncRequestFactory().get("/"))

    pieces = aiter(response)
    assert [await anext(pieces) for _ in range(3)] == [b"piece"] * 3


async def test_exception_within_a_stream_is_raised_to_the_server():
    def broken():
        yield b"piece"
        raise OSError

    response = PieceByPiece(lambda r: StreamingHttpResponse(broken()))(
        AsyncRequestFactory().get("/")
    )

    with pytest.raises(OSError):
        [piece async for piece in response]


def test_stream_under_wsgi_is_unchanged():
    response = PieceByPiece(lambda r: StreamingHttpResponse(iter([b"a"])))(
        RequestFactory().get("/")
    )

    assert not response.is_async

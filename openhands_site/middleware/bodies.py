"""The bound on request bodies, before Django: its ASGI handler spools a whole body to disk, then looks."""

from collections.abc import Awaitable, Callable
from typing import Any

from django.conf import settings

from openhands_site.lib.api import dumps
from openhands_site.lib.problems import problem_body

Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]


class BodyLimit:
    """ASGI: refuses HTTP bodies without a length (411) or above ``UPLOAD_MAX_BYTES`` (413), unread.

    Servers hold a client to the length it states, so nothing needs to be counted.
    """

    def __init__(self, application: Any) -> None:
        self.application = application

    async def __call__(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        headers = dict(scope.get("headers", ()))
        if scope["type"] == "http" and b"transfer-encoding" in headers:
            await _refuse(send, 411, "length-required", "Send the body with its Content-Length.")
        elif scope["type"] == "http" and not _fits(headers.get(b"content-length", b"")):
            sentence = f"A body may have at most {settings.UPLOAD_MAX_BYTES} bytes."
            await _refuse(send, 413, "too-large", sentence)
        else:
            await self.application(scope, receive, send)


def _fits(length: bytes) -> bool:
    if not length:
        return True
    return length.isdigit() and len(length) < 20 and int(length) <= settings.UPLOAD_MAX_BYTES


async def _refuse(send: Send, status: int, code: str, sentence: str) -> None:
    body = dumps(problem_body(status=status, code=code, detail=sentence))
    headers = [
        (b"content-type", b"application/problem+json"),
        (b"content-length", str(len(body)).encode()),
        (b"connection", b"close"),
    ]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})

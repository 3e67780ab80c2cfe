"""Size limits of requests, checked before Django's ASGI handler, which would write the whole body to disk.

Bytes are counted when they arrive, independent of the header ``Content-Length``. A chunked body is collected first and
passed on with its length, because DRF treats a body of unknown length as empty.
"""

import logging
import tempfile
from collections.abc import Awaitable, Callable
from typing import IO, Any
from uuid import uuid4

from django.conf import settings

from lib.api import dumps
from lib.problems import problem_body
from lib.routes import url_pattern
from openhands_site.middleware.headers import HANDSHAKE_HEADERS

Scope = dict[str, Any]
Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]
MEMORY_BYTES = 1_048_576
PIECE_BYTES = 65_536
LARGE = url_pattern(lambda facts: facts.body_limit)
"""A pattern of the routes with a higher limit than ``BODY_MAX_BYTES``."""
UPLOADS = url_pattern(lambda facts: facts.body_limit == "UPLOAD_MAX_BYTES")
log = logging.getLogger("access")


class BodyLimit:
    """ASGI middleware that returns 431 if the URL and headers are too large, and 413 if the body is too large."""

    def __init__(self, application: Any) -> None:
        self.application = application

    # A plain function: the frame of a coroutine would be kept as long as a socket is open.
    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        if sentence := _head_too_large(scope):
            return refuse(scope, send, 431, "headers-too-large", sentence)
        if scope["type"] == "http":
            return self._limit_body(scope, receive, send)
        result: Awaitable[None] = self.application(scope, receive, send)
        return result

    async def _limit_body(self, scope: Scope, receive: Receive, send: Send) -> None:
        limit = body_limit(scope["path"])
        headers = dict(scope["headers"])
        if not fits(headers.get(b"content-length", b""), limit):
            await refuse(scope, send, 413, "too-large", _sentence(limit))
        elif b"transfer-encoding" in headers:
            await self._collect_body(scope, receive, send, limit)
        else:
            counted = _Counted(scope, receive, send, limit)
            await self.application(scope, counted.receive, counted.send)

    async def _collect_body(self, scope: Scope, receive: Receive, send: Send, limit: int) -> None:
        with tempfile.SpooledTemporaryFile(max_size=MEMORY_BYTES) as body:
            size, is_more = 0, True
            while is_more:
                message = await receive()
                if message["type"] == "http.disconnect":
                    return
                piece = message.get("body", b"")
                size += len(piece)
                if size > limit:
                    await refuse(scope, send, 413, "too-large", _sentence(limit))
                    return
                body.write(piece)
                is_more = message.get("more_body", False)
            body.seek(0)
            headers = [pair for pair in scope["headers"] if pair[0] not in _LENGTHS]
            headers.append((b"content-length", str(size).encode()))
            await self.application(scope | {"headers": headers}, _replay(body, receive), send)


class BodyLimitOfEnviron:
    """WSGI middleware that returns 413 if the ``Content-Length`` exceeds the limit of the route.

    The middleware ``ProblemDetails`` returns 411 for bodies without a length. The WSGI server (gunicorn's
    ``--limit-request-fields``) and the load balancer limit the size of headers.
    """

    def __init__(self, application: Callable[..., Any]) -> None:
        self.application = application

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Any:
        limit = body_limit(environ.get("PATH_INFO", ""))
        if fits(environ.get("CONTENT_LENGTH", "").encode("latin-1"), limit):
            return self.application(environ, start_response)
        problem = problem_body(status=413, code="too-large", detail=_sentence(limit))
        headers = [(name.decode(), value.decode()) for name, value in HANDSHAKE_HEADERS]
        headers += [("Content-Type", "application/problem+json"), ("Connection", "close")]
        start_response("413 Content Too Large", headers)
        return [dumps(problem)]


_LENGTHS = (b"transfer-encoding", b"content-length")


class _Counted:
    """The ``receive`` and ``send`` of a request whose body is counted.

    Beyond the limit, the client receives 413 and the application receives a disconnect.
    """

    def __init__(self, scope: Scope, receive: Receive, send: Send, limit: int) -> None:
        self.scope, self._receive, self._send, self.limit = scope, receive, send, limit
        self.size = 0
        self.is_refused = self.has_answered = False

    async def receive(self) -> dict[str, Any]:
        message = await self._receive()
        self.size += len(message.get("body", b""))
        if self.size <= self.limit:
            return message
        if not self.has_answered and not self.is_refused:
            self.is_refused = True
            await refuse(self.scope, self._send, 413, "too-large", _sentence(self.limit))
        return {"type": "http.disconnect"}

    async def send(self, message: dict[str, Any]) -> None:
        if not self.is_refused:
            self.has_answered = True
            await self._send(message)


def _replay(body: IO[bytes], receive: Receive) -> Receive:
    is_done = False

    async def replay() -> dict[str, Any]:
        nonlocal is_done
        if is_done:
            return await receive()
        piece = body.read(PIECE_BYTES)
        is_done = len(piece) < PIECE_BYTES
        return {"type": "http.request", "body": piece, "more_body": not is_done}

    return replay


def body_limit(path: str) -> int:
    """Return the maximum size of a request body for a path, in bytes."""
    if not LARGE.fullmatch(path):
        return int(settings.BODY_MAX_BYTES)
    is_upload = UPLOADS.fullmatch(path)
    return int(settings.UPLOAD_MAX_BYTES if is_upload else settings.GATEWAY_BODY_MAX_BYTES)


def _head_too_large(scope: Scope) -> str:
    headers = scope.get("headers", ())
    if len(headers) > settings.HEADER_MAX_COUNT:
        return f"A request may have at most {settings.HEADER_MAX_COUNT} headers."
    size = sum(len(name) + len(value) for name, value in headers)
    size += len(scope.get("raw_path") or b"") + len(scope.get("query_string") or b"")
    if size > settings.HEADER_MAX_BYTES:
        return (
            f"The URL and headers of a request may have at most {settings.HEADER_MAX_BYTES} bytes."
        )
    return ""


def fits(length: bytes, limit: int) -> bool:
    """Return whether a ``Content-Length`` is a number up to ``limit``. A missing one fits."""
    if not length:
        return True
    # Check the number of digits first, because ``int`` takes long for a text of many digits.
    return length.isdigit() and len(length) < 20 and int(length) <= limit


def _sentence(limit: int) -> str:
    return f"The body of this request may have at most {limit} bytes."


async def refuse(
    scope: Scope,
    send: Send,
    status: int,
    code: str,
    sentence: str,
    *more_headers: tuple[bytes, bytes],
) -> None:
    """Respond with problem details. A socket is closed with 4431.

    The connection stays open, so that the client can read the response while it still sends its body
    (``guarded_http``).
    """
    if scope["type"] == "websocket":
        await send({"type": "websocket.close", "code": 4431})
        return
    # The middleware that sets the id and writes the access log is not called for this request.
    request_id = uuid4().hex
    body = dumps(
        problem_body(status=status, code=code, detail=sentence) | {"request_id": request_id}
    )
    headers = [
        (b"content-type", b"application/problem+json"),
        (b"content-length", str(len(body)).encode()),
        (b"x-request-id", request_id.encode()),
        *HANDSHAKE_HEADERS,
        *more_headers,
    ]
    log.info(
        "%s %d", scope.get("method"), status, extra={"status": status, "request_id": request_id}
    )
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})

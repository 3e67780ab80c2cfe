"""Django's WSGI handler on an ASGI server: requests answered by a bounded number of long-lived threads.

A thread is taken when the whole body is here and given back before the answer is sent, so a client that
sends or reads slowly holds memory, never a thread. Such threads also keep their database connections.
"""

import asyncio
import io
import sys
import tempfile
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import IO, Any

Scope = dict[str, Any]
Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]
Answer = tuple[dict[str, Any], bytes, Iterator[bytes] | None]
MEMORY_BYTES = 1_048_576
_END = object()


class Threads:
    """ASGI: calls a WSGI application for each request, ``threads`` at a time; further requests wait.

    Not for what waits long for others or streams for minutes: that would hold a thread all the while.
    """

    def __init__(self, application: Callable[..., Any], *, threads: int) -> None:
        self.application = application
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="web")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        body = await _body_of(scope, receive)
        if body is None:
            return
        with body:
            environ = environ_of(scope, body)
            start, content, pieces = await self._run(self._answer, environ)
        await send(start)
        if pieces is None:
            await send({"type": "http.response.body", "body": content})
        else:
            await self._stream(pieces, receive, send)

    async def _run(self, function: Callable[..., Any], *args: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._pool, function, *args)

    def _answer(self, environ: dict[str, Any]) -> Answer:
        """The whole of an ordinary answer, made and closed in one thread; the pieces of a stream follow."""
        start: dict[str, Any] = {"type": "http.response.start"}

        def start_response(status: str, headers: list[tuple[str, str]], error: Any = None) -> None:
            start["status"] = int(status.partition(" ")[0])
            start["headers"] = [
                (name.lower().encode("latin-1"), value.strip().encode("latin-1"))
                for name, value in headers
            ]

        result = self.application(environ, start_response)
        if getattr(result, "streaming", False):
            return start, b"", result
        try:
            content = b"".join(result)
            if content and not any(name == b"content-length" for name, _ in start["headers"]):
                start["headers"].append((b"content-length", str(len(content)).encode()))
            return start, content, None
        finally:
            if close := getattr(result, "close", None):
                close()

    async def _stream(self, result: Any, receive: Receive, send: Send) -> None:
        """Fetch a piece, send it, and stop when the reader is gone; each piece takes a thread for itself."""
        left = asyncio.create_task(_gone(receive))
        pieces = iter(result)
        try:
            while not left.done():
                piece = await self._run(partial(next, pieces, _END))
                if piece is _END:
                    await send({"type": "http.response.body", "body": b""})
                    break
                await send({"type": "http.response.body", "body": piece, "more_body": True})
        finally:
            left.cancel()
            await self._run(result.close)


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _body_of(scope: Scope, receive: Receive) -> IO[bytes] | None:
    """A request's body, collected; None when the client left before its end."""
    names = {name for name, _ in scope["headers"]}
    if not names & {b"content-length", b"transfer-encoding"}:
        return io.BytesIO()
    body: IO[bytes] = tempfile.SpooledTemporaryFile(MEMORY_BYTES)  # noqa: SIM115 - closed by the caller
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            body.close()
            return None
        body.write(message.get("body", b""))
        if not message.get("more_body", False):
            body.seek(0)
            return body


def environ_of(scope: Scope, body: IO[bytes]) -> dict[str, Any]:
    """PEP 3333's environment for an ASGI scope.

    A header whose name has an underscore is dropped, as web servers do: it would become the same variable as
    the one with a hyphen, and so pass for a header that only our proxy may set.
    """
    host, port = scope.get("server") or ("localhost", 80)
    environ: dict[str, Any] = {
        "REQUEST_METHOD": scope["method"],
        "SCRIPT_NAME": scope.get("root_path", "").encode().decode("latin-1"),
        "PATH_INFO": scope["path"].encode("utf-8", "surrogateescape").decode("latin-1"),
        "QUERY_STRING": scope["query_string"].decode("latin-1"),
        "SERVER_NAME": host,
        "SERVER_PORT": str(port or 0),
        "SERVER_PROTOCOL": f"HTTP/{scope['http_version']}",
        "REMOTE_ADDR": (scope.get("client") or ("",))[0],
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": scope.get("scheme", "http"),
        "wsgi.input": body,
        "wsgi.errors": sys.stderr,
        "wsgi.multithread": True,
        "wsgi.multiprocess": True,
        "wsgi.run_once": False,
    }
    for raw_name, raw_value in scope["headers"]:
        if b"_" in raw_name:
            continue
        name = raw_name.decode("latin-1").upper().replace("-", "_")
        value = raw_value.decode("latin-1")
        key = name if name in ("CONTENT_TYPE", "CONTENT_LENGTH") else f"HTTP_{name}"
        if key in environ:
            separator = "; " if key == "HTTP_COOKIE" else ","
            value = f"{environ[key]}{separator}{value}"
        environ[key] = value
    return environ

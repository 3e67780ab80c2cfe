"""A WSGI application on an ASGI server: a fixed number of long-lived threads handle the requests.

A thread is used only after the whole body has arrived and is released before the response is sent. A client that
sends or reads slowly thus occupies memory but no thread. Long-lived threads can also keep database connections.
"""

import asyncio
import io
import sys
import tempfile
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import IO, Any

from lib.blocking import serve_thread

Scope = dict[str, Any]
Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]
Answer = tuple[dict[str, Any], bytes, Iterator[bytes] | None]
"""The ASGI start message of a response, the content, and for a stream the iterator of the content."""
WAITING_THREADS = 24
"""The number of additional threads of a process, for requests that wait for a sandbox."""
MEMORY_BYTES = 1_048_576
"""A body above this size is written to a temporary file."""
_END = object()


class Threads:
    """An ASGI application that calls a WSGI application in at most ``threads`` threads. Further requests wait.

    A request that announces a wait for a sandbox (``lib.blocking``) no longer counts, so that sandboxes that do not
    answer cannot occupy all threads. At most ``waiting`` threads more than ``threads`` are used for this.
    """

    def __init__(
        self, application: Callable[..., Any], *, threads: int, waiting: int = WAITING_THREADS
    ) -> None:
        self.application = application
        self._free = asyncio.Semaphore(threads)
        self._pool = ThreadPoolExecutor(threads + waiting, thread_name_prefix="web")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        body = await _read_body(scope, receive)
        if body is None:
            return
        with body:
            environ = build_environ(scope, body)
            start, content, pieces = await self._run(self._answer, environ)
        await send(start)
        if pieces is None:
            await send({"type": "http.response.body", "body": content})
        else:
            await self._stream(pieces, receive, send)

    async def _run(self, function: Callable[..., Any], *args: Any) -> Any:
        loop = asyncio.get_running_loop()
        await self._free.acquire()
        finished: asyncio.Future[Any] = loop.create_future()
        released = False

        def release() -> None:
            nonlocal released
            if not released:
                released = True
                self._free.release()

        def on_wait() -> None:
            loop.call_soon_threadsafe(release)

        def finish(result: Any, error: BaseException | None) -> None:
            # A thread cannot be cancelled, so a request whose client disconnected still counts until its thread ends.
            release()
            if finished.done():  # cancelled
                return
            if error is None:
                finished.set_result(result)
            else:
                finished.set_exception(error)

        def call() -> None:
            result, failure = None, None
            try:
                with serve_thread(on_wait):
                    result = function(*args)
            except BaseException as error:  # noqa: BLE001 - the coroutine raises it
                failure = error
            try:
                loop.call_soon_threadsafe(finish, result, failure)
            finally:
                failure = None  # its traceback refers to this frame

        # ``loop.run_in_executor`` does the same with three futures, their callbacks and a lock.
        try:
            self._pool.submit(call)
        except BaseException:
            release()
            raise
        return await finished

    def _answer(self, environ: dict[str, Any]) -> Answer:
        """Call the WSGI application.

        Unless the response is a stream, read its content and close it in the same thread.
        """
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
        """Send the pieces of a stream until its end or until the client disconnects.

        A thread is used only while a piece is read.
        """
        disconnect = asyncio.create_task(_wait_for_disconnect(receive))
        pieces = iter(result)
        try:
            while not disconnect.done():
                piece = await self._run(partial(next, pieces, _END))
                if piece is _END:
                    await send({"type": "http.response.body", "body": b""})
                    break
                await send({"type": "http.response.body", "body": piece, "more_body": True})
        finally:
            disconnect.cancel()
            await self._run(result.close)


async def _wait_for_disconnect(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _read_body(scope: Scope, receive: Receive) -> IO[bytes] | None:
    """Read a request's whole body; return None if the client disconnects before its end."""
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


def build_environ(scope: Scope, body: IO[bytes]) -> dict[str, Any]:
    """Return the WSGI environment (PEP 3333) of an ASGI scope.

    Headers with an underscore in their name are dropped, as web servers do. They would become the same variable as
    the header with a hyphen, so a client could forge a header that only a proxy may set.
    """
    # WSGI strings contain bytes as Latin-1 characters (PEP 3333).
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
        # Repeated headers become one value, joined by a comma or, for cookies, a semicolon.
        if key in environ:
            separator = "; " if key == "HTTP_COOKIE" else ","
            value = f"{environ[key]}{separator}{value}"
        environ[key] = value
    return environ

"""HTTP requests and coroutines over sockets that a sandbox provider connects."""

import asyncio
import contextlib
import socket
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeAlias

import httpcore2
import httpx2

Dial: TypeAlias = Callable[[], socket.socket]
"""A function that returns a new, connected, blocking stream socket to an engine.

It raises an ``OSError``: ``ConnectionError`` if the sandbox does not run, and ``TimeoutError`` if nothing answers.
"""
ENGINE_URL = "http://engine"
"""The placeholder for the URL of an engine. No name is resolved, because the socket is connected already."""
DIAL_THREADS = 32
"""The threads that dial for coroutines. A stalled sandbox occupies one of them until its dial times out."""

_threads = ThreadPoolExecutor(DIAL_THREADS, "engine-dial")


class DialTransport(httpx2.HTTPTransport):
    """A transport that dials a new connection for each request, whatever the host of the URL is.

    An ``OSError`` of the dial becomes an ``httpx2.ConnectError``, and a ``TimeoutError`` an ``httpx2.ConnectTimeout``.
    """

    def __init__(self, dial: Dial) -> None:
        # The pool of the base class cannot be given a network backend, so its __init__ is not called.
        self._pool = httpcore2.ConnectionPool(
            network_backend=_Backend(dial), max_connections=None, max_keepalive_connections=0
        )


class _Backend(httpcore2.NetworkBackend):
    def __init__(self, dial: Dial) -> None:
        self._dial = dial

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore2.SOCKET_OPTION] | None = None,
    ) -> httpcore2.NetworkStream:
        with _translate_errors(httpcore2.ConnectTimeout, httpcore2.ConnectError):
            connection = self._dial()
            if connection.family != socket.AF_UNIX:
                # Headers and body are sent separately. Without this option the body waits for an acknowledgement.
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return _Stream(connection)


class _Stream(httpcore2.NetworkStream):
    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        with _translate_errors(httpcore2.ReadTimeout, httpcore2.ReadError):
            self._connection.settimeout(timeout)
            return self._connection.recv(max_bytes)

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        # Not ``sendall``, whose timeout limits the whole body of an upload.
        rest = memoryview(buffer)
        with _translate_errors(httpcore2.WriteTimeout, httpcore2.WriteError):
            self._connection.settimeout(timeout)
            while rest:
                rest = rest[self._connection.send(rest) :]

    def close(self) -> None:
        self._connection.close()

    def get_extra_info(self, info: str) -> Any:
        return self._connection if info == "socket" else None


@contextlib.contextmanager
def _translate_errors(timeout: type[Exception], failure: type[Exception]) -> Iterator[None]:
    try:
        yield
    except TimeoutError as error:
        raise timeout(str(error) or type(error).__name__) from error
    except OSError as error:
        raise failure(str(error) or type(error).__name__) from error


async def dial_in_thread(dial: Dial) -> socket.socket:
    """Dial without blocking the event loop, and return the connected socket.

    If the caller is cancelled, the socket is closed as soon as it is connected. Raise the ``OSError`` of the dial.
    """
    dialling = asyncio.get_running_loop().run_in_executor(_threads, dial)
    try:
        # A thread cannot be cancelled, so the dial continues.
        return await asyncio.shield(dialling)
    except asyncio.CancelledError:
        dialling.add_done_callback(_close_late)
        raise


def _close_late(dialling: "asyncio.Future[socket.socket]") -> None:
    if not dialling.cancelled() and dialling.exception() is None:
        dialling.result().close()

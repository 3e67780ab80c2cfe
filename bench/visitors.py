"""A process that opens many sockets, a few at a time, until each has received what a new client receives."""

import multiprocessing
import selectors
import socket
import time
from collections.abc import Sequence
from typing import Any

from bench.sockets import HANDSHAKE, _Client, _masked, _take

AT_ONCE = 32
"""The number of connections that are being opened at a time."""


class Visitors:
    """A process with one socket per path in ``paths``, which stay open and answer pings until ``close``.

    A socket has joined when it has received a frame that contains ``joined``. ``hello`` is a text that each client
    sends after the handshake.
    """

    def __init__(
        self, port: int, paths: Sequence[str], joined: str, *, headers: str = "", hello: str = ""
    ) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        arguments = (theirs, port, list(paths), joined.encode(), (headers, hello))
        self._process = context.Process(target=_run, args=arguments, daemon=True)
        self._process.start()
        if not self._pipe.poll(60) or self._pipe.recv() != "started":
            raise RuntimeError("the process of the sockets did not start")

    @property
    def pid(self) -> int:
        assert self._process.pid is not None  # it has started
        return self._process.pid

    def open(self, seconds: float = 240) -> float:
        """Open all sockets; return the seconds until the last has joined."""
        self._pipe.send("open")
        if not self._pipe.poll(seconds):
            raise TimeoutError(f"the sockets did not join within {seconds} s")
        result = self._pipe.recv()
        if isinstance(result, str):
            raise ConnectionError(result)
        return float(result)

    def close(self) -> None:
        self._process.terminate()
        self._process.join()


def _run(pipe: Any, port: int, paths: list[str], joined: bytes, words: tuple[str, str]) -> None:
    try:
        pipe.send("started")
        pipe.recv()
        selector = selectors.DefaultSelector()
        started = time.perf_counter()
        _open_all(selector, port, paths, joined, words)
        pipe.send(time.perf_counter() - started)
        while True:
            for key, _ in selector.select(1.0):
                _receive(key.data)
                _take(key.data, b"\0")
    except (EOFError, BrokenPipeError):
        return
    except Exception as error:  # noqa: BLE001 - reported to the parent process
        pipe.send(repr(error))


def _open_all(
    selector: selectors.BaseSelector,
    port: int,
    paths: list[str],
    joined: bytes,
    words: tuple[str, str],
) -> None:
    waiting, opening, done = list(reversed(paths)), 0, 0
    while done < len(paths):
        while waiting and opening < AT_ONCE:
            _connect(selector, port, waiting.pop(), words[0])
            opening += 1
        for key, _ in selector.select(1.0):
            client: _Client = key.data
            _receive(client)
            if client.count == 0 and b"\r\n\r\n" in client.buffer:
                _greet(client, words[1])
            # Frames are removed only after the socket has joined, so the text is found across pieces.
            if client.count == 1 and joined in client.buffer:
                client.count = 2
                opening, done = opening - 1, done + 1
            if client.count == 2:
                _take(client, b"\0")


def _connect(selector: selectors.BaseSelector, port: int, path: str, headers: str) -> None:
    link = socket.create_connection(("127.0.0.1", port), timeout=60)
    link.sendall(HANDSHAKE.format(path=path, headers=headers).encode())
    link.setblocking(False)
    # ``count`` is 0 during the handshake, 1 until the socket has joined, and 2 afterwards.
    selector.register(link, selectors.EVENT_READ, _Client(link))


def _greet(client: _Client, hello: str) -> None:
    head, _, rest = bytes(client.buffer).partition(b"\r\n\r\n")
    if not head.startswith(b"HTTP/1.1 101"):
        raise ConnectionError(head[:200].decode())
    client.buffer[:] = rest
    client.count = 1
    if hello:
        client.link.sendall(_masked(hello.encode()))


def _receive(client: _Client) -> None:
    piece = client.link.recv(262_144)
    if not piece:
        raise ConnectionError(
            f"a socket was closed; its last bytes: {bytes(client.buffer[-200:])!r}"
        )
    client.buffer += piece

"""Many plain WebSocket clients in one process that needs too little CPU to influence the measurement."""

import json
import multiprocessing
import selectors
import socket
import struct
import time
from collections.abc import Sequence
from typing import Any

HANDSHAKE = (
    "GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n{headers}\r\n"
)


ENGINE_PING = ord("2")
PING, PONG = 0x89, 0x8A
"""The first bytes of WebSocket's pings and pongs."""


class Crowd:
    """A process with one socket per path in ``paths``. It counts the frames whose text begins with ``mark``.

    ``hello`` is a text that each client sends after the handshake.
    """

    def __init__(
        self, port: int, paths: Sequence[str], mark: str, *, headers: str = "", hello: str = ""
    ) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(
            target=_run,
            args=(theirs, port, list(paths), mark.encode(), (headers, hello)),
            daemon=True,
        )
        self._process.start()

    def ready(self, seconds: float = 60) -> None:
        """Wait until every socket is open."""
        self._expect("ready", seconds)

    def expect(self, each: int) -> None:
        """Start to count up to ``each`` frames on each socket."""
        self._pipe.send(each)

    def counted(self, seconds: float = 60) -> tuple[float, list[float]]:
        """Wait for all expected frames, and return their Unix times of arrival.

        The first value is the time of the last frame. The list has one item per expected frame: the time at which the
        last socket received this frame.
        """
        return self._expect("counted", seconds)

    def close(self) -> None:
        self._process.terminate()
        self._process.join()

    def _expect(self, word: str, seconds: float) -> Any:
        if not self._pipe.poll(seconds):
            raise TimeoutError(f"the sockets did not report {word!r} within {seconds} s")
        reported, value = self._pipe.recv()
        if reported != word:
            raise RuntimeError(f"the sockets reported {reported!r}: {value}")
        return value


class _Client:
    __slots__ = ("buffer", "count", "link")

    def __init__(self, link: socket.socket) -> None:
        self.link, self.buffer, self.count = link, bytearray(), 0


def _run(pipe: Any, port: int, paths: list[str], mark: bytes, words: tuple[str, str]) -> None:
    headers, hello = words
    try:
        selector = selectors.DefaultSelector()
        clients = [_open(port, path, headers) for path in paths]
        for client in clients:
            if hello:
                client.link.sendall(_masked(hello.encode()))
            client.link.setblocking(False)
            selector.register(client.link, selectors.EVENT_READ, client)
        _drain(selector, clients, mark)
        pipe.send(("ready", None))
        while True:
            each = _next_task(selector, pipe, mark)
            counted = _count(selector, clients, mark, each)
            for client in clients:
                client.count = 0
            pipe.send(("counted", counted))
    except (EOFError, BrokenPipeError):
        return
    except Exception as error:  # noqa: BLE001 - reported to the parent process
        pipe.send(("failed", repr(error)))


def _open(port: int, path: str, headers: str) -> _Client:
    link = socket.create_connection(("127.0.0.1", port), timeout=30)
    link.sendall(HANDSHAKE.format(path=path, headers=headers).encode())
    client = _Client(link)
    while (end := client.buffer.find(b"\r\n\r\n")) < 0:
        piece = link.recv(65_536)
        if not piece:
            raise ConnectionError("closed during the handshake")
        client.buffer += piece
    if not client.buffer.startswith(b"HTTP/1.1 101"):
        raise ConnectionError(bytes(client.buffer[:200]).decode())
    del client.buffer[: end + 4]
    return client


def _masked(text: bytes) -> bytes:
    """Return a client's frame with a short text. The mask, which clients must send, consists of zeros."""
    return bytes((0x81, 0x80 | len(text), 0, 0, 0, 0)) + text


def _drain(selector: selectors.BaseSelector, clients: list[_Client], mark: bytes) -> None:
    """Read the frames that arrive after joining, and reset the counters to zero."""
    until = time.time() + 0.3
    while time.time() < until:
        _poll(selector, mark, 0.05)
    for client in clients:
        client.count = 0


def _next_task(selector: selectors.BaseSelector, pipe: Any, mark: bytes) -> int:
    while not pipe.poll():
        _poll(selector, mark, 0.01)
    each: int = pipe.recv()
    return each


def _count(
    selector: selectors.BaseSelector, clients: list[_Client], mark: bytes, each: int
) -> tuple[float, list[float]]:
    arrivals = [0.0] * (each + 1)
    missing = sum(client.count < each for client in clients)
    while missing:
        for client, before in _poll(selector, mark, 1.0):
            now = time.time()
            for number in range(before + 1, min(client.count, each) + 1):
                arrivals[number] = now
            missing -= before < each <= client.count
    return time.time(), arrivals[1:]


def _poll(
    selector: selectors.BaseSelector, mark: bytes, seconds: float
) -> list[tuple[_Client, int]]:
    moved = []
    for key, _ in selector.select(seconds):
        client: _Client = key.data
        before = client.count
        piece = client.link.recv(262_144)
        if not piece:
            raise ConnectionError("a socket was closed")
        client.buffer += piece
        client.count += _take(client, mark)
        moved.append((client, before))
    return moved


def _take(client: _Client, mark: bytes) -> int:
    """Remove the complete frames from the client's buffer. Return how many of their texts begin with the mark.

    Answer the pings of Engine.IO (the text 2) and of WebSocket, without which a server closes the socket.
    """
    buffer = client.buffer
    at, count, size = 0, 0, len(buffer)
    while size - at >= 2:
        length, head = buffer[at + 1] & 127, 2
        if length == 126:
            if size - at < 4:
                break
            length, head = struct.unpack_from(">H", buffer, at + 2)[0], 4
        elif length == 127:
            if size - at < 10:
                break
            length, head = struct.unpack_from(">Q", buffer, at + 2)[0], 10
        if size - at - head < length:
            break
        count += buffer.startswith(mark, at + head)
        if length == 1 and buffer[at + head] == ENGINE_PING:
            client.link.sendall(_masked(b"3"))
        elif buffer[at] == PING:
            pong = _masked(bytes(buffer[at + head : at + head + length]))
            client.link.sendall(bytes((PONG,)) + pong[1:])
        at += head + length
    del buffer[:at]
    return count


def text_of_kilobyte() -> str:
    """Return an event of about 1 KB in the form that sockets receive."""
    return json.dumps(
        {"type": "event", "seq": 1, "event": {"text": "x" * 950}}, separators=(",", ":")
    )

"""A load generator with keep-alive connections in one thread. It measures the server's processor time."""

import selectors
import socket
import time
from dataclasses import dataclass
from urllib.parse import urlsplit

import psutil


@dataclass(frozen=True)
class Load:
    """The result of a run. ``cpu_ms`` is the server's processor time per request, independent of other load."""

    requests: int
    seconds: float
    cpu_seconds: float

    @property
    def cpu_ms(self) -> float:
        return self.cpu_seconds / self.requests * 1000

    @property
    def per_core(self) -> float:
        """The number of requests per second that the web process handles with one fully used core."""
        return self.requests / self.cpu_seconds

    @property
    def per_second(self) -> float:
        return self.requests / self.seconds


class _Connection:
    def __init__(self, address: tuple[str, int], request: bytes, status: bytes) -> None:
        self.request, self.status = request, status
        self.socket = socket.create_connection(address, timeout=60)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.received = b""
        self.missing = -1

    def ask(self) -> None:
        self.received, self.missing = b"", -1
        self.socket.sendall(self.request)

    def is_answered(self) -> bool:
        """Read the available data and return whether the response is complete."""
        piece = self.socket.recv(262_144)
        if not piece:
            raise ConnectionError("the server closed a connection under load")
        self.received += piece
        if self.missing < 0 and (end := self.received.find(b"\r\n\r\n")) >= 0:
            head = self.received[:end].lower()
            if not head.startswith(b"http/1.1 " + self.status):
                raise AssertionError(self.received[:600].decode(errors="replace"))
            _, _, length = head.partition(b"content-length:")
            size = int(length.split(b"\r\n", 1)[0]) if length else 0
            self.missing = end + 4 + size
        return 0 <= self.missing <= len(self.received)


def run(
    pid: int,
    url: str,
    *,
    seconds: float,
    connections: int = 4,
    headers: dict[str, str] | None = None,
    status: int = 200,
) -> Load:
    """Request a URL for ``seconds`` over several connections. Raise ``AssertionError`` for another status."""
    parts = urlsplit(url)
    target = parts.path + (f"?{parts.query}" if parts.query else "")
    lines = [f"GET {target} HTTP/1.1", f"Host: {parts.netloc}"]
    lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
    request = ("\r\n".join(lines) + "\r\n\r\n").encode()
    address = (parts.hostname or "", parts.port or 80)
    opened = [_Connection(address, request, str(status).encode()) for _ in range(connections)]
    process = psutil.Process(pid)
    response_count = 0
    with selectors.DefaultSelector() as selector:
        for connection in opened:
            selector.register(connection.socket, selectors.EVENT_READ, connection)
            connection.ask()
        before, started = _cpu(process), time.perf_counter()
        while time.perf_counter() - started < seconds:
            for key, _ in selector.select(1):
                if key.data.is_answered():
                    response_count += 1
                    key.data.ask()
        elapsed, used = time.perf_counter() - started, _cpu(process) - before
    for connection in opened:
        connection.socket.close()
    return Load(response_count, elapsed, used)


def _cpu(process: psutil.Process) -> float:
    """Return the processor seconds that a process and its descendants have used."""
    total = 0.0
    for member in (process, *process.children(recursive=True)):
        times = member.cpu_times()
        total += times.user + times.system
    return total

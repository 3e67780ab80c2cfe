"""A proxy with real sockets on loopback, servers behind it, a resolver of its own, and routes for public addresses."""

import asyncio
import contextlib
import json
import socket
import ssl
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from conversations.sandboxes.egress.dialing import Limits, Stream, connect
from conversations.sandboxes.egress.log import DecisionLog
from conversations.sandboxes.egress.policy import Policy
from conversations.sandboxes.egress.proxy import EgressProxy

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
PUBLIC = "93.184.215.14"
PUBLIC_2 = "93.184.215.15"


class Client:
    """A client connection to the proxy that sends and reads raw bytes."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def head(self) -> tuple[int, dict[str, str]]:
        """Read the head of an HTTP response."""
        lines = (await self.reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")[:-2]
        pairs = (line.split(": ", 1) for line in lines[1:])
        return int(lines[0].split(" ")[1]), {name.lower(): value for name, value in pairs}

    async def response(self) -> tuple[int, dict[str, str], str]:
        """Read an HTTP response with Content-Length or in chunks, or up to the end."""
        status, headers = await self.head()
        if "content-length" in headers:
            body = await self.reader.readexactly(int(headers["content-length"]))
        elif "transfer-encoding" in headers:
            body = await read_chunks(self.reader)
        else:
            body = await self.reader.read(-1)
        return status, headers, body.decode()

    async def get(self, url: str, *lines: str) -> tuple[int, dict[str, str], str]:
        """Send a GET request for a URL and read the response."""
        head = "".join(f"{line}\r\n" for line in (f"GET {url} HTTP/1.1", "Host: -", *lines))
        await self.send(f"{head}\r\n".encode())
        return await self.response()

    async def connect(self, authority: str) -> tuple[int, dict[str, str], str]:
        """Send a CONNECT request and read the response."""
        await self.send(f"CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\n\r\n".encode())
        status, headers = await self.head()
        length = int(headers.get("content-length", 0))
        return status, headers, (await self.reader.readexactly(length)).decode()

    async def socks(self, request: bytes) -> bytes:
        """Greet, send a SOCKS5 request from its address type on, and return the reply."""
        await self.send(b"\x05\x01\x00")
        assert await self.reader.readexactly(2) == b"\x05\x00"
        await self.send(b"\x05\x01\x00" + request)
        return await self.reader.readexactly(10)

    async def is_closed(self) -> bool:
        """Read up to the end of the connection, at most five seconds. Return False for bytes that are left."""
        async with asyncio.timeout(5):
            try:
                return await self.reader.read() == b""
            except ConnectionError:
                return True


async def read_chunks(reader: asyncio.StreamReader) -> bytes:
    body = b""
    while size := int(await reader.readline(), 16):
        body += await reader.readexactly(size)
        await reader.readline()
    await reader.readuntil(b"\r\n")
    return body


@dataclass
class Origin:
    """An HTTP server that notes what it received, without the parser of the proxy."""

    answer: bytes = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"
    heads: list[str] = field(default_factory=list)
    bodies: list[bytes] = field(default_factory=list)
    rest: bytes = b""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        self.heads.append(head)
        low = head.lower()
        body = b""
        if "transfer-encoding: chunked" in low:
            body = await read_chunks(reader)
        elif "content-length: " in low:
            length = int(low.split("content-length: ")[1].split("\r\n")[0])
            body = await reader.readexactly(length)
        self.bodies.append(body)
        writer.write(self.answer)
        await writer.drain()
        writer.close()
        self.rest += await reader.read()

    def header(self, name: str, *, request: int = -1) -> list[str]:
        """Return the values of a header of a request."""
        lines = self.heads[request].split("\r\n")[1:]
        return [line.split(": ", 1)[1] for line in lines if line.lower().startswith(f"{name}:")]


def make_server_tls(folder: Path, name: str) -> tuple[ssl.SSLContext, Path]:
    """Return the TLS context of a server with a self-signed certificate for a name, and the certificate's file."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    public, private = folder / "certificate.pem", folder / "key.pem"
    public.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    private.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(public, private)
    return context, public


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Send every byte back, and end when the client ends."""
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()
    writer.close()


class World:
    """One proxy and everything around it."""

    def __init__(self, folder: Path) -> None:
        self.policy = Policy(profile="public")
        self.names: dict[str, list[str] | Callable[[], list[str]]] = {}
        self.looked_up: list[str] = []
        self.routes: dict[str, str] = {}
        self.dialled: list[str] = []
        self.log_path = folder / "egress.log"
        self.log = DecisionLog(self.log_path)
        self._stack = contextlib.AsyncExitStack()
        self._folder = folder

    async def start(
        self, *, tls: ssl.SSLContext | None = None, policy=None, **limits: float
    ) -> None:
        listener = socket.create_server(("127.0.0.1", 0), backlog=512)
        self.port = listener.getsockname()[1]
        self.proxy = EgressProxy(
            policy or (lambda: self.policy),
            self.log,
            limits=Limits(**{"policy_seconds": 0.05, **limits}),
            resolver=self._resolve,
            connector=self._connect,
            tls=tls,
        )
        await self.proxy.start(listener)

    async def close(self) -> None:
        await self._stack.aclose()
        await self.proxy.close()
        self.log.close()

    async def server(
        self, handler: Handler, *, host: str = "127.0.0.1", tls: ssl.SSLContext | None = None
    ) -> int:
        """Start a server on loopback and return its port."""
        tasks = set()

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            with contextlib.suppress(OSError, EOFError, ssl.SSLError):
                await handler(reader, writer)
                writer.close()
                await writer.wait_closed()

        def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            # With a coroutine, the streams of Python 3.11 report a cancelled task as an error.
            task = asyncio.create_task(serve(reader, writer))
            task.add_done_callback(lambda _: writer.transport.abort())
            tasks.add(task)

        server = await asyncio.start_server(accept, host, 0, ssl=tls)

        async def stop() -> None:
            server.close()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

        self._stack.push_async_callback(stop)
        return server.sockets[0].getsockname()[1]

    async def client(self) -> Client:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        # The stack keeps the writer, which must not be collected while it is open.
        self._stack.callback(self._abort, writer)
        return Client(reader, writer)

    @staticmethod
    def _abort(writer: asyncio.StreamWriter) -> None:
        writer.transport.abort()

    async def get(self, url: str, *lines: str) -> tuple[int, dict[str, str], str]:
        return await (await self.client()).get(url, *lines)

    async def connect(self, authority: str) -> tuple[int, dict[str, str], str]:
        return await (await self.client()).connect(authority)

    def decisions(self) -> list[dict[str, object]]:
        """Return the decisions so far without their time."""
        self.log.flush()
        if not self.log_path.exists():
            return []
        lines = [json.loads(line) for line in self.log_path.read_text().splitlines()]
        return [{key: line[key] for key in line if key != "at"} for line in lines]

    def reasons(self) -> list[tuple[str, bool, str]]:
        return [(d["host"], d["allowed"], d["reason"]) for d in self.decisions()]

    def _resolve(self, host: str, port: int) -> list[str]:
        self.looked_up.append(host)
        found = self.names.get(host)
        if found is None:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return found() if callable(found) else found

    async def _connect(self, address, port, *, tls, server_hostname) -> Stream:
        self.dialled.append(address)
        # Public addresses cannot be dialled in a test.
        address = self.routes.get(address, address)
        return await connect(address, port, tls=tls, server_hostname=server_hostname)

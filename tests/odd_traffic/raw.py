"""A client that can send what no library lets through: raw HTTP heads and raw WebSocket frames (RFC 6455)."""

import asyncio
import contextlib
import struct
from collections.abc import Sequence
from dataclasses import dataclass, field

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10
Headers = Sequence[tuple[bytes, bytes]]


def frame(
    payload: bytes | str,
    opcode: int = TEXT,
    *,
    is_final: bool = True,
    reserved: int = 0,
    is_masked: bool = True,
    length: int | None = None,
) -> bytes:
    """Return a WebSocket frame of a client. ``length`` is a false length for the frame's head."""
    payload = payload.encode("utf-8", "surrogatepass") if isinstance(payload, str) else payload
    size = len(payload) if length is None else length
    mark = 0x80 if is_masked else 0
    head = bytes([(0x80 if is_final else 0) | reserved << 4 | opcode])
    if size < 126:
        head += bytes([mark | size])
    elif size < 65_536:
        head += bytes([mark | 126]) + struct.pack(">H", size)
    else:
        head += bytes([mark | 127]) + struct.pack(">Q", size)
    # A mask of zeros leaves the payload unchanged.
    return head + (b"\0\0\0\0" if is_masked else b"") + payload


BYE = frame(struct.pack(">H", 1000), CLOSE)


@dataclass
class Outcome:
    """The outcome of one connection: the HTTP status, its text frames and its close code."""

    status: int = 0
    texts: list[str] = field(default_factory=list)
    code: int | None = None
    """The code of the server's close frame; None if it sent none."""
    reason: str = ""
    is_confirmed: bool = False
    """Whether the server sent the text that was awaited."""
    is_ended: bool = True
    """Whether the server ended the connection in time."""

    @property
    def is_failure(self) -> bool:
        return not self.is_ended or self.status >= 500 or self.status == 0 or self.code == 1011


def upgrade(
    path: bytes, headers: Headers = (), *, version: bytes = b"13", host: bytes = b"testserver"
) -> bytes:
    """Return the head of a WebSocket handshake."""
    lines = [
        b"GET " + path + b" HTTP/1.1",
        b"Host: " + host,
        b"Upgrade: websocket",
        b"Connection: Upgrade",
        b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
        b"Sec-WebSocket-Version: " + version,
        *(name + b": " + value for name, value in headers),
    ]
    return b"\r\n".join(lines) + b"\r\n\r\n"


async def talk(
    port: int,
    head: bytes,
    frames: Sequence[bytes | float] = (),
    *,
    seconds: float = 40,
    settle: float = 0,
    until: str = "",
) -> Outcome:
    """Send a head and frames, then read until the server ends the connection. A number is a pause in seconds.

    A close frame is sent when the server sends a text that contains ``until``, and, if ``settle`` is positive, when the
    server has sent nothing for so many seconds.
    """
    outcome = Outcome()
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        async with asyncio.timeout(seconds):
            writer.write(head)
            answer = await reader.readuntil(b"\r\n\r\n")
            outcome.status = int(answer[9:12])
            if outcome.status != 101:
                await reader.read(65_536)
                return outcome
            sending = asyncio.create_task(_send(writer, frames))
            try:
                await _read(reader, writer, outcome, sending, settle, until)
            finally:
                sending.cancel()
                await asyncio.gather(sending, return_exceptions=True)
    except TimeoutError:
        outcome.is_ended = False
    except (asyncio.IncompleteReadError, OSError):
        pass
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()
    return outcome


async def _send(writer: asyncio.StreamWriter, frames: Sequence[bytes | float]) -> None:
    for piece in frames:
        if isinstance(piece, bytes):
            writer.write(piece)
            await writer.drain()
        else:
            await asyncio.sleep(piece)


async def _read(
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    outcome: Outcome,
    sending: asyncio.Task[None],
    settle: float,
    until: str,
) -> None:
    """Read the server's frames until its close frame or the end of the connection."""
    has_left = False
    while True:
        head = asyncio.ensure_future(reader.readexactly(2))
        while not (await asyncio.wait({head}, timeout=settle or None))[0]:
            if sending.done() and not has_left:
                has_left = True
                writer.write(BYE)
        first, size = head.result()
        size &= 0x7F
        if size == 126:
            (size,) = struct.unpack(">H", await reader.readexactly(2))
        elif size == 127:
            (size,) = struct.unpack(">Q", await reader.readexactly(8))
        payload = await reader.readexactly(size)
        match first & 0x0F:
            case 1:
                outcome.texts.append(payload.decode())
                if until and until in outcome.texts[-1]:
                    outcome.is_confirmed = has_left = True
                    writer.write(BYE)
            case 9:
                writer.write(frame(payload, PONG))
            case 8:
                outcome.code = int.from_bytes(payload[:2], "big") if payload else 1005
                outcome.reason = payload[2:].decode()
                return


async def send_http(port: int, data: bytes, *, seconds: float = 40, silence: float = 0.3) -> bytes:
    """Send bytes, and return what the server sends until it closes the connection or sends nothing for a while.

    ``silence`` is that time in seconds; it begins with the server's first bytes. Raise ``TimeoutError`` if the server
    sends nothing and does not close the connection.
    """
    received = b""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        async with asyncio.timeout(seconds):
            with contextlib.suppress(OSError):
                writer.write(data)
                await writer.drain()
            with contextlib.suppress(OSError):
                received = await reader.read(65_536)
        with contextlib.suppress(OSError, TimeoutError):
            while received:
                async with asyncio.timeout(silence):
                    piece = await reader.read(65_536)
                if not piece:
                    break
                received += piece
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()
    return received

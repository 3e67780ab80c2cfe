"""SOCKS5 (RFC 1928) without authentication: the command CONNECT."""

import asyncio
import ipaddress
from dataclasses import dataclass

from conversations.sandboxes.egress.dialing import Stream
from conversations.sandboxes.egress.hosts import BadHost, normalize_host
from conversations.sandboxes.egress.refusals import Refused, malformed

VERSION = 5
NO_AUTHENTICATION, NO_METHOD = 0, 0xFF
CONNECT = 1
IPV4, NAME, IPV6 = 1, 3, 4
COMMAND_NOT_SUPPORTED, ADDRESS_NOT_SUPPORTED = 7, 8
SOCKS4_REFUSED = b"\x00\x5b" + bytes(6)
"""The answer to a SOCKS4 client: request rejected or failed."""


@dataclass
class BadDialogue(Exception):
    """A client does not speak SOCKS5 as this proxy supports it. ``answer`` are the last bytes for it."""

    answer: bytes


def reply(code: int) -> bytes:
    """Return a reply to a request. The bound address is not disclosed."""
    return bytes((VERSION, code, 0, IPV4)) + bytes(6)


async def read_request(client: Stream) -> tuple[str, int]:
    """Answer the greeting, whose first byte was read, and return the normal host and the port of the request.

    Raise ``BadDialogue``, ``Refused`` for a host that is not valid, and ``EOFError`` if the client ends early.
    """
    reader, writer = client
    methods = await _read(reader, (await _read(reader, 1))[0])
    if NO_AUTHENTICATION not in methods:
        raise BadDialogue(bytes((VERSION, NO_METHOD)))
    writer.write(bytes((VERSION, NO_AUTHENTICATION)))
    await writer.drain()
    version, command, _, kind = await _read(reader, 4)
    if version != VERSION:
        raise BadDialogue(reply(1))
    if command != CONNECT:
        raise BadDialogue(reply(COMMAND_NOT_SUPPORTED))
    host = await _read_host(reader, kind)
    port = int.from_bytes(await _read(reader, 2))
    try:
        normal = normalize_host(host)
    except BadHost as error:
        raise malformed(str(error)) from error
    if port == 0:
        raise malformed("Port 0 cannot be called.")
    return normal, port


async def _read_host(reader: asyncio.StreamReader, kind: int) -> str:
    match kind:
        case 1:
            return str(ipaddress.IPv4Address(await _read(reader, 4)))
        case 4:
            return str(ipaddress.IPv6Address(await _read(reader, 16)))
        case 3:
            name = await _read(reader, (await _read(reader, 1))[0])
            return name.decode(errors="replace")
    raise BadDialogue(reply(ADDRESS_NOT_SUPPORTED))


async def _read(reader: asyncio.StreamReader, count: int) -> bytes:
    return await reader.readexactly(count)  # IncompleteReadError is an EOFError.


__all__ = ["SOCKS4_REFUSED", "BadDialogue", "Refused", "read_request", "reply"]

"""SOCKS5 through the proxy."""

import ipaddress
import socket

import pytest

from conversations.sandboxes.egress.policy import Policy
from tests.conversations.sandboxes.egress.world import PUBLIC, Origin, echo

OK = b"\x05\x00\x00\x01" + bytes(6)


def failure(code: int) -> bytes:
    return bytes((5, code, 0, 1)) + bytes(6)


def name(host: bytes, port: int) -> bytes:
    return b"\x03" + bytes((len(host),)) + host + port.to_bytes(2, "big")


def address(text: str, port: int) -> bytes:
    parsed = ipaddress.ip_address(text)
    return (b"\x01" if parsed.version == 4 else b"\x04") + parsed.packed + port.to_bytes(2, "big")


async def test_name_is_resolved_by_the_proxy_and_bytes_are_carried(world):
    port = await world.server(echo)
    world.names["echo.example"], world.routes[PUBLIC] = [PUBLIC], "127.0.0.1"
    client = await world.client()

    assert await client.socks(name(b"Echo.Example", port)) == OK
    await client.send(b"hello")

    assert await client.reader.readexactly(5) == b"hello"
    client.writer.write_eof()
    assert await client.reader.read() == b""
    assert world.decisions() == [
        {
            "host": "echo.example",
            "port": port,
            "address": PUBLIC,
            "allowed": True,
            "reason": "public",
            "protocol": "socks",
        }
    ]


async def test_addresses_of_both_families_are_reached_if_they_were_named(world):
    world.policy = Policy(profile="public", private=("127.0.0.1", "::1"))
    port, port_6 = await world.server(echo), await world.server(echo, host="::1")

    for request in (
        address("127.0.0.1", port),
        address("::ffff:127.0.0.1", port),
        address("::1", port_6),
    ):
        assert await (await world.client()).socks(request) == OK


@pytest.mark.parametrize(
    "request_",
    [
        address("127.0.0.1", 80),
        address("169.254.169.254", 80),
        address("::1", 80),
        address("::ffff:127.0.0.1", 80),
        name(b"127.0.0.1", 80),
        name(b"0x7f.1", 80),
        name(b"[::1]", 80),
        name(b"trick.example", 80),
    ],
)
async def test_forbidden_address_gets_reply_2(world, request_):
    world.names["trick.example"] = ["169.254.169.254"]

    assert await (await world.client()).socks(request_) == failure(2)
    assert world.dialled == []


async def test_refused_unknown_and_unreachable_hosts_get_their_codes(world):
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    world.policy = Policy(
        profile="list", hosts=("127.0.0.1", "unknown.example"), private=("127.0.0.1",)
    )

    codes = [
        (await (await world.client()).socks(request))[1]
        for request in (
            name(b"other.example", 443),
            name(b"unknown.example", 443),
            address("127.0.0.1", port),
        )
    ]

    assert codes == [2, 4, 5]
    assert [d["reason"] for d in world.decisions()] == ["not-listed", "unresolvable", "unreachable"]


async def test_gateway_is_reached_by_its_name_with_its_host(world):
    origin = Origin()
    port = await world.server(origin.serve)
    world.policy = Policy(profile="none", gateway=f"http://127.0.0.1:{port}")
    client = await world.client()

    assert await client.socks(name(b"openhands.internal", 80)) == OK
    await client.send(b"GET /x HTTP/1.1\r\nHost: openhands.internal\r\n\r\n")

    assert (await client.response())[2] == "hello"
    assert origin.header("host") == [f"127.0.0.1:{port}"]


@pytest.mark.parametrize(
    ("sent", "answer"),
    [
        (b"\x04\x01\x00\x50\x7f\x00\x00\x01\x00", b"\x00\x5b" + bytes(6)),
        (b"\x05\x01\x02", b"\x05\xff"),
        (b"\x05\x00", b"\x05\xff"),
        (b"\x05\x01\x00\x05\x02\x00\x01" + bytes(6), b"\x05\x00" + failure(7)),
        (b"\x05\x01\x00\x05\x03\x00\x01" + bytes(6), b"\x05\x00" + failure(7)),
        (b"\x05\x01\x00\x05\x01\x00\x02" + bytes(6), b"\x05\x00" + failure(8)),
        (b"\x05\x01\x00\x04\x01\x00\x01" + bytes(6), b"\x05\x00" + failure(1)),
        (b"\x05\x01\x00\x05\x01\x00" + name(b"", 80), b"\x05\x00" + failure(1)),
        (b"\x05\x01\x00\x05\x01\x00" + name(b"a b", 80), b"\x05\x00" + failure(1)),
        (b"\x05\x01\x00\x05\x01\x00" + name(b"\xff\xfe", 80), b"\x05\x00" + failure(1)),
        (b"\x05\x01\x00\x05\x01\x00" + name(b"a.example", 0), b"\x05\x00" + failure(1)),
        (b"\x05\x01\x00\x05\x01", b"\x05\x00"),
    ],
)
async def test_dialogue_that_is_not_supported_is_refused(world, sent, answer):
    client = await world.client()

    await client.send(sent)
    client.writer.write_eof()

    assert await client.reader.read() == answer
    assert world.reasons() == [("", False, "malformed")]

"""Limits of the proxy: connections, heads and time, and an orderly end."""

import asyncio
import socket
from pathlib import Path

import pytest

from tests.conversations.sandboxes.egress.world import PUBLIC, Origin, echo
from tests.waiting import wait_until_async


async def test_three_hundred_parallel_requests_are_answered_within_the_limit(make_world):
    world = await make_world(connections=300)
    origin = Origin()
    port = await world.server(origin.serve)
    world.names["site.example"], world.routes[PUBLIC] = [PUBLIC], "127.0.0.1"

    answers = await asyncio.gather(*(world.get(f"http://site.example:{port}/") for _ in range(300)))

    assert {status for status, _, _ in answers} == {200}
    assert len(origin.heads) == 300
    assert sum(d.get("count", 1) for d in world.decisions()) == 300


async def test_connection_over_the_limit_gets_503_and_a_free_place_is_used_again(make_world):
    world = await make_world(connections=3)
    port = await world.server(echo)
    world.names["echo.example"], world.routes[PUBLIC] = [PUBLIC], "127.0.0.1"
    clients = [await world.client() for _ in range(3)]
    for client in clients:
        assert (await client.connect(f"echo.example:{port}"))[0] == 200

    status, _, body = await world.connect(f"echo.example:{port}")

    assert status == 503
    assert body.startswith("This sandbox has too many open connections.")
    clients[0].writer.transport.abort()
    await wait_until_async(lambda: world.proxy.open_connections == 2, "a free place")
    assert (await world.connect(f"echo.example:{port}"))[0] == 200


async def test_connections_beyond_twice_the_limit_are_closed_at_once(make_world):
    world = await make_world(connections=2)
    clients = [await world.client() for _ in range(10)]
    await wait_until_async(lambda: world.proxy.open_connections <= 4, "the limit")

    for client in clients[4:]:
        assert await client.is_closed()


@pytest.mark.parametrize("end", [b"", b"\r\n\r\n"])
async def test_giant_head_gets_431(world, end):
    client = await world.client()

    await client.send(b"GET http://a.example/ HTTP/1.1\r\nHost: -\r\nA: " + b"x" * 300_000 + end)

    status, headers, _ = await client.response()
    assert (status, headers["x-openhands-egress"]) == (431, "malformed")


async def test_head_below_the_limit_is_accepted(world):
    status, _, _ = await world.get("http://a.example/", "A: " + "x" * 60_000)

    assert status == 502  # The name is unknown, so the head was read.


@pytest.mark.parametrize("first", [b"", b"G", b"\x05", b"\x05\x01\x00\x05\x01"])
async def test_slow_head_is_given_up(make_world, first):
    world = await make_world(head_seconds=0.2)
    client = await world.client()
    await client.send(first)

    async with asyncio.timeout(5):
        answer = await client.reader.read()

    assert answer.startswith(
        {b"": b"", b"G": b"HTTP/1.1 408 ", b"\x05": b""}.get(first, b"\x05\x00")
    )


async def test_head_byte_by_byte_does_not_renew_its_time(make_world):
    world = await make_world(head_seconds=0.3)
    client = await world.client()

    async def drip():
        for byte in b"GET http://a.example/ HTTP/1.1\r\nHost: -\r\n" * 10:
            await client.send(bytes((byte,)))
            await asyncio.sleep(0.05)

    task = asyncio.create_task(drip())
    async with asyncio.timeout(5):
        status, _, _ = await client.response()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)

    assert status == 408


async def test_silent_kept_alive_connection_is_closed(make_world):
    world = await make_world(keep_alive_seconds=0.2)
    client = await world.client()
    assert (await client.get("http://a.example/"))[0] == 502

    assert await client.is_closed()


async def test_close_ends_tunnels_and_leaves_nothing_open(make_world):
    world = await make_world()
    port = await world.server(echo)
    world.names["echo.example"], world.routes[PUBLIC] = [PUBLIC], "127.0.0.1"
    descriptors = Path("/proc/self/fd")
    before = len(list(descriptors.iterdir())) if descriptors.exists() else None
    clients = [await world.client() for _ in range(20)]
    for client in clients:
        assert (await client.connect(f"echo.example:{port}"))[0] == 200

    await world.proxy.close()
    await world.proxy.close()

    for client in clients:
        assert await client.is_closed()
        client.writer.transport.abort()
    with pytest.raises(ConnectionRefusedError):
        await world.client()
    if before is not None:
        await wait_until_async(
            lambda: len(list(descriptors.iterdir())) <= before, "the sockets to be closed"
        )


async def test_listener_may_listen_already_and_have_clients_in_its_queue(make_world, tmp_path):
    world = await make_world()
    listener = socket.create_server(("127.0.0.1", 0))
    early = socket.create_connection(listener.getsockname())
    early.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    early.setblocking(False)
    await world.proxy.close()

    await world.proxy.start(listener)

    data = await asyncio.get_running_loop().sock_recv(early, 100)
    assert data.startswith(b"HTTP/1.1 400 ")
    early.close()

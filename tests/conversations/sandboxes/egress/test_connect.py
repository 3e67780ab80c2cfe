"""Tunnels by CONNECT: decisions, names that resolve to forbidden addresses, half-closed connections, policy changes."""

import asyncio
import socket

import pytest

from conversations.sandboxes.egress.dialing import is_own_address
from conversations.sandboxes.egress.policy import Policy
from lib.addresses import parse_address
from tests.conversations.sandboxes.egress.world import PUBLIC, PUBLIC_2, Origin, echo
from tests.waiting import wait_until_async


async def open_echo(world, name="echo.example", **policy):
    """Open a tunnel to an echo server at a public address."""
    port = await world.server(echo)
    world.names[name], world.routes[PUBLIC] = [PUBLIC], "127.0.0.1"
    client = await world.client()
    assert (await client.connect(f"{name}:{port}"))[0] == 200
    return client, port


async def test_tunnel_to_an_allowed_host_carries_bytes_in_both_directions(world):
    client, port = await open_echo(world)

    await client.send(b"\x00hello\xff")

    assert await client.reader.readexactly(7) == b"\x00hello\xff"
    assert world.decisions() == [
        {
            "host": "echo.example",
            "port": port,
            "address": PUBLIC,
            "allowed": True,
            "reason": "public",
            "protocol": "connect",
        }
    ]


async def test_bytes_sent_with_the_request_reach_the_server(world):
    port = await world.server(echo)
    world.names["echo.example"], world.routes[PUBLIC] = [PUBLIC], "127.0.0.1"
    client = await world.client()

    await client.send(f"CONNECT echo.example:{port} HTTP/1.1\r\n\r\nearly".encode())

    # HTTP/1.1 needs a Host header, even if some clients leave it out.
    assert (await client.head())[0] == 400
    client = await world.client()
    await client.send(f"CONNECT echo.example:{port} HTTP/1.1\r\nHost: x\r\n\r\nearly".encode())
    assert (await client.head())[0] == 200
    assert await client.reader.readexactly(5) == b"early"


async def test_http_1_0_client_without_host_header_gets_a_tunnel(world):
    # Such are ``nc -X connect`` and Python's http.client before 3.12.
    port = await world.server(echo)
    world.names["echo.example"], world.routes[PUBLIC] = [PUBLIC], "127.0.0.1"
    client = await world.client()

    await client.send(f"CONNECT echo.example:{port} HTTP/1.0\r\n\r\n".encode())

    assert (await client.head())[0] == 200
    await client.send(b"hello")
    assert await client.reader.readexactly(5) == b"hello"


async def test_refused_host_gets_403_with_a_sentence_and_is_not_resolved(world):
    world.policy = Policy(profile="list", hosts=("pypi.org",))

    status, headers, body = await world.connect("Example.COM.:443")

    assert status == 403
    assert headers["x-openhands-egress"] == "not-listed"
    assert headers["content-type"] == "text/plain; charset=utf-8"
    assert body == (
        "This conversation's network profile allows only listed hosts. "
        "Ask for example.com to be allowed on the conversation's page.\n"
    )
    assert world.looked_up == []
    assert world.decisions() == [
        {
            "host": "example.com",
            "port": 443,
            "address": "",
            "allowed": False,
            "reason": "not-listed",
            "protocol": "connect",
        }
    ]


@pytest.mark.parametrize(
    ("policy", "reason", "part"),
    [
        ({"profile": "none"}, "profile-none", "allows no connections to the internet"),
        (
            {"profile": "public", "denied": ("a.example",)},
            "denied",
            "rule of this conversation refuses a.ex",
        ),
    ],
)
async def test_refusal_names_the_rule(world, policy, reason, part):
    world.policy = Policy(**policy)

    status, headers, body = await world.connect("a.example:443")

    assert (status, headers["x-openhands-egress"]) == (403, reason)
    assert part in body


@pytest.mark.parametrize(
    "addresses",
    [
        ["127.0.0.1"],
        ["169.254.169.254"],
        ["::ffff:127.0.0.1"],
        ["::1"],
        ["0.0.0.0"],
        [PUBLIC, "127.0.0.1"],
        ["10.0.0.1", PUBLIC],
        ["fe80::1%1"],
        ["64:ff9b::7f00:1"],
    ],
)
async def test_name_with_a_forbidden_address_is_refused_and_nothing_is_dialled(world, addresses):
    world.names["trick.example"] = addresses

    status, headers, body = await world.connect("trick.example:443")

    assert (status, headers["x-openhands-egress"]) == (403, "private-address")
    assert "trick.example is at a private, local or reserved network address" in body
    assert world.dialled == []


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1",
        "127.1",
        "2130706433",
        "0x7f.1",
        "0177.0.0.1",
        "127.0.0.1.",
        "[::1]",
        "[::ffff:127.0.0.1]",
        "[::ffff:7f00:1]",
        "0",
        "[fe80::1]",
        "169.254.169.254",
        "0xa9fea9fe",
    ],
)
async def test_literal_address_of_this_machine_is_refused(world, host):
    port = await world.server(echo)

    status, headers, _ = await world.connect(f"{host}:{port}")

    assert (status, headers["x-openhands-egress"]) == (403, "private-address")
    assert world.dialled == world.looked_up == []


async def test_name_that_changes_its_address_is_dialled_only_at_the_checked_address(world):
    port = await world.server(echo)
    world.routes[PUBLIC] = "127.0.0.1"
    answers = iter([[PUBLIC], ["127.0.0.1"], [PUBLIC]])
    world.names["rebind.example"] = lambda: next(answers)

    statuses = [(await world.connect(f"rebind.example:{port}"))[0] for _ in range(3)]

    assert statuses == [200, 403, 200]
    assert len(world.looked_up) == 3  # One lookup for each connection, none between check and use.
    assert world.dialled == [PUBLIC, PUBLIC]


async def test_next_address_is_tried_if_the_first_does_not_answer(world):
    port = await world.server(echo)
    world.names["two.example"] = [PUBLIC, PUBLIC_2]
    world.routes |= {PUBLIC: "127.0.0.2", PUBLIC_2: "127.0.0.1"}

    assert (await world.connect(f"two.example:{port}"))[0] == 200
    assert world.dialled == [PUBLIC, PUBLIC_2]
    assert world.decisions()[0]["address"] == PUBLIC_2


async def test_international_name_is_refused_or_allowed_in_punycode(world):
    world.policy = Policy(profile="list", hosts=("*.bücher.example",))
    world.names["a.xn--bcher-kva.example"] = [PUBLIC]
    world.routes[PUBLIC] = "127.0.0.1"
    port = await world.server(echo)

    assert (await world.connect(f"A.XN--Bcher-kva.example:{port}"))[0] == 200
    assert (await world.connect(f"xn--bcher-kva.example:{port}"))[0] == 403


async def test_private_host_that_was_named_is_reached_over_ipv4_and_ipv6(world):
    world.policy = Policy(profile="public", private=("127.0.0.1", "::1/128", "git.corp.example"))
    world.names["git.corp.example"] = ["127.0.0.1"]
    port = await world.server(echo)
    port_6 = await world.server(echo, host="::1")

    for authority in (f"127.0.0.1:{port}", f"[::1]:{port_6}", f"git.corp.example:{port}"):
        assert (await world.connect(authority))[0] == 200
    assert {reason for _, _, reason in world.reasons()} == {"private-named"}


async def test_unknown_name_and_closed_port_get_502(world):
    world.policy = Policy(profile="public", private=("127.0.0.1",))
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]

    unknown = await world.connect("unknown.example:443")
    refused = await world.connect(f"127.0.0.1:{port}")

    assert (unknown[0], unknown[1]["x-openhands-egress"]) == (502, "unresolvable")
    assert unknown[2] == "The host name unknown.example cannot be resolved. Check its spelling.\n"
    assert (refused[0], refused[1]["x-openhands-egress"]) == (502, "unreachable")
    assert refused[2] == f"127.0.0.1 cannot be reached on port {port}: connection refused.\n"
    assert [d["reason"] for d in world.decisions()] == ["unresolvable", "unreachable"]


async def test_slow_name_server_and_slow_host_are_given_up(make_world):
    import time

    world = await make_world(resolve_seconds=0.1, connect_seconds=0.1)
    world.names["slow.example"] = lambda: time.sleep(0.5) or [PUBLIC]
    world.names["silent.example"] = [PUBLIC]
    # A socket with a full backlog does not answer.
    silent = socket.socket()
    silent.bind(("127.0.0.1", 0))
    silent.listen(0)
    fillers = [socket.socket() for _ in range(4)]
    for filler in fillers:
        filler.setblocking(False)
        filler.connect_ex(silent.getsockname())
    await asyncio.sleep(0.1)
    world.routes[PUBLIC] = "127.0.0.1"

    slow = await world.connect("slow.example:443")
    no_answer = await world.connect(f"silent.example:{silent.getsockname()[1]}")

    assert (slow[0], slow[1]["x-openhands-egress"]) == (502, "unresolvable")
    assert no_answer[0] == 502
    assert "no address answered in time" in no_answer[2]
    for part in (silent, *fillers):
        part.close()


async def test_gateway_is_reached_at_its_own_port_in_the_profile_none(world):
    port, other = await world.server(echo), await world.server(echo)
    world.policy = Policy(profile="none", gateway=f"http://127.0.0.1:{port}")
    client = await world.client()

    assert (await client.connect(f"127.0.0.1:{port}"))[0] == 200
    await client.send(b"raw")
    assert await client.reader.readexactly(3) == b"raw"
    assert (await world.connect(f"127.0.0.1:{other}"))[0] == 403
    assert (await world.connect(f"127.0.0.2:{port}"))[0] == 403


async def test_connect_to_openhands_internal_speaks_http_with_the_host_of_the_gateway(world):
    origin = Origin()
    port = await world.server(origin.serve)
    world.policy = Policy(profile="none", gateway=f"http://127.0.0.1:{port}")
    client = await world.client()
    assert (await client.connect("openhands.internal:80"))[0] == 200

    for path in ("/a", "/b"):
        await client.send(f"GET {path} HTTP/1.1\r\nHost: openhands.internal\r\n\r\n".encode())
        assert (await client.response())[2] == "hello"

    assert [head.split("\r\n")[0] for head in origin.heads] == [
        "GET /a HTTP/1.1",
        "GET /b HTTP/1.1",
    ]
    assert origin.header("host") == [f"127.0.0.1:{port}"]
    status, _, body = await client.get("http://pypi.org/")
    assert (status, body) == (400, "This connection is only for openhands.internal.\n")


async def test_other_port_of_openhands_internal_is_refused_with_the_right_url(world):
    world.policy = Policy(profile="public", gateway="http://127.0.0.1:1")
    world.names["openhands.internal"] = [PUBLIC]

    status, _, body = await world.connect("openhands.internal:443")

    assert status == 502
    assert "Use a URL that begins with http://openhands.internal/." in body
    assert world.looked_up == []


async def test_client_that_ends_its_direction_still_gets_the_answer(world):
    async def answer_at_the_end(reader, writer):
        writer.write(b"answer to " + await reader.read())

    port = await world.server(answer_at_the_end)
    world.names["late.example"], world.routes[PUBLIC] = [PUBLIC], "127.0.0.1"
    client = await world.client()
    await client.connect(f"late.example:{port}")

    await client.send(b"question")
    client.writer.write_eof()

    assert await client.reader.read() == b"answer to question"
    await wait_until_async(lambda: world.proxy.open_connections == 0, "the tunnel to end")


async def test_server_that_ends_its_direction_still_gets_the_rest(world):
    received = asyncio.get_running_loop().create_future()

    async def end_first(reader, writer):
        writer.write_eof()
        received.set_result(await reader.read())

    port = await world.server(end_first)
    world.names["early.example"], world.routes[PUBLIC] = [PUBLIC], "127.0.0.1"
    client = await world.client()
    await client.connect(f"early.example:{port}")

    assert await client.reader.read() == b""
    await client.send(b"rest")
    client.writer.write_eof()

    assert await received == b"rest"


async def test_slow_reader_stops_the_other_side(world):
    sent = 0

    async def flood(reader, writer):
        nonlocal sent
        while True:
            writer.write(bytes(65536))
            await writer.drain()
            sent += 65536

    port = await world.server(flood)
    world.names["flood.example"], world.routes[PUBLIC] = [PUBLIC], "127.0.0.1"
    client = await world.client()
    await client.connect(f"flood.example:{port}")

    last = -1
    while last != sent:
        last = sent
        await asyncio.sleep(0.3)

    assert sent < 32 * 1024 * 1024  # The kernel's buffers; the proxy's own are below 1 MB.
    read = 0
    while read <= last:
        read += len(await client.reader.read(1 << 20))
    assert sent > last


async def test_idle_tunnel_is_closed(make_world):
    world = await make_world(idle_seconds=0.3)
    client, _ = await open_echo(world)
    for _ in range(4):
        await asyncio.sleep(0.15)
        await client.send(b"x")
        assert await client.reader.readexactly(1) == b"x"

    assert await client.is_closed()


async def test_tunnel_that_a_new_policy_does_not_allow_is_closed(world):
    client, port = await open_echo(world)
    kept = await world.client()
    world.names["kept.example"] = [PUBLIC]
    assert (await kept.connect(f"kept.example:{port}"))[0] == 200

    world.policy = Policy(profile="list", hosts=("kept.example",))

    assert await client.is_closed()
    await kept.send(b"still")
    assert await kept.reader.readexactly(5) == b"still"
    assert world.reasons()[-1] == ("echo.example", False, "not-listed")


async def test_tunnel_is_closed_if_its_address_becomes_denied(world):
    client, _ = await open_echo(world)

    world.policy = Policy(profile="public", denied=(PUBLIC,))

    assert await client.is_closed()


async def test_failing_policy_change_does_not_stop_the_watcher(make_world, caplog):
    answers = {"policy": Policy(profile="public")}

    def policy():
        if isinstance(answers["policy"], Exception):
            raise answers["policy"]
        return answers["policy"]

    world = await make_world(policy=policy)
    client, _ = await open_echo(world)
    answers["policy"] = RuntimeError("lost")
    await asyncio.sleep(0.2)
    answers["policy"] = Policy(profile="none")

    assert await client.is_closed()
    assert "could not apply a new policy" in caplog.text


@pytest.mark.parametrize(
    "authority",
    [
        "example.com",
        "example.com:0",
        "example.com:65536",
        ":443",
        "a b:1",
        "user@example.com:443",
        "[::1:443",
        "example.com:443/x",
        "http://example.com",
        "1.2.3.4.5:80",
        "[fe80::1%25lo]:80",
    ],
)
async def test_malformed_authority_gets_400(world, authority):
    client = await world.client()
    await client.send(f"CONNECT {authority} HTTP/1.1\r\nHost: x\r\n\r\n".encode())

    status, headers, body = await client.response()

    assert (status, headers["x-openhands-egress"]) == (400, "malformed")
    assert body.endswith(".\n")
    assert world.reasons() == [("", False, "malformed")]


def test_own_address_is_recognized_without_a_packet():
    assert is_own_address(parse_address("127.0.0.1"))
    assert not is_own_address(parse_address("192.0.2.1"))

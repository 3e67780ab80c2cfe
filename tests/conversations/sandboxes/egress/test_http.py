"""Plain HTTP through the proxy: each request is decided for itself, and heads are rewritten."""

import asyncio
import contextlib
import ssl

import pytest

from conversations.sandboxes.egress.policy import Policy
from tests.conversations.sandboxes.egress.world import PUBLIC, PUBLIC_2, Origin, make_server_tls
from tests.waiting import wait_until_async


@pytest.fixture
async def origin(world):
    """A server that the name ``site.example`` reaches; its port is ``origin.port``."""
    origin = Origin()
    origin.port = await world.server(origin.serve)
    world.names["site.example"], world.routes[PUBLIC] = [PUBLIC], "127.0.0.1"
    return origin


async def test_request_is_forwarded_with_a_new_host_and_without_headers_of_the_hop(world, origin):
    status, _, body = await world.get(
        f"http://site.example:{origin.port}/a?b=c",
        "Accept: text/plain",
        "Connection: keep-alive, X-Secret",
        "X-Secret: 1",
        "Keep-Alive: 5",
        "Proxy-Connection: keep-alive",
        "Proxy-Authorization: Basic eDp5",
        "TE: trailers",
        "Forwarded: for=1.2.3.4",
        "X-Forwarded-For: 1.2.3.4",
        "X-Forwarded-Host: admin.example",
        "X-Real-IP: 1.2.3.4",
        "Cookie: a=b",
    )

    assert (status, body) == (200, "hello")
    [head] = origin.heads
    assert head.split("\r\n") == [
        "GET /a?b=c HTTP/1.1",
        f"Host: site.example:{origin.port}",
        "Accept: text/plain",
        "Cookie: a=b",
        "Connection: close",
        "",
        "",
    ]
    assert world.decisions() == [
        {
            "host": "site.example",
            "port": origin.port,
            "address": PUBLIC,
            "allowed": True,
            "reason": "public",
            "protocol": "http",
        }
    ]


@pytest.mark.parametrize("chunked", [False, True])
async def test_body_is_forwarded_in_its_framing(world, origin, chunked):
    client = await world.client()
    body = b"x" * 300_000
    framing = b"Transfer-Encoding: chunked" if chunked else b"Content-Length: 300000"
    head = f"POST http://site.example:{origin.port}/ HTTP/1.1\r\nHost: -\r\n".encode()

    await client.send(head + framing + b"\r\n\r\n")
    await client.send(b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body) if chunked else body)

    assert (await client.response())[0] == 200
    assert origin.bodies == [body]


async def test_body_length_stays_even_if_the_connection_header_names_it(world, origin):
    client = await world.client()
    smuggled = f"GET http://site.example:{origin.port}/admin HTTP/1.1\r\nHost: -\r\n\r\n".encode()

    await client.send(
        f"POST http://site.example:{origin.port}/ HTTP/1.1\r\nHost: -\r\nConnection: Content-Length, Host\r\n"
        f"Content-Length: {len(smuggled)}\r\n\r\n".encode()
        + smuggled
    )

    assert (await client.response())[0] == 200
    assert origin.bodies == [smuggled]
    assert origin.header("content-length") == [str(len(smuggled))]
    assert origin.header("host") == [f"site.example:{origin.port}"]
    assert origin.rest == b""


async def test_each_request_of_a_connection_is_decided_for_itself(world, origin):
    world.policy = Policy(profile="list", hosts=("site.example",))
    client = await world.client()
    url = f"http://site.example:{origin.port}/"

    assert (await client.get(url))[0] == 200
    assert (await client.get("http://other.example/"))[0] == 403
    assert (await client.get(url))[0] == 200
    world.policy = Policy(profile="none")
    assert (await client.get(url))[0] == 403

    assert len(origin.heads) == 2
    assert {(host, reason) for host, _, reason in world.reasons()} == {
        ("site.example", "listed"),
        ("other.example", "not-listed"),
        ("site.example", "profile-none"),
    }


async def test_pipelined_request_to_another_host_is_decided_for_itself(world, origin):
    world.policy = Policy(profile="list", hosts=("site.example",))
    client = await world.client()
    first = f"GET http://site.example:{origin.port}/ HTTP/1.1\r\nHost: -\r\n\r\n"

    await client.send(
        f"{first}GET http://other.example/ HTTP/1.1\r\nHost: site.example\r\n\r\n".encode()
    )

    assert (await client.response())[0] == 200
    assert (await client.response())[0] == 403
    assert len(origin.heads) == 1
    assert origin.rest == b""


async def test_redirect_to_a_private_address_is_a_new_request_and_refused(world, origin):
    secret = Origin()
    port = await world.server(secret.serve)
    origin.answer = (
        f"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:{port}/\r\nContent-Length: 0\r\n\r\n"
    ).encode()
    client = await world.client()

    status, headers, _ = await client.get(f"http://site.example:{origin.port}/")
    refused = await client.get(headers["location"])

    assert (status, refused[0]) == (302, 403)
    assert refused[1]["x-openhands-egress"] == "private-address"
    assert secret.heads == []


@pytest.mark.parametrize(
    "head",
    [
        "Content-Length: 5\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: chunked\r\nContent-Length: 5",
        "Content-Length: 5\r\nContent-Length: 6",
        "Content-Length: 5, 6",
        "Content-Length: +5",
        "Content-Length: -1",
        "Content-Length: 0x5",
        "Content-Length : 5",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity",
        "Transfer-Encoding: gzip, chunked",
        "Transfer-Encoding:\x0bchunked",
        "Host: other.example",
        " folded: first",
        "Bad Header: 1",
        "No-Colon",
        "A: \x00",
    ],
)
async def test_head_that_programs_could_understand_differently_gets_400(world, origin, head):
    client = await world.client()
    url = f"http://site.example:{origin.port}/"

    await client.send(
        f"POST {url} HTTP/1.1\r\n".encode()
        + (b"" if head.startswith(" ") else b"Host: -\r\n")
        + head.encode()
        + b"\r\n\r\n0\r\n\r\nGET http://127.0.0.1/ HTTP/1.1\r\n\r\n"
    )
    status, headers, _ = await client.response()

    assert (status, headers["x-openhands-egress"]) == (400, "malformed")
    assert await client.is_closed()
    assert origin.heads == []
    assert world.reasons() == [("", False, "malformed")]


async def test_folded_header_is_forwarded_as_one_line(world, origin):
    client = await world.client()

    await client.send(
        f"GET http://site.example:{origin.port}/ HTTP/1.1\r\nHost: -\r\n"
        "A: one\r\n two\r\n\tX-Smuggled: 9\r\n\r\n".encode()
    )

    assert (await client.response())[0] == 200
    assert origin.header("a") == ["one two X-Smuggled: 9"]


async def test_equal_content_lengths_are_forwarded_as_one(world, origin):
    client = await world.client()

    await client.send(
        f"POST http://site.example:{origin.port}/ HTTP/1.1\r\nHost: -\r\n"
        "Content-Length: 2\r\nContent-Length: 2\r\n\r\nab".encode()
    )

    assert (await client.response())[0] == 200
    assert origin.header("content-length") == ["2"]


async def test_malformed_chunk_ends_the_request(world, origin):
    client = await world.client()

    await client.send(
        f"POST http://site.example:{origin.port}/ HTTP/1.1\r\nHost: -\r\n"
        "Transfer-Encoding: chunked\r\n\r\n3\r\nabcGET / HTTP/1.1\r\n\r\n".encode()
    )

    assert (await client.response())[0] == 400
    assert origin.bodies == []


@pytest.mark.parametrize(
    "target",
    [
        "/",
        "*",
        "https://site.example/",
        "ftp://site.example/",
        "http:///x",
        "http://user:pw@site.example/",
        "http://site.example@127.0.0.1/",
        "http://site.example:99999/",
        "http://site.example:0/",
        "http://site.example\\@127.0.0.1/",
        "http://127.0.0.1%2f.site.example/",
        "http://[::1/",
    ],
)
async def test_target_that_is_not_a_plain_http_url_gets_400(world, target):
    status, headers, body = await world.get(target)

    assert (status, headers["x-openhands-egress"]) == (400, "malformed")
    assert body.endswith(".\n")
    assert "Traceback" not in body


async def test_openhands_internal_is_the_gateway_in_every_profile(world):
    gateway = Origin()
    port = await world.server(gateway.serve)

    for profile in ("public", "list", "none"):
        world.policy = Policy(profile=profile, gateway=f"http://127.0.0.1:{port}")
        for url in ("http://openhands.internal", "http://OpenHands.Internal.:80/v1/x?y"):
            assert (await world.get(url))[0] == 200

    assert [head.split("\r\n")[0] for head in gateway.heads[:2]] == [
        "GET / HTTP/1.1",
        "GET /v1/x?y HTTP/1.1",
    ]
    assert gateway.header("host") == [f"127.0.0.1:{port}"]
    assert (await world.get(f"http://127.0.0.1:{port}/"))[0] == 200
    assert (await world.get(f"http://127.0.0.1:{port + 1}/"))[0] == 403
    assert world.looked_up == []
    assert {d["host"] for d in world.decisions() if d["allowed"]} == {
        "openhands.internal",
        "127.0.0.1",
    }


async def test_openhands_internal_speaks_tls_with_an_https_gateway(make_world, tmp_path):
    server_tls, certificate = make_server_tls(tmp_path, "agents.example")
    gateway = Origin(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nsecure")

    for authority, status in ((certificate, 200), (None, 502)):
        trust = ssl.create_default_context(cafile=authority)
        world = await make_world(tls=trust)
        port = await world.server(gateway.serve, tls=server_tls)
        world.policy = Policy(profile="none", gateway=f"https://agents.example:{port}")
        world.names["agents.example"] = ["127.0.0.1"]

        answer = await world.get("http://openhands.internal/")

        assert answer[0] == status
        expected = "secure" if status == 200 else "its certificate is not valid"
        assert expected in answer[2]
        if status == 200:
            assert gateway.header("host") == [f"agents.example:{port}"]
    assert len(gateway.heads) == 1


async def test_websocket_upgrade_becomes_a_tunnel(world):
    async def upgrade(reader, writer):
        head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
        assert "connection: upgrade\r\nupgrade: websocket\r\n" in head
        assert "sec-websocket-key: abc\r\n" in head
        writer.write(
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Accept: def\r\n\r\nfirst"
        )
        while data := await reader.read(100):
            writer.write(data)

    port = await world.server(upgrade)
    world.policy = Policy(profile="none", gateway=f"http://127.0.0.1:{port}")
    client = await world.client()

    await client.send(
        b"GET http://openhands.internal/ws HTTP/1.1\r\nHost: -\r\nConnection: Upgrade\r\n"
        b"Upgrade: websocket\r\nSec-WebSocket-Key: abc\r\n\r\nearly"
    )
    status, headers = await client.head()

    assert status == 101
    assert headers["upgrade"] == "websocket"
    assert headers["sec-websocket-accept"] == "def"
    assert await client.reader.readexactly(10) == b"firstearly"
    world.policy = Policy(profile="none")
    assert await client.is_closed()


async def test_other_upgrades_are_not_passed_on(world, origin):
    status, _, _ = await world.get(
        f"http://site.example:{origin.port}/",
        "Connection: Upgrade, HTTP2-Settings",
        "Upgrade: h2c",
        "HTTP2-Settings: AAMA",
    )

    assert status == 200
    assert origin.header("upgrade") == origin.header("http2-settings") == []


async def test_upgrade_that_nobody_asked_for_gets_502(world, origin):
    origin.answer = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n"

    assert (await world.get(f"http://site.example:{origin.port}/"))[0] == 502


async def test_expectation_of_100_is_passed_on(world):
    async def expect(reader, writer):
        assert b"Expect: 100-continue" in await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        assert await reader.readexactly(3) == b"abc"
        writer.write(b"HTTP/1.1 204 No Content\r\n\r\n")

    port = await world.server(expect)
    world.names["site.example"], world.routes[PUBLIC] = [PUBLIC], "127.0.0.1"
    client = await world.client()

    await client.send(
        f"PUT http://site.example:{port}/ HTTP/1.1\r\nHost: -\r\nExpect: 100-continue\r\n"
        "Content-Length: 3\r\n\r\n".encode()
    )
    assert (await client.head())[0] == 100
    await client.send(b"abc")

    assert (await client.head())[0] == 204


async def test_answer_before_the_end_of_the_body_reaches_the_client(world):
    async def refuse(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 413 Too Large\r\nContent-Length: 3\r\n\r\nbig")
        await writer.drain()
        await asyncio.sleep(1)

    port = await world.server(refuse)
    world.names["site.example"], world.routes[PUBLIC] = [PUBLIC], "127.0.0.1"
    client = await world.client()

    await client.send(
        f"PUT http://site.example:{port}/ HTTP/1.1\r\nHost: -\r\nContent-Length: 300000\r\n\r\n".encode()
        + bytes(200_000)
    )

    assert (await client.response())[::2] == (413, "big")


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (b"HTTP/1.1 200 OK\r\n\r\nto the end", (200, "to the end")),
        (b"HTTP/1.0 200 OK\r\n\r\nold", (200, "old")),
        (
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
            (200, "abc"),
        ),
        (
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 9\r\n\r\n1\r\na\r\n0\r\n\r\n",
            (200, "a"),
        ),
        (b"HTTP/1.1 103 Early\r\nLink: x\r\n\r\n", (103, "")),
        (b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nKeep-Alive: 5\r\n\r\n", (404, "")),
    ],
)
async def test_answers_in_each_framing_reach_the_client(world, origin, answer, expected):
    origin.answer = answer

    client = await world.client()
    await client.send(
        f"GET http://site.example:{origin.port}/ HTTP/1.1\r\nHost: -\r\n\r\n".encode()
    )
    if expected[0] == 103:
        assert (await client.head())[0] == 103
        return
    status, headers, body = await client.response()

    assert (status, body) == expected
    assert "keep-alive" not in headers


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"garbage\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nA: " + b"x" * 200_000,
    ],
)
async def test_broken_answer_gets_502_with_a_sentence(world, origin, answer):
    origin.answer = answer

    status, headers, body = await world.get(f"http://site.example:{origin.port}/")

    assert (status, headers["x-openhands-egress"]) == (502, "unreachable")
    assert body.startswith(f"site.example was reached on port {origin.port}, but ")


async def test_answer_that_breaks_off_is_not_completed(world, origin):
    origin.answer = b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf"
    client = await world.client()
    await client.send(
        f"GET http://site.example:{origin.port}/ HTTP/1.1\r\nHost: -\r\n\r\n".encode()
    )
    await client.head()

    with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
        await client.reader.readexactly(100)


async def test_head_request_gets_no_body(world, origin):
    origin.answer = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n"
    world.policy = Policy(profile="list", hosts=("site.example",))
    client = await world.client()

    for host, status in (("site.example", 200), ("other.example", 403), ("site.example", 200)):
        await client.send(f"HEAD http://{host}:{origin.port}/ HTTP/1.1\r\nHost: -\r\n\r\n".encode())
        assert (await client.head())[0] == status


async def test_http_1_0_client_gets_the_answer_and_the_end(world, origin):
    origin.answer = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"
    client = await world.client()

    await client.send(f"GET http://site.example:{origin.port}/ HTTP/1.0\r\n\r\n".encode())
    status, headers = await client.head()

    assert status == 200
    assert "transfer-encoding" not in headers
    assert await client.reader.read() == b"abc"


async def test_client_that_ends_its_direction_after_the_request_gets_the_answer(world):
    async def slow(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        await asyncio.sleep(0.3)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nlate")

    port = await world.server(slow)
    world.names["site.example"], world.routes[PUBLIC] = [PUBLIC], "127.0.0.1"
    client = await world.client()

    await client.send(f"GET http://site.example:{port}/ HTTP/1.1\r\nHost: -\r\n\r\n".encode())
    client.writer.write_eof()

    assert (await client.response())[2] == "late"
    await wait_until_async(lambda: world.proxy.open_connections == 0, "the connection to end")


async def test_running_answer_is_cut_when_the_policy_refuses_its_host(world):
    async def stream(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        while True:
            writer.write(b"tick\n")
            await writer.drain()
            await asyncio.sleep(0.02)

    port = await world.server(stream)
    world.names["site.example"], world.routes[PUBLIC_2] = [PUBLIC_2], "127.0.0.1"
    client = await world.client()
    await client.send(f"GET http://site.example:{port}/ HTTP/1.1\r\nHost: -\r\n\r\n".encode())
    await client.head()

    world.policy = Policy(profile="public", denied=("site.example",))

    async with asyncio.timeout(5):
        with contextlib.suppress(ConnectionError):
            while await client.reader.read(1000):
                pass


async def test_idle_server_gets_502_after_the_idle_time(make_world):
    world = await make_world(idle_seconds=0.2)

    async def silent(reader, writer):
        await reader.read()

    port = await world.server(silent)
    world.names["site.example"], world.routes[PUBLIC] = [PUBLIC], "127.0.0.1"

    status, _, body = await world.get(f"http://site.example:{port}/")

    assert status == 502
    assert "did not answer in time" in body

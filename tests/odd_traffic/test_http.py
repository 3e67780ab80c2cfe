"""Odd raw HTTP requests, streams and MCP messages."""

import asyncio
import json
import re
from collections import Counter

import pytest
from asgiref.sync import sync_to_async

from accounts import services as accounts
from conversations import services
from tests.odd_traffic import raw
from tests.odd_traffic.choice import SHARES, choose
from tests.odd_traffic.test_sockets import OWN_TASKS
from tests.odd_values import json_bytes, query_values
from tests.waiting import wait_until_async

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.timeout(170)]
AT_ONCE = 24
GET = b"GET /alive HTTP/1.1\r\nHost: testserver\r\n"
POST = (
    b"POST /api/v1/conversations HTTP/1.1\r\nHost: testserver\r\nContent-Type: application/json\r\n"
)
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n\r\n"
END = b"\r\n\r\n"
STATUS = re.compile(rb"^HTTP/1\.1 (\d{3}) ", re.MULTILINE)
REQUESTS = [
    # Request lines
    b"", b"\r\n", b"\r\n\r\n", b"GET\r\n\r\n", b"GET /\r\n\r\n", b"GET / HTTP/1.1\r\n\r\n", b"GET  / HTTP/1.1" + END, b"GET / HTTP/9.9" + END, b"GET / HTTP/0.9" + END, b"GET / HTTP/1.0" + END, b"GET / HTTP/2.0" + END,
    b"GET / HTTX/1.1" + END, b"get / HTTP/1.1\r\nHost: testserver" + END, b"G\xffT / HTTP/1.1" + END, b"GET /\xff HTTP/1.1\r\nHost: testserver" + END, b"GET /\0 HTTP/1.1\r\nHost: testserver" + END,
    b"GET /a b HTTP/1.1\r\nHost: testserver" + END, b"GET /%ff%fe HTTP/1.1\r\nHost: testserver" + END, b"GET /%00 HTTP/1.1\r\nHost: testserver" + END, b"GET /%ed%a0%80 HTTP/1.1\r\nHost: testserver" + END, b"GET /%0d%0aX:1 HTTP/1.1\r\nHost: testserver" + END,
    b"GET /% HTTP/1.1\r\nHost: testserver" + END, b"GET //evil.example/ HTTP/1.1\r\nHost: testserver" + END, b"GET /../../etc/passwd HTTP/1.1\r\nHost: testserver" + END, b"GET /static/../../etc/passwd HTTP/1.1\r\nHost: testserver" + END, b"GET /static/%00 HTTP/1.1\r\nHost: testserver" + END,
    b"GET /static/%ff HTTP/1.1\r\nHost: testserver" + END, b"GET http://testserver/alive HTTP/1.1\r\nHost: testserver" + END, b"GET http://evil.example/alive HTTP/1.1\r\nHost: testserver" + END, b"GET http://[::1 HTTP/1.1\r\nHost: testserver" + END, b"GET http:///alive HTTP/1.1\r\nHost: testserver" + END,
    b"GET ftp://x/y HTTP/1.1\r\nHost: testserver" + END, b"GET http://a:b@testserver:99999/alive HTTP/1.1\r\nHost: testserver" + END, b"GET * HTTP/1.1\r\nHost: testserver" + END, b"OPTIONS * HTTP/1.1\r\nHost: testserver" + END, b"CONNECT testserver:443 HTTP/1.1\r\nHost: testserver" + END,
    b"CONNECT / HTTP/1.1\r\nHost: testserver" + END, b"GET alive HTTP/1.1\r\nHost: testserver" + END, b"GET ?a HTTP/1.1\r\nHost: testserver" + END, b"GET # HTTP/1.1\r\nHost: testserver" + END, b"GET /?" + b"a" * 40_000 + b" HTTP/1.1\r\nHost: testserver" + END, b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\nHost: testserver" + END,
    b"GET /?" + b"a&" * 5_000 + b" HTTP/1.1\r\nHost: testserver" + END, b"GET /sign-in?next=%ed%a0%80 HTTP/1.1\r\nHost: testserver" + END, b"GET /sign-in?next=%00 HTTP/1.1\r\nHost: testserver" + END, b"GET /sign-in?next=//[ HTTP/1.1\r\nHost: testserver" + END,
    *[method + b" /alive HTTP/1.1\r\nHost: testserver" + END for method in (b"PUT", b"PATCH", b"DELETE", b"TRACE", b"OPTIONS", b"HEAD", b"PROPFIND", b"PURGE", b"M-SEARCH", b"SOURCE", b"QUERY", b"X", b"PRI", b"BREW")],
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(60), bytes(range(256)), b"SSH-2.0-x\r\n", b"\x05\x01\x00", b"PROXY TCP4 1.2.3.4 5.6.7.8 1 2\r\n" + GET + b"\r\n",
    # Headers
    *[GET + header + END for header in (
        b"X", b"X\xff: a", b"\xff: a", b": a", b"X : a", b"X-A\0: b", b"X-A: \0", b"X-A: b\rc", b"X-A: b\nc", b" folded: a", b"X-A: a\r\n folded", b"X-A: \xff\xfe", b"X-A: " + b"a" * 70_000, b"x" * 70_000 + b": a",
        b"\r\n".join(b"X-%d: a" % n for n in range(2_000)), b"Host: evil.example", b"Host:", b"Content-Length: x", b"Content-Length: -1", b"Content-Length: +1", b"Content-Length: 1_0", b"Content-Length: 0x1", b"Content-Length: 1e1",
        b"Content-Length: " + b"9" * 19, b"Content-Length: " + b"9" * 400, b"Content-Length: \xb2", b"Content-Length: 1, 1", b"Content-Length: 0\r\nContent-Length: 0", b"Content-Length: 0\r\nContent-Length: 1", b"Content-Length:",
        b"Transfer-Encoding: x", b"Transfer-Encoding: gzip", b"Transfer-Encoding: chunked, gzip", b"Transfer-Encoding: gzip, chunked", b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked", b"Transfer-Encoding: \xff", b"Transfer-Encoding : chunked", b"Transfer-Encoding: chunked",
        b"Connection: \xff", b"Connection: close, keep-alive", b"Connection: Host", b"Upgrade: h2c\r\nConnection: Upgrade, HTTP2-Settings\r\nHTTP2-Settings: x", b"Upgrade: \xff\r\nConnection: Upgrade", b"Upgrade: websocket\r\nConnection: Upgrade", b"Expect: 100-continue", b"Expect: x", b"Expect: \xff",
        b"Cookie: \xff=\xfe", b"Cookie: sessionid=\xff; csrftoken=\xed\xa0\x80", b'Cookie: a="\\777"', b"Cookie: " + b"a=b; " * 5_000, b"Authorization: \xff", b"Authorization: Bearer \xff\xfe.\x00", b"Authorization: Basic \xff", b"Accept: \xff", b"Accept: " + b"*/*," * 5_000, b"Accept-Language: " + b"a-" * 3_000, b"Accept-Encoding: \xff", b"Accept: */*;q=\xff",
        b"Range: bytes=x", b"If-None-Match: \xff", b"If-Modified-Since: Xxx, 99 Zzz 99999 99:99:99 GMT", b"Referer: http://[", b"Origin: http://[::1", b"X-Forwarded-For: \xff", b"X-Forwarded-Proto: \xff", b"X-Forwarded-Host: \xff..", b'Forwarded: for="\xff', b"X-Request-ID: \xff\xfe", b"X-Request-Id: " + b"a" * 9_000, b"X-Held: x", b"X-Held-By: \xff", b"Content-Type: \xff", b"Content-Encoding: gzip", b"Date: \xff", b"Via: \xff",
    )],
    *[b"GET /api/v1/me HTTP/1.1\r\n" + header + END for header in (b"Host: \xff", b"Host: a b", b"Host: [::1", b"Host: [", b"Host: ..", b"Host: a..b", b"Host: " + b"a" * 9_000, b"Host: testserver:99999", b"Host: testserver:x", b"Host: testserver:", b"Host: user@testserver", b"Host: testserver/", b"Host: ,", b"Host: testserver,evil", b"Host: xn--\xff", b"Host: *", b"Host: .testserver", b"Host: testserver.", b"Host: TESTSERVER", b"X: y", b"Host: testserver\r\nHost: testserver")],
    # Bodies
    *[POST + b"Content-Length: %d\r\n\r\n" % size + body for size, body in ((0, b""), (10, b"{}"), (2, b"{}{}"), (5, b"\xff\xfe\xfd\xfc\xfb"), (10**18, b"{}"), (3, b'"\xed\xa0'))],
    POST + b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n", POST + b"Transfer-Encoding: chunked\r\nContent-Length: 2\r\n\r\n{}", POST + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}", POST + b"\r\n", POST + b"\r\n{}",
    *[CHUNKED + body for body in (
        b"x\r\n", b"-1\r\n", b"0x2\r\n{}\r\n0\r\n\r\n", b"+2\r\n{}\r\n0\r\n\r\n", b"2_0\r\n", b" 2\r\n{}\r\n0\r\n\r\n", b"2 \r\n{}\r\n0\r\n\r\n", b"2;a=b\r\n{}\r\n0\r\n\r\n", b"2;" + b"a" * 100_000 + b"\r\n{}\r\n0\r\n\r\n", b"2\n{}\n0\n\n", b"f" * 16 + b"\r\n", b"f" * 400 + b"\r\n", b"10000000000000002\r\n{}",
        b"2\r\n{}x\r\n0\r\n\r\n", b"2\r\n{}0\r\n\r\n", b"3\r\n{}\r\n0\r\n\r\n", b"2\r\n{}\r\n", b"2\r\n{}\r\n0\r\n", b"2\r\n{}\r\n0\r\nX: \xff\r\n\r\n", b"2\r\n{}\r\n0\r\n: x\r\n\r\n", b"2\r\n{}\r\n0\r\nContent-Length: 5\r\n\r\nhello", b"2\r\n{}\r\n0\r\nX: " + b"a" * 100_000 + b"\r\n\r\n", b"\r\n", b"0\r\n\r\n", b"\xff\r\n", b"2\r{}\r\n",
        b"1\r\n{\r\n" * 3_000 + b"0\r\n\r\n", b"800000\r\n" + b"x" * 8_388_608 + b"\r\n0\r\n\r\n",
    )],
    POST + b"Expect: 100-continue\r\nContent-Length: 2\r\n\r\n{}", POST + b"Expect: 100-continue\r\nContent-Length: 2\r\n\r\n", POST + b"Expect: 200-ok\r\nContent-Length: 2\r\n\r\n{}", POST + b"Expect: 100-continue\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
    GET + b"\r\n" + GET + b"\r\n", GET + b"\r\n\xff\xfe", GET + b"\r\n" + GET, (GET + b"\r\n") * 50, GET + b"Content-Length: 5\r\n\r\nGET /", GET + b"Connection: close\r\n\r\n" + GET + b"\r\n",
]  # fmt: skip


class Requests:
    """Sends raw requests to the server, and collects what is a fault."""

    def __init__(self, server, conversation, key):
        self.server, self.conversation_id = server, str(conversation.pk)
        self.key = b"Authorization: Bearer " + key.encode() + b"\r\n"
        self.outcomes, self.failures = Counter(), []
        self._slots = asyncio.Semaphore(AT_ONCE)

    async def send(self, data):
        async with self._slots:
            try:
                received = await raw.send_http(self.server.port, data)
            except TimeoutError:
                self.failures.append((data[:200], "neither a response nor an end"))
                return
        statuses = [int(match) for match in STATUS.findall(received)]
        self.outcomes[statuses[0] if statuses else 0] += 1
        if any(status >= 500 for status in statuses):
            self.failures.append((data[:200], statuses, received[:300]))

    async def send_all(self, requests):
        await asyncio.gather(*map(self.send, requests))


@pytest.fixture
async def requests(server, alice):
    """A sender of requests, after whose test the server still responds, no task is left, and the log has no fault."""
    conversation = await sync_to_async(services.create_conversation)(user=alice)
    _, key = await sync_to_async(accounts.issue_api_key)(user=alice, name="odd")
    requests = Requests(server, conversation, key)
    with server.expect_quiet_log():
        yield requests
        alive = await raw.send_http(server.port, GET + b"Connection: close\r\n\r\n")
        assert alive.startswith(b"HTTP/1.1 200 "), alive
        await wait_until_async(
            lambda: not server.count_tasks().keys() - OWN_TASKS, "the tasks of all requests to end"
        )
    assert not requests.failures
    print(dict(requests.outcomes))


TOOLS = {
    "list_conversations": {"limit": 20, "q": "a"},
    "start_conversation": {
        "message": "a",
        "title": "a",
        "repository": "a/b",
        "branch": "main",
        "provider": "github",
    },
    "send_message": {"conversation_id": "ID", "text": "a"},
    "interrupt": {"conversation_id": "ID"},
    "get_conversation": {"conversation_id": "ID", "events": 1},
    "create_pr": {
        "repo_name": "a/b",
        "source_branch": "a",
        "target_branch": "b",
        "title": "t",
        "body": "b",
        "draft": True,
        "labels": ["a"],
    },
    "nothing": {"a": 1},
}
INITIALIZE = (
    b'{"protocolVersion":"2025-06-18","capabilities":{},"clientInfo":{"name":"a","version":"1"}}'
)


def mcp_bodies(conversation_id):
    def rpc(method, params):
        return b'{"jsonrpc":"2.0","id":1,"method":%s,"params":%s}' % (method, params)

    for value in json_bytes().values():
        yield value
        yield b"[" + value + b"]"
        yield b'{"jsonrpc":%s,"id":1,"method":"ping"}' % value
        yield b'{"jsonrpc":"2.0","id":%s,"method":"ping"}' % value
        yield b'{"jsonrpc":"2.0","method":%s}' % value
        yield rpc(value, b"{}")
        yield b'{"jsonrpc":"2.0","id":1,"result":%s}' % value
        yield b'{"jsonrpc":"2.0","id":1,"error":%s}' % value
        yield b'{"jsonrpc":"2.0","id":1,"error":{"code":%s,"message":"a"}}' % value
        for method in (
            b"initialize",
            b"ping",
            b"tools/list",
            b"tools/call",
            b"resources/read",
            b"prompts/get",
            b"completion/complete",
            b"logging/setLevel",
            b"notifications/cancelled",
            b"notifications/initialized",
            b"notifications/progress",
            b"sampling/createMessage",
        ):
            yield rpc(b'"%s"' % method, value)
        yield (
            b'{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":%s}}'
            % value
        )
        yield (
            b'{"jsonrpc":"2.0","method":"notifications/progress","params":{"progressToken":%s,"progress":%s}}'
            % (value, value)
        )
        yield rpc(b'"tools/list"', b'{"cursor":%s}' % value)
        yield rpc(b'"tools/list"', b'{"_meta":%s}' % value)
        yield rpc(b'"tools/list"', b'{"_meta":{"progressToken":%s}}' % value)
        yield rpc(b'"initialize"', INITIALIZE.replace(b'"2025-06-18"', value))
        yield rpc(b'"initialize"', INITIALIZE.replace(b'{"name":"a","version":"1"}', value))
        yield rpc(
            b'"initialize"', INITIALIZE.replace(b'"capabilities":{}', b'"capabilities":' + value)
        )
        yield rpc(b'"tools/call"', b'{"name":%s,"arguments":{}}' % value)
        for name, arguments in TOOLS.items():
            tool = json.dumps(name).encode()
            yield rpc(b'"tools/call"', b'{"name":%s,"arguments":%s}' % (tool, value))
            for field in [*arguments, "__proto__"]:
                text = (
                    json.dumps(arguments | {field: "HERE"})
                    .replace("ID", str(conversation_id))
                    .encode()
                )
                yield rpc(
                    b'"tools/call"',
                    b'{"name":%s,"arguments":%s}' % (tool, text.replace(b'"HERE"', value)),
                )


ODD_HEADERS = (
    *(
        b"",
        b"\xff",
        b"null",
        b"\xed\xa0\x80",
        b"x" * 9_000,
        b"application/json",
        b"text/event-stream",
        b"*/*",
    ),
    *(
        b"application/json; charset=\xff",
        b"application/json; charset=utf-16",
        b"text/plain",
        b"2025-06-18",
        b"1",
    ),
    *(b"http://[", b"-1", b".."),
)
MCP_HEADERS = (
    *(
        b"Accept",
        b"Content-Type",
        b"Mcp-Session-Id",
        b"Mcp-Protocol-Version",
        b"Last-Event-ID",
        b"Origin",
    ),
    *(b"X-OpenHands-ServerConversation-ID", b"X-Session-API-Key", b"Content-Encoding"),
)
CREATE_PR = b"""{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"create_pr","arguments":
{"repo_name":"a/b","source_branch":"a","target_branch":"b","title":"t"}}}"""


def mcp_requests(requests):
    head = b"POST /mcp HTTP/1.1\r\nHost: testserver\r\nConnection: close\r\n" + requests.key
    usual = b"Content-Type: application/json\r\nAccept: application/json, text/event-stream\r\n"
    for body in mcp_bodies(requests.conversation_id):
        yield head + usual + b"Content-Length: %d\r\n\r\n" % len(body) + body
    for name in MCP_HEADERS:
        for value in ODD_HEADERS:
            for start in (usual, b"", usual.partition(b"\r\n")[2]):
                line = name + b": " + value + b"\r\n"
                yield (
                    head + start + line + b"Content-Length: %d\r\n\r\n" % len(CREATE_PR) + CREATE_PR
                )


def stream_requests(requests):
    base = f"/api/v1/conversations/{requests.conversation_id}/events"
    end = b" HTTP/1.1\r\nHost: testserver\r\n" + requests.key
    for path, names in (
        (base, ("after", "before", "kind", "limit", "wait", "x")),
        (f"{base}/stream", ("after", "epoch", "wait", "x", "format")),
    ):
        for name in names:
            for text in query_values():
                yield f"GET {path}?{name}={text}".encode() + end + b"\r\n"
                yield f"GET {path}?{name}={text}&{name}=0&wait=1".encode() + end + b"\r\n"
    for value in (
        *(text.encode() for text in query_values()),
        *(
            b"0-0",
            b"1-1",
            b"0-9999999999999999999",
            b"9999999999-1",
            b"-1--1",
            b"0-\xb2",
            b"\xff-\xff",
            b"1-1-1",
        ),
        *(b"1-" + b"9" * 5_000, "٣-٣".encode()),
    ):
        yield f"GET {base}/stream".encode() + end + b"Last-Event-ID: " + value + b"\r\n\r\n"
    for value in ODD_HEADERS:
        for method in ("GET", "HEAD", "POST", "OPTIONS", "DELETE"):
            line = b"Content-Length: 0\r\nAccept: " + value + b"\r\n\r\n"
            yield f"{method} {base}/stream".encode() + end + line


@pytest.mark.parametrize("share", SHARES)
async def test_odd_raw_request_gets_a_4xx_or_an_end(requests, share):
    known = [
        data.replace(b"Content-Type: app", requests.key + b"Content-Type: app") for data in REQUESTS
    ]
    await requests.send_all(choose([*REQUESTS, *known], min(1, 4 * share)))


@pytest.mark.parametrize("share", SHARES)
async def test_odd_mcp_message_gets_an_error_of_json_rpc(requests, share):
    await requests.send_all(choose([*mcp_requests(requests)], share / 2))


@pytest.mark.parametrize("share", SHARES)
async def test_odd_parameter_of_a_stream_is_refused(requests, share):
    await requests.send_all(choose([*stream_requests(requests)], share))


async def test_body_longer_than_any_limit_is_413_with_and_without_a_key(requests):
    head = POST + b"Content-Length: 1000000000000000000\r\n"
    await requests.send_all([head + b"\r\n", head + requests.key + b"\r\n"])
    assert requests.outcomes == {413: 2}

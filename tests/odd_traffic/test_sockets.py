"""Odd handshakes, queries, headers, frames and messages on all WebSockets of the server."""

import asyncio
import random
import struct
from collections import Counter

import pytest
from asgiref.sync import sync_to_async

from accounts import services as accounts
from conversations import services
from tests.odd_traffic import raw
from tests.odd_traffic.choice import SHARES, choose
from tests.odd_traffic.raw import BINARY, CLOSE, CONTINUATION, PING, PONG, frame
from tests.odd_values import json_bytes, query_values
from tests.waiting import wait_until_async

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.timeout(170)]
AT_ONCE = 16
UNKNOWN = "3f0c5c0e-6a0e-4c1e-9d3f-000000000000"
CLOSES = {None, 1000, 1002, 1003, 1005, 1007, 1008, 1009, 1012, 1013, 4001, 4004, 4400, 4401, 4404}
"""The documented close codes, and those of RFC 6455, section 7.4. Without a code: the client broke a frame off."""
OWN_TASKS = {
    *(
        "Hub._read",
        "Hub._poll",
        "Hub._receive",
        "Event.wait",
        "Server.serve",
        "LifespanOff.startup",
    ),
    *("_Shard._do_receiving", "AsyncServer._service_task"),
    # python-engineio starts it for each ping and ends it after the pause between two pings, 25 seconds.
    "AsyncSocket._send_ping",
}
"""The asyncio tasks of a server without sockets."""
MARK = "this socket still works"
V0_MARK = frame(f'42["oh_user_action",{{"action":"message","args":{{"content":"{MARK}"}}}}]')
V1_MARK = frame(f'{{"role":"user","content":[{{"type":"text","text":"{MARK}"}}]}}')


class Sockets:
    """The addresses of a conversation's sockets, with valid credentials, and the server that serves them."""

    def __init__(self, server, conversation, key):
        self.server, self.id, self.key = server, str(conversation.pk), key
        self.counts = Counter()
        self.failures = []
        self._slots = asyncio.Semaphore(AT_ONCE)

    def path(self, kind, query=None, **more):
        parameters = {"session_api_key": self.key} if kind != "native" else {}
        if kind == "v0":
            parameters |= {"EIO": "4", "transport": "websocket", "conversation_id": self.id}
        parameters |= more
        text = "&".join(f"{name}={value}" for name, value in parameters.items())
        base = {
            "native": f"/ws/v1/conversations/{self.id}",
            "v1": f"/sockets/events/{self.id}",
            "v0": "/socket.io/",
        }
        return f"{base[kind]}?{text if query is None else query}".encode()

    @property
    def headers(self):
        return [(b"X-API-Key", self.key.encode())]

    async def attack(self, name, head, frames=(), *, may_close=True, **options):
        """Open a socket, send frames, and store a failure.

        With ``until``, a server that does not close the socket must send this text.
        """
        async with self._slots:
            outcome = await raw.talk(self.server.port, head, frames, **options)
        self.counts[name[0]] += 1
        is_lost = "until" in options and not outcome.is_confirmed
        if (
            outcome.is_failure
            or outcome.code not in CLOSES
            or (is_lost and (not may_close or outcome.code in (None, 1000)))
        ):
            self.failures.append((*name, outcome.status, outcome.code, outcome.is_ended))
        return outcome

    async def attack_all(self, surface, cases, **options):
        """Send the cases, each a name, the head of a handshake, and frames."""
        await asyncio.gather(
            *(self.attack((surface, name), *case, **options) for name, *case in cases)
        )


@pytest.fixture
async def sockets(server, alice):
    """Sockets of a conversation, after whose test no socket or task is left and the log has no fault."""
    conversation = await sync_to_async(services.create_conversation)(user=alice)
    _, key = await sync_to_async(accounts.issue_api_key)(user=alice, name="odd")
    sockets = Sockets(server, conversation, key)
    with server.expect_quiet_log():
        head = raw.upgrade(sockets.path("native"), sockets.headers)
        bystander = asyncio.create_task(
            raw.talk(server.port, head, until="for the bystander", seconds=170)
        )
        yield sockets
        await sync_to_async(services.post_message)(
            conversation_id=conversation.pk, text="for the bystander", message_id="b", by=alice
        )
        assert (await bystander).is_confirmed
        await wait_until_async(
            lambda: not server.count_tasks().keys() - OWN_TASKS,
            "the tasks of closed sockets to end",
        )
    assert not sockets.failures
    print(dict(sockets.counts))


KINDS = ("native", "v1", "v0")
PARAMETERS = {
    "native": ("after", "epoch", "token"),
    "v1": ("session_api_key", "resend_all", "resend_mode", "after_timestamp", "x"),
    "v0": (
        "conversation_id",
        "latest_event_id",
        "session_api_key",
        "EIO",
        "transport",
        "sid",
        "t",
        "b64",
        "providers_set",
    ),
}
PATHS = (
    "/", "/ws", "/ws/v1/conversations", "/ws/v1/conversations/", "/ws/v1/conversations/x", f"/ws/v1/conversations/{UNKNOWN}/",
    f"/ws/v1/conversations/{UNKNOWN}", f"//ws/v1/conversations/{UNKNOWN}", "/ws/v1/conversations/%00", "/sockets/events", "/sockets/events/",
    "/sockets/events/x/y", "/sockets/events/%00", "/sockets/events/%ff", "/sockets/events/%ed%a0%80", "/sockets/events/%2e%2e", "/sockets/events/..",
    f"/sockets/events/{UNKNOWN}", "/sockets/events/" + "x" * 20_000, "/socket.io", "/socket.io//", "/socket.io/x", "/socket.iox", "/engine.io/", "/mcp",
    "/api/v1/conversations", "/alive", "/favicon.ico", "*", "?", "/%", "/%zz", "/\xff", "http://testserver/ws/v1/conversations/x", "ws://evil.example/sockets/events/x",
    "/sockets/events/x#y", "/sockets/events/x?y#z", f"/ws/v1/conversations/{UNKNOWN.upper()}", "/static/../ws", "/sockets/bash-events", "/sockets/bash-events?x=1",
    "/v1/sockets/events/x", "/runtime/1/sockets/events/x",
)  # fmt: skip
ODD_VALUES = (b"", b" ", b"null", b"\xff\xfe", b"\xed\xa0\x80", b"a\tb", b"x" * 20_000, b"http://evil.example", b"http://", b"http://[", b"http://[::1", b"://", b"javascript:1",
    b"Bearer", b"Bearer ", b"Bearer oh_\xff.\xff", b"Bearer a.b.c", b"Bearer eyJhbGciOiJub25lIn0.e30.", b"Basic x", b"sessionid=\xff", b"sessionid=x; sessionid=y", b"=;=;;", b'sessionid="\\777"',
    b"oh_x.y", b"ocs_\xb2.\xb3", b"localhost:99999", b"a b", b"a,b", b"[::1", b"..", b"testserver:x", b"127.0.0.1, ::1, unix", b'for="[::1"')  # fmt: skip
HEADERS = (
    b"Origin", b"Cookie", b"Authorization", b"X-Session-API-Key", b"X-API-Key", b"Sec-WebSocket-Protocol", b"Sec-WebSocket-Extensions",
    b"X-Forwarded-For", b"X-Forwarded-Host", b"Forwarded", b"User-Agent", b"Accept-Language",
)  # fmt: skip
LONG = b"x" * 1_000_000
FRAMES = {
    "binary": [frame(b"\0\xff", BINARY)],
    "empty binary": [frame(b"", BINARY)],
    "empty text": [frame("")],
    "invalid UTF-8": [frame(b"\xff\xfe\xfd")],
    "cut UTF-8": [frame(b"\xf0\x9f")],
    "surrogate in UTF-8": [frame(b"\xed\xa0\x80")],
    "NUL": [frame("\0\0")],
    "reserved bits": [frame("x", reserved=4)],
    "all reserved bits": [frame("x", reserved=7)],
    "opcode 3": [frame("x", 3)],
    "opcode 11": [frame("x", 11)],
    "unmasked": [frame("x", is_masked=False)],
    "fragments": [frame("a", is_final=False), frame("b", CONTINUATION, is_final=False), frame("c", CONTINUATION)],
    "fragments never end": [frame("a", is_final=False), *[frame("b", CONTINUATION, is_final=False)] * 50],
    "fragment splits a character": [frame(b"\xf0\x9f", is_final=False), frame(b"\x98\x80", CONTINUATION)],
    "empty fragments": [frame("", is_final=False), *[frame("", CONTINUATION, is_final=False)] * 500, frame("", CONTINUATION)],
    "continuation first": [frame("x", CONTINUATION)],
    "text inside fragments": [frame("a", is_final=False), frame("b")],
    "ping inside fragments": [frame("a", is_final=False), frame("b", PING), frame("c", CONTINUATION)],
    "fragmented ping": [frame("a", PING, is_final=False)],
    "long ping": [frame("a" * 126, PING)],
    "pings": [frame("a", PING)] * 200,
    "pongs": [frame(b"\xff", PONG)] * 200,
    "5 MB": [frame(LONG * 5)],
    "5 MB in fragments": [frame(LONG, is_final=False), *[frame(LONG, CONTINUATION, is_final=False)] * 4],
    "2**62 bytes": [frame("x", length=2**62)],
    "2**64 - 1 bytes": [frame("x", length=2**64 - 1)],
    "half a frame": [frame("abc")[:4]],
    "garbage": [random.Random(13).randbytes(100)],
    "HTTP": [b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"],
    "close of 1 byte": [frame(b"\x03", CLOSE)],
    **{f"close {code}": [frame(struct.pack(">H", code), CLOSE)] for code in (0, 999, 1004, 1005, 1006, 1012, 1015, 2999, 4401, 5000, 65535)},
    "close with a bad reason": [frame(struct.pack(">H", 1000) + b"\xff", CLOSE)],
    "long close": [frame(struct.pack(">H", 1000) + b"x" * 124, CLOSE)],
    "close without a code": [frame(b"", CLOSE)],
    "two closes": [raw.BYE, raw.BYE],
    "text after close": [raw.BYE, frame("x")],
}  # fmt: skip


def query_cases(sockets, kind):
    headers = sockets.headers if kind == "native" else ()
    for path in query_paths(sockets, kind):
        yield f"{kind} {path[-60:]}", raw.upgrade(path, headers)


def query_paths(sockets, kind):
    for name in PARAMETERS[kind]:
        for value in query_values():
            yield sockets.path(kind, **{name: value})
        yield sockets.path(kind) + f"&{name}=0&{name}=%00&{name}=x".encode()
    for query in (
        "",
        "=",
        "&&&",
        "%00=%00",
        "%ff=%ff",
        "a" * 30_000,
        "&".join(["a=b"] * 2_000),
        "%ed%a0%80=1",
        ";",
        "__proto__=1",
        "after[]=1",
        "\xff=\xff",
        "a=b?c=d",
    ):
        yield sockets.path(kind, query)


def header_cases(sockets, kind):
    for name in HEADERS:
        for value in ODD_VALUES:
            yield f"{kind} {name} {value[:40]}", raw.upgrade(sockets.path(kind), [(name, value)])
            yield (
                f"{kind} {name} twice {value[:40]}",
                raw.upgrade(sockets.path(kind), [(name, b"a"), (name, value)]),
            )
    for value in ODD_VALUES:
        yield (
            f"{kind} Host {value[:40]}",
            raw.upgrade(sockets.path(kind), sockets.headers, host=value),
        )
        yield (
            f"{kind} version {value[:40]}",
            raw.upgrade(sockets.path(kind), sockets.headers, version=value),
        )
    good = raw.upgrade(sockets.path(kind), sockets.headers)
    for old, new in (
        (b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==", b"Sec-WebSocket-Key: x"),
        (b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n", b""),
        (b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==", b"Sec-WebSocket-Key: \xff\xfe\xfd"),
        (b"Sec-WebSocket-Key:", b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Key:"),
        (b"Sec-WebSocket-Version: 13\r\n", b""),
        (b"Sec-WebSocket-Version: 13", b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Version: 8"),
        (b"Connection: Upgrade", b"Connection: close"),
        (b"Connection: Upgrade", b"Connection: keep-alive, Upgrade"),
        (b"Connection: Upgrade", b"Connection: Upgrade, HTTP2-Settings"),
        (b"Upgrade: websocket", b"Upgrade: h2c"),
        (b"Upgrade: websocket", b"Upgrade: WebSocket, h2c"),
        (b"Upgrade: websocket", b"Upgrade: \xff"),
        (b"GET", b"POST"),
        (b"GET", b"OPTIONS"),
        (b"GET", b"CONNECT"),
        (b"HTTP/1.1", b"HTTP/1.0"),
        (b"Host: testserver\r\n", b""),
        (b"Host: testserver", b"Host: testserver\r\nHost: evil.example"),
        (b"\r\n\r\n", b"\r\nContent-Length: 5\r\n\r\nhello"),
        (b"\r\n\r\n", b"\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"),
        (b"\r\n\r\n", b"\r\nExpect: 100-continue\r\n\r\n"),
    ):  # fmt: skip
        yield f"{kind} {old!r} -> {new!r}", good.replace(old, new, 1)


V1_FIELDS = (
    b"%s",
    b'{"role":%s,"content":[{"type":"text","text":"a"}]}',
    b'{"role":"user","content":%s}',
    b'{"role":"user","content":[%s]}',
    b'{"role":"user","content":[{"type":%s,"text":"a"}]}',
    b'{"role":"user","content":[{"type":"text","text":%s}]}',
    b'{"role":"user","content":[{"type":"image","image_urls":%s}]}',
    b'{"role":"user","content":[{"type":"image","image_urls":[%s]}]}',
    b'{"role":"user","content":[{"type":"image_url","image_url":%s}]}',
    b'{"role":"user","content":[{"type":"image_url","image_url":{"url":%s}}]}',
    b'{"role":"user","content":[{"type":"image_url","text":%s}]}',
    b'{"role":"user","content":[{"type":"text","text":"a"}],"run":%s}',
    b'{"role":"user","content":[{"type":"text","text":"a"}],"__proto__":%s}',
    b'{"type":%s}',
    b'{"type":"auth","session_api_key":%s}',
)
"""The fields of the frames of V1 clients, each with a place for a value."""
V0_FIELDS = (
    b'42["oh_user_action",%s]',
    b'42["oh_action",%s]',
    b'42["oh_user_action",{"action":%s,"args":{}}]',
    b'42["oh_user_action",{"action":"message","args":%s}]',
    b'42["oh_user_action",{"action":"message","args":{"content":%s}}]',
    b'42["oh_user_action",{"action":"message","args":{"content":"a","image_urls":%s}}]',
    b'42["oh_user_action",{"action":"message","args":{"content":"a","image_urls":[%s]}}]',
    b'42["oh_user_action",{"action":"message","args":{"content":"a","images_urls":%s}}]',
    b'42["oh_user_action",{"action":"message","args":{"content":"a","file_urls":[%s]}}]',
    b'42["oh_user_action",{"action":"message","args":{"content":"a","file_urls":%s,"timestamp":%s}}]',
    b'42["oh_user_action",{"action":"change_agent_state","args":{"agent_state":%s}}]',
    b'42["oh_user_action",{"action":"change_agent_state","args":{"agent_state":"user_rejected","thought":%s}}]',
    b'42["oh_user_action",{"action":"run","args":{},"__proto__":%s}]',
    b'42["oh_user_action",{},%s]',
    b"42[%s]",
    b"42[%s,1]",
    b"42%s",
    b"40%s",
    b"43%s",
    b"4%s",
    b"%s",
)
V0_PACKETS = (
    "", "0", "1", "2", "2probe", "3", "3x", "5", "6", "7", "8", "9", "-1", "a", "b", "b!!!", "b/w==", "bNDI=", " 2", "²", "٣", "\ud800", "10", "2" * 300, "4", "40", "41", "42", "43",
    "44", "44{}", "45", "46", "47", "49", "4a", "4²", "4-", "40,", "40/,", "40/x,", "40/x", "40/" + "n" * 100_000, "40/" + "n" * 100_000 + ",", "40/\0,", "40?x,", "40/?x=y,", '40{"token":"x"}',
    '40/a,{"token":"x"}', "41/", "41/x,", "42/x,[]", '42/x,["oh_user_action"]', "42[]", "42[1]", '42["connect"]', '42["connect",{}]', '42["disconnect"]', '42["disconnect","x"]', '42["message"]', '42["*"]',
    '42["__class__"]', '42["oh_event",{}]', '42["oh_user_action"]', '42["oh_user_action",1,2,3]', '420["oh_user_action",{}]', "42" + "9" * 90 + '["x"]', "42" + "9" * 400 + '["oh_user_action",{}]', "421[", '42²["x"]', '42-1["x"]', "42-", "42{", "42[[[[",
    "42" + "[" * 100_000, "42" + "[" * 500 + "]" * 500, "4" + "[" * 100_000, "4[1]", '4{"a":1}', '4"x"', "4true", "4null", "41[", '41["x"]', "430[]", "4399[]", "43" + "9" * 400 + "[]", '43/x,1["a"]', "43[]",
    '451-["oh_user_action",{"_placeholder":true,"num":0}]', '459999999999-["x"]', '4599999999999999-["x"]', '45-["x"]', '450-["oh_user_action",{}]', '452-["oh_user_action"]', '451-/x,["a"]', "461-[]", '461-1["x"]', "460-1[]",
    '42["oh_user_action",{"_placeholder":true,"num":0}]', '42["oh_user_action",' + '{"a":' * 3_000 + "1" + "}" * 3_000 + "]", '42["oh_user_action",NaN]', '42["oh_user_action",{"a":1,"a":2}]',
    '42["' + "x" * 1_000_000 + '"]', '42{"a":1}', "42null", "42true", '42"x"', "421", "42/", "4 2[]", "42 []", "x" * 100_000, "4" * 100_000, "6" * 1_000, "\x1e", "42[]\x1e42[]", "40\x1e40",
)  # fmt: skip
V0_SEQUENCES = {
    "no connect": [],
    "event before connect": ['42["oh_user_action",{}]'],
    "disconnect before connect": ["41"],
    "ack before connect": ["430[]"],
    "connect twice": ["40", "40"],
    "connect to two namespaces": ["40", "40/admin,"],
    "many namespaces": ["40", *(f"40/n{n}," for n in range(300))],
    "event after disconnect": ["40", "41", '42["oh_user_action",{}]'],
    "connect after disconnect": ["40", "41", "40"],
    "close, then event": ["40", "1", '42["oh_user_action",{}]'],
    "attachment that never comes": [
        "40",
        '451-["oh_user_action",{"_placeholder":true,"num":0}]',
        '42["oh_user_action",{}]',
    ],
    "many attachments that never come": ["40", *['459-["oh_user_action",1]'] * 50],
    "pings": ["40", *["2"] * 200],
    "pongs": ["40", *["3"] * 200],
    "upgrade": ["5", "40", "5"],
    "noop": ["6", "40", "6"],
    "actions without a pause": ["40", *['42["oh_user_action",{}]'] * 100],
}


def v1_messages():
    for field in V1_FIELDS:
        for name, value in json_bytes().items():
            yield f"{field!r} {name}", field.replace(b"%s", value)


def v0_messages():
    for packet in V0_PACKETS:
        yield packet[:60], packet.encode("utf-8", "surrogatepass")
    for field in V0_FIELDS:
        for name, value in json_bytes().items():
            yield f"{field!r} {name}", field.replace(b"%s", value)
    for name, value in json_bytes().items():
        yield f"connect {name}", b"40" + value


def v0_cases(sockets):
    head = raw.upgrade(sockets.path("v0"), sockets.headers)
    for name, value in v0_messages():
        if value.startswith(b"1"):  # the client closes the socket: see the test of close packets
            continue
        yield f"first {name}", head, [frame(value), V0_MARK]
        yield name, head, [frame("40"), frame(value), V0_MARK]
    for name, values in V0_SEQUENCES.items():
        yield name, head, [*map(frame, values), V0_MARK]


def v1_batches(messages, size=10):
    """Yield messages in batches for one socket each. A socket may have a limited amount of waiting text."""
    batch = []
    for name, value in messages:
        if len(value) > 20_000 or not is_utf8(value):
            yield name, [frame(value), V1_MARK]
            continue
        batch.append((name, frame(value)))
        if len(batch) == size:
            yield batch[0][0], [*(value for _, value in batch), V1_MARK]
            batch = []
    if batch:
        yield batch[0][0], [*(value for _, value in batch), V1_MARK]


def is_utf8(value):
    try:
        value.decode()
    except UnicodeDecodeError:
        return False
    return True


async def test_unknown_path_is_refused_with_404(sockets):
    outcomes = [
        await sockets.attack(("path", path), raw.upgrade(path.encode(), sockets.headers))
        for path in (
            "/",
            "/ws/v1/conversations/x",
            "/sockets/events/",
            "/sockets/events/x/y",
            "/mcp",
        )
    ]
    assert [outcome.status for outcome in outcomes] == [404] * 5


@pytest.mark.parametrize("share", SHARES)
async def test_odd_handshake_gets_a_clear_refusal_or_a_socket(sockets, share):
    cases = [(path[:60], raw.upgrade(path.encode("latin-1"), sockets.headers)) for path in PATHS]
    for kind in KINDS:
        cases += [*query_cases(sockets, kind), *header_cases(sockets, kind)]
    await sockets.attack_all("handshake", choose(cases, share), settle=0.3)


@pytest.mark.parametrize("share", SHARES)
async def test_odd_frames_are_ignored_or_close_the_socket_with_a_code(sockets, share):
    cases = [
        (
            f"{kind} {name}",
            raw.upgrade(sockets.path(kind), sockets.headers),
            [frame("40"), *frames] if kind == "v0" else frames,
        )
        for kind in KINDS
        for name, frames in FRAMES.items()
    ]
    await sockets.attack_all("frame", choose(cases, min(1, 3 * share)), settle=0.5)


@pytest.mark.parametrize("share", SHARES)
async def test_odd_packets_of_socket_io_get_an_error_or_a_close(sockets, share):
    cases = choose([*v0_cases(sockets)], share)
    await sockets.attack_all("socket.io", cases, settle=10, until=MARK)


@pytest.mark.parametrize("packet", ["1", "10", "1e-999", "1" + "x" * 10_000, "1\0"])
async def test_close_packet_of_engine_io_with_any_text_ends_the_socket_as_asked(sockets, packet):
    head = raw.upgrade(sockets.path("v0"), sockets.headers)

    outcome = await raw.talk(sockets.server.port, head, [frame("40"), frame(packet), V0_MARK])

    assert (outcome.code, outcome.is_ended, outcome.is_confirmed) == (1000, True, False)


@pytest.mark.parametrize("share", SHARES)
async def test_odd_messages_of_v1_clients_get_an_error_and_the_socket_works_on(sockets, share):
    head = raw.upgrade(sockets.path("v1"))
    cases = [
        (name, head, frames)
        for name, frames in v1_batches(choose([*v1_messages()], min(1, 2 * share)))
    ]
    await sockets.attack_all("v1", cases, settle=10, until=MARK)


@pytest.mark.parametrize("share", SHARES)
async def test_odd_first_frame_of_v1_clients_closes_the_socket(sockets, share):
    head = raw.upgrade(sockets.path("v1", "x=y"))
    cases = [(name, head, [frame(value)]) for name, value in choose([*v1_messages()], share)]
    await sockets.attack_all("v1 first", cases)

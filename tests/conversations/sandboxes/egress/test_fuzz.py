"""Arbitrary bytes never make the proxy fail or leave a task, a socket or a traceback behind."""

import asyncio
import contextlib
import logging
import tempfile
from pathlib import Path

from hypothesis import example, given, settings
from hypothesis import strategies as st

from conversations.sandboxes.egress.policy import Policy
from tests.conversations.sandboxes.egress.world import Origin, World
from tests.waiting import wait_until_async

PIECES = st.sampled_from(
    [
        b"GET ", b"POST ", b"CONNECT ", b"HEAD ", b"http://", b"127.0.0.1", b"openhands.internal", b"a.example",
        b":80", b":PORT", b"/", b"*", b" HTTP/1.1", b" HTTP/1.0", b"\r\n", b"\r\n\r\n", b"\n", b"Host: x", b"Content-Length: ",
        b"3", b"0", b"Transfer-Encoding: chunked", b"Connection: ", b"close", b"Upgrade: websocket", b"Upgrade",
        b"Expect: 100-continue", b"abc", b"5\r\nhello\r\n0\r\n\r\n", b"\x05", b"\x01", b"\x00", b"\x05\x01\x00", b"\x03",
        b"\x04", b"\x7f\x00\x00\x01", b"\x16\x03\x01", b"[::1]", b"[", b"@", b"%", b"\xff",
    ]
)  # fmt: skip
BYTES = st.one_of(st.binary(max_size=300), st.lists(PIECES, max_size=25).map(b"".join))
REQUEST = b"GET http://127.0.0.1:PORT/ HTTP/1.1\r\nHost: x\r\n\r\n"


class Collected(logging.Handler):
    """Keep what is logged, such as exceptions that asyncio or the proxy caught."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.records: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(self.format(record))


async def run(messages: list[tuple[bytes, bool]], answer: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        world = World(Path(folder))
        await world.start(
            head_seconds=0.3, keep_alive_seconds=0.3, idle_seconds=0.3, half_closed_seconds=0.3
        )
        origin = Origin(answer)
        port = await world.server(origin.serve)
        world.policy = Policy(
            profile="list",
            hosts=("127.0.0.1",),
            private=("127.0.0.1",),
            gateway=f"http://127.0.0.1:{port}",
        )
        for data, ends in messages:
            client = await world.client()
            await client.send(data.replace(b"PORT", str(port).encode()))
            if ends:
                client.writer.write_eof()
                async with asyncio.timeout(10):
                    with contextlib.suppress(ConnectionError):
                        assert b"Traceback" not in await client.reader.read()
            client.writer.transport.abort()
        await wait_until_async(
            lambda: world.proxy.open_connections == 0, "all connections to end", pause=0.001
        )
        # The proxy still works.
        client = await world.client()
        await client.send(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        assert (await client.head())[0] == 400
        await world.close()
        left = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        assert not left


def check(messages, answer):
    collected = Collected()
    logging.getLogger().addHandler(collected)
    try:
        asyncio.run(run(messages, answer))
    finally:
        logging.getLogger().removeHandler(collected)
    assert not [line for line in collected.records if "Executing <" not in line]


@settings(max_examples=60, deadline=None)
@given(messages=st.lists(st.tuples(BYTES, st.booleans()), min_size=1, max_size=6))
@example(messages=[(REQUEST, True), (REQUEST, False)])
@example(messages=[(b"\x05\x01\x00\x05\x01\x00\x01\x7f\x00\x00\x01\x00\x50", True)])
def test_arbitrary_bytes_of_clients_leave_nothing_behind(messages):
    check(messages, b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello")


ANSWER_PIECES = st.sampled_from(
    [
        b"HTTP/1.1 200 OK", b"HTTP/1.1 101 X", b"HTTP/1.1 100 C", b"HTTP/1.0 304 N", b"\r\n", b"\r\n\r\n", b"\n",
        b"Content-Length: 3", b"Transfer-Encoding: chunked", b"Upgrade: websocket", b"Connection: close", b"3\r\nabc\r\n",
        b"0\r\n\r\n", b"abc", b"\xff", b"A: b", b" folded",
    ]
)  # fmt: skip


@settings(max_examples=60, deadline=None)
@given(
    answer=st.one_of(st.binary(max_size=200), st.lists(ANSWER_PIECES, max_size=12).map(b"".join))
)
def test_arbitrary_bytes_of_servers_leave_nothing_behind(answer):
    upgrade = REQUEST.replace(b"Host: x", b"Host: x\r\nConnection: Upgrade\r\nUpgrade: websocket")
    check([(REQUEST, True), (upgrade, True), (REQUEST.replace(b"GET", b"HEAD"), False)], answer)

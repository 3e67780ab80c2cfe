"""The engine client and a misbehaving engine: resets, timeouts, malformed responses and closed sockets."""

import asyncio
import contextlib
import json
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from uuid import uuid4

import pytest
from websockets.asyncio.server import ServerConnection, serve

from conversations.engine import client as client_module
from conversations.engine.client import (
    EngineClient,
    EngineMissing,
    EngineRefused,
    EngineUnreachable,
    FrameTooLarge,
    follow,
)
from conversations.engine.payloads import Durable, Sync, Unknown
from tests.hostile import EVENTS, frame

ID = uuid4()
Reply = bytes | None | Callable[[socket.socket], None]


def build_response(status: int, body: bytes | object = b"", **headers: str) -> bytes:
    """Return a whole HTTP response."""
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    fields = {"content-length": str(len(raw))} | headers
    lines = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    return f"HTTP/1.1 {status} X\r\n{lines}\r\n".encode() + raw


class Server:
    """A server that sends one reply per connection and records the requests. ``None`` resets the connection."""

    def __init__(self, replies: list[Reply]) -> None:
        self._replies = replies
        self.requests: list[str] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.client = EngineClient(f"http://127.0.0.1:{self._listener.getsockname()[1]}", "key")

    def serve(self) -> None:
        for reply in self._replies:
            connection, _ = self._listener.accept()
            with connection:
                self.requests.append(_read_request(connection))
                if reply is None:
                    # Closing with zero linger sends a reset instead of an end.
                    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
                elif callable(reply):
                    reply(connection)
                else:
                    connection.sendall(reply)

    def close(self) -> None:
        self._listener.close()


def _read_request(connection: socket.socket) -> str:
    """Read a whole request; return its method and path."""
    data = b""
    while b"\r\n\r\n" not in data:
        data += connection.recv(65_536)
    head, _, body = data.partition(b"\r\n\r\n")
    length = next(
        (
            int(line[15:])
            for line in head.lower().split(b"\r\n")
            if line.startswith(b"content-length:")
        ),
        0,
    )
    while len(body) < length:
        body += connection.recv(65_536)
    return head.split(b" HTTP/")[0].decode()


@contextmanager
def run_engine(*replies: Reply) -> Iterator[Server]:
    server = Server(list(replies))
    thread = threading.Thread(target=server.serve)
    thread.start()
    try:
        yield server
    finally:
        thread.join(10)
        server.close()
        assert not thread.is_alive(), "the client sent fewer requests than the test expects"


class TestResets:
    def test_repeatable_call_is_repeated_once(self):
        with run_engine(None, build_response(200, {"id": "c"})) as server:
            assert server.client.get_conversation(ID) == {"id": "c"}

        assert server.requests == [f"GET /api/conversations/{ID}"] * 2

    def test_repeatable_call_is_given_up_after_the_second_reset(self):
        with run_engine(None, None) as server, pytest.raises(EngineUnreachable) as caught:
            server.client.run(ID)

        assert caught.value.maybe_done

    def test_message_is_never_sent_twice(self):
        with run_engine(None) as server, pytest.raises(EngineUnreachable) as caught:
            server.client.send_message(ID, text="hello", run=True)

        assert caught.value.maybe_done
        assert len(server.requests) == 1

    def test_answer_to_a_confirmation_is_never_sent_twice(self):
        with run_engine(None) as server, pytest.raises(EngineUnreachable):
            server.client.answer_confirmation(ID, accept=True)

        assert len(server.requests) == 1

    def test_timeout_of_a_message_is_reported_as_maybe_done(self, monkeypatch):
        monkeypatch.setattr(client_module, "TOOL_SECONDS", 0.2)
        with (
            run_engine(lambda connection: threading.Event().wait(0.6)) as server,
            pytest.raises(EngineUnreachable) as caught,
        ):
            server.client.send_message(ID, text="hello", run=True)

        assert caught.value.maybe_done


class TestResponses:
    def test_message_that_starts_a_run_returns_true(self):
        with run_engine(build_response(200, {"success": True})) as server:
            assert server.client.send_message(ID, text="hello", run=True) is True

    def test_message_saved_without_a_free_run_slot_returns_false(self):
        with run_engine(build_response(429, {"detail": "Message saved"})) as server:
            assert server.client.send_message(ID, text="hello", run=True) is False

    def test_run_of_a_running_conversation_raises_nothing(self):
        with run_engine(build_response(409, {"detail": "conversation_already_running"})) as server:
            server.client.run(ID)

        assert server.requests == [f"POST /api/conversations/{ID}/run"]

    def test_detail_of_an_error_is_the_text_of_the_exception(self):
        body = {"detail": "Internal Server Error", "exception": "boom", "error_id": "1"}
        with (
            run_engine(build_response(500, body)) as server,
            pytest.raises(EngineRefused) as caught,
        ):
            server.client.start_conversation({})

        assert (caught.value.status, caught.value.detail) == (500, "boom")

    @pytest.mark.parametrize(
        "body", [b"<html>", b"\xff", b"", b"[1]", b"null", b"[" * 100_000, b'{"detail":[1,{}]}']
    )
    def test_error_of_any_shape_is_refused_with_its_status(self, body):
        with (
            run_engine(build_response(400, body)) as server,
            pytest.raises(EngineRefused) as caught,
        ):
            server.client.get_conversation(ID)

        assert caught.value.status == 400

    @pytest.mark.parametrize("body", [b"", b"<html>", b"[1]", b"1", b"[" * 100_000, b"\xff"])
    def test_response_of_the_wrong_shape_is_refused(self, body):
        with run_engine(build_response(200, body)) as server, pytest.raises(EngineRefused):
            server.client.get_conversation(ID)

    def test_endless_response_is_refused_as_too_large(self, monkeypatch):
        monkeypatch.setattr(client_module, "BODY_MAX_BYTES", 100_000)

        def send_forever(connection: socket.socket) -> None:
            connection.sendall(b"HTTP/1.1 200 X\r\n\r\n")
            with contextlib.suppress(OSError):  # the client closes the connection
                while True:
                    connection.sendall(b"x" * 65_536)

        with run_engine(send_forever) as server, pytest.raises(EngineRefused, match="too large"):
            server.client.get_server_info()

    def test_response_with_broken_compression_is_unreachable(self):
        reply = build_response(200, b"not gzip", **{"content-encoding": "gzip"})
        with run_engine(reply, reply) as server:
            with pytest.raises(EngineUnreachable):
                server.client.get_server_info()
            assert not server.client.is_ready()

    def test_malformed_git_changes_are_skipped(self):
        body = [{"status": "ADDED", "path": "a"}, {"path": 1}, 7, {"status": None, "path": "b"}]
        with run_engine(build_response(200, body)) as server:
            assert [one.path for one in server.client.list_git_changes("/p")] == ["a", "b"]


class TestPages:
    def test_page_that_fails_is_requested_with_smaller_limits(self):
        one = {"items": [{"id": "a", "kind": "K"}], "next_page_id": "b"}
        two = {"items": [{"id": "b", "kind": "K"}], "next_page_id": None}
        with run_engine(
            build_response(500),
            build_response(500),
            build_response(200, one),
            build_response(200, two),
        ) as server:
            log = list(server.client.iter_events(ID))

        assert [(d.seq, d.event.event_id) for d in log] == [(0, "a"), (1, "b")]
        assert [request.partition("?")[2] for request in server.requests] == [
            "limit=100",
            "limit=10",
            "limit=1",
            "limit=100&page_id=b",
        ]

    def test_page_that_fails_with_every_limit_is_refused(self):
        with (
            run_engine(build_response(500), build_response(500), build_response(500)) as server,
            pytest.raises(EngineRefused),
        ):
            list(server.client.iter_events(ID))

    def test_malformed_page_is_refused(self):
        with run_engine(*[build_response(200, b"[]")] * 3) as server, pytest.raises(EngineRefused):
            list(server.client.iter_events(ID))

    def test_empty_page_with_a_next_page_ends_the_log(self):
        with run_engine(build_response(200, {"items": [], "next_page_id": "a"})) as server:
            assert list(server.client.iter_events(ID)) == []

        assert len(server.requests) == 1

    def test_page_with_status_404_is_not_requested_again(self):
        with (
            run_engine(build_response(404, {"detail": "no"})) as server,
            pytest.raises(EngineMissing),
        ):
            list(server.client.iter_events(ID))


async def follow_frames(*messages: bytes | str, code: int = 1000, reason: str = "") -> list[object]:
    """Return what ``follow`` yields for the engine's messages, and the exception that ended it."""
    auth: list[str | bytes] = []

    async def talk(connection: ServerConnection) -> None:
        auth.append(await connection.recv())
        for message in messages:
            await connection.send(message, text=True)
        await connection.close(code, reason)

    results: list[object] = []
    async with serve(talk, "127.0.0.1", 0, compression=None) as server, asyncio.timeout(20):
        port = server.sockets[0].getsockname()[1]
        try:
            async for one in follow(f"http://127.0.0.1:{port}", "key", ID, -1):
                results.append(one)  # noqa: PERF401  (frames before the exception count)
        except Exception as error:  # noqa: BLE001  (the exception is part of the result)
            results.append(error)
    assert [json.loads(first) for first in auth] == [{"type": "auth", "session_api_key": "key"}]
    return results


class TestFollow:
    async def test_hostile_frames_are_yielded_and_do_not_end_the_stream(self):
        names = ["NaN", "invalid UTF-8", "NUL escape", "lone high surrogate", "deep arrays"]
        sent = [frame(EVENTS[name], seq=n) for n, name in enumerate(names)]

        *events, sync, unknown, end = await follow_frames(*sent, b'{"type":"sync"}', b"\xff")

        kinds = [(one.seq, one.event.kind) for one in events if isinstance(one, Durable)]
        assert kinds == [
            (0, "Unparseable"),
            (1, "Unparseable"),
            (2, "MessageEvent"),
            (3, "MessageEvent"),
            (4, "Unparseable"),
        ]
        assert (sync, unknown) == (Sync(), Unknown(b"\xff"))
        assert isinstance(end, EngineUnreachable)

    @pytest.mark.parametrize(
        ("code", "reason", "expected"),
        [
            (1000, "", EngineUnreachable),
            (1012, "restart", EngineUnreachable),
            (1013, "slow_consumer", EngineUnreachable),
            (1013, "frame_too_large", FrameTooLarge),
            (4001, "Authentication failed", EngineRefused),
            (4004, "Conversation not found", EngineMissing),
        ],
    )
    async def test_close_code_determines_the_exception(self, code, reason, expected):
        (end,) = await follow_frames(code=code, reason=reason)

        assert type(end) is expected

    async def test_frame_beyond_the_size_limit_raises_frame_too_large(self, settings):
        settings.EVENT_MAX_BYTES = 65_536

        (end,) = await follow_frames(b"x" * 200_000)

        assert type(end) is FrameTooLarge

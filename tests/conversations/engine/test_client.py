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
from websockets.asyncio.server import ServerConnection, serve, unix_serve
from websockets.http11 import Request, Response

from conversations.engine import client as client_module
from conversations.engine import following as following_module
from conversations.engine.client import EngineClient
from conversations.engine.errors import (
    EngineMissing,
    EngineRefused,
    EngineUnreachable,
    FrameTooLarge,
)
from conversations.engine.following import follow
from conversations.engine.payloads import Durable, Sync, Unknown
from conversations.engine.transport import Dial
from tests.fakes.dials import build_dial
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
        self.dial = build_dial(self._listener.getsockname()[1])
        self.client = EngineClient(self.dial, "key")

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


def count_calls(dial: Dial) -> tuple[Dial, list[None]]:
    """Return a dial that calls ``dial``, and a list with one entry for each call."""
    calls: list[None] = []

    def counted() -> socket.socket:
        calls.append(None)
        return dial()

    return counted, calls


def raise_error(error: Exception) -> socket.socket:
    raise error


@pytest.fixture
def silent_port() -> Iterator[int]:
    """Return a port whose listener accepts nothing and has a full queue, so that a connection hangs."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        for _ in range(4):
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(listener.getsockname())
        yield listener.getsockname()[1]


class TestDial:
    def test_request_travels_over_a_unix_socket_that_is_closed_at_the_end(self):
        ours, theirs = socket.socketpair()
        requests: list[bytes] = []

        def serve() -> None:
            requests.append(theirs.recv(65_536))
            theirs.sendall(build_response(200, {"id": "c"}))

        thread = threading.Thread(target=serve)
        thread.start()
        assert EngineClient(lambda: ours, "key").get_conversation(ID) == {"id": "c"}
        thread.join(10)

        assert requests[0].lower().startswith(b"get /api/conversations/")
        assert b"\r\nhost: engine\r\n" in requests[0].lower()
        assert theirs.recv(1) == b""
        theirs.close()

    def test_each_request_dials_a_new_connection(self):
        with run_engine(*[build_response(200, {"id": "c"})] * 3) as server:
            dial, calls = count_calls(server.dial)
            client = EngineClient(dial, "key")
            for _ in range(3):
                client.get_conversation(ID)

        assert len(calls) == 3

    @pytest.mark.parametrize("error", [ConnectionRefusedError("no"), OSError(24, "too many files")])
    def test_failed_dial_is_unreachable_and_not_repeated(self, error):
        dial, calls = count_calls(lambda: raise_error(error))

        with pytest.raises(EngineUnreachable, match=r"no|too many files") as caught:
            EngineClient(dial, "key").run(ID)

        assert caught.value.maybe_done is False
        assert len(calls) == 1

    def test_hanging_dial_is_unreachable_after_its_timeout_and_not_repeated(self, silent_port):
        dial, calls = count_calls(build_dial(silent_port, seconds=0.2))

        with pytest.raises(EngineUnreachable, match="timed out") as caught:
            EngineClient(dial, "key").send_message(ID, text="hello", run=True)

        assert caught.value.maybe_done is False
        assert len(calls) == 1

    def test_download_that_cannot_dial_is_unreachable(self):
        client = EngineClient(lambda: raise_error(ConnectionRefusedError("no")), "key")

        with pytest.raises(EngineUnreachable) as caught:
            client.download("/p/a.txt")
        assert caught.value.maybe_done is False

    def test_large_body_is_sent_and_received_whole(self):
        content = bytes(range(256)) * 8_192
        with run_engine(
            build_response(200, {"file_size": len(content)}), build_response(200, content)
        ) as server:
            assert server.client.upload("/p/a.bin", content) == len(content)
            assert b"".join(server.client.download("/p/a.bin")) == content

    def test_engine_that_does_not_read_an_upload_is_unreachable(self, monkeypatch):
        monkeypatch.setattr(client_module, "TOOL_SECONDS", 0.2)
        ours, theirs = socket.socketpair()
        with theirs, pytest.raises(EngineUnreachable) as caught:
            EngineClient(lambda: ours, "key").upload("/p/a.bin", b"x" * 8_000_000)

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
            async for one in follow(build_dial(port), "key", ID, -1):
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

    async def test_socket_is_followed_over_a_unix_socket(self, tmp_path):
        requests: list[tuple[str, str]] = []

        async def talk(connection: ServerConnection) -> None:
            requests.append((connection.request.path, connection.request.headers["Host"]))
            await connection.recv()
            await connection.send(b'{"type":"sync"}', text=True)
            await connection.wait_closed()

        def dial() -> socket.socket:
            connection = socket.socket(socket.AF_UNIX)
            connection.connect(str(tmp_path / "s"))
            return connection

        async with unix_serve(talk, str(tmp_path / "s")), asyncio.timeout(20):
            stream = follow(dial, "key", ID, 7)
            assert await anext(stream) == Sync()
            await stream.aclose()

        assert requests == [(f"/sockets/session/{ID}?after_seq=7", "engine")]

    async def test_failed_dial_is_unreachable(self):
        dial, calls = count_calls(lambda: raise_error(ConnectionRefusedError("no")))

        with pytest.raises(EngineUnreachable, match="no"):
            await anext(follow(dial, "key", ID, -1))

        assert len(calls) == 1

    @pytest.mark.parametrize("cause", ["timeout", "cancellation"])
    async def test_socket_that_is_connected_too_late_is_closed(self, monkeypatch, cause):
        monkeypatch.setattr(following_module, "OPEN_SECONDS", 0.2 if cause == "timeout" else 20)
        ours, theirs = socket.socketpair()
        may_connect = threading.Event()

        def dial() -> socket.socket:
            may_connect.wait(20)
            return ours

        following = asyncio.ensure_future(anext(follow(dial, "key", ID, -1)))
        await asyncio.sleep(0.1)
        if cause == "cancellation":
            following.cancel()
        with pytest.raises((EngineUnreachable, asyncio.CancelledError)):
            await following

        may_connect.set()
        theirs.settimeout(10)
        assert await asyncio.to_thread(theirs.recv, 1) == b""
        theirs.close()

    async def test_engine_that_does_not_answer_the_handshake_is_unreachable(self, monkeypatch):
        monkeypatch.setattr(following_module, "OPEN_SECONDS", 0.3)
        ours, theirs = socket.socketpair()

        with pytest.raises(EngineUnreachable, match="timed out"):
            await anext(follow(lambda: ours, "key", ID, -1))

        assert theirs.recv(5) == b"GET /"
        assert ours.fileno() == -1
        theirs.close()

    async def test_redirect_to_another_server_is_not_followed(self):
        visits: list[ServerConnection] = []

        async def record(connection: ServerConnection) -> None:
            visits.append(connection)

        def redirect(connection: ServerConnection, request: Request) -> Response:
            response = connection.respond(302, "")
            response.headers["Location"] = f"ws://127.0.0.1:{port}/"
            return response

        async with serve(record, "127.0.0.1", 0) as other, asyncio.timeout(20):
            port = other.sockets[0].getsockname()[1]
            async with serve(record, "127.0.0.1", 0, process_request=redirect) as engine:
                dial = build_dial(engine.sockets[0].getsockname()[1])
                with pytest.raises(EngineUnreachable, match="redirect"):
                    await anext(follow(dial, "key", ID, -1))

        assert visits == []

"""The client where the engine misbehaves: resets, silence, nonsense, and sockets that close."""

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
Answer = bytes | None | Callable[[socket.socket], None]


def http(status: int, body: bytes | object = b"", **headers: str) -> bytes:
    """A whole answer."""
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    fields = {"content-length": str(len(raw))} | headers
    lines = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    return f"HTTP/1.1 {status} X\r\n{lines}\r\n".encode() + raw


class Server:
    """Answers one connection after the other; ``None`` resets it. Keeps what was asked."""

    def __init__(self, answers: list[Answer]) -> None:
        self._answers = answers
        self.asked: list[str] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.client = EngineClient(f"http://127.0.0.1:{self._listener.getsockname()[1]}", "key")

    def serve(self) -> None:
        for answer in self._answers:
            connection, _ = self._listener.accept()
            with connection:
                self.asked.append(_request(connection))
                if answer is None:
                    # Closing with zero linger sends a reset instead of an end.
                    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
                elif callable(answer):
                    answer(connection)
                else:
                    connection.sendall(answer)

    def close(self) -> None:
        self._listener.close()


def _request(connection: socket.socket) -> str:
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
def engine(*answers: Answer) -> Iterator[Server]:
    server = Server(list(answers))
    thread = threading.Thread(target=server.serve)
    thread.start()
    try:
        yield server
    finally:
        thread.join(10)
        server.close()
        assert not thread.is_alive(), "the client asked less often than the test expects"


class TestResets:
    def test_a_call_that_may_be_repeated_is_repeated_once(self):
        with engine(None, http(200, {"id": "c"})) as server:
            assert server.client.get_conversation(ID) == {"id": "c"}

        assert server.asked == [f"GET /api/conversations/{ID}"] * 2

    def test_and_not_more_than_once(self):
        with engine(None, None) as server, pytest.raises(EngineUnreachable) as caught:
            server.client.run(ID)

        assert caught.value.maybe_done

    def test_a_message_is_never_sent_twice(self):
        with engine(None) as server, pytest.raises(EngineUnreachable) as caught:
            server.client.send_message(ID, text="hello", run=True)

        assert caught.value.maybe_done
        assert len(server.asked) == 1

    def test_neither_is_an_answer_to_a_question(self):
        with engine(None) as server, pytest.raises(EngineUnreachable):
            server.client.answer_confirmation(ID, accept=True)

        assert len(server.asked) == 1

    def test_silence_may_mean_done(self, monkeypatch):
        monkeypatch.setattr(client_module, "TOOL_SECONDS", 0.2)
        with (
            engine(lambda connection: threading.Event().wait(0.6)) as server,
            pytest.raises(EngineUnreachable) as caught,
        ):
            server.client.send_message(ID, text="hello", run=True)

        assert caught.value.maybe_done


class TestAnswers:
    def test_message_that_runs(self):
        with engine(http(200, {"success": True})) as server:
            assert server.client.send_message(ID, text="hello", run=True) is True

    def test_message_saved_while_all_run_slots_are_taken(self):
        with engine(http(429, {"detail": "Message saved"})) as server:
            assert server.client.send_message(ID, text="hello", run=True) is False

    def test_running_already_is_fine(self):
        with engine(http(409, {"detail": "conversation_already_running"})) as server:
            server.client.run(ID)

    def test_error_carries_the_exceptions_text(self):
        body = {"detail": "Internal Server Error", "exception": "boom", "error_id": "1"}
        with engine(http(500, body)) as server, pytest.raises(EngineRefused) as caught:
            server.client.start_conversation({})

        assert (caught.value.status, caught.value.detail) == (500, "boom")

    @pytest.mark.parametrize(
        "body", [b"<html>", b"\xff", b"", b"[1]", b"null", b"[" * 100_000, b'{"detail":[1,{}]}']
    )
    def test_errors_of_any_shape(self, body):
        with engine(http(400, body)) as server, pytest.raises(EngineRefused) as caught:
            server.client.get_conversation(ID)

        assert caught.value.status == 400

    @pytest.mark.parametrize("body", [b"", b"<html>", b"[1]", b"1", b"[" * 100_000, b"\xff"])
    def test_answers_of_the_wrong_shape_are_refused(self, body):
        with engine(http(200, body)) as server, pytest.raises(EngineRefused):
            server.client.get_conversation(ID)

    def test_an_answer_without_end_is_cut(self, monkeypatch):
        monkeypatch.setattr(client_module, "BODY_MAX_BYTES", 100_000)

        def pour(connection: socket.socket) -> None:
            connection.sendall(b"HTTP/1.1 200 X\r\n\r\n")
            with contextlib.suppress(OSError):  # the client hangs up
                while True:
                    connection.sendall(b"x" * 65_536)

        with engine(pour) as server, pytest.raises(EngineRefused, match="too large"):
            server.client.get_server_info()

    def test_broken_compression(self):
        answer = http(200, b"not gzip", **{"content-encoding": "gzip"})
        with engine(answer, answer) as server:
            with pytest.raises(EngineUnreachable):
                server.client.get_server_info()
            assert not server.client.is_ready()

    def test_odd_lists_of_changes(self):
        body = [{"status": "ADDED", "path": "a"}, {"path": 1}, 7, {"status": None, "path": "b"}]
        with engine(http(200, body)) as server:
            assert [one.path for one in server.client.list_git_changes("/p")] == ["a", "b"]


class TestPages:
    def test_a_page_that_cannot_be_made_is_asked_for_in_smaller_ones(self):
        one = {"items": [{"id": "a", "kind": "K"}], "next_page_id": "b"}
        two = {"items": [{"id": "b", "kind": "K"}], "next_page_id": None}
        with engine(http(500), http(500), http(200, one), http(200, two)) as server:
            log = list(server.client.iter_events(ID))

        assert [(d.seq, d.event.event_id) for d in log] == [(0, "a"), (1, "b")]
        assert [asked.partition("?")[2] for asked in server.asked] == [
            "limit=100",
            "limit=10",
            "limit=1",
            "limit=100&page_id=b",
        ]

    def test_one_that_never_can_is_refused(self):
        with engine(http(500), http(500), http(500)) as server, pytest.raises(EngineRefused):
            list(server.client.iter_events(ID))

    def test_nonsense_is_refused(self):
        with engine(*[http(200, b"[]")] * 3) as server, pytest.raises(EngineRefused):
            list(server.client.iter_events(ID))

    def test_a_page_that_leads_nowhere_ends(self):
        with engine(http(200, {"items": [], "next_page_id": "a"})) as server:
            assert list(server.client.iter_events(ID)) == []

    def test_404_is_not_asked_again(self):
        with engine(http(404, {"detail": "no"})) as server, pytest.raises(EngineMissing):
            list(server.client.iter_events(ID))


async def frames(*messages: bytes | str, code: int = 1000, reason: str = "") -> list[object]:
    """What ``follow`` gives for such messages of an engine, the exception at its end included."""
    auth: list[str | bytes] = []

    async def talk(connection: ServerConnection) -> None:
        auth.append(await connection.recv())
        for message in messages:
            await connection.send(message, text=True)
        await connection.close(code, reason)

    found: list[object] = []
    async with serve(talk, "127.0.0.1", 0, compression=None) as server, asyncio.timeout(20):
        port = server.sockets[0].getsockname()[1]
        try:
            async for one in follow(f"http://127.0.0.1:{port}", "key", ID, -1):
                found.append(one)  # noqa: PERF401  (what came before the end counts)
        except Exception as error:  # noqa: BLE001  (the end is part of what is looked at)
            found.append(error)
    assert [json.loads(first) for first in auth] == [{"type": "auth", "session_api_key": "key"}]
    return found


class TestFollow:
    async def test_hostile_frames_pass_and_the_socket_goes_on(self):
        names = ["NaN", "invalid UTF-8", "NUL escape", "lone high surrogate", "deep arrays"]
        sent = [frame(EVENTS[name], seq=n) for n, name in enumerate(names)]

        *found, sync, unknown, end = await frames(*sent, b'{"type":"sync"}', b"\xff")

        kinds = [(one.seq, one.event.kind) for one in found if isinstance(one, Durable)]
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
    async def test_how_it_closed(self, code, reason, expected):
        (end,) = await frames(code=code, reason=reason)

        assert type(end) is expected

    async def test_a_frame_beyond_our_limit(self, settings):
        settings.EVENT_MAX_BYTES = 65_536

        (end,) = await frames(b"x" * 200_000)

        assert type(end) is FrameTooLarge

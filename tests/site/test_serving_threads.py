"""Django's WSGI handler behind ASGI: when a request uses a thread, and what the application receives."""

import asyncio
import threading
import time

import pytest
from django.http import StreamingHttpResponse

from lib.blocking import announce_wait
from openhands_site.serving.threads import Threads, build_environ
from tests.waiting import wait_until_async


def echo(environ, start_response):
    start_response("201 Created", [("X-Path", environ["PATH_INFO"])])
    return [b"got ", environ["wsgi.input"].read()]


class Client:
    """One request to an ASGI application. ``incoming`` is what it will receive, ``sent`` what it has sent."""

    def __init__(self, application, *headers, path="/x", method="POST"):
        self.incoming, self.sent = asyncio.Queue(), []
        scope = {
            "type": "http",
            "method": method,
            "path": path,
            "query_string": b"a=%20",
            "http_version": "1.1",
        }
        scope |= {"headers": list(headers), "client": ("192.0.2.1", 5), "server": ("host", 80)}
        self.task = asyncio.create_task(application(scope, self.incoming.get, self.send))

    async def send(self, message):
        self.sent.append(message)

    def send_body(self, body, *, is_more=False):
        self.incoming.put_nowait({"type": "http.request", "body": body, "more_body": is_more})

    async def wait_for_response(self):
        """Wait until the application ends; return the status and the body that it sent."""
        await asyncio.wait_for(self.task, 30)
        return self.sent[0].get("status"), b"".join(part["body"] for part in self.sent[1:])


async def test_request_body_and_response_are_passed_on():
    client = Client(Threads(echo, threads=1), (b"content-length", b"4"), path="/ä")
    client.send_body(b"ab", is_more=True)
    client.send_body(b"cd")

    assert await client.wait_for_response() == (201, b"got abcd")
    assert client.sent[0]["headers"] == [(b"x-path", "/ä".encode()), (b"content-length", b"8")]


async def test_slow_client_uses_no_thread_while_it_sends():
    application = Threads(echo, threads=1)
    slow = Client(application, (b"content-length", b"4"))
    slow.send_body(b"ab", is_more=True)
    await asyncio.sleep(0)

    assert await Client(application, method="GET").wait_for_response() == (201, b"got ")
    assert not slow.task.done()
    slow.send_body(b"cd")
    assert (await slow.wait_for_response())[0] == 201


async def test_client_that_disconnects_within_its_body_gets_no_response():
    client = Client(Threads(echo, threads=1), (b"content-length", b"4"))
    client.send_body(b"ab", is_more=True)
    client.incoming.put_nowait({"type": "http.disconnect"})

    await asyncio.wait_for(client.task, 30)

    assert client.sent == []


async def test_at_most_as_many_requests_run_as_there_are_threads():
    running, most, lock = 0, 0, threading.Lock()
    full = threading.Barrier(3)

    def counting(environ, start_response):
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        full.wait(30)
        with lock:
            running -= 1
        return echo(environ, start_response)

    application = Threads(counting, threads=3)
    clients = [Client(application, method="GET") for _ in range(9)]

    assert {(await client.wait_for_response())[0] for client in clients} == {201}
    assert most == 3


async def test_stream_is_sent_in_pieces_and_closed_when_its_client_disconnects():
    closed = threading.Event()

    def endless():
        try:
            while True:
                yield b"piece"
        finally:
            closed.set()

    def stream(environ, start_response):
        start_response("200 OK", [])
        return StreamingHttpResponse(endless())

    client = Client(Threads(stream, threads=1), method="GET")
    await wait_until_async(lambda: len(client.sent) >= 3, "the first pieces of the stream")
    client.incoming.put_nowait({"type": "http.disconnect"})
    await asyncio.wait_for(client.task, 30)

    assert client.sent[1]["body"] == b"piece"
    assert closed.is_set()


async def test_exception_of_the_application_is_raised_to_the_server():
    def broken(environ, start_response):
        raise OSError

    with pytest.raises(OSError):
        await Client(Threads(broken, threads=1), method="GET").wait_for_response()


def test_headers_become_variables_that_underscores_cannot_spoof():
    headers = [
        (b"host", b"example"),
        (b"x-forwarded-for", b"192.0.2.7"),
        (b"x_forwarded_for", b"203.0.113.9"),
        (b"cookie", b"a=1"),
        (b"cookie", b"b=2"),
        (b"accept", b"x"),
        (b"accept", b"y"),
        (b"content-type", b"text/plain"),
    ]
    scope = {
        "method": "GET",
        "path": "/a b",
        "query_string": b"",
        "http_version": "1.1",
        "headers": headers,
    }

    environ = build_environ(scope, None)

    assert environ["HTTP_X_FORWARDED_FOR"] == "192.0.2.7"
    assert (environ["HTTP_COOKIE"], environ["HTTP_ACCEPT"]) == ("a=1; b=2", "x,y")
    assert (environ["CONTENT_TYPE"], environ["HTTP_HOST"]) == ("text/plain", "example")
    assert environ["PATH_INFO"] == "/a b"


async def test_request_that_waits_for_sandbox_leaves_its_place_to_another_request():
    release = threading.Event()

    def application(environ, start_response):
        if environ["PATH_INFO"] == "/sandbox":
            announce_wait()
            assert release.wait(30)
        start_response("200 OK", [])
        return [b"done"]

    threads = Threads(application, threads=1, waiting=2)
    waiting = [Client(threads, path="/sandbox", method="GET") for _ in range(2)]

    answers = [await Client(threads, method="GET").wait_for_response() for _ in range(3)]

    assert answers == [(200, b"done")] * 3
    assert not any(client.task.done() for client in waiting)
    release.set()
    assert [await client.wait_for_response() for client in waiting] == [(200, b"done")] * 2


async def test_plain_requests_never_use_more_than_their_threads():
    running, most = 0, 0
    lock = threading.Lock()

    def application(environ, start_response):
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        time.sleep(0.02)
        with lock:
            running -= 1
        start_response("200 OK", [])
        return [b"done"]

    threads = Threads(application, threads=2, waiting=10)
    clients = [Client(threads, method="GET") for _ in range(12)]

    assert [await client.wait_for_response() for client in clients] == [(200, b"done")] * 12
    assert most == 2

"""Django's WSGI handler behind ASGI: who holds a thread and for how long, and what reaches the application."""

import asyncio
import threading

import pytest
from django.http import StreamingHttpResponse

from openhands_site.serving.threads import Threads, build_environ


def echo(environ, start_response):
    start_response("201 Created", [("X-Path", environ["PATH_INFO"])])
    return [b"got ", environ["wsgi.input"].read()]


class Client:
    """One request: what it sends is put into ``news``, what it is sent gathers in ``sent``."""

    def __init__(self, application, *headers, path="/x", method="POST"):
        self.news, self.sent = asyncio.Queue(), []
        self.got = asyncio.Event()
        scope = {
            "type": "http",
            "method": method,
            "path": path,
            "query_string": b"a=%20",
            "http_version": "1.1",
        }
        scope |= {"headers": list(headers), "client": ("192.0.2.1", 5), "server": ("host", 80)}
        self.task = asyncio.create_task(application(scope, self.news.get, self.send))

    async def send(self, message):
        self.sent.append(message)
        self.got.set()

    def say(self, body, *, is_more=False):
        self.news.put_nowait({"type": "http.request", "body": body, "more_body": is_more})

    async def answered(self):
        await asyncio.wait_for(self.task, 30)
        return self.sent[0].get("status"), b"".join(part["body"] for part in self.sent[1:])


async def test_body_and_answer_pass():
    client = Client(Threads(echo, threads=1), (b"content-length", b"4"), path="/ä")
    client.say(b"ab", is_more=True)
    client.say(b"cd")

    assert await client.answered() == (201, b"got abcd")
    assert client.sent[0]["headers"] == [(b"x-path", "/ä".encode()), (b"content-length", b"8")]


async def test_a_client_that_sends_slowly_holds_no_thread():
    application = Threads(echo, threads=1)
    slow = Client(application, (b"content-length", b"4"))
    slow.say(b"ab", is_more=True)
    await asyncio.sleep(0)

    assert await Client(application, method="GET").answered() == (201, b"got ")
    assert not slow.task.done()
    slow.say(b"cd")
    assert (await slow.answered())[0] == 201


async def test_a_client_that_leaves_in_the_middle_of_its_body_is_not_answered():
    client = Client(Threads(echo, threads=1), (b"content-length", b"4"))
    client.say(b"ab", is_more=True)
    client.news.put_nowait({"type": "http.disconnect"})

    await asyncio.wait_for(client.task, 30)

    assert client.sent == []


async def test_no_more_requests_than_threads_run_at_a_time():
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

    assert {(await client.answered())[0] for client in clients} == {201}
    assert most == 3


async def test_stream_goes_out_piece_by_piece_and_ends_with_its_reader():
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
    while len(client.sent) < 3:
        client.got.clear()
        await asyncio.wait_for(client.got.wait(), 30)
    client.news.put_nowait({"type": "http.disconnect"})
    await asyncio.wait_for(client.task, 30)

    assert client.sent[1]["body"] == b"piece"
    assert closed.is_set()


async def test_fault_of_the_application_reaches_the_server():
    def broken(environ, start_response):
        raise OSError

    with pytest.raises(OSError):
        await Client(Threads(broken, threads=1), method="GET").answered()


def test_headers_become_variables_and_none_passes_for_another():
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

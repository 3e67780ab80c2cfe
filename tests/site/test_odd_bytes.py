"""Odd heads and bodies sent as bytes to the complete ``web`` application on a port: no response is a server error.

Here requests pass through the HTTP protocol, the size limits and both kinds of handlers, which the other fuzz tests
skip, and the model gateway receives odd values in each field of a call.
"""

import asyncio
import socket
from itertools import islice
from uuid import uuid4

import pytest
import uvicorn
from asgiref.sync import sync_to_async
from django.db import connections

from billing import services
from openhands_site.asgi import application, in_threads
from openhands_site.serving.guarded_http import GuardedHttp
from openhands_site.serving.lean_socket import LeanWebSocket
from tests import odd_values as odd
from tests.api.odd_operations import Operation
from tests.fakes.stack import figure
from tests.odd_requests import SHARE, VALUES, Odd, Tally, sample
from tests.waiting import wait_until_async

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.filterwarnings("ignore")]
URLS = (
    "/", "/sign-in", "/settings", "/ready", "/api/v1/users/me", "/api/v1/conversations", "/api/options/config", "/mcp", "/api/llm/v1/models",
    "/api/v1/conversations/12345678-1234-5678-1234-567812345678/events/stream", "/api/v1/app-conversations/stream-start", "/socket.io/",
    "/api/v1/conversations/12345678-1234-5678-1234-567812345678/events?wait=1", "/static/x", "/oidc/acme/callback",
)  # fmt: skip
INTENDED = (
    ("^/ready", ""),  # no worker runs in these tests
    ("^/oidc/", ""),  # an identity provider that cannot be reached
)
TARGETS = (
    "//", "/%", "/%00", "/%ff", "/%0a", "/%2f", "/..", "/%2e%2e/", "/api/v1/%ed%a0%80", "/api/v1/conversations/%0d%0aX:y", "*", "example.com:80",
    "http://x.example/", "http://[/", "/\xff", "/?\xff", "/?" + "a" * 3_000, "/" + "a/" * 3_000, "/api/v1/conversations?q=%ed%a0%80&cursor=%ff",
)  # fmt: skip
CHAT = {
    "model": "demo", "messages": [{"role": "user", "content": [{"type": "text", "text": "Hello"}]}, {"role": "assistant", "content": "x", "tool_calls": [{"id": "1", "type": "function", "function": {"name": "a", "arguments": "{}"}}]}, {"role": "tool", "tool_call_id": "1", "content": "x"}],
    "stream": False, "max_tokens": 5, "temperature": 0.5, "stop": ["x"], "tools": [{"type": "function", "function": {"name": "a", "parameters": {"type": "object", "properties": {}}}}], "stream_options": {"include_usage": True}, "metadata": {"a": "b"}, "n": 1,
}  # fmt: skip


def list_requests(token):
    """Yield requests with odd heads at ``URLS``, odd targets, and calls of the gateway."""
    for url in URLS:
        for name, value in odd.HEADERS:
            yield Odd("bytes", "GET", url, f"{name}: {value}", headers=((name, value),))
        for method in odd.METHODS:
            yield Odd("bytes", method, url, f"method {method}")
        for name, body in odd.BODIES.items():
            for kind in odd.CONTENT_TYPES:
                yield Odd("bytes", "POST", url, f"{name} as {kind}", body, kind)
        for name, body in odd.multiparts("file").items():
            kind = f"multipart/form-data; boundary={odd.BOUNDARY}"
            yield Odd("bytes", "POST", url, name, body, kind)
    for target in TARGETS:
        for method in ("GET", "POST", "OPTIONS"):
            yield Odd("bytes", method, target, "target")
    bearer = (("Authorization", f"Bearer {token}"),)
    chat = Operation("POST", "/api/llm/v1/chat/completions", {}, {"a": "b"}, CHAT, headers=bearer)
    models = Operation("GET", "/api/llm/v1/models", {}, {"a": "b"}, headers=bearer)
    for number, operation in enumerate((chat, models)):
        for request in operation.list_odd(number, VALUES or 24):
            yield request._replace(surface="gateway")


def write_head(request: Odd) -> bytes:
    """Return the head of a request. A header replaces the usual one of its name."""
    headers = {"Host": "testserver", "Content-Type": request.content_type, "Content-Length": str(len(request.body))}  # fmt: skip
    if not request.body:
        headers = {"Host": "testserver"}
    headers |= dict(request.headers)
    lines = [f"{request.method} {request.path} HTTP/1.1", "Connection: close"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1", "replace")


async def send(port: int, request: Odd) -> tuple[int, bytes]:
    """Send a request; return the status and body, or the status 0 if the server waits for more of the body."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    raw = b""
    try:
        async with asyncio.timeout(3 if request.surface == "bytes" else 30):
            writer.write(write_head(request) + request.body)
            while piece := await reader.read(65_536):
                raw += piece
    except (TimeoutError, OSError):
        pass
    finally:
        writer.close()
    head, _, body = raw.partition(b"\r\n\r\n")
    words = head.split(b" ", 2)
    return (int(words[1]) if len(words) > 1 else 0), body


async def send_all(requests, tally) -> None:
    """Serve the application on a port, and send the requests, four at a time."""
    listener = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(
        application, http=GuardedHttp, ws=LeanWebSocket, lifespan="off", log_config=None, proxy_headers=False
    )  # fmt: skip
    server = uvicorn.Server(config)
    task = asyncio.create_task(server.serve(sockets=[listener]))
    await wait_until_async(lambda: server.started, "the server to start", pause=0.01)
    requests = iter(requests)
    while some := list(islice(requests, 4)):
        for request, (status, body) in zip(
            some,
            await asyncio.gather(*(send(listener.getsockname()[1], r) for r in some)),
            strict=True,
        ):
            tally.note(request, status, body if body[:1] == b"{" else b"", None)
    server.should_exit = server.force_exit = True
    await task
    await sync_to_async(connections.close_all)()
    await in_threads._run(connections.close_all)


async def send_odd(alice, settings, share) -> Tally:
    settings.RATE_LIMITS, settings.GATEWAY_MAX_CALLS, settings.DEMO_PIECE_MILLISECONDS = (
        {},
        10**6,
        0,
    )
    settings.ALLOWED_HOSTS = ["testserver"]
    team = await sync_to_async(lambda: alice.personal_organization)()
    token = await sync_to_async(services.issue_gateway_token)(
        organization_id=team.pk, user_id=alice.pk, conversation_id=uuid4()
    )
    tally = Tally(INTENDED)
    await send_all(sample(list_requests(token), share), tally)
    return tally


async def test_a_few_odd_heads_and_bodies(alice, settings):
    tally = await send_odd(alice, settings, 0.02)

    figure("odd values, bytes on a port", requests=tally.requests, statuses=tally.statuses, server_errors=tally.server_errors, intended=tally.intended)  # fmt: skip
    assert not tally.kinds, tally.report()
    assert tally.statuses[0] < sum(tally.statuses.values()) / 10


@pytest.mark.slow
@pytest.mark.timeout(7_200)
async def test_odd_heads_and_bodies(alice, settings):
    tally = await send_odd(alice, settings, SHARE or 0.1)

    figure("odd values, bytes on a port", requests=tally.requests, statuses=tally.statuses, server_errors=tally.server_errors, intended=tally.intended)  # fmt: skip
    assert not tally.kinds, tally.report()


@pytest.mark.parametrize("charset", ["hex", "idna", "punycode", "undefined", "rot13", "unicode_escape", "utf-16", "\xff"])  # fmt: skip
@pytest.mark.parametrize("url", ["/sign-in?next=%5cud800%ff", "/api/llm/v1/models?a=%ff", "/api/options/config?a=%ff"])  # fmt: skip
async def test_unusual_charset_is_ignored(alice, settings, url, charset):
    settings.ALLOWED_HOSTS = ["testserver"]
    header = ("Content-Type", f"text/plain; charset={charset}")
    tally = Tally()

    await send_all([Odd("bytes", "GET", url, charset, headers=(header,))], tally)

    assert set(tally.statuses) <= {200, 401}, tally.report()

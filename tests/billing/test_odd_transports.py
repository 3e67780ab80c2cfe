"""Model servers whose HTTP is odd: connections without an end, wrong lengths, compression and redirects."""

import asyncio
import gzip
import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from asgiref.sync import sync_to_async
from django.core.cache import cache

from billing import services
from tests.billing.conftest import CHAT, UPSTREAM_KEY, bearer, chat, wait_for_calls
from tests.billing.test_upstream_answers import COMPLETION, DONE, LAST, STOP, TEXT

pytestmark = pytest.mark.django_db(transaction=True)
USED = b"data: " + LAST + b"\n\n"
WHOLE = TEXT + STOP + USED


def head(*lines: str, status: str = "200 OK", kind: str = "text/event-stream") -> bytes:
    return "\r\n".join([f"HTTP/1.1 {status}", f"Content-Type: {kind}", *lines, "", ""]).encode()


def chunked(*parts: bytes, end: bytes = b"") -> bytes:
    pieces = (b"%x\r\n%s\r\n" % (len(part), part) for part in parts)
    return head("Transfer-Encoding: chunked") + b"".join(pieces) + end


@pytest.fixture
async def serve(alice) -> AsyncIterator[Callable[[bytes], None]]:
    """A function that sets the bytes with which the model server answers every request, before it closes."""
    answer = b""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        lines = (await reader.readuntil(b"\r\n\r\n")).lower().split(b"\r\n")
        length = next(line for line in lines if line.startswith(b"content-length:"))
        await reader.readexactly(int(length.partition(b":")[2]))
        writer.write(answer)
        await writer.drain()
        writer.close()

    def set_answer(data: bytes) -> None:
        nonlocal answer
        answer = data

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    await sync_to_async(services.save_model_access)(
        organization=alice.personal_organization,
        user=alice,
        base_url=f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1",
        model="m",
        api_key=UPSTREAM_KEY,
    )
    await sync_to_async(cache.clear)()
    yield set_answer
    server.close()


async def ask(live: Any, token: str, stream: bool) -> Any:
    return await live.post(CHAT, json=chat("hi", stream=stream), headers=bearer(token))


COMPLETE = {
    "no end of the chunked body": chunked(WHOLE),
    "no end of the chunked body, and an end mark": chunked(WHOLE, DONE),
    "a broken chunk": chunked(WHOLE, end=b"zz\r\n"),
    "a wrong length": head("Content-Length: 99999") + WHOLE,
    "JSON with a wrong length": head("Content-Length: 99999", kind="application/json") + json.dumps(COMPLETION).encode(),
    "early hints": b"HTTP/1.1 103 Early Hints\r\n\r\n" + chunked(WHOLE, end=b"0\r\n\r\n"),
    "HTTP/1.0": b"HTTP/1.0 200 OK\r\n\r\n" + WHOLE,
    "gzip": head("Content-Encoding: gzip") + gzip.compress(WHOLE),
}  # fmt: skip


@pytest.mark.parametrize("stream", [True, False])
async def test_answer_that_is_complete_is_used_however_the_connection_ends(
    live, serve, token, conversation_id, subtests, stream
):
    for number, (name, data) in enumerate(COMPLETE.items(), 1):
        with subtests.test(name):
            serve(data)
            response = await ask(live, token, stream)
            assert response.status_code == 200
            assert b'"error"' not in response.content
            call = (await wait_for_calls(conversation_id, count=number))[-1]
            assert (call.outcome, call.prompt_tokens, call.completion_tokens) == (
                "answered",
                777,
                33,
            )


async def test_answer_that_is_not_complete_is_a_failure(live, serve, token, subtests):
    half = json.dumps(COMPLETION).encode()[:-40]
    for data in (
        chunked(TEXT),
        head("Content-Length: 999") + TEXT,
        head("Content-Length: 999", kind="application/json") + half,
    ):
        with subtests.test(data[-30:].decode()):
            serve(data)
            response = await ask(live, token, False)
            assert response.json()["error"]["code"] == "upstream_disconnected"
            response = await ask(live, token, True)
            assert "upstream_disconnected" in response.text


async def test_odd_http_is_explained(live, serve, token, conversation_id, subtests):
    target = "https://models.example/v1/chat/completions?secret=x"
    expected = {
        head("Content-Encoding: br") + b"\x8b\x02\x80": "Content-Encoding: br",
        head("Content-Encoding: gzip") + WHOLE: "cannot be decompressed (Content-Encoding: gzip)",
        head(f"Location: {target}", "Content-Length: 0", status="308 Permanent Redirect"): (
            "a redirect to https://models.example/v1/chat/completions. Redirects are not followed"
        ),
        b"SSH-2.0-OpenSSH_9.6\r\n\r\n": "The model server's response is not HTTP.",
        b"HTTP/1.1 204 No Content\r\n\r\n": "empty answer",
    }
    for number, (data, message) in enumerate(expected.items(), 1):
        with subtests.test(message):
            serve(data)
            response = await ask(live, token, True)
            assert response.status_code == 502
            assert message in response.json()["error"]["message"]
            call = (await wait_for_calls(conversation_id, count=number))[-1]
            assert (call.outcome, call.prompt_tokens) == ("failed", 0)

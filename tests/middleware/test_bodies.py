"""Bodies are bounded before Django reads them."""

import json

import pytest

from openhands_site.middleware.bodies import BodyLimit


async def ask(*headers, kind="http"):
    """``(status, problem)`` of a request with these headers; a read of the body fails the test."""
    sent = []

    async def receive():
        raise AssertionError("the body was read")

    async def send(message):
        sent.append(message)

    async def application(scope, receive, send):
        await send({"type": "http.response.start", "status": 200})
        await send({"type": "http.response.body", "body": b"{}"})

    await BodyLimit(application)({"type": kind, "headers": list(headers)}, receive, send)
    return sent[0]["status"], json.loads(sent[1]["body"])


@pytest.mark.parametrize(
    ("header", "status", "code"),
    [
        ((b"transfer-encoding", b"chunked"), 411, "length-required"),
        ((b"content-length", b"1001"), 413, "too-large"),
        ((b"content-length", b"9" * 5_000), 413, "too-large"),
        ((b"content-length", b"-1"), 413, "too-large"),
        ((b"content-length", "²".encode()), 413, "too-large"),
    ],
)
async def test_bodies_of_no_or_too_great_length_are_refused_unread(settings, header, status, code):
    settings.UPLOAD_MAX_BYTES = 1_000

    answer = await ask(header)

    assert (answer[0], answer[1]["code"]) == (status, code)


@pytest.mark.parametrize(
    "headers", [[], [(b"content-length", b"0")], [(b"content-length", b"1000")]]
)
async def test_others_pass(settings, headers):
    settings.UPLOAD_MAX_BYTES = 1_000

    assert await ask(*headers) == (200, {})


async def test_sockets_pass():
    assert await ask((b"transfer-encoding", b"chunked"), kind="websocket") == (200, {})

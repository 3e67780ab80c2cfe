"""Requests are bounded before Django reads them, whatever length they state."""

import json

import pytest

from openhands_site.serving.bodies import BodyLimit, body_limit


async def ask(*headers, pieces=(), kind="http", path="/api/v1/x", **scope):
    """``(status, problem or what the application read, pieces that were read)``."""
    sent = []
    waiting = [
        {"type": "http.request", "body": piece, "more_body": n < len(pieces) - 1}
        for n, piece in enumerate(pieces)
    ]
    reads = 0

    async def receive():
        nonlocal reads
        reads += 1
        return waiting.pop(0)

    async def send(message):
        sent.append(message)

    async def application(scope, receive, send):
        body, is_more = b"", bool(waiting) or b"content-length" in dict(scope["headers"])
        while is_more and pieces:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            body += message["body"]
            is_more = message["more_body"]
        length = dict(scope["headers"]).get(b"content-length", b"").decode()
        answer = json.dumps({"read": len(body), "length": length}).encode()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": answer})

    scope = {"type": kind, "method": "POST", "path": path, "headers": list(headers)} | scope
    await BodyLimit(application)(scope, receive, send)
    if kind == "websocket":
        return sent[0]
    return sent[0]["status"], json.loads(sent[1]["body"]), reads


@pytest.fixture(autouse=True)
def limits(settings):
    settings.BODY_MAX_BYTES = 1_000
    settings.UPLOAD_MAX_BYTES = 5_000
    settings.GATEWAY_BODY_MAX_BYTES = 3_000


@pytest.mark.parametrize("length", [b"1001", b"9" * 5_000, b"-1", "²".encode(), b"1,1", b"0x10"])
async def test_a_stated_length_that_does_not_fit_is_refused_unread(length):
    status, problem, reads = await ask((b"content-length", length), pieces=[b"x"])

    assert (status, problem["code"], reads) == (413, "too-large", 0)


async def test_a_chunked_body_is_counted_and_refused_at_the_limit():
    chunked = (b"transfer-encoding", b"chunked")
    status, problem, reads = await ask(chunked, pieces=[b"x" * 400] * 100)

    assert (status, problem["code"]) == (413, "too-large")
    assert reads == 3  # not one piece more than it takes to know


async def test_a_chunked_body_within_the_limit_arrives_with_its_length():
    chunked = (b"transfer-encoding", b"chunked")

    assert (await ask(chunked, pieces=[b"x" * 500, b"y" * 500]))[:2] == (
        200,
        {"read": 1000, "length": "1000"},
    )


async def test_a_chunked_body_that_also_states_a_length_is_counted():
    lying = [(b"transfer-encoding", b"chunked"), (b"content-length", b"10")]

    assert (await ask(*lying, pieces=[b"x" * 2_000]))[0] == 413
    assert (await ask(*lying, pieces=[b"x" * 900]))[1] == {"read": 900, "length": "900"}


async def test_more_bytes_than_stated_are_not_handed_on():
    status, problem, _ = await ask((b"content-length", b"10"), pieces=[b"x" * 600, b"x" * 600])

    assert (status, problem["code"]) == (413, "too-large")


@pytest.mark.parametrize(
    ("path", "limit"),
    [
        ("/api/v1/conversations", 1_000),
        ("/api/v1/conversations/1/messages", 1_000),
        ("/api/v1/conversations/1/files/content", 5_000),
        ("/api/v1/conversations/1/files/upload", 5_000),
        ("/api/v1/conversations/1/files/upload/x", 1_000),
        ("/api/llm/v1/chat/completions", 3_000),
        ("/sign-in", 1_000),
        ("/admin/login/", 1_000),
    ],
)
async def test_each_address_has_its_limit(path, limit):
    assert body_limit(path) == limit
    assert (await ask((b"content-length", b"%d" % limit), path=path))[0] == 200
    assert (await ask((b"content-length", b"%d" % (limit + 1)), path=path))[0] == 413


@pytest.mark.parametrize("kind", ["http", "websocket"])
async def test_too_many_or_too_large_headers_are_refused(settings, kind):
    settings.HEADER_MAX_COUNT, settings.HEADER_MAX_BYTES = 10, 1_000
    many = [(b"x-%d" % n, b"y") for n in range(11)]
    large = [(b"x", b"y" * 1_000)]

    for refused in (await ask(*many, kind=kind), await ask(*large, kind=kind)):
        if kind == "http":
            assert (refused[0], refused[1]["code"]) == (431, "headers-too-large")
        else:
            assert refused["type"] == "websocket.close"


async def test_a_long_query_counts_as_head(settings):
    settings.HEADER_MAX_BYTES = 1_024

    assert (await ask(query_string=b"q" * 1_025))[0] == 431
    assert (await ask(query_string=b"q" * 1_024))[0] == 200

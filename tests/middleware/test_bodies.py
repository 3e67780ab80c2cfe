"""Limits for request bodies and headers under ASGI, before Django reads a request."""

import json

import pytest

from openhands_site.serving.bodies import BodyLimit, body_limit


async def send_request(*headers, pieces=(), kind="http", path="/api/v1/x", **scope):
    """Return the status, the JSON body and the number of pieces read; for a WebSocket the first message sent.

    The application responds with the number of bytes that it read and the content length that it received.
    """
    sent = []
    queue = [
        {"type": "http.request", "body": piece, "more_body": n < len(pieces) - 1}
        for n, piece in enumerate(pieces)
    ]
    reads = 0

    async def receive():
        nonlocal reads
        reads += 1
        return queue.pop(0)

    async def send(message):
        sent.append(message)

    async def application(scope, receive, send):
        body, is_more = b"", bool(queue) or b"content-length" in dict(scope["headers"])
        while is_more and pieces:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            body += message["body"]
            is_more = message["more_body"]
        length = dict(scope["headers"]).get(b"content-length", b"").decode()
        body_bytes = json.dumps({"read": len(body), "length": length}).encode()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": body_bytes})

    scope = {"type": kind, "method": "POST", "path": path, "headers": list(headers)} | scope
    await BodyLimit(application)(scope, receive, send)
    if kind == "websocket":
        return sent[0]
    return sent[0]["status"], json.loads(sent[1]["body"]), reads


@pytest.fixture(autouse=True)
def set_limits(settings):
    settings.BODY_MAX_BYTES = 1_000
    settings.UPLOAD_MAX_BYTES = 5_000
    settings.GATEWAY_BODY_MAX_BYTES = 3_000


@pytest.mark.parametrize("length", [b"1001", b"9" * 5_000, b"-1", "²".encode(), b"1,1", b"0x10"])
async def test_too_large_or_malformed_content_length_is_rejected_before_the_body_is_read(length):
    status, problem, reads = await send_request((b"content-length", length), pieces=[b"x"])

    assert (status, problem["code"], reads) == (413, "too-large", 0)


async def test_chunked_body_is_rejected_at_the_limit():
    chunked = (b"transfer-encoding", b"chunked")
    status, problem, reads = await send_request(chunked, pieces=[b"x" * 400] * 100)

    assert (status, problem["code"]) == (413, "too-large")
    assert reads == 3  # the third piece of 400 bytes exceeds the limit of 1,000


async def test_chunked_body_within_the_limit_is_passed_on_with_its_length():
    chunked = (b"transfer-encoding", b"chunked")

    assert (await send_request(chunked, pieces=[b"x" * 500, b"y" * 500]))[:2] == (
        200,
        {"read": 1000, "length": "1000"},
    )


async def test_content_length_of_a_chunked_body_is_ignored():
    contradictory = [(b"transfer-encoding", b"chunked"), (b"content-length", b"10")]

    assert (await send_request(*contradictory, pieces=[b"x" * 2_000]))[0] == 413
    assert (await send_request(*contradictory, pieces=[b"x" * 900]))[1] == {
        "read": 900,
        "length": "900",
    }


async def test_body_longer_than_its_content_length_is_rejected():
    status, problem, _ = await send_request(
        (b"content-length", b"10"), pieces=[b"x" * 600, b"x" * 600]
    )

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
async def test_body_limit_of_each_route_is_enforced(path, limit):
    assert body_limit(path) == limit
    assert (await send_request((b"content-length", b"%d" % limit), path=path))[0] == 200
    assert (await send_request((b"content-length", b"%d" % (limit + 1)), path=path))[0] == 413


@pytest.mark.parametrize("kind", ["http", "websocket"])
async def test_too_many_or_too_large_headers_are_rejected(settings, kind):
    settings.HEADER_MAX_COUNT, settings.HEADER_MAX_BYTES = 10, 1_000
    many = [(b"x-%d" % n, b"y") for n in range(11)]
    large = [(b"x", b"y" * 1_000)]

    for response in (await send_request(*many, kind=kind), await send_request(*large, kind=kind)):
        if kind == "http":
            assert (response[0], response[1]["code"]) == (431, "headers-too-large")
        else:
            assert response["type"] == "websocket.close"


async def test_query_string_counts_towards_the_header_limit(settings):
    settings.HEADER_MAX_BYTES = 1_024

    assert (await send_request(query_string=b"q" * 1_025))[0] == 431
    assert (await send_request(query_string=b"q" * 1_024))[0] == 200

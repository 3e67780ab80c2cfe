"""Strange requests to the gateway's own routes, and strange responses of model servers, never give 500."""

import json
import random
from typing import Any

import pytest
from asgiref.sync import sync_to_async

from billing import services
from billing.gateway import answers, refusals
from billing.gateway.event_stream import EventStreamParser, EventTooLarge
from billing.models import ModelCall
from tests.billing.conftest import CHAT, bearer, chat

VALUES: list[Any] = [
    None,
    True,
    0,
    -1,
    10**30,
    1e308,
    "",
    "\ud800",
    "\x00",
    "x" * 10_000,
    [],
    [[]],
    {},
    {"a": {"b": []}},
    [None],
    [{"role": "user"}],
    [{"role": "user", "content": "\ud800\x00"}],
    [{"role": "user", "content": [{"type": "text", "text": 5}]}],
    [{"role": 5, "content": {}, "tool_calls": "x"}],
    [{"role": "assistant", "tool_calls": [{"id": 7}]}, {"role": "user", "content": "!say x"}],
    [{"role": "user", "content": "!usage 99999999999999999999 -5 x\n!sleep -1\n!fail 99"}],
    [{"role": "user", "content": "!tool \ud800 [1]\n!tool f " + "[" * 2_000}],
]
FIELDS = (
    "messages",
    "tools",
    "stream",
    "stream_options",
    "model",
    "n",
    "max_tokens",
    "max_completion_tokens",
    "reasoning_effort",
    "\ud800",
)


@pytest.mark.slow
@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("has_upstream", [False, True])
async def test_no_value_of_any_field_gives_500(
    live, alice, token, provider, has_upstream, settings, subtests
):
    settings.GATEWAY_MAX_CALLS = 1_000
    if has_upstream:
        await sync_to_async(services.save_model_access)(
            organization=await sync_to_async(lambda: alice.personal_organization)(),
            user=alice,
            base_url=provider.base_url,
            model="scripted-large",
            api_key="sk-upstream-0123456789",
            prompt_micros_per_million=10**12,
        )
    for field in FIELDS:
        for value in VALUES:
            raw = json.dumps(chat("!say x") | {field: value}).encode()
            response = await live.post(CHAT, content=raw, headers=bearer(token))
            with subtests.test(f"{field}={value!r:.60}"):
                assert response.status_code < 500, response.text[:500]
    for name in ("Authorization", "Content-Type", "Content-Encoding", "Accept"):
        for value in (b"\xff\xfe", b"Bearer", b"Bearer ogt_\xe9.\xe9", b"gzip", b"x" * 4_000):
            headers = {k.encode(): v.encode() for k, v in bearer(token).items()} | {
                name.encode(): value
            }
            response = await live.post(CHAT, json=chat("!say x"), headers=headers)
            assert response.status_code < 500
            response = await live.get("/api/llm/v1/models?x=%ff%00&x[]=1", headers=headers)
            assert response.status_code < 500
    for method in ("GET", "PUT", "DELETE", "HEAD", "OPTIONS", "PATCH", "BREW"):
        for path in (CHAT, "/api/llm/v1/models", "/api/llm/v1/%00", "/api/llm/v1/chat%2f.."):
            response = await live.request(method, path, headers=bearer(token))
            assert response.status_code < 500
    assert not await ModelCall.objects.filter(status__gte=500).aexists()


def _mutate(rng: random.Random, raw: bytes) -> bytes:
    data = bytearray(raw)
    for _ in range(rng.randrange(1, 6)):
        place = rng.randrange(len(data) + 1)
        match rng.randrange(4):
            case 0:
                data[place : place + rng.randrange(20)] = b""
            case 1:
                data[place:place] = rng.choice(
                    (b"\r", b"\n", b"\r\n", b"\xef\xbb\xbf", b"\xff", b":", b"{", b"[", b"null", b'"error":')
                )  # fmt: skip
            case 2:
                data[place : place + 5] = rng.choice(
                    (b"true", b"-1e999", b'"\\ud800"', b"[]", b"{}")
                )
            case 3:
                data[place:place] = data[: rng.randrange(200)]
    return bytes(data)


SEEDS = (
    (
        b'data: {"choices":[{"index":0,"delta":{"content":"a"},"finish_reason":null}],"usage":{"prompt_tokens":1}}'
        b'\n\ndata: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\ndata: [DONE]\n\n'
    ),
    (
        b'{"choices":[{"index":0,"message":{"content":"a","tool_calls":[{"id":"b","function":{"name":"f",'
        b'"arguments":"{}"}}]},"finish_reason":"stop"}],"usage":{"prompt_tokens":1,"completion_tokens":2}}'
    ),
    b'[{"error":{"code":429,"message":"a","details":[{"retryDelay":"5s"}],"metadata":{"raw":"{}"}}}]',
    b'event: error\r\ndata: {"type":"error","error":{"type":"overloaded_error"}}\r\n\r\n: hi\r\n',
)


def _read(raw: bytes, kind: str) -> refusals.UpstreamRefused | None:
    try:
        answers.parse_completion(raw, content_type=kind, key="k")
    except refusals.UpstreamRefused as failure:
        return failure
    return None


def test_mutated_responses_are_answers_or_refusals():
    """A response is read or refused; no other exception leaves the reader."""
    rng = random.Random(13)
    counts = {"read": 0, "refused": 0}
    for number in range(4_000):
        raw = _mutate(rng, SEEDS[number % len(SEEDS)])
        kind = rng.choice(("text/event-stream", "application/json", "text/html; charset=\xff", ""))
        failure = _read(raw, kind)
        counts["refused" if failure else "read"] += 1
        assert failure is None or 400 <= failure.status <= 599
        assert failure is None or failure.message.encode()
        refusals.build_refusal(refusals.parse_body(raw, kind), status=400, key="k").message.encode()
    assert min(counts.values()) > 100


def test_events_do_not_depend_on_the_size_of_the_pieces():
    rng = random.Random(13)
    for _ in range(300):
        raw = _mutate(rng, rng.choice((SEEDS[0], SEEDS[3]))).replace(
            b"\n", rng.choice((b"\n", b"\r", b"\r\n"))
        )
        results = []
        for size in (1, 2, 3, 7, len(raw) + 1):
            parser = EventStreamParser()
            pieces = [raw[place : place + size] for place in range(0, len(raw), size)]
            events = [event for piece in pieces for event in parser.feed(piece)]
            results.append([*events, *parser.finish()])
        assert all(result == results[0] for result in results)


@pytest.mark.parametrize("line", [b"data: " + b"x" * 1_048_576 + b"\n", b"x" * 1_048_576])
def test_event_that_is_too_large_is_refused(line):
    parser = EventStreamParser()
    pieces = (list(parser.feed(line)) for _ in range(40))
    with pytest.raises(EventTooLarge):
        list(pieces)

"""Responses of model servers whose content decides: event streams, errors with status 200, early ends, other formats."""

import functools
import itertools
import json
from collections.abc import Awaitable, Callable, Sequence
from typing import Any
from uuid import uuid4

import pytest
from asgiref.sync import sync_to_async
from django.core.cache import cache

from billing.models import ModelCall
from tests.billing.conftest import (
    CHAT,
    UPSTREAM_KEY,
    bearer,
    chat,
    issue_token,
    parse_stream,
    wait_for_calls,
)

pytestmark = pytest.mark.django_db(transaction=True)
EVENTS = "text/event-stream"
JSON = "application/json"


def each(*parameters: tuple[str, Sequence[Any]]) -> Callable[..., Any]:
    """Run an async test once for each combination of values, with a new conversation and no remembered options.

    Unlike ``pytest.mark.parametrize``, all of them share one database and one server, which is much faster.
    """

    def decorate(test: Callable[..., Awaitable[None]]) -> Any:
        @functools.wraps(test)
        async def run(self, live, alice, access, provider, subtests) -> None:
            for case in itertools.product(*(values for _, values in parameters)):
                arguments: dict[str, Any] = {}
                for (names, _), value in zip(parameters, case, strict=True):
                    split = names.split()
                    values = value if len(split) > 1 else (value,)
                    if hasattr(value, "marks"):  # a pytest.param
                        values = value.values
                    arguments |= zip(split, values, strict=True)
                await sync_to_async(cache.clear)()
                provider.raw = provider.answer = None
                provider.requests.clear()
                conversation_id = uuid4()
                token = await sync_to_async(issue_token)(alice, conversation_id)
                with subtests.test(str(getattr(case[0], "id", case))[:200]):
                    await test(self, live, token, access, provider, conversation_id, **arguments)

        del run.__wrapped__  # pytest would read the fixtures from the signature of ``test``
        return run

    return decorate


def chunk(delta: Any = None, reason: str | None = None, **fields: Any) -> dict[str, Any]:
    choice = {"index": 0, "delta": delta or {}, "finish_reason": reason}
    return {"id": "c", "object": "chat.completion.chunk", "choices": [choice]} | fields


def event(value: Any) -> bytes:
    return b"data: " + json.dumps(value).encode() + b"\n\n"


TEXT = event(chunk({"role": "assistant", "content": "Hello"}))
STOP = event(chunk(reason="stop"))
DONE = b"data: [DONE]\n\n"
USAGE = {"prompt_tokens": 777, "completion_tokens": 33}
LAST = json.dumps({"id": "c", "choices": [], "usage": USAGE}).encode()
COMPLETION = {
    "id": "c",
    "object": "chat.completion",
    "model": "m",
    "choices": [
        {"index": 0, "message": {"role": "assistant", "content": "Hello"}, "finish_reason": "stop"}
    ],
    "usage": USAGE,
}


class TestEventStreams:
    @each(
        (
            "body",
            [
                pytest.param(TEXT + STOP + b"data: " + LAST, id="no line end after the last event"),
                pytest.param(TEXT + STOP + b"data: " + LAST + b"\n", id="one line end at the end"),
                pytest.param(
                    TEXT + STOP + b"data: " + LAST.replace(b'"choices"', b'\ndata: "choices"'),
                    id="json over two data lines",
                ),
                pytest.param(
                    (TEXT + STOP + b"data: " + LAST + b"\n\n" + DONE).replace(b"\n", b"\r\n"),
                    id="CRLF",
                ),
                pytest.param(
                    (TEXT + STOP + b"data: " + LAST + b"\n\n" + DONE).replace(b"\n", b"\r"), id="CR"
                ),
                pytest.param(
                    b"\xef\xbb\xbf" + b"data: " + LAST + b"\n\n" + TEXT + STOP + DONE, id="BOM"
                ),
                pytest.param(
                    b": hi\n\n:\n" + TEXT + b": again\nid: 5\nretry: 7\n" + STOP + b"data:" + LAST,
                    id="comments, other fields, no space after the colon",
                ),
                pytest.param(
                    b"event: message\n" + TEXT + STOP + b"event: ping\ndata: {}\n\ndata: " + LAST,
                    id="named events",
                ),
                pytest.param(
                    TEXT + b"data:\n\ndata: ping\n\n" + STOP + b"data: " + LAST + b"\n\n" + DONE,
                    id="keep-alive events that are not JSON",
                ),
                pytest.param(
                    event(chunk({"content": "\ud800"})) + STOP + b"data: " + LAST,
                    id="lone surrogate",
                ),
            ],
        )
    )
    async def test_usage_is_read_from_every_form_of_an_event_stream(
        self, live, token, access, provider, conversation_id, body
    ):
        provider.raw = (200, EVENTS, body)
        response = await live.post(CHAT, json=chat("hi", stream=True), headers=bearer(token))

        # Callers get one standard form, which ends with [DONE].
        chunks = (
            parse_stream(
                b"\n\n".join(e for e in response.content.split(b"\n\n") if not e.startswith(b":"))
            )
            if b": hi" not in body
            else None
        )
        if chunks is not None and b"BOM" not in body:
            assert any(c.get("usage") == USAGE for c in chunks)
        assert response.content.endswith(DONE)
        (call,) = await wait_for_calls(conversation_id)
        assert (call.outcome, call.prompt_tokens, call.completion_tokens) == ("answered", 777, 33)

    @each(
        (
            "kind",
            [EVENTS, f"{EVENTS}; charset=utf-8", "text/plain", "application/octet-stream", JSON],
        )
    )
    async def test_stream_with_another_content_type_is_understood(
        self, live, token, access, provider, conversation_id, kind
    ):
        provider.raw = (200, kind, TEXT + STOP + b"data: " + LAST + b"\n\n" + DONE)
        response = await live.post(CHAT, json=chat("hi", stream=True), headers=bearer(token))
        assert response.headers["Content-Type"] == EVENTS
        (call,) = await wait_for_calls(conversation_id)
        assert (call.outcome, call.prompt_tokens) == ("answered", 777)


ERRORS = [
    pytest.param(event({"error": {"code": 429, "message": "Slow down"}}), 429, id="openai"),
    pytest.param(event({"error": {"code": "429", "message": "Slow down"}}), 429, id="code as text"),
    pytest.param(event({"error": "Slow down"}), 502, id="ollama"),
    pytest.param(b'{"error":"Slow down"}\n', 502, id="bare JSON line"),
    pytest.param(b'error: {"code":503,"message":"Slow down"}\n\n', 503, id="llama.cpp"),
    pytest.param(
        b"event: error\n"
        + event({"type": "error", "error": {"type": "overloaded_error", "message": "Slow down"}}),
        503,
        id="anthropic",
    ),
    pytest.param(b"event: error\ndata: Slow down\n\n", 502, id="text in an error event"),
    pytest.param(
        event({"object": "error", "message": "Slow down", "code": 400, "type": "BadRequestError"}),
        400,
        id="vllm",
    ),
    pytest.param(
        event([{"error": {"code": 429, "message": "Slow down", "status": "RESOURCE_EXHAUSTED"}}]),
        429,
        id="gemini list",
    ),
    pytest.param(event({"error": "Slow down", "error_type": "overloaded"}), 503, id="tgi"),
    pytest.param(event({"detail": "Slow down"}), 502, id="fastapi"),
    pytest.param(event({"code": "Throttling", "message": "Slow down"}), 429, id="dashscope"),
    pytest.param(
        event({"choices": None, "base_resp": {"status_code": 1002, "status_msg": "Slow down"}}),
        502,
        id="minimax",
    ),
    pytest.param(
        event(chunk({"content": ""}, "error", error={"code": 502, "message": "Slow down"})),
        502,
        id="openrouter",
    ),
    pytest.param(event(chunk({}, x_groq={"error": "Slow down"})), 502, id="groq"),
    pytest.param(
        event({"choices": [{"index": 0, "delta": {}, "error": {"message": "Slow down"}}]}),
        502,
        id="inside the choice",
    ),
]


class TestErrorsInStreams:
    @each(("body status", ERRORS))
    async def test_error_as_first_event_is_an_error_response_and_free(
        self, live, token, access, provider, conversation_id, body, status
    ):
        provider.raw = (200, EVENTS, body)
        response = await live.post(CHAT, json=chat("hi", stream=True), headers=bearer(token))
        assert response.status_code == status
        assert response.json()["error"]["message"] == "Slow down"
        (call,) = await wait_for_calls(conversation_id)
        assert (call.outcome, call.status, call.cost_micros) == ("failed", status, 0)
        assert (call.prompt_tokens, call.error) == (0, "Slow down")

    @each(("middle", [b"", b": keep-alive\n\n"]), ("body status", ERRORS))
    async def test_error_in_the_middle_is_reported_as_an_event(
        self, live, token, access, provider, conversation_id, middle, body, status
    ):
        provider.raw = (200, EVENTS, TEXT + middle + body + STOP + DONE)
        response = await live.post(CHAT, json=chat("hi", stream=True), headers=bearer(token))
        assert response.status_code == 200
        last = json.loads(response.content.split(b"data: ")[-1])
        assert last["error"]["message"] == "Slow down"
        (call,) = await wait_for_calls(conversation_id)
        assert (call.outcome, call.status, call.error) == ("failed", status, "Slow down")
        assert call.completion_tokens == 2  # the text before the error, which servers charge

    @each(
        (
            "body",
            [
                pytest.param(TEXT, id="text, then the end"),
                pytest.param(TEXT + b"data: " + LAST + b"\n\n", id="usage, but no end"),
                pytest.param(
                    event(
                        chunk({"tool_calls": [{"index": 0, "function": {"arguments": '{"comm'}}]})
                    ),
                    id="half a tool call",
                ),
                pytest.param(TEXT + b'data: {"choi', id="cut inside an event"),
                pytest.param(TEXT + event(chunk({}, "error")), id="finish_reason error"),
                pytest.param(
                    TEXT + event(chunk({}, "insufficient_system_resource")) + DONE, id="deepseek"
                ),
            ],
        )
    )
    async def test_stream_that_ends_early_is_a_failure(
        self, live, token, access, provider, conversation_id, body
    ):
        provider.raw = (200, EVENTS, body)
        response = await live.post(CHAT, json=chat("hi", stream=True), headers=bearer(token))
        last = json.loads(response.content.split(b"data: ")[-1])
        assert last["error"]["code"] == "upstream_incomplete"
        assert b"[DONE]" not in response.content
        (call,) = await wait_for_calls(conversation_id)
        assert (call.outcome, call.status) == ("failed", 502)
        assert call.completion_tokens > 0

    @each(("body", [b"", b"\n\n", DONE, b": hi\n\n" + DONE, b"data: {}\n\n"]))
    async def test_empty_stream_is_a_failure_and_free(
        self, live, token, access, provider, conversation_id, body
    ):
        provider.raw = (200, EVENTS, body)
        response = await live.post(CHAT, json=chat("hi", stream=True), headers=bearer(token))
        assert "empty answer" in response.text
        (call,) = await wait_for_calls(conversation_id)
        assert (call.outcome, call.status, call.prompt_tokens) == ("failed", 502, 0)

    @each(
        (
            "body",
            [
                pytest.param(TEXT + STOP, id="no end mark"),
                pytest.param(TEXT + DONE, id="no finish_reason"),
                pytest.param(event(chunk({"content": "a"}, error=None)) + STOP, id="error null"),
                pytest.param(
                    event(chunk({"content": "a"}, error={"code": 0, "message": ""})) + STOP,
                    id="error without a failure",
                ),
                pytest.param(TEXT + STOP + b'event: ping\ndata: {"type": "ping"}\n\n', id="ping"),
            ],
        )
    )
    async def test_complete_stream_is_answered(
        self, live, token, access, provider, conversation_id, body
    ):
        provider.raw = (200, EVENTS, body)
        response = await live.post(CHAT, json=chat("hi", stream=True), headers=bearer(token))
        assert response.content.endswith(DONE)
        (call,) = await wait_for_calls(conversation_id)
        assert call.outcome == "answered"


class TestOtherFormats:
    @each(
        (
            "kind body",
            [
                (JSON, json.dumps(COMPLETION).encode()),
                (EVENTS, json.dumps(COMPLETION, indent=2).encode()),
                ("", json.dumps(COMPLETION).encode()),
                (JSON, b"\xef\xbb\xbf" + json.dumps(COMPLETION).encode()),
                (JSON, json.dumps([COMPLETION]).encode()),
                (
                    "application/x-ndjson",
                    json.dumps(chunk({"content": "Hello"})).encode()
                    + b"\n"
                    + json.dumps(chunk({}, "stop", usage=USAGE)).encode(),
                ),
                (EVENTS, event(COMPLETION) + DONE),
            ],
        )
    )
    async def test_json_answer_to_a_stream_request_becomes_a_stream(
        self, live, token, access, provider, conversation_id, kind, body
    ):
        provider.raw = (200, kind, body)
        response = await live.post(CHAT, json=chat("hi", stream=True), headers=bearer(token))

        assert (response.status_code, response.headers["Content-Type"]) == (200, EVENTS)
        chunks = parse_stream(response.content)
        deltas = [c["choices"][0]["delta"] for c in chunks if c["choices"]]
        assert "".join(delta.get("content") or "" for delta in deltas) == "Hello"
        assert [c["choices"][0]["finish_reason"] for c in chunks if c["choices"]][-1] == "stop"
        assert chunks[-1]["usage"] == USAGE
        (call,) = await wait_for_calls(conversation_id)
        assert (call.outcome, call.prompt_tokens, call.completion_tokens) == ("answered", 777, 33)

    async def test_tool_calls_of_a_json_answer_get_an_index(self, live, token, access, provider):
        calls = [
            {"id": f"call_{n}", "type": "function", "function": {"name": "f", "arguments": "{}"}}
            for n in range(2)
        ]
        message = {"role": "assistant", "content": None, "tool_calls": calls}
        answer = COMPLETION | {
            "choices": [{"index": 0, "message": message, "finish_reason": "tool_calls"}]
        }
        provider.raw = (200, JSON, json.dumps(answer).encode())
        response = await live.post(CHAT, json=chat("hi", stream=True), headers=bearer(token))
        delta = parse_stream(response.content)[0]["choices"][0]["delta"]
        assert delta["tool_calls"] == [{"index": n} | call for n, call in enumerate(calls)]

    async def test_stream_as_answer_to_a_plain_request_becomes_a_completion(
        self, live, token, access, provider, conversation_id
    ):
        first = {"index": 0, "id": "call_1", "type": "function"}
        parts = [
            chunk({"role": "assistant", "content": "Hel"}),
            chunk({"content": "lo", "reasoning_content": "Hm"}),
            chunk({"tool_calls": [first | {"function": {"name": "f", "arguments": ""}}]}),
            chunk({"tool_calls": [{"index": 0, "function": {"arguments": '{"a":'}}]}),
            chunk({"tool_calls": [{"index": 0, "function": {"arguments": "1}"}}]}),
            chunk({}, "tool_calls", usage=USAGE),
        ]
        provider.raw = (200, EVENTS, b"".join(map(event, parts)) + DONE)
        response = await live.post(CHAT, json=chat("hi"), headers=bearer(token))

        assert (response.status_code, response.headers["Content-Type"]) == (200, JSON)
        (choice,) = response.json()["choices"]
        assert choice["finish_reason"] == "tool_calls"
        assert choice["message"]["content"] == "Hello"
        assert choice["message"]["reasoning_content"] == "Hm"
        function = {"name": "f", "arguments": '{"a":1}'}
        assert choice["message"]["tool_calls"] == [first | {"function": function}]
        assert response.json()["usage"] == USAGE

    @each(
        ("stream", [False, True]),
        (
            "body status message code",
            [
                ({"error": {"message": "No.", "code": "bad_model"}}, 502, "No.", "bad_model"),
                ({"error": {"message": "No.", "code": 429}}, 429, "No.", "429"),
                ({"error": "No."}, 502, "No.", "upstream_502"),
                ([{"error": {"message": "No.", "code": 404}}], 404, "No.", "404"),
                ({"message": "No.", "code": "invalid_api_key"}, 401, "No.", "invalid_api_key"),
                ({"detail": "No."}, 502, "No.", "upstream_502"),
                ({"object": "error", "message": "No.", "code": 400}, 400, "No.", "400"),
                ({"success": False, "errors": [{"message": "No.", "code": 5}]}, 502, "No.", "5"),
                (
                    COMPLETION | {"error": {"message": "No.", "type": "rate_limit_error"}},
                    429,
                    "No.",
                    "upstream_429",
                ),
            ],
        ),
    )
    async def test_error_in_a_body_with_status_200_is_an_error_response(
        self, live, token, access, provider, conversation_id, stream, body, status, message, code
    ):
        provider.raw = (200, JSON, json.dumps(body).encode())
        response = await live.post(CHAT, json=chat("hi", stream=stream), headers=bearer(token))
        error = response.json()["error"]
        assert (response.status_code, error["message"], error["code"]) == (status, message, code)
        (call,) = await wait_for_calls(conversation_id)
        assert (call.outcome, call.status, call.prompt_tokens) == ("failed", status, 0)
        assert call.error == message

    async def test_html_page_with_status_200_is_explained(self, live, token, access, provider):
        page = b"<!DOCTYPE html><html><head><title>Welcome</title></head></html>"
        provider.raw = (200, "text/html", page)
        response = await live.post(CHAT, json=chat("hi", stream=True), headers=bearer(token))
        assert response.json()["error"]["message"] == (
            "The model server's response is not a chat completion (content type: text/html). "
            "It begins: Welcome Check the URL of the model server: it usually ends with /v1."
        )


class TestOptions:
    @each(
        ("status", [400, 422]),
        (
            "text",
            [
                '{"detail":[{"type":"extra_forbidden","loc":["body","stream_options"],"msg":"Extra"}]}',
                '{"error":{"message":"Unrecognized request argument supplied: stream_options"}}',
                "include_usage is not supported",
                "Unprocessable",
                "",
            ],
        ),
    )
    async def test_refused_option_is_removed_once_and_remembered(
        self, live, token, access, provider, conversation_id, status, text
    ):
        def refuse(request):
            is_refused = "stream_options" in request
            return (status, JSON, text.encode()) if is_refused else None

        provider.answer = refuse
        request = chat("!say hi", stream=True)
        for _ in range(2):
            response = await live.post(CHAT, json=request, headers=bearer(token))
            assert response.status_code == 200
            assert parse_stream(response.content)
        sent = ["stream_options" in entry["body"] for entry in provider.requests]
        assert sent == [True, False, False]
        calls = await wait_for_calls(conversation_id, count=2)
        assert [call.outcome for call in calls] == ["answered"] * 2

    async def test_option_of_the_engine_is_removed_if_it_is_named(
        self, live, token, access, provider
    ):
        def refuse(request):
            refused = [name for name in ("stream_options", "reasoning_effort") if name in request]
            text = f"Unsupported parameter: {refused[0]}" if refused else ""
            return (400, "text/plain", text.encode()) if refused else None

        provider.answer = refuse
        request = chat("!say hi", stream=True, reasoning_effort="high", temperature=0.5)
        response = await live.post(CHAT, json=request, headers=bearer(token))
        assert response.status_code == 200
        assert len(provider.requests) == 3
        assert provider.requests[-1]["body"]["temperature"] == 0.5

    async def test_other_refusal_is_not_repeated_after_the_option_was_accepted(
        self, live, token, access, provider
    ):
        await live.post(CHAT, json=chat("!say hi", stream=True), headers=bearer(token))
        request = chat("!fail 400 always The prompt is too long.", stream=True)
        response = await live.post(CHAT, json=request, headers=bearer(token))
        assert (response.status_code, len(provider.requests)) == (400, 2)
        assert response.json()["error"]["message"] == "The prompt is too long."

    async def test_refusal_for_another_reason_is_reported_and_not_remembered(
        self, live, token, access, provider
    ):
        request = chat("!fail 400 2 The prompt is too long.", stream=True)
        response = await live.post(CHAT, json=request, headers=bearer(token))
        assert (response.status_code, len(provider.requests)) == (400, 2)
        await live.post(CHAT, json=request, headers=bearer(token))
        assert "stream_options" in provider.requests[-1]["body"]


USAGES = [
    pytest.param([chunk({}, "stop", usage=USAGE)], id="top level"),
    pytest.param(
        [{"choices": [{"index": 0, "delta": {}, "finish_reason": "stop", "usage": USAGE}]}],
        id="in the choice",
    ),
    pytest.param([chunk({}, "stop", x_groq={"usage": USAGE})], id="x_groq"),
    pytest.param(
        [chunk(usage=USAGE), chunk({}, "stop", usage=dict.fromkeys(USAGE, 0))], id="zeros later"
    ),
    pytest.param([chunk(usage=USAGE), chunk({}, "stop", usage=None)], id="null later"),
    pytest.param(
        [
            chunk(usage={"prompt_tokens": 777, "completion_tokens": 1}),
            chunk({}, "stop", usage=USAGE),
        ],
        id="sums in every chunk",
    ),
    pytest.param(
        [chunk({}, "stop", usage={"input_tokens": 777, "output_tokens": 33})], id="other names"
    ),
    pytest.param(
        [
            {"type": "message_start", "message": {"usage": {"input_tokens": 777}}},
            {"type": "message_delta", "usage": {"output_tokens": 33}},
            chunk({}, "stop"),
        ],
        id="anthropic",
    ),
    pytest.param(
        [
            chunk(
                {},
                "stop",
                usageMetadata={
                    "promptTokenCount": 777,
                    "candidatesTokenCount": 20,
                    "thoughtsTokenCount": 13,
                },
            )
        ],
        id="gemini",
    ),
    pytest.param([chunk({}, "stop", prompt_eval_count=777, eval_count=33)], id="ollama"),
    pytest.param(
        [chunk({}, "stop", usage={"prompt_tokens": "777", "completion_tokens": 33.0})],
        id="text and float",
    ),
    pytest.param(
        [chunk({}, "stop", timings={"prompt_n": 700, "cache_n": 77, "predicted_n": 33})],
        id="llama.cpp",
    ),
    pytest.param(
        [
            chunk(
                {},
                "stop",
                usage={
                    "prompt_tokens": 777,
                    "completion_tokens": 3,
                    "total_tokens": 810,
                    "completion_tokens_details": {"reasoning_tokens": 30},
                },
            )
        ],
        id="xai: reasoning outside the completion",
    ),
]


class TestUsage:
    @each(("stream", [True, False]), ("chunks", USAGES))
    async def test_usage_is_found_in_every_place(
        self, live, token, access, provider, conversation_id, stream, chunks
    ):
        body: Any = {}
        for part in chunks:
            body |= {k: v for k, v in part.items() if v and not _is_zero(v)}
        for choice in body["choices"]:
            choice["message"] = {"content": "Hello"}
        streamed = TEXT + b"".join(map(event, chunks))
        for choice in body["choices"]:
            choice.pop("delta", None)
        raw = (200, EVENTS, streamed) if stream else (200, JSON, json.dumps(body).encode())
        if not stream and "message" in body:
            return  # only streams report in two parts
        provider.raw = raw
        response = await live.post(CHAT, json=chat("hi", stream=stream), headers=bearer(token))
        assert response.status_code == 200
        (call,) = await wait_for_calls(conversation_id)
        assert (call.prompt_tokens, call.completion_tokens) == (777, 33)

    @each(
        (
            "usage prompt",
            [
                ({"prompt_tokens": 777, "prompt_tokens_details": {"cached_tokens": 500}}, 777),
                ({"prompt_tokens": 777, "cached_tokens": 500}, 777),
                ({"prompt_tokens": 777, "prompt_cache_hit_tokens": 500}, 777),
                ({"prompt_tokens": 777, "cache_read_input_tokens": 500}, 777),
                ({"input_tokens": 777, "input_tokens_details": {"cached_tokens": 500}}, 777),
                ({"input_tokens": 277, "cache_read_input_tokens": 500}, 777),
                (
                    {
                        "input_tokens": 77,
                        "cache_read_input_tokens": 500,
                        "cache_creation_input_tokens": 200,
                    },
                    777,
                ),
                ({"promptTokenCount": 777, "cachedContentTokenCount": 500}, 777),
                ({"prompt_tokens": 777, "num_cached_tokens": 500.0}, 777),
            ],
        )
    )
    async def test_cached_tokens_are_read_in_every_form(
        self, live, token, access, provider, conversation_id, usage, prompt
    ):
        body = COMPLETION | {"usage": {"completion_tokens": 1} | usage}
        provider.raw = (200, JSON, json.dumps(body).encode())
        await live.post(CHAT, json=chat("hi"), headers=bearer(token))
        (call,) = await wait_for_calls(conversation_id)
        assert (call.prompt_tokens, call.cached_tokens) == (prompt, 500)

    @each(
        (
            "usage",
            [
                [],
                "x",
                {"prompt_tokens": -5, "completion_tokens": 10**40},
                {"prompt_tokens": True, "completion_tokens": [1]},
                {"prompt_tokens": "9" * 5_000},
                {"prompt_tokens": {"a": 1}, "prompt_tokens_details": [1]},
            ],
        )
    )
    async def test_strange_usage_is_no_error(
        self, live, token, access, provider, conversation_id, usage
    ):
        body = COMPLETION | {"usage": usage, "x_groq": usage}
        provider.raw = (200, JSON, json.dumps(body).encode())
        response = await live.post(CHAT, json=chat("hi"), headers=bearer(token))
        assert response.status_code == 200
        (call,) = await wait_for_calls(conversation_id)
        assert call.outcome == "answered"


def _is_zero(value: Any) -> bool:
    return isinstance(value, dict) and bool(value) and not any(value.values())


async def test_key_is_masked_in_errors_of_streams(live, token, access, provider, conversation_id):
    provider.raw = (
        200,
        EVENTS,
        TEXT + event({"error": f"Key {UPSTREAM_KEY} of sk-abcdefghij0123456789"}),
    )
    response = await live.post(CHAT, json=chat("hi", stream=True), headers=bearer(token))
    assert UPSTREAM_KEY not in response.text
    assert "Key [key] of [redacted]" in response.text
    (call,) = await wait_for_calls(conversation_id)
    assert call.error == "Key [key] of [redacted]"
    assert await ModelCall.objects.acount() == 1

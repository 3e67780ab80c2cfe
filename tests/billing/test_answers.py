"""Streams of model servers that deviate from OpenAI's API, as the engine gets them. No network and no database."""

import asyncio
import json

import pytest

from billing.gateway import answers, options
from billing.gateway.refusals import UpstreamRefused
from billing.gateway.usage_reports import UsageReport
from billing.prices import Tokens
from tests.billing.test_upstream_answers import DONE, EVENTS, STOP, TEXT, USAGE, chunk, event


def read(*parts, kind=EVENTS):
    """Return the chunks that the caller gets. Raise the failure of the stream."""

    async def collect():
        async def pieces():
            for part in parts:
                yield part

        return [
            piece.raw async for piece in answers.read_stream(pieces(), content_type=kind, key="k")
        ]

    raw = asyncio.run(collect())
    assert raw[-1] == DONE
    return [json.loads(piece[6:]) for piece in raw[:-1] if piece.startswith(b"data: ")]


def fail(*parts, kind=EVENTS):
    with pytest.raises(UpstreamRefused) as caught:
        read(*parts, kind=kind)
    return caught.value


def calls(*parts, reason="tool_calls", index=0):
    """Return the tool calls as the engine joins them: by index, with the first id; calls without an id are dropped."""
    deltas = [event(chunk({"tool_calls": [part]})) for part in parts]
    found: dict[int, list[str]] = {}
    for body in read(*deltas, event(chunk({}, reason))):
        for part in body["choices"][0]["delta"].get("tool_calls", ()):
            call = found.setdefault(part["index"], ["", "", ""])
            call[0] = part.get("id") or call[0]
            for place, name in ((1, "name"), (2, "arguments")):
                call[place] += part["function"].get(name) or ""
    return [tuple(found[index]) for index in sorted(found)]


def part(name=None, arguments="", **more):
    function = {"arguments": arguments} | ({"name": name} if name is not None else {})
    return more | {"function": function}


class TestToolCalls:
    @pytest.mark.parametrize(
        "parts",
        [
            [part("f", "{}", id="a"), part("g", "{}", id="b")],
            [part("f", "{}", id="a", index=0), part("g", "{}", id="b", index=0)],
            [part("f", "{}", id="a", index=None), part("g", "{}", id="b", index=None)],
            [part("f", "", id="a"), part(None, "{"), part(None, "}"), part("g", "{}", id="b")],
            [part("f", "{", id="a", index=0), part("f", "}", id="a", index=0), part("g", "{}", id="b", index=1)],
            [part("f", "{", id="a", index=0), part(None, "}", id="z", index=0), part("g", "{}", id="b", index=1)],
            [part("f", "{", id="a", index=0), part("", "}", id="null", index=0), part("g", "{}", id="b", index=1)],
            [part("f", "{", id="a", index=0), part(None, "}", id=None, index=0), part("g", "{}", id="b", index=1)],
            [part("f", {}, id="a", index=0), part("g", {}, id="b", index=1)],
            [part("f", "{}", id="a", index=0), part("g", "{}", id="b", index=0), part("", "", index=0)],
        ],
        ids=[
            *("no index", "index 0 twice", "index null", "parts without an index", "name repeated"),
            *("another id in a part", "id as the text null", "id null", "objects", "last part empty"),
        ],
    )  # fmt: skip
    def test_calls_are_kept_apart_and_whole(self, parts):
        assert calls(*parts) == [("a", "f", "{}"), ("b", "g", "{}")]

    @pytest.mark.parametrize("identity", [{}, {"id": None}, {"id": ""}, {"id": "null"}])
    def test_call_without_an_id_gets_one(self, identity):
        found = calls(part("f", "{", **identity), part(None, "}"), part("g", "{}", **identity))

        assert [call[1:] for call in found] == [("f", "{}"), ("g", "{}")]
        assert len({call[0] for call in found} - {"", "null"}) == 2

    def test_call_that_is_cut_before_the_end_mark_is_a_failure(self):
        delta = chunk({"tool_calls": [part("f", '{"a', id="a", index=0)]})
        assert fail(event(delta), DONE).code == "upstream_incomplete"
        assert read(event(chunk({"tool_calls": [part("f", "", id="a", index=0)]})), DONE)

    def test_standard_calls_are_forwarded_unchanged(self):
        delta = chunk({"tool_calls": [part("f", "{}", id="a", index=0, type="function")]})
        assert read(event(delta), STOP)[0] == delta


class TestEnds:
    @pytest.mark.parametrize("reason", ["null", "None", ""])
    def test_text_for_no_reason_does_not_end_an_answer(self, reason):
        assert fail(event(chunk({"content": "Hel"}, reason))).code == "upstream_incomplete"
        first, _ = read(event(chunk({"content": "Hel"}, reason)), STOP)
        assert first["choices"][0]["finish_reason"] is None

    @pytest.mark.parametrize(
        "reason", ["cancelled", "ABORT", "timeout", {"type": "abort", "message": "x"}]
    )
    def test_reason_of_a_failure_is_a_failure(self, reason):
        assert fail(TEXT, event(chunk({}, reason)), DONE).code == "upstream_incomplete"

    @pytest.mark.parametrize("reason", ["length", "content_filter", "eos", {"type": "length"}])
    def test_other_reasons_are_ends_and_texts(self, reason):
        last = read(TEXT, event(chunk({}, reason)))[-1]
        assert last["choices"][0]["finish_reason"] in ("length", "content_filter", "eos")

    def test_every_choice_must_end(self):
        two = {"choices": [{"index": i, "delta": {"content": "a"}} for i in (0, 1)]}
        assert fail(event(two), STOP).code == "upstream_incomplete"
        assert read(event(two), STOP, event({"choices": [{"index": 1, "finish_reason": "stop"}]}))

    @pytest.mark.parametrize(
        ("rest", "message"),
        [
            (b"Internal Server Error", "Internal Server Error"),
            (b"<html><title>502 Bad Gateway</title></html>", "502 Bad Gateway"),
            (b'{\n  "error": {\n    "message": "Slow down"\n  }\n}\n', "Slow down"),
            (b'{\n  "detail": "Slow down"\n}', "Slow down"),
        ],
    )
    @pytest.mark.parametrize("before", [b"", b": PROCESSING\n\n", TEXT])
    def test_error_outside_of_the_events_is_reported(self, before, rest, message):
        assert message in fail(before + rest).message

    @pytest.mark.parametrize(
        "error",
        [{"type": "server_error"}, {"details": {"message": "x"}}, {"model": ["is wrong"]}, ["x"]],
    )
    def test_error_without_a_message_is_a_failure(self, error):
        assert fail(TEXT, event({"error": error}), STOP, DONE).status >= 400

    @pytest.mark.parametrize(
        "error",
        [None, "", "null", "None", {}, {"code": 200, "message": "success"}, {"message": None}],
    )
    def test_error_that_is_none_is_no_failure(self, error):
        assert read(event(chunk({"content": "a"}, error=error)), STOP)


class TestTexts:
    def test_message_with_the_whole_text_beside_the_deltas_is_not_repeated(self):
        parts = [("Hel", "Hel", None), ("lo", "Hello", None), ("", "Hello", "stop")]
        stream = [
            event(
                {
                    "choices": [
                        {
                            "index": 0,
                            "delta": {"content": new} if new else {},
                            "message": {"content": whole},
                            "finish_reason": reason,
                        }
                    ]
                }
            )
            for new, whole, reason in parts
        ]
        deltas = [body["choices"][0]["delta"] for body in read(*stream)]
        assert [delta.get("content", "") for delta in deltas] == ["Hel", "lo", ""]

    def test_parts_in_the_form_of_messages_have_one_end(self):
        head = {"object": "chat.completion.chunk"}
        first = head | {"choices": [{"index": 0, "message": {"content": "Hel"}}]}
        last = head | {"choices": [{"index": 0, "message": {"content": "lo"}, "finish_reason": "stop"}]}  # fmt: skip
        choices = [
            body["choices"][0] for body in read(event(first), event(last)) if body["choices"]
        ]
        assert "".join(c["delta"].get("content", "") for c in choices) == "Hello"
        assert [c["finish_reason"] for c in choices] == [None, None, "stop"]

    @pytest.mark.parametrize(
        "kind", [f"{EVENTS}; charset=iso-8859-1", f'{EVENTS}; charset="latin1"']
    )
    def test_stated_encoding_is_used_if_the_text_is_not_utf8(self, kind):
        raw = event(chunk({"content": "@"}))
        latin, utf8 = (raw.replace(b"@", "\u00e9".encode(name)) for name in ("latin-1", "utf-8"))
        for stream in (latin, utf8):
            assert read(stream, STOP, kind=kind)[0]["choices"][0]["delta"]["content"] == "\u00e9"

    def test_content_of_parts_becomes_a_text(self):
        thinking = {"type": "thinking", "thinking": [{"type": "text", "text": "Hm"}]}
        content = [thinking, {"type": "text", "text": "Hel"}, {"type": "text", "text": "lo"}]
        delta = read(event(chunk({"content": content})), STOP)[0]["choices"][0]["delta"]
        assert delta == {"content": "Hello", "reasoning_content": "Hm"}

    def test_json_lines_with_an_end_mark_are_a_stream(self):
        lines = [json.dumps(chunk({"content": "a"})), json.dumps(chunk({}, "stop")), "[DONE]"]
        assert len(read("\n".join(lines).encode(), kind="application/x-ndjson")) == 2


@pytest.mark.parametrize(
    "body",
    [
        {"usage": {"prompt_tokens": 777, "total_tokens": 810}},
        {"usage": {"completion_tokens": 33, "total_tokens": 810}},
        {"usage": {"prompt_tokens": 777, "completion_tokens": 3, "total_tokens": 810}},
        {"usage": {"prompt_tokens": "777.0", "completion_tokens": " 33 "}},
        {"usage": [USAGE]},
        {"usageMetadata": {"promptTokenCount": 777, "thoughtsTokenCount": 33}},
        {"usageMetadata": {"promptTokenCount": 777, "thoughtsTokenCount": 33, "totalTokenCount": 810}},
        {"metadata": {"usage": {"inputTokens": 777, "outputTokens": 33, "totalTokens": 810}}},
        {"result": {"usage": USAGE}},
        {"x_vendor": {"token_usage": USAGE}},
        {"usage": {"input_tokens": 777, "output_tokens": 33, "total_tokens": 0}},
        {"usage": USAGE | {"prompt_tokens_details": {"cached_tokens": None}, "total_tokens": 810.0}},
    ],
)  # fmt: skip
def test_usage_is_found_in_more_places_and_completed_by_the_total(body):
    report = UsageReport()
    report.read(body)
    assert report.tokens(estimated=Tokens(1, 2, 0)) == Tokens(777, 33, 0)


def test_prompt_without_its_cached_part_is_completed_by_the_total():
    report = UsageReport()
    report.read({"usage": {"prompt_tokens": 277, "completion_tokens": 33, "total_tokens": 810, "cache_read_input_tokens": 500}})  # fmt: skip
    assert report.tokens(estimated=Tokens()) == Tokens(777, 33, 500)


def test_counts_that_are_no_integers_are_forwarded_as_integers():
    usage = {"prompt_tokens": "777", "completion_tokens": 33.5, "cost": 0.5, "total_tokens": "x"}
    last = read(TEXT, event(chunk({}, "stop", usage=usage)))[-1]
    assert last["usage"] == {"prompt_tokens": 777, "completion_tokens": 33, "cost": 0.5}


REFUSALS = [
    ("max_completion_tokens", "body.max_completion_tokens: Extra inputs are not permitted", 422),
    ("max_tokens", "Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead.", 400),
    ("parallel_tool_calls", '{"detail":[{"type":"extra_forbidden","loc":["body","parallel_tool_calls"]}]}', 422),
    ("temperature", "Unsupported value: 'temperature' does not support 0 with this model.", 400),
    ("stream_options", "TypeError: create() got an unexpected keyword argument 'stream_options'", 500),
    ("top_k", "Unrecognized request argument supplied: top_k", 400),
]  # fmt: skip


@pytest.mark.parametrize(("name", "text", "status"), REFUSALS)
def test_option_that_is_refused_by_name_is_removed_or_renamed(name, text, status):
    body = {"model": "m", name: 5}
    refused = options.choose_refused(body, status, text, frozenset())
    assert refused == {name}
    renamed = {"max_tokens": "max_completion_tokens", "max_completion_tokens": "max_tokens"}
    other = {renamed[name]: 5} if name in renamed else {}
    assert options.remove_options(body, refused) == {"model": "m"} | other
    assert options.remove_options(body, refused | renamed.keys()) == {"model": "m"}


@pytest.mark.parametrize(
    "text",
    [
        "max_tokens is too large: 64000. This model supports at most 4096 completion tokens",
        "'max_tokens' must be at least 1",
        "max_tokens_per_day is not supported",
    ],
)
def test_wrong_value_of_an_option_is_reported_and_not_removed(text):
    assert options.choose_refused({"max_tokens": 5}, 400, text, frozenset()) == frozenset()

import base64
import hashlib
import json
from datetime import UTC, datetime

import orjson
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from conversations.engine import payloads
from conversations.engine.payloads import (
    Delta,
    Durable,
    EngineEvent,
    ItemAborted,
    ItemStarted,
    Sync,
    Transient,
    Unknown,
    parse_event,
    parse_frame,
    parse_page,
)
from conversations.models import Conversation, Event, NewEvent
from tests.hostile import EVENTS, FRAMES, frame

REFUSED_FROM = list(EVENTS).index("NaN")
STRICT = list(EVENTS)[:REFUSED_FROM]
REFUSED = list(EVENTS)[REFUSED_FROM:]


def build_event(**fields: object) -> EngineEvent:
    return parse_event(json.dumps({"id": "e1", "source": "agent"} | fields).encode(), seq=0)


@pytest.mark.parametrize("name", STRICT)
def test_strict_json_is_kept_unchanged(name):
    parsed = parse_event(EVENTS[name], seq=3)

    assert parsed.payload.encode() == EVENTS[name]
    assert parsed.kind != "Unparseable"


@pytest.mark.parametrize("name", REFUSED)
def test_text_that_is_not_strict_json_is_kept_as_base64(name):
    parsed = parse_event(EVENTS[name], seq=3)

    payload = json.loads(parsed.payload)
    assert (parsed.kind, parsed.source) == ("Unparseable", "unknown")
    assert base64.b64decode(payload["raw_base64"]) == EVENTS[name]
    assert payload["reason"]


@pytest.mark.parametrize("name", EVENTS)
def test_frame_yields_the_same_event_as_its_text_alone(name):
    text = EVENTS[name]
    alone = parse_event(text.strip() if name == "spaces" else text, seq=3)

    parsed = parse_frame(frame(text))

    if name in ("empty", "only spaces"):  # the frame around an empty text is not JSON
        assert isinstance(parsed, Durable | Unknown)
        return
    assert isinstance(parsed, Durable)
    assert parsed.seq == 3
    assert parsed.event.kind == alone.kind
    raw = decode_raw_bytes(parsed.event)
    assert raw.strip() == text.strip()


def decode_raw_bytes(parsed: EngineEvent) -> bytes:
    if parsed.kind == "Unparseable":
        return base64.b64decode(json.loads(parsed.payload)["raw_base64"])
    return parsed.payload.encode()


@pytest.mark.parametrize("name", EVENTS)
def test_id_kind_and_source_always_fit_their_columns(name):
    parsed = parse_event(EVENTS[name], seq=3)

    assert 1 <= len(parsed.event_id) <= 80
    assert parsed.event_id.isascii()
    assert parsed.event_id.isprintable()
    assert 1 <= len(parsed.kind) <= 80
    assert parsed.kind.isascii()
    assert parsed.source in {"user", "agent", "environment", "hook", "unknown"}


@pytest.mark.parametrize("name", FRAMES)
def test_malformed_frame_is_unknown_and_kept_whole(name):
    assert parse_frame(FRAMES[name]) == Unknown(FRAMES[name])


@given(st.binary(max_size=300))
def test_arbitrary_bytes_raise_nothing(raw):
    assert decode_raw_bytes(parse_event(raw, seq=1)) == raw
    parse_frame(raw)
    parse_frame(frame(raw))


JSON_PIECES = st.sampled_from(
    [
        *'{}[]",:\\/ \n\t\x00\x1f\ufeff',
        *"0123.eE+-",
        *"truefalsnN",
        '"a"',
        '"\\ud800"',
        "1e400",
        "-0",
    ]
)


@given(st.lists(JSON_PIECES, max_size=12).map("".join))
@example("9" * 4_301)
@example("01")
@example("NaN")
def test_orjson_accepts_nothing_that_the_strict_parser_refuses(text):
    """Clients get the stored payload unchanged, so a payload stored as JSON must be valid for every parser."""
    try:
        parsed = orjson.loads(text)
    except orjson.JSONDecodeError:
        return  # the strict parser decides

    strict = json.loads(
        text, parse_constant=payloads._reject_constant, parse_int=payloads._parse_int
    )

    assert parsed == strict


@given(st.text(alphabet=st.characters(), max_size=50))
def test_any_text_in_a_frame_is_preserved(text):
    raw = json.dumps({"id": "a", "kind": "K", "text": text}, ensure_ascii=True).encode()

    parsed = parse_frame(frame(raw))

    assert isinstance(parsed, Durable)
    assert json.loads(parsed.event.payload)["text"] == text


@pytest.mark.parametrize(
    "name", ["no id", "empty id", "id is a number", "id with NUL", "id too long", "NaN", "an array"]
)
def test_missing_or_invalid_id_is_derived_from_seq_and_text(name):
    first, again, elsewhere = (parse_event(EVENTS[name], seq=n) for n in (3, 3, 4))

    assert first.event_id.startswith("x-")
    assert len(first.event_id) == 66
    assert first.event_id == again.event_id != elsewhere.event_id


def test_ordinary_event_is_parsed():
    raw = (
        b'{"id":"277e","timestamp":"2026-11-22T20:11:12.345678","source":"agent",'
        b'"action":{"command":"ls"},"kind":"ActionEvent"}'
    )

    assert parse_event(raw, seq=4) == EngineEvent(
        event_id="277e",
        kind="ActionEvent",
        source="agent",
        payload=raw.decode(),
        time=datetime(2026, 11, 22, 20, 11, 12, 345678, tzinfo=UTC),
    )


def test_oversize_event_is_stored_as_its_size_and_digest(settings):
    settings.EVENT_MAX_BYTES = 65_536
    raw = b'{"id":"big","kind":"MessageEvent","text":"%s"}' % (b"x" * 70_000)

    parsed = parse_event(raw, seq=1)

    assert (parsed.event_id, parsed.kind) == ("big", "Oversize")
    assert json.loads(parsed.payload) == {
        "size": len(raw),
        "sha256": hashlib.sha256(raw).hexdigest(),
        "limit": 65_536,
        "kind": "MessageEvent",
    }
    assert parse_event(raw + b"!", seq=1).kind == "Oversize"


def test_frames_of_the_protocol_are_parsed():
    sent = {
        b'{"type":"sync","from_seq":3,"through_seq":9}': Sync(3, 9),
        b'{"type":"sync"}': Sync(None, None),
        b'{"type":"item_started","item_id":"a","attempt":2,"anchor_seq":3}': ItemStarted("a", 2, 3),
        b'{"type":"delta","item_id":"a","attempt":1,"order":0,"kind":"text","content":"Hi","new":1}': (
            Delta("a", 0, "Hi")
        ),
        b'{"type":"item_aborted","item_id":"a","attempt":1,"reason":"x"}': ItemAborted("a", "x"),
        b'{"type":"error","code":"ValidationError","detail":"d"}': payloads.EngineError(
            "ValidationError", "d"
        ),
        b'{"type":"transient","event":{"id":"a","kind":"K"}}': Transient(
            EngineEvent("a", "K", "unknown", '{"id":"a","kind":"K"}')
        ),
    }

    assert [parse_frame(raw) for raw in sent] == list(sent.values())
    assert parse_frame(next(iter(sent)).decode()) == Sync(3, 9)


PAGES = [n for n in EVENTS if n not in ("empty", "only spaces", "spaces")]


@pytest.mark.parametrize("name", [n for n in PAGES if n in STRICT])
def test_items_of_a_page_are_returned_byte_for_byte(name):
    body = b'{"items":[{"id":"before"},%s],"next_page_id":"n"}' % EVENTS[name]

    assert parse_page(body) == ([b'{"id":"before"}', EVENTS[name]], "n")


@pytest.mark.parametrize("name", ["NaN", "invalid UTF-8", "surrogate in UTF-8"])
def test_malformed_item_of_a_page_is_returned(name):
    body = b'{"items":[%s,{"id":"after"}],"next_page_id":null}' % EVENTS[name]

    assert parse_page(body) == ([EVENTS[name], b'{"id":"after"}'], None)


@pytest.mark.parametrize(
    "body", [b"", b"[]", b'{"items":1}', b'{"items":[' + EVENTS["deep and open"]]
)
def test_malformed_page_is_refused(body):
    with pytest.raises(ValueError, match="not a page of events"):
        parse_page(body)


@pytest.mark.django_db
def test_postgresql_stores_every_payload_unchanged(alice):
    conversation = Conversation.objects.create(
        organization=alice.personal_organization, created_by=alice, title="t", model="m"
    )
    parsed = {n: parse_event(raw, seq=i) for i, (n, raw) in enumerate(EVENTS.items())}
    new_events = [
        NewEvent(f"{i}", e.kind, e.source, e.payload, i, e.time)
        for i, e in enumerate(parsed.values())
    ]

    conversation.append(*new_events)

    stored = Event.objects.filter(conversation=conversation).order_by("seq")
    assert [one.payload for one in stored] == [e.payload for e in parsed.values()]
    assert b"".join(orjson.dumps(one.to_wire())[:1] for one in stored) == b"{" * len(parsed)


class TestParsers:
    @pytest.mark.parametrize("name", EVENTS)
    def test_hostile_event_raises_nothing(self, name):
        parsed = parse_event(EVENTS[name], seq=1)

        payloads.parse_execution_status(parsed)
        payloads.parse_token_usage(parsed)
        payloads.parse_message_text(parsed)
        payloads.parse_run_failure(parsed)

    def test_status_is_parsed_from_its_update_and_from_the_full_state(self):
        update = {"kind": "ConversationStateUpdateEvent"}
        full = {"key": "full_state", "value": {"execution_status": "paused"}}

        assert (
            payloads.parse_execution_status(
                build_event(**update, key="execution_status", value="running")
            )
            == "running"
        )
        assert payloads.parse_execution_status(build_event(**update, **full)) == "paused"
        assert (
            payloads.parse_execution_status(
                build_event(**update, key="execution_status", value="dancing")
            )
            is None
        )
        assert payloads.parse_execution_status(build_event(**update, key="tags")) is None
        assert (
            payloads.parse_execution_status(
                build_event(kind="MessageEvent", key="execution_status", value="running")
            )
            is None
        )

    def test_token_usage_is_the_sum_of_all_uses(self):
        def tokens(prompt: int, completion: int, cached: int) -> dict[str, object]:
            return {
                "accumulated_token_usage": {
                    "prompt_tokens": prompt,
                    "completion_tokens": completion,
                    "cache_read_tokens": cached,
                }
            }

        stats = {"usage_to_metrics": {"agent": tokens(10, 2, 1), "condenser": tokens(5, 1, 0)}}

        result = payloads.parse_token_usage(
            build_event(kind="ConversationStateUpdateEvent", key="stats", value=stats)
        )

        assert result == payloads.TokenUsage(15, 3, 1)

    def test_message_text_joins_its_text_parts(self):
        content = [
            {"type": "text", "text": "a\0"},
            {"type": "image"},
            {"type": "text", "text": "b"},
        ]

        assert (
            payloads.parse_message_text(
                build_event(kind="MessageEvent", llm_message={"content": content})
            )
            == "a\0b"
        )

    def test_run_failure_has_its_code_and_user_action(self):
        classified = {"kind": "auth", "retryable": False, "user_action": "settings"}

        result = payloads.parse_run_failure(
            build_event(
                kind="ConversationErrorEvent", code="X", detail="No key.", classification=classified
            )
        )

        assert result == payloads.RunFailure(
            "X", "No key.", retryable=False, user_action="settings"
        )


def test_start_request_has_the_model_and_the_policy_and_no_message():
    body = payloads.build_start_request(
        conversation_id="c1",
        model="demo",
        gateway_url="http://127.0.0.1:1/v1",
        token="t",
        workspace="/w",
        confirmation_policy="risky",
        prompt_price=1e-6,
    )

    assert "initial_message" not in body
    assert body["agent"]["llm"]["model"] == "openai/demo"
    assert body["agent"]["llm"]["input_cost_per_token"] == 1e-6
    assert "output_cost_per_token" not in body["agent"]["llm"]
    assert body["agent"]["condenser"]["llm"]["usage_id"] == "condenser"
    assert body["confirmation_policy"]["kind"] == "ConfirmRisky"
    assert body["autotitle"] is False

"""The short way of usual rows to V0 events, beside the translation of every event: the same bytes and the same links."""

import json
from copy import deepcopy

import pytest
from hypothesis import given
from hypothesis import strategies as st

from compat.v0.page_encoding import encode_event, encode_page
from compat.v0.translation import STATE, Entry, Links, extract_metrics, translate_event
from compat.v0.usual_events import UsualTranslator
from compat.v0.values import loads
from conversations.log.windows import WindowRow, format_received

RECEIVED = "2026-11-22 10:00:00.5+00"
CALL = {"tool_name": "terminal", "tool_call_id": "call_1", "llm_response_id": "r1"}
USE = {
    "model_name": "provider/é",
    "accumulated_cost": 0.5,
    "max_budget_per_task": 4,
    "accumulated_token_usage": {"prompt_tokens": 7, "context_window": 200_000, "model": "x"},
}
PAYLOADS = {
    "MessageEvent": {"llm_message": {"role": "a", "content": [{"type": "text", "text": "é\n"}]}},
    "ActionEvent": {
        "thought": [{"type": "text", "text": "First"}],
        "action": {
            "kind": "TerminalAction",
            "command": "ls 'ü'",
            "is_input": True,
            "timeout": None,
        },
        "security_risk": "LOW",
    }
    | CALL,
    "ObservationEvent": {
        "observation": {
            "kind": "TerminalObservation",
            "command": "ls",
            "content": [{"type": "text", "text": "a\x1b[0m\x7f\u2028😀"}],
            "is_error": False,
            "output": "in another field",
            "exit_code": 3,
            "metadata": {"exit_code": 0, "pid": 12, "username": "agent", "prefix": "p"},
        },
        "action_id": "a5",
    }
    | CALL,
    STATE: {"key": "stats", "value": {"usage_to_metrics": {"agent": USE, "condenser": USE}}},
}
TEXTS = (
    '""',
    '"é"',
    '"\\ud800"',
    '"\\u0054erminalAction"',
    '"FinishAction"',
    '"\\/\\u007f\\u0000"',
)
NUMBERS = (
    *("0", "-0", "-0.0", "1.0", "1e5", "1e16", "1e-5", "1e400", "-1e400", "NaN", "Infinity"),
    *("12.5", "-3", "9007199254740993", "18446744073709551616", "7" * 39, "7" * 41, "7" * 5000),
)
OTHERS = ("null", "true", "false", "[]", "{}", "[1]", '[{"text":"a"},{"text":"b"}]', '{"text":1}')
ODD = (*TEXTS, *NUMBERS, *OTHERS, '"' + "x" * 40_000 + '"')


def list_places(value, path=()):
    """Yield the path of every value in a JSON document, with the document itself first."""
    yield path
    items = value.items() if isinstance(value, dict) else ()
    items = enumerate(value) if isinstance(value, list) else items
    for key, part in items:
        yield from list_places(part, (*path, key))


def replace(value, path, new):
    """Return a copy of a JSON document with another value at a path; None removes it."""
    if not path:
        return new
    copy = deepcopy(value)
    part = copy
    for key in path[:-1]:
        part = part[key]
    if new is None:
        del part[path[-1]]
    else:
        part[path[-1]] = new
    return copy


def make_links():
    metrics = extract_metrics(Entry(1, "s", STATE, "environment", PAYLOADS[STATE], ""))
    action = {"action": {"kind": "TerminalAction", "command": "pwd"}}
    return Links(actions={"a5": action}, seqs={"a5": 5}, metrics=metrics)


def assert_same(kind, source, payload):
    """Compare the two ways for a row. Return whether the row was usual."""
    row = WindowRow(0, 7, "e7", kind, source, payload, RECEIVED)
    links, usual_links = make_links(), make_links()
    at = format_received(RECEIVED)
    expected = translate_event(Entry(7, "e7", kind, source, loads(payload), at), links)
    translator = UsualTranslator(usual_links)
    if kind == STATE:
        is_usual = translator.read_totals(row)
        assert expected is None or not is_usual
        # ``repr`` tells 1 from 1.0 and 0.0 from -0.0.
        assert not is_usual or repr(usual_links.metrics) == repr(links.metrics)
    else:
        event = translator.translate(row)
        is_usual = event is not None
        if is_usual:
            assert encode_page([event], has_more=False) == (
                b'{"events":[%s],"has_more":false}' % encode_event(expected)
            )
    if is_usual:
        assert usual_links.seqs == links.seqs
        assert usual_links.find_action("e7") == links.find_action("e7")
    else:
        assert usual_links == make_links()
    return is_usual


@pytest.mark.parametrize("kind", PAYLOADS)
@pytest.mark.parametrize("source", ["agent", "user", "environment", "hook", "odd"])
@pytest.mark.parametrize("is_ascii", [True, False])
def test_usual_row_becomes_the_same_event(kind, source, is_ascii):
    assert assert_same(kind, source, json.dumps(PAYLOADS[kind], ensure_ascii=is_ascii))


@pytest.mark.parametrize("kind", PAYLOADS)
def test_row_with_an_odd_value_is_not_usual_or_becomes_the_same_event(kind):
    usual = PAYLOADS[kind]
    for path in list_places(usual):
        if path:
            assert_same(kind, "agent", json.dumps(replace(usual, path, None)))
        marked = json.dumps(replace(usual, path, "THE PLACE"))
        for odd in ODD:
            assert_same(kind, "agent", marked.replace('"THE PLACE"', odd))


@pytest.mark.parametrize("kind", PAYLOADS)
def test_row_with_a_repeated_key_is_not_usual_or_becomes_the_same_event(kind):
    usual = PAYLOADS[kind]
    for path in list_places(usual):
        if not path or not isinstance(path[-1], str):
            continue
        marked = json.dumps(replace(usual, path, "THE PLACE"))
        value = usual
        for key in path:
            value = value[key]
        for odd in ODD:
            for first, second in ((odd, json.dumps(value)), (json.dumps(value), odd)):
                repeated = f"{first}, {json.dumps(path[-1])}: {second}"
                assert_same(kind, "agent", marked.replace('"THE PLACE"', repeated))


@given(st.sampled_from(["MessageEvent", "ActionEvent", "ObservationEvent"]), st.data())
def test_row_with_any_texts_becomes_the_same_event(kind, data):
    usual = PAYLOADS[kind]
    text = data.draw(st.text(st.characters(exclude_categories=["Cs"]), min_size=1))
    names = {
        "MessageEvent": [("llm_message", "content", 0, "text")],
        "ActionEvent": [("action", "command"), ("thought", 0, "text"), ("tool_call_id",)],
        "ObservationEvent": [
            ("observation", "command"),
            ("observation", "content", 0, "text"),
            ("observation", "metadata", "working_dir"),
        ],
    }
    path = data.draw(st.sampled_from(names[kind]))
    payload = replace(usual, path, text)

    assert assert_same(kind, "agent", json.dumps(payload, ensure_ascii=data.draw(st.booleans())))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2026-11-22 10:00:00+00", "2026-11-22T10:00:00+00:00"),
        ("2026-11-22 10:00:00.5+00", "2026-11-22T10:00:00.500000+00:00"),
        ("2026-11-22 10:00:00.000001+00", "2026-11-22T10:00:00.000001+00:00"),
        ("2026-11-22 10:00:00.123456+00", "2026-11-22T10:00:00.123456+00:00"),
    ],
)
def test_time_of_a_row_has_the_form_of_isoformat(text, expected):
    assert format_received(text) == expected

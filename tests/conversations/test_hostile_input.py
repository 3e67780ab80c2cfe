"""Hostile titles, messages, bodies and queries: each is refused or stored unchanged, and none causes a 5xx."""

import json

import pytest

from conversations.models import Conversation
from tests.hostile import EVENTS

TEXTS = {
    "NUL": "a\0b",
    "high surrogate": "\ud800",
    "low surrogate": "x\udfffy",
    "swapped surrogates": "\udc00\ud800",
    "emoji": "👩‍👩‍👧 \u202e abc",
    "combining": "e\u0301" * 40,
    "noncharacters": "\uffff\U0010ffff\ufdd0",
    "controls": "\x01\x7f\x80\x9f\x1b[31m",
    "line separators": "a\u2028b\u2029c\x85d\x0be",
    "html": "</script><script>alert(1)</script>",
    "sql": "'; DROP TABLE conversations_event; --",
    "template": "{{ 7*7 }} {% debug %} ${jndi:ldap://x}",
    "format": "%s %n %(x)s {0}",
    "spaces": "  two  spaces  ",
    "newlines": "a\r\nb\rc\n",
    "bom": "\ufeffx",
    "long": "x" * 200,
    "too long": "x" * 1_000_001,
    "empty": "",
    "blank": " \t\n",
}
BODIES = {
    "NaN": b'{"text":"x","n":NaN}',
    "1e400": b'{"text":"x","n":1e400}',
    "Infinity": b'{"text":-Infinity}',
    "depth": b'{"text":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "open depth": b'{"text":' + b"[" * 100_000,
    "long integer": b'{"text":' + b"9" * 4_301 + b"}",
    "repeated key": b'{"text":"a","text":"b"}',
    "not UTF-8": b'{"text":"\xff\xfe"}',
    "UTF-16": '{"text":"x"}'.encode("utf-16"),
    "array": b"[]",
    "null": b"null",
    "nothing": b"",
    "number": b"1",
    "unclosed": b'{"text":"x',
    "long line": b'{"text":"x"}' + b" " * 1_000_000,
    "quotes": b'"' * 300_000,
    "a form": b"text=x",
}


def read_text(api, conversation):
    [item] = api.get(f"/api/v1/conversations/{conversation.pk}/events").json()["items"]
    return item["payload"]["text"]


@pytest.mark.parametrize("name", TEXTS)
def test_hostile_message_is_refused_or_stored_unchanged(api, conversation, name):
    body = json.dumps({"text": TEXTS[name]}).encode()

    response = api.post(
        f"/api/v1/conversations/{conversation.pk}/messages", body, content_type="application/json"
    )

    assert response.status_code in (202, 400)
    assert response.status_code == 400 or read_text(api, conversation) == TEXTS[name]
    assert (response.status_code == 400) == (conversation.events.count() == 0)


@pytest.mark.parametrize("name", TEXTS)
def test_hostile_title_is_refused_or_stored_unchanged(api, conversation, name):
    body = json.dumps({"title": TEXTS[name]}).encode()
    url = f"/api/v1/conversations/{conversation.pk}"

    response = api.patch(url, body, content_type="application/json")

    assert response.status_code in (200, 400)
    expected = TEXTS[name] if response.status_code == 200 else "A conversation"
    assert api.get(url).json()["title"] == expected


@pytest.mark.parametrize("name", TEXTS)
def test_hostile_first_message_is_refused_or_stored_unchanged(api, name):
    body = json.dumps({"message": TEXTS[name]}).encode()

    response = api.post("/api/v1/conversations", body, content_type="application/json")

    assert response.status_code in (201, 400)
    if response.status_code == 201:
        assert read_text(api, Conversation.objects.get()) == TEXTS[name]


@pytest.mark.parametrize("name", BODIES)
@pytest.mark.parametrize("path", ["", "/messages", "/confirmation"])
def test_hostile_body_is_refused_with_a_sentence(api, conversation, path, name):
    method = api.patch if not path else api.post

    response = method(
        f"/api/v1/conversations/{conversation.pk}{path}",
        BODIES[name],
        content_type="application/json",
    )

    assert (
        response.status_code in (400, 202) if name == "long line" else response.status_code == 400
    )
    assert response.json()["error"] if response.status_code == 400 else True


@pytest.mark.parametrize("name", EVENTS)
def test_hostile_engine_event_as_a_message_body_causes_no_server_error(api, conversation, name):
    response = api.post(
        f"/api/v1/conversations/{conversation.pk}/messages",
        EVENTS[name],
        content_type="application/json",
    )

    assert response.status_code in (202, 400)


@pytest.mark.parametrize("field", ["cursor", "limit", "status", "q"])
@pytest.mark.parametrize(
    "value", ["%00", "%ED%A0%80", "%ff", "9" * 5_000, "%2e%2e%2f", "[]", "💥", "-1", "1e9", "'"]
)
def test_hostile_query_parameter_causes_no_server_error(api, conversation, field, value):
    response = api.get(f"/api/v1/conversations?{field}={value}")

    assert response.status_code in (200, 400)

"""Redaction: values of secrets are never stored in events, in any encoding that a sandbox may write."""

import base64
import json
from urllib.parse import quote

import pytest

from accounts.services import custom_secrets, provider_tokens
from conversations.services import redaction
from tests.conversations.conftest import ingest, make_frame, make_status_frame

VALUE = 'pa"ss\\wörd/+ 1=?'
HIDDEN = redaction.HIDDEN


def redact(payload, *values):
    text = payload if isinstance(payload, str) else json.dumps(payload)
    return redaction.redact(text, redaction.build_finder(values or (VALUE,)))


@pytest.fixture
def secret(alice, running):
    redaction.clear_cache()
    provider_tokens.set_provider_token(
        user=alice, organization=alice.personal_organization, provider="github", token="ghp_Sec1"
    )
    return custom_secrets.create_secret(
        organization=alice.personal_organization, by=alice, name="TOKEN", value=VALUE
    )


ENCODINGS = {
    "plain": VALUE,
    "within JSON": json.dumps({"a": VALUE}),
    "within JSON, not ASCII": json.dumps({"a": VALUE}, ensure_ascii=False),
    "within JSON twice": json.dumps(json.dumps({"a": VALUE})),
    "URL": f"https://x:{quote(VALUE, safe='')}@example.com",
    "form body": f"a={quote(VALUE, safe='').replace('%20', '+')}&b=1",
    "hexadecimal": VALUE.encode().hex(),
    "base64": base64.b64encode(VALUE.encode()).decode(),
    "base64 of a line": base64.b64encode(f"{VALUE}\n".encode()).decode(),
    "base64 after one byte": base64.b64encode(f":{VALUE}".encode()).decode(),
    "base64 after a name": base64.b64encode(f"me:{VALUE}!".encode()).decode(),
    "base64 for URLs": base64.urlsafe_b64encode(f"??{VALUE}".encode()).decode(),
}


@pytest.mark.parametrize("ensure_ascii", [True, False])
@pytest.mark.parametrize("encoding", ENCODINGS)
def test_secret_is_hidden_in_every_encoding(encoding, ensure_ascii):
    payload = json.dumps(
        {"text": f"before {ENCODINGS[encoding]} after", "n": 1}, ensure_ascii=ensure_ascii
    )

    redacted = json.loads(redact(payload))

    assert HIDDEN in redacted["text"]
    assert redacted["text"].startswith("before ")
    assert redacted["n"] == 1


class TestJson:
    def test_payload_without_a_secret_is_returned_unchanged(self):
        payload = '{"a" : 1.0e5,\n "b":"\\u00e9\\/", "a": [ ] }'

        assert redact(payload) is payload

    def test_text_around_a_secret_is_unchanged(self):
        payload = '{"n":1.50, "u":"\\u00e9\\/", "s":"a Sec-val-1 b"}'

        assert redact(payload, "Sec-val-1") == f'{{"n":1.50, "u":"\\u00e9\\/", "s":"a {HIDDEN} b"}}'

    def test_json_numbers_and_literals_are_not_hidden(self):
        payload = '{"n":1234567,"s":"1234567","b":[null,null]}'

        assert redact(payload, "1234567", "null,null") == (
            f'{{"n":1234567,"s":"{HIDDEN}","b":[null,null]}}'
        )

    @pytest.mark.parametrize(
        ("value", "text"),
        [
            ("nabcdef", "\nabcdef"),
            ('","a":"', 'x","a":"y'),
            ("\\\\\\\\\\\\", "\\" * 6),
            ("u00e9abc", "éabc"),
        ],
    )
    def test_json_escapes_are_not_split(self, value, text):
        payload = json.dumps({"s": text, "t": [text]})

        redacted = json.loads(redact(payload, value))

        assert redacted["s"] == text.replace(value, HIDDEN)

    def test_lone_surrogates_are_preserved(self):
        payload = '{"s":"\\ud800 Sec-val-1"}'

        redacted = redact(payload, "Sec-val-1")

        redacted.encode()
        assert json.loads(redacted) == {"s": f"\ud800 {HIDDEN}"}

    def test_secret_of_many_lines_is_hidden_line_by_line(self):
        key = "-----BEGIN KEY-----\nAAAABBBBCCCCDDDD\nEEEEFFFFGGGGHHHH\n-----END KEY-----\n"
        printed = "  AAAABBBBCCCCDDDD\r\n  EEEEFFFFGGGGHHHH\r\n"

        assert json.loads(redact({"s": printed}, key))["s"] == f"  {HIDDEN}\r\n  {HIDDEN}\r\n"


class TestIngest:
    def test_stored_events_contain_no_secret(self, secret, running):
        """Both functions that ingest events hide the values and change nothing else."""
        plain = {"text": f"it is {VALUE}, or ghp_Sec1", "kept": "é"}

        ingest(running, make_frame(0, **plain))
        ingest(running, make_frame(1, **plain), make_status_frame(2, "running"))

        for event in running.events.filter(engine_seq__in=[0, 1]):
            assert json.loads(event.payload) == {
                "id": event.event_id,
                "kind": "MessageEvent",
                "source": "agent",
                "text": f"it is {HIDDEN}, or {HIDDEN}",
                "kept": "é",
            }
        assert running.events.count() == 3

    def test_new_value_of_a_secret_is_hidden(self, secret, running):
        ingest(running, make_frame(0))
        custom_secrets.change_secret(secret=secret, value="Another-one")

        ingest(running, make_frame(1, text="Another-one"))

        payload = running.events.get(engine_seq=1).payload
        assert HIDDEN in payload
        assert "Another-one" not in payload

    def test_absence_of_secrets_is_cached_without_queries(
        self, running, alice, django_assert_num_queries
    ):
        redaction.clear_cache()
        assert redaction.build_payload_redactor(running.pk) is None
        with django_assert_num_queries(0):
            assert redaction.build_payload_redactor(running.pk) is None

    def test_secrets_of_other_users_are_not_hidden(self, running, charlie):
        custom_secrets.create_secret(
            organization=charlie.personal_organization,
            by=charlie,
            name="TOKEN",
            value="Charlies-one",
        )
        redaction.clear_cache()

        ingest(running, make_frame(0, text="Charlies-one"))

        assert "Charlies-one" in running.events.get().payload

"""Values of secrets are never stored in events, in whatever form the sandbox writes them."""

import base64
import json
from urllib.parse import quote

import pytest

from accounts.services import custom_secrets, provider_tokens
from conversations.services import redaction
from tests.conversations.conftest import ingest, make_frame, make_status_frame

VALUE = 'pa"ss\\wörd/+ 1=?'
HIDDEN = redaction.HIDDEN


def cleaned(payload, *values):
    text = payload if isinstance(payload, str) else json.dumps(payload)
    return redaction.redact(text, *redaction._needles(values or (VALUE,)))


@pytest.fixture
def secret(alice, running):
    redaction.clear_cache()
    provider_tokens.set_provider_token(
        user=alice, organization=alice.personal_organization, provider="github", token="ghp_Sec1"
    )
    return custom_secrets.create_secret(
        organization=alice.personal_organization, by=alice, name="TOKEN", value=VALUE
    )


FORMS = {
    "plain": VALUE,
    "within JSON": json.dumps({"a": VALUE}),
    "within JSON, not ASCII": json.dumps({"a": VALUE}, ensure_ascii=False),
    "within JSON twice": json.dumps(json.dumps({"a": VALUE})),
    "address": f"https://x:{quote(VALUE, safe='')}@example.com",
    "form": f"a={quote(VALUE, safe='').replace('%20', '+')}&b=1",
    "hexadecimal": VALUE.encode().hex(),
    "base64": base64.b64encode(VALUE.encode()).decode(),
    "base64 of a line": base64.b64encode(f"{VALUE}\n".encode()).decode(),
    "base64 after one byte": base64.b64encode(f":{VALUE}".encode()).decode(),
    "base64 after a name": base64.b64encode(f"me:{VALUE}!".encode()).decode(),
    "base64 for addresses": base64.urlsafe_b64encode(f"??{VALUE}".encode()).decode(),
}


@pytest.mark.parametrize("ensure_ascii", [True, False])
@pytest.mark.parametrize("form", FORMS)
def test_every_form_is_hidden(form, ensure_ascii):
    payload = json.dumps({"text": f"before {FORMS[form]} after", "n": 1}, ensure_ascii=ensure_ascii)

    found = json.loads(cleaned(payload))

    assert HIDDEN in found["text"]
    assert found["text"].startswith("before ")
    assert found["n"] == 1


class TestJson:
    def test_without_a_secret_not_a_byte_is_other(self):
        payload = '{"a" : 1.0e5,\n "b":"\\u00e9\\/", "a": [ ] }'

        assert cleaned(payload) is payload

    def test_what_stands_beside_it_stays_to_the_byte(self):
        payload = '{"n":1.50, "u":"\\u00e9\\/", "s":"a Sec-val-1 b"}'

        assert (
            cleaned(payload, "Sec-val-1") == f'{{"n":1.50, "u":"\\u00e9\\/", "s":"a {HIDDEN} b"}}'
        )

    def test_numbers_and_words_of_json_stay(self):
        payload = '{"n":1234567,"s":"1234567","b":[null,null]}'

        assert cleaned(payload, "1234567", "null,null") == (
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
    def test_escapes_are_not_cut_in_two(self, value, text):
        payload = json.dumps({"s": text, "t": [text]})

        found = json.loads(cleaned(payload, value))

        assert found["s"] == text.replace(value, HIDDEN)

    def test_lone_surrogates_survive(self):
        payload = '{"s":"\\ud800 Sec-val-1"}'

        found = cleaned(payload, "Sec-val-1")

        found.encode()
        assert json.loads(found) == {"s": f"\ud800 {HIDDEN}"}

    def test_a_key_of_many_lines_is_hidden_line_by_line(self):
        key = "-----BEGIN KEY-----\nAAAABBBBCCCCDDDD\nEEEEFFFFGGGGHHHH\n-----END KEY-----\n"
        shown = "  AAAABBBBCCCCDDDD\r\n  EEEEFFFFGGGGHHHH\r\n"

        assert json.loads(cleaned({"s": shown}, key))["s"] == f"  {HIDDEN}\r\n  {HIDDEN}\r\n"


class TestIngest:
    def test_what_is_stored_holds_no_secret(self, secret, running):
        """By both ways into the log, and nothing else is changed."""
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

    def test_a_value_replaced_is_hidden_from_then_on(self, secret, running):
        ingest(running, make_frame(0))
        custom_secrets.change_secret(secret=secret, value="Another-one")

        ingest(running, make_frame(1, text="Another-one"))

        assert "Another-one" not in running.events.get(engine_seq=1).payload

    def test_costs_no_query_while_there_is_nothing_to_hide(
        self, running, alice, django_assert_num_queries
    ):
        redaction.clear_cache()
        assert redaction.build_payload_redactor(running.pk) is None
        with django_assert_num_queries(0):
            assert redaction.build_payload_redactor(running.pk) is None

    def test_others_secrets_are_not_looked_for(self, running, charlie):
        custom_secrets.create_secret(
            organization=charlie.personal_organization,
            by=charlie,
            name="TOKEN",
            value="Charlies-one",
        )
        redaction.clear_cache()

        ingest(running, make_frame(0, text="Charlies-one"))

        assert "Charlies-one" in running.events.get().payload

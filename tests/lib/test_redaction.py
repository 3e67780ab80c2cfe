"""Redaction of secrets in texts, JSON and log records."""

import json
import logging
import time

import pytest

from lib.logs import WithoutTokens
from lib.redaction import HIDDEN, Redactor

KEYS = [
    "oh_AbCdEf123456.QWERTYuiop1234567890asdf",
    "ocs_c0123456789abcdefABCDEF0123456789abcdefABCDEF.0123456789abcdef0123456789abcdef",
    "sk-proj-abcdEFGH1234567890",
    "sk-ant-api03-abcdEFGH1234567890_-x",
    "ghp_abcdefghijklmnopqrstuvwxyz0123456789",
    "github_pat_11ABCDEFG0abcdefghijkl_mnop",
    "glpat-abcdefghij1234567890",
    "AKIAIOSFODNN7EXAMPLE",
    "xoxb-1234567890-abcdefghij",
    "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.dozjgNryP4J3jVmNHl0w5N",
    "sk_live_abcdefghijklmnop1234",
]


@pytest.mark.parametrize("key", KEYS)
def test_key_of_a_known_format_is_hidden(key):
    redacted = Redactor().text(f"before {key} after")

    assert redacted == f"before {HIDDEN} after"


@pytest.mark.parametrize("key", KEYS)
def test_key_in_json_escapes_is_hidden(key):
    payload = '{"text": "' + "".join(f"\\u{ord(c):04x}" for c in key) + '"}'

    assert json.loads(Redactor().json(payload)) == {"text": HIDDEN}


@pytest.mark.parametrize(
    "value", ['pass"word\nin two lines', "schlüsselwort", "back\\slash-secret"]
)
def test_known_secret_is_hidden_in_each_json_encoding(value):
    redactor = Redactor([value])
    for escaped in (json.dumps({"a": value}), json.dumps({"a": value}, ensure_ascii=False)):
        assert json.loads(redactor.json(escaped)) == {"a": HIDDEN}
    assert redactor.text(f"x{value}y") == f"x{HIDDEN}y"


def test_passwords_in_addresses_and_private_keys_are_hidden():
    key = "-----BEGIN RSA PRIVATE KEY-----\nMIIE\nabc\n-----END RSA PRIVATE KEY-----"

    assert (
        Redactor().text("https://bob:hunter22@example.com/x") == f"https://{HIDDEN}@example.com/x"
    )
    assert Redactor().text(f"a {key} b") == f"a {HIDDEN} b"
    assert json.loads(Redactor().json(json.dumps({"k": key}))) == {"k": HIDDEN}


@pytest.mark.parametrize(
    "text", ["a risk-free task", "skip it", "see https://example.com:8000/a@b", "eyJust words", ""]
)
def test_text_without_secrets_is_unchanged(text):
    assert Redactor(["abc"]).text(text) == text


def test_key_in_incomplete_json_is_hidden():
    assert "sk-" not in Redactor().json('{"a": "\\u0073k-abcdefghijklmnop1234567"')


def test_hostile_text_is_redacted_before_the_test_times_out():
    text = "-----BEGIN PRIVATE KEY-----" * 2_000 + "eyJ" + "a" * 50_000 + "://" + "x" * 50_000

    assert HIDDEN in Redactor().text(text)


def test_conversation_key_in_a_log_record_is_shortened():
    key = KEYS[1]
    record = logging.makeLogRecord({"msg": "WebSocket /x?session%%5Fapi_key=%s", "args": (key,)})

    WithoutTokens().filter(record)

    assert record.getMessage() == "WebSocket /x?session%5Fapi_key=ocs_…"


@pytest.mark.parametrize("key", [KEYS[1], KEYS[9]])
def test_key_after_other_characters_of_its_run_is_hidden_alone(key):
    assert Redactor().text(f"token_{key}") == f"token_{HIDDEN}"
    assert Redactor().text(f"a.eyJb.{key}") == f"a.eyJb.{HIDDEN}"
    assert json.loads(Redactor().json(json.dumps({"a": f"x\n{key}\n"}))) == {"a": f"x\n{HIDDEN}\n"}


@pytest.mark.parametrize(
    "piece",
    ["eyJ", "eyJ.", "eyJaaaaaaaa.", "ocs_", "ocs_.", "oh_", "oh_aaaaaa.", "sk-", "://a:", "-----BEGIN ", "ghp_"],
)  # fmt: skip
def test_time_to_redact_is_linear(piece):
    # "eyJ" and "ocs_" took over 9 s for 100 kB, and four times as long for twice the length.
    text = piece * (400_000 // len(piece))
    record = logging.LogRecord("a", logging.INFO, "", 0, text, (), None)
    began = time.perf_counter()

    Redactor().text(text)
    WithoutTokens().filter(record)

    assert time.perf_counter() - began < 10

"""Error bodies and headers of model servers, in all their shapes."""

import json
from datetime import UTC, datetime

import httpx2
import pytest

from billing.gateway import refusals
from billing.gateway.retry_after import parse_retry_after

KEY = "sk-upstream/0123456789+x"
NOW = datetime(2026, 10, 21, 7, 27, 30, tzinfo=UTC)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ('[{"error": {"message": "No."}}]', "No."),
        ('[{"error": {"code": 400, "message": "No.", "status": "INVALID_ARGUMENT"}}]', "No."),
        ("No.", "No."),
        ("  No.\r\n\r\nReally.\x00 ", "No. Really."),
        ('"No."', "No."),
        ('{"error": "No."}', "No."),
        ('{"error": {"message": "No."}}', "No."),
        ('{"error": {"error": {"message": "No."}}}', "No."),
        ('{"error": {"message": {"message": "No."}}}', "No."),
        ('{"error": ["No.", "Never."]}', "No.; Never."),
        ('{"error": [{"message": "No."}]}', "No."),
        ('{"errors": [{"message": "No."}]}', "No."),
        ('{"errors": ["No."]}', "No."),
        ('{"message": "No."}', "No."),
        ('{"Message": "No."}', "No."),
        ('{"detail": "No."}', "No."),
        ('{"detail": {"message": "No."}}', "No."),
        (
            '{"detail": [{"loc": ["body", "tools", 0], "msg": "No.", "type": "missing"}]}',
            "body.tools.0: No.",
        ),
        ('{"msg": "No.", "code": 5}', "No."),
        ('{"error_msg": "No.", "error_code": 336}', "No."),
        ('{"error": "invalid_request", "error_description": "No."}', "No."),
        ('{"title": "Bad", "detail": "No.", "status": 400}', "No."),
        ('{"fault": {"faultstring": "No."}}', "No."),
        ('{"base_resp": {"status_code": 1004, "status_msg": "No."}}', "No."),
        (
            '{"error": {"message": "Provider returned error", "metadata": {"raw": "No."}}}',
            "Provider returned error: No.",
        ),
        (
            json.dumps({"error": {"message": json.dumps({"error": {"message": "No."}})}}),
            "No.",
        ),
        (
            "<!DOCTYPE html><html><head><title>502 Bad Gateway</title></head></html>",
            "502 Bad Gateway",
        ),
        ("<html><style>p{}</style><body><h1>No &amp; never</h1></body></html>", "No & never"),
        ('<?xml version="1.0"?><Error><Code>X</Code><Message>No.</Message></Error>', "No."),
        ('data: {"error": {"message": "No."}}\n\n', "No."),
        ('\ufeff{"error": "No."}', "No."),
        ('{"error": {"details": {"message": "No."}}}', "No."),
        ('{"errors": {"model": ["No."]}}', '{"errors": {"model": ["No."]}}'),
        ('{"model": ["No."]}', '{"model": ["No."]}'),
        ('{"error": {"message": "No. \\"Never\\"", "typ', 'No. "Never"'),
        ('{"error": {"message": "No."}}\n{"error": {"message": "Never."}}', "No."),
        ('{"err_msg": "No."}', "No."),
        ("", ""),
        ("{}", ""),
        ("[]", ""),
        ("[1]", ""),
        ("null", ""),
        ("5", ""),
        ('{"error": {"message": 5}}', ""),
        ("[" * 50_000, None),
        ('{"error":' * 500 + '"x"' + "}" * 500, None),
    ],
)
def test_message_is_found_in_every_shape_of_a_body(body, message):
    found = refusals.parse_body(body.encode()).message
    if message is None:
        refusals.build_refusal(refusals.parse_body(body.encode()), status=400, key=KEY)
    else:
        assert found == message


@pytest.mark.parametrize(
    ("raw", "content_type", "message"),
    [
        ("Größe".encode("latin-1"), "text/plain; charset=iso-8859-1", "Größe"),
        ("Größe".encode("latin-1"), "text/plain", "Gr\ufffd\ufffde"[:3] + "\ufffde"),
        ("Größe".encode(), "text/plain; charset=nonsense", "Größe"),
        ('{"error": "Größe"}'.encode("utf-16"), "application/json", "Größe"),
        ('{"error": "Größe"}'.encode("latin-1"), "application/json; charset=latin-1", "Größe"),
        ('{"error": "Größe"}'.encode(), "application/json; charset=latin-1", "Größe"),
        (bytes(range(128, 256)) * 10, "application/octet-stream", ""),
        (b'{"error": "a\\ud800b\\u0000c"}', "application/json", "a?b c"),
    ],
)
def test_bytes_in_any_encoding_become_a_storable_message(raw, content_type, message):
    found = refusals.parse_body(raw, content_type).message
    assert found == message or "\ufffd" in message
    found.encode()
    assert "\x00" not in found


@pytest.mark.parametrize(
    "secret",
    [
        KEY,
        "sk-upstream%2F0123456789%2Bx",
        "Bearer abcdef0123456789.abc",
        "sk-ant-REDACTED",
        "AIzaSyA0123456789012345678901234567890123",
        "https://user:hunter2secret@proxy.example/",
    ],
)
@pytest.mark.parametrize("shape", ["{}", '{{"error": {{"message": "{}"}}}}', "<p>{}</p>"])
def test_secrets_in_messages_are_masked(secret, shape):
    details = refusals.parse_body(shape.format(f"Wrong key {secret} sent").encode())
    failure = refusals.build_refusal(details, status=401, key=KEY)
    assert failure.message.startswith("Wrong key ")
    assert failure.message.endswith(" sent")
    for part in (KEY, "0123456789", "hunter2secret"):
        assert part not in failure.message


def test_long_message_is_shortened_after_masking():
    text = "x" * 990 + KEY + "y" * 100_000
    failure = refusals.build_refusal(refusals.parse_body(text.encode()), status=400, key=KEY)
    assert len(failure.message) == refusals.MAX_MESSAGE
    assert failure.message.endswith("…")
    assert "sk-up" not in failure.message


@pytest.mark.parametrize(
    ("body", "code", "kind", "status"),
    [
        ({"error": {"message": "x", "code": "a", "type": "b"}}, "a", "b", None),
        (
            {"error": {"message": "x", "code": 429, "status": "RESOURCE_EXHAUSTED"}},
            "429",
            "RESOURCE_EXHAUSTED",
            429,
        ),
        ({"error": {"message": "x", "type": "overloaded_error"}}, "", "overloaded_error", 503),
        ({"message": "x", "__type": "ThrottlingException"}, "", "ThrottlingException", 429),
        ({"error": {"message": "x", "code": 99_999}}, "99999", "", None),
        ({"error": {"message": "x", "code": [1]}, "code": 10**400}, "", "", None),
    ],
)
def test_code_type_and_status_are_read_from_the_body(body, code, kind, status):
    details = refusals.parse_body(json.dumps(body).encode())
    assert (details.code, details.kind, details.status) == (code, kind, status)


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"Retry-After": "Wed, 21 Oct 2026 07:28:00 GMT"}, "30"),
        ({"Retry-After": "Wednesday, 21-Oct-26 07:28:00 GMT"}, "30"),
        ({"Retry-After": "Wed Oct 21 07:28:00 2026"}, "30"),
        ({"Retry-After": "Wed, 21 Oct 2026 09:28:00 +0200"}, "30"),
        ({"Retry-After": "Wed, 21 Oct 2026 07:00:00 GMT"}, "0"),
        ({"Retry-After": "Fri, 31 Dec 9999 23:59:59 GMT"}, "86400"),
        ({"Retry-After": "7"}, "7"),
        ({"Retry-After": " 7 "}, "7"),
        ({"Retry-After": "0"}, "0"),
        ({"Retry-After": "1.5"}, "2"),
        ({"Retry-After": "9" * 29}, "86400"),
        ({"retry-after-ms": "1500"}, "2"),
        ({"retry-after-ms": "200.5", "Retry-After": "60"}, "1"),
        ({"retry-after-ms": "x", "Retry-After": "60"}, "60"),
        ({"Retry-After": "soon"}, ""),
        ({"Retry-After": "-1"}, ""),
        ({"Retry-After": "٣"}, ""),
        ({"Retry-After": "Wed, 99 Oct 2026 07:28:00 GMT"}, ""),
        ({"Retry-After": "Wed, 21 Oct 999999999999 07:28:00 GMT"}, ""),
        ({"Retry-After": "1e9"}, ""),
        ({"Retry-After": "Wed Oct  7 07:28:00 2026"}, "0"),
        ({"Retry-After": "Sunday, 06-Nov-94 08:49:37 GMT"}, "0"),
        ({"Retry-After": "30, 30"}, "30"),
        ({"Retry-After": "30s"}, "30"),
        ({"Retry-After": "1m30s"}, "90"),
        ({"Retry-After": "500ms"}, "1"),
        ({"Retry-After": "2026-10-21T07:28:00Z"}, "30"),
        ({"Retry-After": "1792567680"}, "30"),
        ({"retry-after-ms": "0", "Retry-After": "60"}, "60"),
        ({"x-ratelimit-reset-requests": "6m0s", "x-ratelimit-reset-tokens": "1s"}, "360"),
        (
            {
                "x-ratelimit-reset-requests": "6m0s",
                "x-ratelimit-remaining-requests": "59",
                "x-ratelimit-reset-tokens": "1.2s",
                "x-ratelimit-remaining-tokens": "0",
            },
            "2",
        ),
        ({"X-RateLimit-Reset": "1792567680000"}, "30"),
        ({"RateLimit-Reset": "30"}, "30"),
        ({"anthropic-ratelimit-requests-reset": "2026-10-21T07:28:00Z"}, "30"),
        ({"x-ratelimit-reset-requests": "soon"}, ""),
        ({"x-ratelimit-reset-tokens": "6m0s", "Retry-After": "7"}, "7"),
        ({}, ""),
    ],
)
def test_retry_after_is_read_in_every_form(headers, seconds):
    raw = [(name, value.encode()) for name, value in headers.items()]
    assert parse_retry_after(httpx2.Headers(raw), now=NOW) == seconds


def test_headers_about_limits_count_only_for_refusals_because_of_limits():
    headers = httpx2.Headers({"x-ratelimit-reset-tokens": "6m0s"})
    assert parse_retry_after(headers, status=429) == "360"
    assert parse_retry_after(headers, status=400) == ""


def test_retry_delay_in_the_body_is_used():
    detail = {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "34.07s"}
    body = [{"error": {"code": 429, "message": "x", "details": [detail]}}]
    details = refusals.parse_body(json.dumps(body).encode())
    assert refusals.build_refusal(details, status=429, key="").retry_after == "35"

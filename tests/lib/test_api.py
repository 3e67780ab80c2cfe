"""Hostile bodies, queries and headers of API requests: accepted or rejected, but never a server error."""

import json
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lib import api as lib

BYTES = 2_600_000
INVALID_JSON = {
    "nul": b'{"name": "a\x00b"}',
    "lone bytes": b'{"name": "\xff\xfe"}',
    "utf-8 surrogate": b'{"name": "\xed\xa0\x80"}',
    "overlong": b'{"name": "\xc0\x80"}',
    "utf-16": '{"name": "a"}'.encode("utf-16"),
    "byte order mark": b'\xef\xbb\xbf{"name": "a"}',
    "nan": b'{"name": "a", "days": NaN}',
    "infinity": b'{"name": "a", "days": Infinity}',
    "minus infinity": b'{"name": "a", "days": -Infinity}',
    "1e400": b'{"name": "a", "days": 1e400}',
    "-1e400": b'{"name": "a", "days": -1e400}',
    "5,000 digits": b'{"name": "a", "days": ' + b"9" * 5_000 + b"}",
    "twice": b'{"name": "a", "name": "b"}',
    "twice within": b'{"name": "a", "x": {"y": 1, "y": 1}}',
    "depth 100,000": b'{"name": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "objects 100,000 deep": b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
    "open 100,000": b"[" * 100_000,
    "open quote": b'{"name": "' + b"a" * 100_000,
    "backslashes": b'{"name": "' + b"\\" * 100_001 + b'"}',
    "closed only": b"]" * 100_000,
    "two values": b'{"name": "a"}{"name": "b"}',
    "comment": b'{"name": "a" /* b */}',
    "comma": b'{"name": "a",}',
    "quotes": b"{'name': 'a'}",
    "line end in a string": b'{"name": "a\nb"}',
    "bad escape": b'{"name": "\\x41"}',
    "space only": b"   ",
}
WRONG_SHAPES = {
    "escaped nul": b'{"name": "a\\u0000b"}',
    "lone surrogate": b'{"name": "\\ud800"}',
    "lone surrogate as key": b'{"\\ud800": 1}',
    "reversed surrogates": b'{"name": "\\udc00\\ud800"}',
    "array": b"[]",
    "number": b"1",
    "text": b'"a"',
    "null": b"null",
    "true": b"true",
    "empty object": b"{}",
    "4,300 digits": b'{"name": "a", "days": ' + b"9" * 4_300 + b"}",
    "large float": b'{"name": "a", "days": 1e308}',
    "fraction": b'{"name": "a", "days": 1.5}',
    "1 MB line": b'{"name": "' + b"a" * 1_000_000 + b'"}',
    "1 MB of emoji": ('{"name": "' + "\U0001f600" * 250_000 + '"}').encode(),
    "object for text": b'{"name": {"a": 1}}',
    "array for text": b'{"name": ["a"]}',
    "text for array": b'{"name": "a", "scopes": "x"}',
    "depth 60": b'{"name": ' + b"[" * 60 + b"]" * 60 + b"}",
    "many scopes": json.dumps({"name": "a", "scopes": ["x"] * 100_000}).encode(),
    "surrogate scope": b'{"name": "a", "scopes": ["\\ud800"]}',
    "nul scope": b'{"name": "a", "scopes": ["\\u0000"]}',
    "no uuid": b'{"name": "a", "organization": "\\u0000"}',
    "number for uuid": b'{"name": "a", "organization": 1e300}',
}


def post(api, body, content_type="application/json", **headers):
    return api.generic("POST", "/api/v1/api-keys", body, content_type=content_type, **headers)


@pytest.mark.parametrize("body", INVALID_JSON.values(), ids=INVALID_JSON)
def test_body_that_is_not_json_is_rejected_with_the_reason(api, body):
    response = post(api, body)

    assert response.status_code == 400
    assert response.headers["Content-Type"] == "application/problem+json"
    assert response.json()["code"] in ("parse-error", "invalid")
    assert response.json()["error"]


@pytest.mark.parametrize("body", WRONG_SHAPES.values(), ids=WRONG_SHAPES)
def test_json_that_is_not_an_api_key_is_invalid(api, body):
    response = post(api, body)

    assert response.status_code == 400, response.content[:200]
    assert response.json()["code"] == "invalid"


def test_unusual_text_is_stored_unchanged(api):
    name = "\u202e\ufeff\x01\x7f\\\"'<b>{{ 1 }}\U0001f600é"
    response = post(api, json.dumps({"name": name}).encode())

    assert response.status_code == 201
    assert api.get(f"/api/v1/api-keys/{response.json()['id']}").json()["name"] == name


@pytest.mark.parametrize(
    "content_type",
    [
        "text/plain",
        "multipart/form-data; boundary=x",
        "application/x-www-form-urlencoded",
        "application/xml",
        "a",
        "a/b; charset=\xff",
        "application/json5",
    ],
)
def test_content_type_other_than_json_is_rejected(api, content_type):
    assert post(api, b'{"name": "a"}', content_type).status_code == 415


@pytest.mark.parametrize("charset", ["utf-16", "latin-1", "nonsense", ""])
def test_charset_of_json_is_ignored(api, charset):
    assert post(api, b'{"name": "a"}', f"application/json; charset={charset}").status_code == 201


def test_body_above_the_limit_is_rejected(api, settings):
    settings.BODY_MAX_BYTES = settings.DATA_UPLOAD_MAX_MEMORY_SIZE = 1_000
    body = b'{"name": "a", "x": "' + b"a" * 1_000 + b'"}'

    assert post(api, body).status_code == 413


def test_chunked_body_without_a_length_is_rejected(api):
    response = api.generic(
        "POST",
        "/api/v1/api-keys",
        b"",
        content_type="application/json",
        HTTP_TRANSFER_ENCODING="chunked",
    )

    assert response.status_code == 411
    assert response.json()["code"] == "length-required"


QUERIES = [
    "cursor=%00",
    "cursor=%ED%A0%80",
    "cursor=%FF",
    "cursor=%F0%9F%98%80",
    "cursor=AAAA",
    "cursor=" + "A" * 199,
    "cursor=" + "A" * 100_000,
    "cursor=" + "====",
    "cursor=OTk5OTktMDEtMDF8eA",  # 99999-01-01|x
    "cursor=MDAwMS0wMS0wMVQwMDowMDowMCsyMzo1OXwwMThmMDAwMC0wMDAwLTcwMDAtODAwMC0wMDAwMDAwMDAwMDA",
    "cursor=OTk5OS0xMi0zMVQyMzo1OTo1OS0yMzo1OXwwMThmMDAwMC0wMDAwLTcwMDAtODAwMC0wMDAwMDAwMDAwMDA",
    "cursor=a&cursor=b",
    "limit=0",
    "limit=-1",
    "limit=101",
    "limit=1e3",
    "limit=NaN",
    "limit=" + "9" * 5_000,
    "limit=%D9%A3%D9%A3%D9%A3%D9%A3",
    "limit=1%00",
]


@pytest.mark.parametrize("query", QUERIES, ids=lambda query: query[:40])
def test_invalid_page_query_is_rejected(api, query):
    response = api.get(f"/api/v1/api-keys?{query}")

    assert response.status_code == 400
    assert response.headers["Content-Type"] == "application/problem+json"


@pytest.mark.parametrize(
    "query", ["format=html", "format=api", "x=%00", "&&&=&=", "%", "cursor", "limit="]
)
def test_unknown_or_malformed_query_is_no_server_error(api, query):
    assert api.get(f"/api/v1/api-keys?{query}").status_code in (200, 400, 404)


HEADERS = [
    {"HTTP_AUTHORIZATION": "Bearer oh_\xff.\xff"},
    {"HTTP_AUTHORIZATION": "Bearer " + "a" * 60_000},
    {"HTTP_AUTHORIZATION": "Bearer oh_a.\udcff"},
    {"HTTP_AUTHORIZATION": "Bearer oh_\0.x"},
    {"HTTP_AUTHORIZATION": "Bearer oh_١٢٣.x"},
    {"HTTP_X_API_KEY": "\0"},
]


@pytest.mark.parametrize(
    "headers", HEADERS, ids=lambda headers: str(headers)[:40].encode("ascii", "replace").decode()
)
def test_malformed_key_is_not_accepted(client, db, headers):
    assert client.get("/api/v1/users/me", **headers).status_code == 401


@pytest.mark.parametrize(
    "headers",
    [
        {"HTTP_ACCEPT": "\xff"},
        {"HTTP_ACCEPT": "*/*;q=\0"},
        {"HTTP_ACCEPT": "text/html"},
        {"HTTP_COOKIE": "sessionid=\xff\0; XSRF-TOKEN=\0"},
        {"HTTP_COOKIE": "sessionid=" + "a" * 10_000},
        {"HTTP_X_REQUEST_ID": "\r\nX-Evil: 1"},
        {"HTTP_IF_NONE_MATCH": "\xff"},
        {"HTTP_ACCEPT_LANGUAGE": "\0" * 1000},
        {"HTTP_X_HTTP_METHOD_OVERRIDE": "DELETE"},
        {"HTTP_ORIGIN": "null"},
        {"CONTENT_LENGTH": "-1"},
        {"CONTENT_LENGTH": "9" * 5_000},
        {"CONTENT_LENGTH": "x"},
    ],
    ids=lambda headers: str(headers)[:50].encode("ascii", "replace").decode(),
)
def test_malformed_header_is_no_server_error(api, headers):
    for response in (
        api.get("/api/v1/users/me", **headers),
        api.get("/api/v1/api-keys", **headers),
    ):
        assert response.status_code < 500
        assert "X-Evil" not in response.headers


class TestNesting:
    @pytest.mark.parametrize(
        ("text", "depth"),
        [
            (b"1", 0),
            (b"[]", 1),
            (b'{"a": [1, {"b": []}]}', 4),
            (b'["[[[", "\\"[[", "]"]', 1),
            (b'"[[[', 0),
            (b'"\\', 0),
            (b"]]][", 0),
        ],
    )
    def test_nesting_counts_only_brackets_outside_strings(self, text, depth):
        assert lib.nesting(text) == depth

    @given(
        st.recursive(
            st.text() | st.integers(),
            lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
        )
    )
    @settings(max_examples=200, deadline=None)
    def test_nesting_is_the_depth_of_the_parsed_value(self, value):
        def depth(part):
            if isinstance(part, dict):
                return 1 + max(map(depth, part.values()), default=0)
            return 1 + max(map(depth, part), default=0) if isinstance(part, list) else 0

        assert lib.nesting(json.dumps(value).encode()) == depth(value)
        assert lib.strict_loads(json.dumps(value).encode(), max_depth=500) == value

    @pytest.mark.parametrize(
        "unit",
        [b'"', b"\\", b'"\\', b'\\"', b"[", b'"[', b'["\\"]{', b'"a"', b"]", b"[]", b'{"a":'],
        ids=repr,
    )
    def test_nesting_takes_linear_time_in_hostile_text(self, unit):
        def measure(length):
            raw = (unit * (length // len(unit) + 1))[:length]
            started = time.process_time()
            lib.nesting(raw)
            return time.process_time() - started

        assert measure(BYTES) < 1
        assert measure(BYTES) < 40 * measure(BYTES // 10) + 0.05

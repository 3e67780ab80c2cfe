"""Values that cannot be stored or shown are refused with a readable sentence; each case was a server error once."""

import json

import pytest

from lib.api import find_unstorable
from lib.problems import LONGEST_TEXT, make_readable, problem_body
from tests.conversations.conftest import conversation

__all__ = ["conversation"]
SURROGATE = '"\\ud800"'


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("patch", "/api/v1/conversations/{id}", '{"visibility": %s}'),
        ("patch", "/api/v1/conversations/{id}", '{"security_analyzer": %s}'),
        ("patch", "/api/v1/conversations/{id}", '{"tags": ["a", %s]}'),
        ("post", "/api/v1/conversations", '{"message": "x", "confirmation_policy": %s}'),
        ("post", "/api/v1/conversations", '{"message": "x", "repository": {"provider": %s}}'),
        ("post", "/api/v1/api-keys", '{"name": "x", "preset": %s}'),
        ("post", "/api/v1/api-keys", '{"name": "x", "scopes": [%s]}'),
        ("post", "/api/v1/secrets", '{"name": "X", "value": "x", "scope": %s}'),
        ("put", "/api/v1/egress-policy", '{"profile": %s, "hosts": []}'),
        ("patch", "/api/v1/settings", '{"values": {"agent": %s}}'),
        ("patch", "/api/v1/settings", '{"values": {%s: 1}}'),
        ("post", "/api/conversations/{id}/submit-feedback", '{"polarity": %s}'),
        ("post", "/feedback/conversation", '{"conversation_id": "{id}", "rating": 5, "metadata": {"a": {"b": [%s]}}}'),
        ("post", "/feedback/conversation", '{"conversation_id": "{id}", "rating": 5, "metadata": {%s: 1}}'),
        ("put", "/api/v1/conversations/{id}/events/1/feedback", '{"rating": 5, "metadata": {"a": %s}}'),
    ],
)  # fmt: skip
@pytest.mark.parametrize("value", [SURROGATE, '"a\\u0000"', '"\\udc00\\ud800"'])
def test_text_that_cannot_be_stored_is_400_with_a_sentence(api, conversation, method, path, body, value):  # fmt: skip
    key = str(conversation.pk)
    raw = body.replace("{id}", key).replace("%s", value)

    response = getattr(api, method)(
        path.replace("{id}", key), raw.encode(), content_type="application/json"
    )

    assert response.status_code == 400, response.content
    assert "half of a surrogate pair" in response.json()["detail"]


@pytest.mark.parametrize("number", ["1" * 400, "18446744073709551616", "-9223372036854775809"])
def test_integer_over_64_bits_is_400(api, conversation, number):
    body = f'{{"conversation_id": "{conversation.pk}", "rating": 5, "metadata": {{"a": {number}}}}}'

    response = api.post("/feedback/conversation", body.encode(), content_type="application/json")

    assert response.status_code == 400
    assert "more than 64 bits" in response.json()["detail"]


@pytest.mark.parametrize("kind", [{"a": 1}, ["LLMSecurityAnalyzer"], 1, None, True])
def test_analyzer_whose_kind_is_not_a_text_is_422(api, conversation, kind):
    response = api.post(
        f"/api/conversations/{conversation.pk}/security_analyzer",
        {"security_analyzer": {"kind": kind}},
        format="json",
    )

    assert response.status_code == 422


def test_options_of_a_view_that_chooses_its_serializer_lists_the_methods(api, conversation):
    response = api.options(f"/api/conversations/{conversation.pk}/submit-feedback")

    assert response.status_code == 200
    assert "OPTIONS" in response.json()["methods"]


def test_refusal_of_a_long_value_is_short_and_ends_with_the_reason(api):
    response = api.post(
        "/api/v1/secrets", {"name": "X", "value": "x", "scope": "y" * 100_000}, format="json"
    )

    assert response.status_code == 400
    assert len(response.content) < 4_000
    assert response.json()["detail"].endswith("is not a valid choice.")


def test_nested_error_is_one_sentence(api, conversation):
    response = api.post(
        f"/api/conversations/{conversation.pk}/start", {"providers_set": [{}]}, format="json"
    )

    assert response.status_code == 422
    assert "ErrorDetail" not in response.json()["detail"]


@pytest.mark.parametrize(
    ("version", "method"), [("1.0", "tools/list"), ("x" * 9_000, "tools/list"), ("2.0", 5), (2, "a")]
)  # fmt: skip
def test_mcp_message_that_is_not_json_rpc_is_refused_with_a_sentence(api, version, method):
    headers = {"Accept": "application/json, text/event-stream"}
    message = {"jsonrpc": version, "id": 1, "method": method, "params": {}}

    response = api.post("/mcp", json.dumps(message), content_type="application/json", headers=headers)  # fmt: skip

    assert response.status_code == 400
    assert response.json()["code"] == "not-mcp"
    assert len(response.content) < 1_000


@pytest.mark.parametrize(
    ("value", "is_refused"),
    [
        ("\U0001f600", False), ("a", False), (2**64 - 1, False), (-(2**63), False), (True, False), (1e308, False), (None, False),
        ({"a": ["\ud83d"]}, True), ({"\0": 1}, True), ([[2**64]], True), ([-(2**63) - 1], True),
    ],
)  # fmt: skip
def test_value_that_cannot_be_stored_is_found_at_any_depth(value, is_refused):
    assert bool(find_unstorable(value)) is is_refused


def test_problem_is_readable():
    body = problem_body(status=400, code="x", detail="\ud800" + "y" * 9_000 + "end", errors={"\0": ["\udfff"]})  # fmt: skip

    json.dumps(body, ensure_ascii=False).encode()
    assert len(body["detail"]) <= LONGEST_TEXT
    assert (body["detail"][0], body["detail"][-3:]) == ("\ufffd", "end")
    assert body["errors"] == {"\ufffd": ["\ufffd"]}
    assert make_readable({1: (None, 2.5)}) == {1: [None, 2.5]}

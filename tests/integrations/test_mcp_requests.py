"""Requests that are not MCP: the wrong method, and bodies that are not a JSON-RPC message."""

import gzip

import pytest
from rest_framework.test import APIClient

from accounts import services as accounts

pytestmark = pytest.mark.django_db
BOTH = "application/json, text/event-stream"
PING = b'{"jsonrpc": "2.0", "id": 1, "method": "ping"}'


@pytest.fixture
def mcp(alice):
    _, key = accounts.issue_api_key(user=alice, name="mcp")
    return APIClient(headers={"Authorization": f"Bearer {key}"}, raise_request_exception=False)


@pytest.mark.parametrize("accept", ["text/event-stream", "text/html", BOTH, "*/*", "x"])
@pytest.mark.parametrize("method", ["get", "put", "patch", "delete"])
@pytest.mark.parametrize("path", ["/mcp", "/mcp/mcp"])
def test_other_methods_are_405_whatever_the_client_accepts(mcp, path, method, accept):
    response = getattr(mcp, method)(path, headers={"Accept": accept})

    assert response.status_code == 405, response.content
    assert "POST" in response.headers["Allow"]


@pytest.mark.parametrize(
    "body",
    [
        b"\xff\xfe",
        '{"jsonrpc": "2.0", "id": 1, "method": "é"}'.encode("latin-1"),
        '{"jsonrpc": "2.0", "id": 1, "method": "ping"}'.encode("utf-16"),
        b"\xef\xbb\xbf" + PING,
        gzip.compress(PING, mtime=0),
        b"",
        b"not json",
        b'{"jsonrpc": "2.0", "id": 1,',
        PING + b"{}",
        b"[" * 100_000,
        b"[" * 20 + b"]" * 20,
        b"[]",
        b"null",
        b"7",
        b'"text"',
        b"NaN",
        b'{"jsonrpc": "2.0", "id": NaN, "method": "ping"}',
        b'{"jsonrpc": "2.0", "id": 1, "id": 2, "method": "ping"}',
        b'{"jsonrpc": "2.0", "id": 1e999, "method": "ping"}',
        b'{"jsonrpc": "2.0", "id": ' + b"9" * 5_000 + b', "method": "ping"}',
        b'{"jsonrpc": "2.0", "id": "\\ud800", "method": "ping"}',
        b'{"jsonrpc": "2.0", "id": 1, "method": "\\udfff"}',
        b'{"\\ud800": 1}',
        b'{"jsonrpc": "2.0", "id": 1, "method": 5}',
        b'{"jsonrpc": "1.0", "id": 1, "method": "ping"}',
        b'{"id": 1}',
        b"{}",
        b'[{"jsonrpc": "2.0", "id": 1, "method": "ping"}]',
    ],
)
@pytest.mark.parametrize("path", ["/mcp", "/mcp/mcp"])
def test_body_that_is_no_message_is_400(mcp, path, body):
    response = mcp.generic(
        "POST", path, body, content_type="application/json", headers={"Accept": BOTH}
    )

    assert response.status_code == 400, response.content
    assert response.json()["error"]


@pytest.mark.parametrize(
    "params",
    [
        b'{"name": "\\ud800", "arguments": {}}',
        b'{"name": "list_conversations", "arguments": {"q": "\\udc00\\u0000"}}',
        b'{"name": "send_message", "arguments": {"conversation_id": "\\ud800", "text": "\\ud800"}}',
        b'{"name": "start_conversation", "arguments": {"message": "\\ud800"}}',
    ],
)
def test_call_with_a_lone_surrogate_is_refused(mcp, params):
    body = b'{"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": ' + params + b"}"

    response = mcp.generic(
        "POST", "/mcp", body, content_type="application/json", headers={"Accept": BOTH}
    )

    assert response.status_code == 400, response.content


def test_valid_message_with_other_scripts_is_answered(mcp):
    body = '{"jsonrpc": "2.0", "id": "日本 😀", "method": "ping"}'.encode()

    response = mcp.generic(
        "POST", "/mcp", body, content_type="application/json", headers={"Accept": BOTH}
    )

    assert response.json() == {"jsonrpc": "2.0", "id": "日本 😀", "result": {}}


@pytest.mark.parametrize(
    "accept", [None, "*/*", "application/*", "application/json", BOTH, "text/html, */*;q=0.1"]
)
@pytest.mark.parametrize("path", ["/mcp", "/mcp/mcp"])
def test_client_that_accepts_json_in_any_form_is_answered(mcp, path, accept):
    headers = {} if accept is None else {"Accept": accept}
    response = mcp.generic("POST", path, PING, content_type="application/json", headers=headers)

    assert response.status_code == 200, response.content
    assert response.json()["result"] == {}


@pytest.mark.parametrize("accept", ["text/html", "text/event-stream"])
def test_client_that_does_not_accept_json_gets_406(mcp, accept):
    response = mcp.generic(
        "POST", "/mcp", PING, content_type="application/json", headers={"Accept": accept}
    )

    assert response.status_code == 406

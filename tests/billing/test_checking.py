"""The test of a model server, which sends what conversations send."""

import json

import pytest
from django.core.cache import cache

from billing.gateway import checking
from tests.fakes.scripted_llm import ScriptedLLM

pytestmark = pytest.mark.django_db
URL = "/api/v1/settings/model-access/test"
JSON = "application/json"
EVENTS = "text/event-stream"
TEXT_ANSWER = {
    "choices": [
        {"index": 0, "message": {"role": "assistant", "content": "OK"}, "finish_reason": "stop"}
    ],
    "usage": {"prompt_tokens": 5, "completion_tokens": 1},
}


@pytest.fixture(autouse=True)
def no_known_options() -> None:
    """No option of an upstream is remembered."""
    cache.clear()


def refuse(*names: str, status: int = 400):
    """Return a function that refuses requests that contain all these fields."""

    def answer(request):
        if all(request.get(name) for name in names):
            body = {"error": {"message": f"{' and '.join(names)} cannot be used here."}}
            return status, JSON, json.dumps(body).encode()
        return None

    return answer


def test_test_sends_an_agents_request_and_a_summary_request(api, access, provider: ScriptedLLM):
    response = api.post(URL)
    assert response.status_code == 200
    assert response.json()["warnings"] == []
    agent, summary = (entry["body"] for entry in provider.requests)
    assert agent["stream"] is True
    assert agent["stream_options"] == {"include_usage": True}
    assert agent["reasoning_effort"] == "high"
    assert agent["tools"][0]["function"]["name"] == checking.TOOL
    assert "stream" not in summary
    assert "tools" not in summary


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        (("stream",), "It does not support streaming, which conversations use."),
        (("tools",), "It does not support tools, which agents need."),
        (("stream", "tools"), "It does not support tools, which agents need."),
    ],
)
@pytest.mark.parametrize("status", [400, 422, 501])
def test_missing_feature_is_named(api, access, provider, fields, sentence, status):
    provider.answer = refuse(*fields, status=status)
    response = api.post(URL)
    assert response.status_code == 502
    assert response.json()["detail"] == (
        f"The model server answers simple requests, but conversations will fail. {sentence} "
        f"Its message: {' and '.join(fields)} cannot be used here."
    )


def test_server_without_plain_answers_fails_because_of_summaries(api, access, provider):
    provider.answer = lambda request: (
        None if request.get("stream") else (400, JSON, b'{"error": "Only streams."}')
    )
    response = api.post(URL)
    assert response.status_code == 502
    assert "Summaries of long conversations will fail: Only streams." in response.json()["detail"]


@pytest.mark.parametrize("option", ["stream_options", "reasoning_effort"])
def test_option_that_the_gateway_removes_is_no_failure(api, access, provider, option):
    provider.answer = refuse(option, status=422)
    assert api.post(URL).status_code == 200
    assert option not in provider.requests[-1]["body"]


def test_answer_without_the_tool_and_without_usage_is_a_warning(api, access, provider):
    answer = {name: value for name, value in TEXT_ANSWER.items() if name != "usage"}
    provider.raw = (200, JSON, json.dumps(answer).encode())
    response = api.post(URL)
    assert response.status_code == 200
    first, second = response.json()["warnings"]
    assert "did not call the tool" in first
    assert "no token usage" in second
    assert response.json()["detail"].endswith(f"{first} {second}")


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        ((200, EVENTS, b'data: {"error": {"code": 429, "message": "Slow down"}}\n\n'), "Slow down"),
        ((200, EVENTS, b'data: {"choices": [{"delta": {"content": "a"}}]}\n\n'), "before it was complete"),
        ((200, JSON, b'{"error": "No credit"}'), "No credit"),
        ((400, JSON, b'[{"error": {"message": "No such model"}}]'), "No such model"),
        ((400, "text/plain", b"No such model"), "No such model"),
        ((503, "text/html", b"<html><title>503 Down</title></html>"), "503 Down"),
    ],
)  # fmt: skip
def test_failure_that_conversations_would_have_fails_the_test(api, access, provider, raw, message):
    provider.raw = raw
    response = api.post(URL)
    assert response.status_code == 502
    assert message in response.json()["detail"]


def test_page_shows_warnings(client, alice, access, provider):
    client.force_login(alice)
    provider.raw = (200, JSON, json.dumps(TEXT_ANSWER).encode())
    form = {"base_url": provider.base_url, "model": "scripted-large", "intent": "test"}
    response = client.post("/settings/model", form, follow=True)
    assert "did not call the tool that it was asked to call" in response.text


def test_answer_that_never_ends_is_a_failure(api, access, monkeypatch):
    monkeypatch.setattr(checking, "CHECK_SECONDS", 0.2)
    monkeypatch.setattr(
        checking,
        "build_request",
        lambda model, **_: (
            {"messages": [{"role": "user", "content": "!sleep 5\n!say x"}]}
            | {"tools": [{"type": "function", "function": {"name": "terminal"}}]}
        ),
    )
    response = api.post(URL)
    assert response.status_code == 502
    assert "did not finish its answer within" in response.json()["detail"]

"""``/api/llm/v1/chat/completions``: the demo model, forwarding, refused requests, failures."""

import asyncio
import json
import logging
from datetime import timedelta
from uuid import UUID, uuid4

import httpx2
import pytest
from asgiref.sync import sync_to_async
from django.db import OperationalError, connection
from django.utils import timezone
from pytest_django.fixtures import Settings
from redis.exceptions import RedisError

from accounts.models import Membership, Organization, User
from billing import services
from billing.gateway import answers, player, upstream
from billing.models import ConversationUsage, GatewayToken, ModelAccess, ModelCall
from tests.billing.conftest import (
    CHAT,
    UPSTREAM_KEY,
    bearer,
    chat,
    issue_token,
    parse_stream,
    wait_for_calls,
)
from tests.fakes.scripted_llm import ScriptedLLM
from tests.waiting import wait_until_async

pytestmark = pytest.mark.django_db(transaction=True)


class TestDemoModel:
    async def test_request_without_model_access_is_answered_by_the_demo_model(
        self, live, token, conversation_id
    ):
        response = await live.post(
            CHAT, json=chat("create hello.py that prints hi"), headers=bearer(token)
        )

        body = response.json()
        assert response.status_code == 200
        assert body["model"] == "demo"
        assert body["choices"][0]["message"]["tool_calls"][0]["function"]["name"] == "task_tracker"
        (call,) = await wait_for_calls(conversation_id)
        assert (call.model, call.upstream, call.outcome, call.status) == (
            "demo",
            "demo",
            "answered",
            200,
        )
        assert call.prompt_tokens == body["usage"]["prompt_tokens"] > 0
        assert call.cost_micros == 0

    async def test_stream_has_the_text_and_usage_of_the_whole_response(
        self, live, token, conversation_id
    ):
        request = chat("!with Look.\n!run ls\n!finish Done.")
        whole = await live.post(CHAT, json=request, headers=bearer(token))
        streamed = await live.post(CHAT, json=request | {"stream": True}, headers=bearer(token))

        assert streamed.headers["Content-Type"] == "text/event-stream"
        chunks = parse_stream(streamed.content)
        text = "".join(
            c["choices"][0]["delta"].get("content") or "" for c in chunks if c["choices"]
        )
        assert text == whole.json()["choices"][0]["message"]["content"] == "Look."
        assert chunks[-1]["usage"] == whole.json()["usage"]
        assert [c.outcome for c in await wait_for_calls(conversation_id, count=2)] == [
            "answered"
        ] * 2

    async def test_pieces_of_a_stream_are_sent_one_by_one(self, live, token, settings: Settings):
        settings.DEMO_PIECE_MILLISECONDS = 20
        request = chat("!say " + "word " * 20, stream=True)
        clock = asyncio.get_running_loop().time
        async with live.stream("POST", CHAT, json=request, headers=bearer(token)) as response:
            arrived = [clock() async for _ in response.aiter_raw()]
        assert len(arrived) > 10
        assert arrived[-1] - arrived[0] > 0.3

    async def test_scripted_failures_are_recorded_and_end_after_their_number(
        self, live, token, conversation_id
    ):
        request = chat("!fail 429 2 Slow down\n!say Now.")
        answers = [await live.post(CHAT, json=request, headers=bearer(token)) for _ in range(3)]

        assert [answer.status_code for answer in answers] == [429, 429, 200]
        assert answers[0].json()["error"]["message"] == "Slow down"
        calls = await wait_for_calls(conversation_id, count=3)
        assert [call.outcome for call in calls] == ["failed", "failed", "answered"]
        assert [call.prompt_tokens > 0 for call in calls] == [False, False, True]

    async def test_model_list_has_the_demo_model(self, live, token):
        response = await live.get("/api/llm/v1/models", headers=bearer(token))
        assert [model["id"] for model in response.json()["data"]] == ["demo"]


class TestForwarding:
    async def test_request_is_forwarded_with_the_stored_key_and_model(
        self, live, token, access, provider: ScriptedLLM, conversation_id
    ):
        request = chat(
            "!usage 1000 200 400\n!say Hello there.", temperature=0.5, x_new_field={"a": [1]}
        )
        response = await live.post(CHAT, json=request, headers=bearer(token))

        assert response.status_code == 200
        assert response.json()["choices"][0]["message"]["content"] == "Hello there."
        (forwarded,) = provider.requests
        assert forwarded["api_key"] == UPSTREAM_KEY
        assert forwarded["body"] == request | {"model": "scripted-large"}
        (call,) = await wait_for_calls(conversation_id)
        assert (call.prompt_tokens, call.completion_tokens, call.cached_tokens) == (1000, 200, 400)
        assert call.cost_micros == 600 * 1 + 400 // 2 + 200 * 2
        assert call.upstream == provider.base_url

    async def test_stream_is_forwarded_as_it_arrives_and_requests_usage(
        self, live, token, access, provider: ScriptedLLM, conversation_id
    ):
        provider.chunk_delay = 0.02
        request = chat(
            "!usage 10 20\n!say " + "word " * 20, stream=True, stream_options={"keep": 1}
        )
        raw, arrived = b"", []
        async with live.stream("POST", CHAT, json=request, headers=bearer(token)) as response:
            async for piece in response.aiter_raw():
                raw += piece
                arrived.append(asyncio.get_running_loop().time())

        assert arrived[-1] - arrived[0] > 0.3
        assert parse_stream(raw)[-1]["usage"]["completion_tokens"] == 20
        assert provider.requests[0]["body"]["stream_options"] == {"keep": 1, "include_usage": True}
        (call,) = await wait_for_calls(conversation_id)
        assert (call.prompt_tokens, call.completion_tokens, call.cost_micros) == (10, 20, 50)

    async def test_usage_is_estimated_if_the_upstream_reports_none(
        self, live, token, access, provider: ScriptedLLM, conversation_id
    ):
        answer = {"choices": [{"message": {"role": "assistant", "content": "x" * 40}}]}
        provider.raw = (200, "application/json", json.dumps(answer).encode())
        await live.post(CHAT, json=chat("!say x"), headers=bearer(token))
        (call,) = await wait_for_calls(conversation_id)
        assert call.completion_tokens == 10
        assert call.prompt_tokens > 10

    async def test_lone_surrogates_are_forwarded_unchanged(
        self, live, token, access, provider: ScriptedLLM
    ):
        raw = json.dumps(chat("!say hi \ud800 \0 \U0001f600")).encode()
        response = await live.post(CHAT, content=raw, headers=bearer(token))
        assert response.status_code == 200
        assert provider.requests[0]["body"]["messages"] == json.loads(raw)["messages"]

    async def test_model_list_has_the_users_model(self, live, token, access):
        response = await live.get("/api/llm/v1/models", headers=bearer(token))
        assert [model["id"] for model in response.json()["data"]] == ["scripted-large"]

    async def test_model_access_of_another_user_is_not_used(
        self, live, bob: User, access, provider, conversation_id
    ):
        other_token = await sync_to_async(issue_token)(bob, conversation_id)
        response = await live.post(CHAT, json=chat("!say hi"), headers=bearer(other_token))
        assert response.json()["model"] == "demo"
        assert not provider.requests


class TestRefusals:
    @pytest.fixture(
        params=[
            "none",
            "garbage",
            "api key",
            "wrong secret",
            "expired",
            "revoked",
            "inactive",
            "suspended",
            "left",
        ]
    )
    def bad_token(self, request, alice: User, token, conversation_id: UUID) -> str:
        rows = GatewayToken.objects.filter(conversation_id=conversation_id)
        match request.param:
            case "none":
                return ""
            case "garbage":
                return "ogt_\u00ff.x"
            case "api key":
                from accounts.services import issue_api_key

                return issue_api_key(user=alice, name="x")[1]
            case "wrong secret":
                return token[:-3] + "xyz"
            case "expired":
                rows.update(expires_at=timezone.now() - timedelta(seconds=1))
            case "revoked":
                services.revoke_gateway_tokens(conversation_id=conversation_id)
            case "inactive":
                User.objects.update(is_active=False)
            case "suspended":
                Organization.objects.update(suspended_at=timezone.now())
            case "left":
                Membership.objects.all().delete()
        return token

    async def test_bad_token_is_401_and_not_recorded(self, live, bad_token, conversation_id):
        raw = bad_token.encode("latin-1")
        headers = {b"Authorization": b"Bearer " + raw} if raw else {}
        for response in (
            await live.post(CHAT, json=chat("!say hi"), headers=headers),
            await live.get("/api/llm/v1/models", headers=headers),
        ):
            assert response.status_code == 401
            assert response.json() == {
                "error": {
                    "message": services.InvalidGatewayToken.sentence,
                    "type": "authentication_error",
                    "param": None,
                    "code": "invalid_gateway_token",
                }
            }
        assert not await ModelCall.objects.aexists()

    @pytest.mark.parametrize(
        "raw",
        [
            b"",
            b"{",
            b"[]",
            b"null",
            b'"x"',
            b"\xff",
            b'{"messages": []}',
            b'{"messages": {}}',
            b'{"a":1,"a":2}',
            b'{"messages":[NaN]}',
            b"[" * 100_000,
        ],
    )
    async def test_malformed_body_is_400(self, live, token, raw):
        response = await live.post(CHAT, content=raw, headers=bearer(token))
        assert response.status_code == 400
        assert response.json()["error"]["code"] == "invalid_request_error"

    @pytest.mark.parametrize(
        "messages",
        [[1], [{}], [{"role": "user", "content": 5}], [{"role": "user", "content": [3]}]],
    )
    async def test_malformed_messages_are_400_and_recorded(
        self, live, token, messages, conversation_id
    ):
        response = await live.post(
            CHAT, json=chat() | {"messages": messages}, headers=bearer(token)
        )
        assert response.status_code == 400
        (call,) = await wait_for_calls(conversation_id)
        assert (call.outcome, call.status) == ("failed", 400)

    async def test_body_beyond_the_gateway_limit_is_413(self, live, token, settings: Settings):
        settings.GATEWAY_BODY_MAX_BYTES = 1_000
        response = await live.post(CHAT, json=chat("x" * 1_000), headers=bearer(token))
        assert response.status_code == 413
        assert response.json()["error"]["code"] == "request_too_large"

    async def test_body_above_the_limit_of_other_routes_is_accepted(
        self, live, token, settings: Settings
    ):
        request = chat("!say hi", image="x" * (settings.BODY_MAX_BYTES + 1))
        response = await live.post(CHAT, json=request, headers=bearer(token))
        assert response.status_code == 200

    async def test_other_methods_are_405(self, live, token):
        assert (await live.get(CHAT, headers=bearer(token))).status_code == 405
        assert (await live.post("/api/llm/v1/models", headers=bearer(token))).status_code == 405

    async def test_request_of_another_origin_needs_no_csrf_token(self, live, token):
        headers = bearer(token) | {"Origin": "https://elsewhere.example"}
        assert (await live.post(CHAT, json=chat("!say hi"), headers=headers)).status_code == 200


class TestUpstreamFailures:
    @pytest.mark.parametrize("stream", [False, True])
    @pytest.mark.parametrize("status", [400, 401, 403, 404, 429, 500, 503])
    async def test_error_of_the_upstream_keeps_its_status_without_the_key(
        self, live, token, access, provider, conversation_id, status, stream
    ):
        provider.extra_headers = {"Retry-After": "7", "X-Secret": UPSTREAM_KEY}
        request = chat(f"!fail {status} always Broken by {UPSTREAM_KEY}", stream=stream)
        response = await live.post(CHAT, json=request, headers=bearer(token))

        assert response.status_code == status
        assert response.json()["error"]["message"] == "Broken by [key]"
        assert response.headers["Retry-After"] == "7"
        (call,) = await wait_for_calls(conversation_id)
        assert (call.outcome, call.status, call.cost_micros) == ("failed", status, 0)

    @pytest.mark.parametrize(
        ("raw", "stream", "code"),
        [
            ((200, "text/html", b"<h1>hi</h1>"), False, "upstream_malformed"),
            ((200, "text/html", b"<h1>hi</h1>"), True, "upstream_malformed"),
            ((200, "application/json", b'{"choices": []}'), False, "upstream_malformed"),
            ((200, "application/json", b"[" * 50_000), False, "upstream_malformed"),
            ((302, "text/plain", b""), False, "upstream_malformed"),
            ((502, "text/html", b"<h1>Bad gateway</h1>"), True, "upstream_502"),
            ((500, "application/json", b'{"error": 5}'), False, "upstream_500"),
        ],
    )
    async def test_malformed_response_of_the_upstream_is_a_gateway_error(
        self, live, token, access, provider, raw, stream, code
    ):
        provider.raw = raw
        provider.extra_headers = {"Location": "http://127.0.0.1:1/"}
        response = await live.post(CHAT, json=chat("!say x", stream=stream), headers=bearer(token))
        assert response.status_code == max(raw[0] if raw[0] >= 400 else 502, 500)
        assert response.json()["error"]["code"] == code

    async def test_dropped_connection_is_502_upstream_disconnected(
        self, live, token, access, conversation_id
    ):
        response = await live.post(CHAT, json=chat("!fail drop always"), headers=bearer(token))
        assert response.status_code == 502
        assert response.json()["error"]["code"] == "upstream_disconnected"
        (call,) = await wait_for_calls(conversation_id)
        assert (call.outcome, call.status) == ("failed", 502)

    async def test_closed_port_is_502_upstream_unreachable(self, live, token, access, provider):
        await ModelAccess.objects.aupdate(base_url="http://127.0.0.1:1/v1")
        response = await live.post(CHAT, json=chat("!say x"), headers=bearer(token))
        assert response.status_code == 502
        assert response.json()["error"]["code"] == "upstream_unreachable"

    async def test_slow_upstream_is_504_upstream_timeout(
        self, live, token, access, settings: Settings
    ):
        settings.GATEWAY_TIMEOUT_SECONDS = 0.3
        response = await live.post(CHAT, json=chat("!sleep 2\n!say x"), headers=bearer(token))
        assert response.status_code == 504
        assert response.json()["error"]["code"] == "upstream_timeout"

    async def test_interrupted_stream_ends_with_an_error_event(
        self, live, token, access, conversation_id, settings
    ):
        settings.GATEWAY_TIMEOUT_SECONDS = 0.5
        request = chat("!sleep 0 2\n!say one two three four", stream=True)
        response = await live.post(CHAT, json=request, headers=bearer(token))
        assert response.status_code == 200
        last = json.loads(response.content.split(b"data: ")[-1])
        assert last["error"]["code"] == "upstream_timeout"
        (call,) = await wait_for_calls(conversation_id)
        assert (call.outcome, call.status) == ("failed", 504)
        assert call.prompt_tokens > 0

    async def test_private_address_is_refused_when_the_request_is_sent(
        self, live, token, access, provider, settings
    ):
        settings.UPSTREAM_ALLOW_PRIVATE = False
        response = await live.post(CHAT, json=chat("!say x"), headers=bearer(token))
        assert response.status_code == 400
        assert response.json()["error"]["code"] == "upstream_address_refused"
        assert not provider.requests

    async def test_undecryptable_key_is_upstream_key_unreadable(
        self, live, token, access, settings
    ):
        settings.ENCRYPTION_KEYS = {"k2": bytes(32)}
        response = await live.post(CHAT, json=chat("!say x"), headers=bearer(token))
        assert response.json()["error"]["code"] == "upstream_key_unreadable"

    @pytest.mark.parametrize(
        ("body", "message"),
        [
            (b'{"error": "Overloaded"}', "Overloaded"),
            (b'{"error": {"detail": "Overloaded"}}', "Overloaded"),
            (b'{"message": "Overloaded"}', "Overloaded"),
            (b'{"error": {"message": 5}}', "The model server responded with status 529."),
            (b"[1]", "The model server responded with status 529."),
        ],
    )
    async def test_message_is_read_from_every_known_shape_of_an_error(
        self, live, token, access, provider, body, message
    ):
        provider.raw = (529, "application/json", body)
        response = await live.post(CHAT, json=chat("!say x"), headers=bearer(token))
        assert response.status_code == 529
        assert response.json()["error"]["message"] == message

    async def test_response_beyond_the_maximum_is_502(
        self, live, token, access, conversation_id, monkeypatch
    ):
        monkeypatch.setattr(answers, "MAX_RESPONSE_BYTES", 10)
        response = await live.post(CHAT, json=chat("!say x"), headers=bearer(token))
        assert response.status_code == 502
        assert response.json()["error"]["message"] == "The model server's response is too large."
        (call,) = await wait_for_calls(conversation_id)
        assert (call.outcome, call.status) == ("failed", 502)


class TestOwnFailures:
    @pytest.mark.parametrize("path", [CHAT, "/api/llm/v1/models"])
    async def test_unreachable_database_is_503_with_retry_after(
        self, live, token, monkeypatch, path
    ):
        def fail(_token):
            raise OperationalError

        monkeypatch.setattr(services, "authenticate_gateway_token", fail)
        method = "POST" if path == CHAT else "GET"
        response = await live.request(
            method, path, json=chat("!say x") if path == CHAT else None, headers=bearer(token)
        )
        assert (response.status_code, response.headers["Retry-After"]) == (503, "2")
        assert response.json()["error"]["code"] == "unavailable"

    async def test_unexpected_error_is_500_without_details_and_recorded(
        self, live, token, access, conversation_id, monkeypatch
    ):
        def fail(*_args):
            raise RuntimeError("internal-detail")

        monkeypatch.setattr(upstream, "open_response", fail)
        response = await live.post(CHAT, json=chat("!say x"), headers=bearer(token))
        assert response.status_code == 500
        assert response.json()["error"]["code"] == "server_error"
        assert "internal-detail" not in response.text
        (call,) = await wait_for_calls(conversation_id)
        assert (call.outcome, call.status, call.cost_micros) == ("failed", 500, 0)

    async def test_call_that_cannot_be_recorded_is_answered_and_logged(
        self, live, token, monkeypatch, caplog
    ):
        def fail(**_fields):
            raise OperationalError

        monkeypatch.setattr(services, "record_call", fail)
        response = await live.post(CHAT, json=chat("!say hi"), headers=bearer(token))
        assert response.status_code == 200
        assert response.json()["choices"][0]["message"]["content"] == "hi"
        assert "a model call could not be recorded" in caplog.text

    async def test_scripted_failure_occurs_although_redis_is_unreachable(
        self, live, token, monkeypatch
    ):
        def fail(_key):
            raise RedisError

        monkeypatch.setattr(player, "_count", fail)
        response = await live.post(CHAT, json=chat("!fail 503 1\n!say x"), headers=bearer(token))
        assert response.status_code == 503

    def test_stream_in_a_process_that_cannot_stream_is_501(self, client, token):
        response = client.post(
            CHAT,
            chat("!say hi", stream=True),
            content_type="application/json",
            headers=bearer(token),
        )
        assert (response.status_code, response.json()["error"]["code"]) == (501, "no_streaming")
        assert not ModelCall.objects.exists()


class TestClientDisconnects:
    SLOW = "!sleep 0 0.05\n!say " + "word " * 200

    async def _read_five_pieces(self, live, token) -> None:
        """Start a stream and close the connection after five pieces."""
        request = chat(self.SLOW, stream=True)
        async with live.stream("POST", CHAT, json=request, headers=bearer(token)) as response:
            pieces = 0
            async for _ in response.aiter_raw():
                pieces += 1
                if pieces == 5:
                    return

    async def test_disconnect_during_the_stream_is_recorded_as_abandoned(
        self, live, token, conversation_id
    ):
        await self._read_five_pieces(live, token)
        (call,) = await wait_for_calls(conversation_id)
        assert (call.outcome, call.status) == ("abandoned", 499)
        assert 0 < call.completion_tokens < 100
        assert call.prompt_tokens > 0

    async def test_disconnect_closes_the_upstream_connection(
        self, live, token, access, provider, conversation_id
    ):
        await self._read_five_pieces(live, token)
        (call,) = await wait_for_calls(conversation_id)
        assert (call.outcome, call.status) == ("abandoned", 499)
        assert 0 < call.completion_tokens < 100
        assert call.cost_micros > 0
        await wait_until_async(
            lambda: provider.requests[0].get("cut"), "the upstream connection to close", seconds=5
        )

    @pytest.mark.parametrize("stream", [False, True])
    async def test_disconnect_before_the_first_byte_is_recorded_as_abandoned(
        self, live, token, conversation_id, stream
    ):
        request = chat("!sleep 30\n!say late", stream=stream)
        with pytest.raises(httpx2.ReadTimeout):
            await live.post(CHAT, json=request, headers=bearer(token), timeout=0.3)
        (call,) = await wait_for_calls(conversation_id)
        assert (call.outcome, call.status) == ("abandoned", 499)


async def test_streams_hold_no_database_connection(live, token, conversation_id):
    before = await sync_to_async(_count_connections)()
    request = chat("!sleep 0 0.1\n!say " + "word " * 20, stream=True)
    streams = [
        asyncio.create_task(live.post(CHAT, json=request, headers=bearer(token))) for _ in range(8)
    ]
    await asyncio.sleep(1)  # All streams have started by now, and none has ended.
    meanwhile = await sync_to_async(_count_connections)()
    are_streaming = not any(stream.done() for stream in streams)
    assert {(await stream).status_code for stream in streams} == {200}
    await wait_for_calls(conversation_id, count=8)
    assert are_streaming
    assert meanwhile == before


def _count_connections() -> int:
    with connection.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()")
        return int(cursor.fetchone()[0])


async def test_usage_of_fifty_parallel_calls_is_their_sum(
    live, token, access, conversation_id, settings
):
    settings.GATEWAY_MAX_CALLS = 50

    async def one(number: int) -> int:
        request = chat(f"!usage {number} {number} {number // 2}\n!say x", stream=number % 2 == 0)
        return (await live.post(CHAT, json=request, headers=bearer(token))).status_code

    statuses = await asyncio.gather(*(one(number) for number in range(1, 51)))

    assert set(statuses) == {200}
    calls = await wait_for_calls(conversation_id, count=50)
    usage = await ConversationUsage.objects.aget(pk=conversation_id)
    assert (usage.calls, usage.prompt_tokens, usage.completion_tokens) == (50, 1275, 1275)
    assert usage.cached_tokens == sum(number // 2 for number in range(1, 51))
    assert usage.cost_micros == sum(call.cost_micros for call in calls) > 0


async def test_scripted_failures_are_counted_per_conversation(
    live, alice: User, token, conversation_id
):
    other = uuid4()
    other_token = await sync_to_async(issue_token)(alice, other)
    request = chat("!fail 500 1\n!say x")
    first = await live.post(CHAT, json=request, headers=bearer(token))
    second = await live.post(CHAT, json=request, headers=bearer(other_token))
    assert (first.status_code, second.status_code) == (500, 500)
    assert len(await wait_for_calls(other)) == len(await wait_for_calls(conversation_id)) == 1


async def test_keys_are_in_no_response_and_no_log(live, token, access, provider, caplog):
    caplog.set_level(logging.DEBUG)
    for script in ("!say x", f"!fail 401 always no {UPSTREAM_KEY}", "!fail drop always"):
        for stream in (False, True):
            response = await live.post(
                CHAT, json=chat(script, stream=stream), headers=bearer(token)
            )
            assert UPSTREAM_KEY not in f"{response.headers} {response.text}"
    logged = "".join(record.getMessage() for record in caplog.records)
    assert "chat/completions" in logged
    assert UPSTREAM_KEY not in logged
    assert token not in logged

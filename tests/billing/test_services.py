"""Tokens, sums and model access as the rest of the server uses them."""

import threading
from datetime import timedelta
from uuid import uuid4

import pytest
import time_machine
from django.conf import settings
from django.db import connections, transaction
from django.utils import timezone

from accounts.models import User
from billing import services
from billing.gateway import checking
from billing.gateway.metering import Meter
from billing.models import ConversationUsage, GatewayToken, ModelAccess, ModelCall
from billing.prices import MAX_TOKENS, Tokens, cost_micros
from lib import crypto
from tests.billing.conftest import UPSTREAM_KEY, issue
from tests.factories.billing import ModelAccessFactory
from tests.fakes.scripted_llm import ScriptedLLM


class TestGatewayTokens:
    def test_opens_its_own_conversation_and_keeps_no_secret(self, alice, conversation_id, token):
        row = services.authenticate_gateway_token(token)
        assert (row.user, row.conversation_id) == (alice, conversation_id)
        assert row.organization == alice.personal_organization
        secret = token.partition(".")[2]
        assert secret not in str(GatewayToken.objects.values().get())

    def test_lives_an_hour_and_can_be_extended(self, conversation_id, token):
        with time_machine.travel(
            timezone.now() + timedelta(seconds=settings.GATEWAY_TOKEN_SECONDS + 1)
        ):
            with pytest.raises(services.InvalidGatewayToken):
                services.authenticate_gateway_token(token)
            assert services.extend_gateway_tokens(conversation_ids=[conversation_id, uuid4()]) == 1
            services.authenticate_gateway_token(token)

    def test_revoked_is_for_good(self, alice, conversation_id, token):
        other = issue(alice, uuid4())
        assert services.revoke_gateway_tokens(conversation_id=conversation_id) == 1
        assert services.revoke_gateway_tokens(conversation_id=conversation_id) == 0
        assert services.extend_gateway_tokens(conversation_ids=[conversation_id]) == 0
        with pytest.raises(services.InvalidGatewayToken):
            services.authenticate_gateway_token(token)
        services.authenticate_gateway_token(other)

    @pytest.mark.parametrize(
        "token",
        [
            "",
            "ogt_",
            "ogt_x.y",
            "ogt_" + "0" * 16 + ".x",
            "ogt_\0.x",
            "ogt_\ud800.x",
            "oh_a.b",
            "ogt_" + "a" * 10_000,
        ],
    )
    def test_hostile_tokens(self, db, token):
        with pytest.raises(services.InvalidGatewayToken):
            services.authenticate_gateway_token(token)

    def test_costs_two_queries(self, token, django_assert_num_queries):
        with django_assert_num_queries(2):
            services.authenticate_gateway_token(token)


class TestRecordCall:
    def record(self, token: str, **fields):
        row = services.authenticate_gateway_token(token)
        call = {
            "access": None,
            "model": "demo",
            "outcome": ModelCall.Outcome.ANSWERED,
            "status": 200,
            "tokens": Tokens(prompt=10, completion=5, cached=2),
            "seconds": 0.5,
        }
        return services.record_call(token=row, **call | fields)

    def test_adds_up(self, token, conversation_id):
        access = ModelAccess(base_url="https://m.example/v1", prompt_micros_per_million=10**6)
        self.record(token)
        self.record(token, access=access, tokens=Tokens(prompt=7))
        usage = services.get_usage([conversation_id])[conversation_id]
        assert (usage.calls, usage.prompt_tokens, usage.completion_tokens) == (2, 17, 5)
        assert (usage.cached_tokens, usage.cost_micros) == (2, 7)

    def test_call_and_sum_stand_or_fall_together(self, token, conversation_id):
        with transaction.atomic():
            self.record(token)
            transaction.set_rollback(True)
        assert not ModelCall.objects.exists()
        assert not ConversationUsage.objects.exists()

    @pytest.mark.django_db(transaction=True)
    def test_first_calls_at_once_lose_nothing(self, token, conversation_id):
        gate = threading.Barrier(12)

        def one() -> None:
            gate.wait()
            self.record(token)
            connections.close_all()

        threads = [threading.Thread(target=one) for _ in range(12)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        usage = ConversationUsage.objects.get(pk=conversation_id)
        assert (usage.calls, usage.prompt_tokens) == (12, 120) == (ModelCall.objects.count(), 120)

    def test_usage_of_conversations_without_calls_is_zero(
        self, token, conversation_id, django_assert_num_queries
    ):
        self.record(token)
        other = uuid4()
        with django_assert_num_queries(1):
            found = services.get_usage([conversation_id, other])
        assert (found[conversation_id].calls, found[other].calls, found[other].cost_micros) == (
            1,
            0,
            0,
        )
        assert services.get_usage([]) == {}


class TestPrices:
    @pytest.mark.parametrize(
        ("tokens", "prices", "cost"),
        [
            (Tokens(1_000_000, 0, 0), (3, 0, 0), 3),
            (Tokens(1, 0, 0), (499_999, 0, 0), 0),
            (Tokens(1, 0, 0), (500_000, 0, 0), 1),
            (Tokens(1, 1, 0), (250_000, 250_000, 0), 1),
            (Tokens(1, 1, 0), (400_000, 400_000, 0), 1),
            (Tokens(100, 10, 60), (2_000_000, 10_000_000, 500_000), 80 + 30 + 100),
            (Tokens(MAX_TOKENS, MAX_TOKENS, 0), (10**12, 10**12, 0), MAX_TOKENS * 2 * 10**6),
        ],
    )
    def test_rounds_half_up_once(self, tokens, prices, cost):
        access = ModelAccess(
            prompt_micros_per_million=prices[0],
            completion_micros_per_million=prices[1],
            cached_micros_per_million=prices[2],
        )
        assert cost_micros(tokens, access) == cost
        assert cost_micros(tokens, None) == 0

    def test_counts_that_cannot_be_are_clamped(self):
        assert Tokens.clamp(prompt=-5, completion=10**30, cached=9) == Tokens(0, MAX_TOKENS, 0)
        assert Tokens.clamp(prompt=5, completion=1, cached=9) == Tokens(5, 1, 5)


class TestMeter:
    STREAM = (
        b': ping\n\ndata: {"choices":[{"delta":{"content":"caf\xc3\xa9"}}],"usage":null}\r\n\r\n'
        b'data:{"choices":[{"delta":{"tool_calls":[{"id":"c","function":{"arguments":"1234"}}]}}]}\n\n'
    )
    USAGE = b'data: {"choices":[],"usage":{"prompt_tokens":9,"completion_tokens":8,"prompt_tokens_details":null}}\n\ndata: [DONE]\n\n'

    @pytest.mark.parametrize("size", [1, 3, 7, 1000])
    def test_reads_a_stream_cut_anywhere(self, size):
        estimating, stating = Meter(), Meter()
        for start in range(0, len(self.STREAM), size):
            estimating.feed(self.STREAM[start : start + size])
        raw = self.STREAM + self.USAGE
        for start in range(0, len(raw), size):
            stating.feed(raw[start : start + size])
        assert estimating.tokens("x" * 6) == Tokens(prompt=3, completion=2)
        assert stating.tokens("x") == Tokens(prompt=9, completion=8)

    def test_nonsense_and_endless_lines_do_no_harm(self):
        meter = Meter()
        meter.feed(b"data: {nonsense\n\ndata: 5\n\ndata: " + b"x" * 3_000_000)
        meter.feed(b"x" * 3_000_000 + b"\n\n" + self.USAGE)
        assert meter.tokens("").completion == 8

    @pytest.mark.parametrize(
        "usage", [5, [], {"prompt_tokens": "9"}, {"prompt_tokens": 1.5, "completion_tokens": 1}]
    )
    def test_usage_of_another_shape_is_none(self, usage):
        meter = Meter()
        meter.add_completion({"usage": usage, "choices": [5, {"message": {"content": "abcd"}}]})
        assert meter.tokens("").completion == 1


class TestModelAccess:
    def save(self, user: User, **fields):
        given = {"base_url": "https://m.example/v1/", "model": " gpt ", "api_key": "sk-1"}
        return services.save_model_access(
            organization=user.personal_organization, user=user, **given | fields
        )

    def test_none_is_the_demo_model(self, alice):
        key = {"organization_id": alice.personal_organization.pk, "user_id": alice.pk}
        assert services.get_model_access(**key) is None
        assert services.get_model_name(**key) == "demo"
        self.save(alice)
        assert services.get_model_name(**key) == "gpt"
        services.clear_model_access(**key)
        services.clear_model_access(**key)
        assert services.get_model_name(**key) == "demo"

    def test_the_key_is_sealed_kept_and_removed(self, alice):
        access = self.save(alice)
        assert b"sk-1" not in bytes(access.sealed_api_key)
        assert self.save(alice, api_key=None).api_key() == "sk-1"
        assert self.save(alice, api_key="sk-2").api_key() == "sk-2"
        assert not self.save(alice, api_key="").has_api_key
        assert ModelAccess.objects.count() == 1

    def test_the_key_does_not_move_to_another_server(self, alice):
        self.save(alice)
        with pytest.raises(services.InvalidModelAccess, match="another server"):
            self.save(alice, base_url="https://evil.example/v1", api_key=None)
        assert self.save(alice, base_url="https://m.example/v2", api_key=None).api_key() == "sk-1"
        assert self.save(alice, base_url="https://n.example/v1", api_key="sk-3").api_key() == "sk-3"

    def test_a_sealed_key_copied_to_another_row_does_not_open(self, alice, bob):
        mine = self.save(alice)
        theirs = ModelAccessFactory(user=bob, key="x")
        theirs.sealed_api_key = mine.sealed_api_key
        with pytest.raises(crypto.Undecryptable):
            theirs.api_key()

    def test_cached_tokens_cost_what_prompt_tokens_do_unless_said(self, alice):
        assert self.save(alice, prompt_micros_per_million=5).cached_micros_per_million == 5
        access = self.save(alice, prompt_micros_per_million=5, cached_micros_per_million=0)
        assert access.cached_micros_per_million == 0

    @pytest.mark.parametrize(
        "fields",
        [
            {"base_url": "ftp://m.example"},
            {"base_url": "http://169.254.169.254/v1"},
            {"base_url": "https://m.example/v1?x=1"},
            {"base_url": "https://m.example/" + "v" * 500},
            {"model": " "},
            {"model": "a\0b"},
            {"model": "x" * 201},
            {"api_key": "****"},
            {"api_key": "sk-••••1234"},
            {"api_key": "sk-1234********"},
            {"api_key": "<secret_hidden>"},
            {"api_key": "two words"},
            {"api_key": "sk\r\nX: y"},
            {"prompt_micros_per_million": -1},
            {"completion_micros_per_million": 10**12 + 1},
        ],
    )
    def test_refuses_what_cannot_work(self, alice, fields):
        with pytest.raises(services.InvalidModelAccess):
            self.save(alice, **fields)
        assert not ModelAccess.objects.exists()

    def test_private_addresses_are_the_operators_choice(self, alice, settings):
        self.save(alice, base_url="http://127.0.0.1:11434/v1")
        settings.UPSTREAM_ALLOW_PRIVATE = False
        with pytest.raises(services.InvalidModelAccess, match="UPSTREAM_ALLOW_PRIVATE"):
            self.save(alice, base_url="http://127.0.0.1:11434/v1")


class TestCheckModelAccess:
    def test_makes_a_real_call(self, access, provider: ScriptedLLM):
        sentence = checking.check_model_access(access)
        assert sentence.startswith("scripted-large answered in ")
        assert provider.requests[0]["body"]["model"] == "scripted-large"

    @pytest.mark.parametrize(
        ("raw", "words"),
        [
            ((500, "text/plain", b"x"), "responded with status 500"),
            ((200, "text/html", b"<p>"), "not a chat completion"),
            (
                (404, "application/json", b'{"error": {"message": "no such model"}}'),
                "no such model",
            ),
            ((301, "text/plain", b""), "Redirects are not followed"),
        ],
    )
    def test_says_why_it_failed(self, access, provider, raw, words):
        provider.raw = raw
        with pytest.raises(checking.ModelCheckFailed, match=words):
            checking.check_model_access(access)

    def test_a_wrong_key_is_not_quoted(self, access, provider):
        provider.api_key = "another"
        with pytest.raises(checking.ModelCheckFailed, match="Incorrect API key") as refused:
            checking.check_model_access(access)
        assert UPSTREAM_KEY not in str(refused.value.__dict__) + repr(refused.value.__cause__)

    def test_nobody_there(self, access):
        access.base_url = "http://127.0.0.1:1/v1"
        with pytest.raises(checking.ModelCheckFailed, match="cannot be reached"):
            checking.check_model_access(access)

    def test_nothing_to_test(self):
        with pytest.raises(checking.NoModelAccess):
            checking.check_model_access(None)

"""The services of billing: gateway tokens, recorded calls, prices, metering, model access."""

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
from tests.billing.conftest import UPSTREAM_KEY, issue_token
from tests.factories.billing import ModelAccessFactory
from tests.fakes.scripted_llm import ScriptedLLM


class TestGatewayTokens:
    def test_token_authenticates_its_conversation_and_its_secret_is_not_stored(
        self, alice, conversation_id, token
    ):
        row = services.authenticate_gateway_token(token)
        assert (row.user, row.conversation_id) == (alice, conversation_id)
        assert row.organization == alice.personal_organization
        secret = token.partition(".")[2]
        assert secret not in str(GatewayToken.objects.values().get())

    def test_expired_token_works_again_after_an_extension(self, conversation_id, token):
        with time_machine.travel(
            timezone.now() + timedelta(seconds=settings.GATEWAY_TOKEN_SECONDS + 1)
        ):
            with pytest.raises(services.InvalidGatewayToken):
                services.authenticate_gateway_token(token)
            assert services.extend_gateway_tokens(conversation_ids=[conversation_id, uuid4()]) == 1
            services.authenticate_gateway_token(token)

    def test_revoked_token_cannot_be_extended(self, alice, conversation_id, token):
        other = issue_token(alice, uuid4())
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
    def test_malformed_token_raises_invalid_gateway_token(self, db, token):
        with pytest.raises(services.InvalidGatewayToken):
            services.authenticate_gateway_token(token)

    def test_authentication_needs_two_queries(self, token, django_assert_num_queries):
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

    def test_usage_is_the_sum_of_the_calls(self, token, conversation_id):
        access = ModelAccess(base_url="https://m.example/v1", prompt_micros_per_million=10**6)
        self.record(token)
        self.record(token, access=access, tokens=Tokens(prompt=7))
        usage = services.get_usage([conversation_id])[conversation_id]
        assert (usage.calls, usage.prompt_tokens, usage.completion_tokens) == (2, 17, 5)
        assert (usage.cached_tokens, usage.cost_micros) == (2, 7)

    def test_rolled_back_transaction_stores_neither_call_nor_sum(self, token, conversation_id):
        with transaction.atomic():
            self.record(token)
            transaction.set_rollback(True)
        assert not ModelCall.objects.exists()
        assert not ConversationUsage.objects.exists()

    @pytest.mark.django_db(transaction=True)
    def test_parallel_first_calls_are_all_summed(self, token, conversation_id):
        barrier = threading.Barrier(12)

        def record_one() -> None:
            barrier.wait()
            self.record(token)
            connections.close_all()

        threads = [threading.Thread(target=record_one) for _ in range(12)]
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
            usage = services.get_usage([conversation_id, other])
        assert usage[conversation_id].calls == 1
        assert (usage[other].calls, usage[other].cost_micros) == (0, 0)
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
    def test_cost_is_rounded_half_up_once(self, tokens, prices, cost):
        access = ModelAccess(
            prompt_micros_per_million=prices[0],
            completion_micros_per_million=prices[1],
            cached_micros_per_million=prices[2],
        )
        assert cost_micros(tokens, access) == cost
        assert cost_micros(tokens, None) == 0

    def test_impossible_counts_are_clamped(self):
        assert Tokens.clamp(prompt=-5, completion=10**30, cached=9) == Tokens(0, MAX_TOKENS, 0)
        assert Tokens.clamp(prompt=5, completion=1, cached=9) == Tokens(5, 1, 5)


class TestMeter:
    @pytest.mark.parametrize("usage", [5, [], {"prompt_tokens": "9"}, {"completion_tokens": [1]}])
    def test_malformed_usage_is_estimated(self, usage):
        meter = Meter()
        meter.add({"usage": usage, "choices": [5, {"message": {"content": "abcd"}}]})
        assert meter.tokens("").completion == 1


class TestModelAccess:
    def save(self, user: User, **fields):
        defaults = {"base_url": "https://m.example/v1/", "model": " gpt ", "api_key": "sk-1"}
        return services.save_model_access(
            organization=user.personal_organization, user=user, **defaults | fields
        )

    def test_missing_access_is_the_demo_model(self, alice):
        key = {"organization_id": alice.personal_organization.pk, "user_id": alice.pk}
        assert services.get_model_access(**key) is None
        assert services.get_model_name(**key) == "demo"
        self.save(alice)
        assert services.get_model_name(**key) == "gpt"
        services.clear_model_access(**key)
        services.clear_model_access(**key)
        assert services.get_model_name(**key) == "demo"

    def test_key_is_encrypted_kept_replaced_and_removed(self, alice):
        access = self.save(alice)
        assert b"sk-1" not in bytes(access.sealed_api_key)
        assert self.save(alice, api_key=None).api_key() == "sk-1"
        assert self.save(alice, api_key="sk-2").api_key() == "sk-2"
        assert not self.save(alice, api_key="").has_api_key
        assert ModelAccess.objects.count() == 1

    def test_stored_key_is_not_used_for_another_server(self, alice):
        self.save(alice)
        with pytest.raises(services.InvalidModelAccess, match="another server"):
            self.save(alice, base_url="https://evil.example/v1", api_key=None)
        assert self.save(alice, base_url="https://m.example/v2", api_key=None).api_key() == "sk-1"
        assert self.save(alice, base_url="https://n.example/v1", api_key="sk-3").api_key() == "sk-3"

    def test_encrypted_key_copied_to_another_row_is_undecryptable(self, alice, bob):
        alices = self.save(alice)
        bobs = ModelAccessFactory(user=bob, key="x")
        bobs.sealed_api_key = alices.sealed_api_key
        with pytest.raises(crypto.Undecryptable):
            bobs.api_key()

    def test_price_of_cached_tokens_defaults_to_that_of_prompt_tokens(self, alice):
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
    def test_invalid_field_raises_invalid_model_access(self, alice, fields):
        with pytest.raises(services.InvalidModelAccess):
            self.save(alice, **fields)
        assert not ModelAccess.objects.exists()

    def test_private_address_needs_the_setting(self, alice, settings):
        self.save(alice, base_url="http://127.0.0.1:11434/v1")
        settings.UPSTREAM_ALLOW_PRIVATE = False
        with pytest.raises(services.InvalidModelAccess, match="UPSTREAM_ALLOW_PRIVATE"):
            self.save(alice, base_url="http://127.0.0.1:11434/v1")


class TestCheckModelAccess:
    def test_check_sends_a_request_to_the_model(self, access, provider: ScriptedLLM):
        sentence = checking.check_model_access(access).sentence
        assert sentence.startswith("scripted-large answered in ")
        assert provider.requests[0]["body"]["model"] == "scripted-large"

    @pytest.mark.parametrize(
        ("raw", "words"),
        [
            ((500, "text/plain", b""), "responded with status 500"),
            ((500, "text/plain", b"x"), r"completions failed: x\. "),
            ((200, "text/html", b"<p>"), "not a chat completion"),
            (
                (404, "application/json", b'{"error": {"message": "no such model"}}'),
                "no such model",
            ),
            ((301, "text/plain", b""), "Redirects are not followed"),
        ],
    )
    def test_failure_has_the_reason(self, access, provider, raw, words):
        provider.raw = raw
        with pytest.raises(checking.ModelCheckFailed, match=words):
            checking.check_model_access(access)

    def test_rejected_key_is_not_in_the_error(self, access, provider):
        provider.api_key = "another"
        with pytest.raises(checking.ModelCheckFailed, match="Incorrect API key") as refused:
            checking.check_model_access(access)
        assert UPSTREAM_KEY not in str(refused.value.__dict__) + repr(refused.value.__cause__)

    def test_unreachable_server_raises_model_check_failed(self, access):
        access.base_url = "http://127.0.0.1:1/v1"
        with pytest.raises(checking.ModelCheckFailed, match="cannot be reached"):
            checking.check_model_access(access)

    def test_check_without_access_raises_no_model_access(self):
        with pytest.raises(checking.NoModelAccess):
            checking.check_model_access(None)

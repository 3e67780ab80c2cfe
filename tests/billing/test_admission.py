"""The cost limit of a conversation and the number of its calls at the same time."""

import asyncio
from datetime import timedelta
from uuid import UUID, uuid4

import httpx2
import pytest
from asgiref.sync import sync_to_async
from django.db import OperationalError
from django.utils import timezone

from accounts.models import OrganizationSettings, User, UserSettings
from billing import services
from billing.gateway import call as gateway_call
from billing.models import ConversationUsage, GatewayToken, ModelAccess, ModelCall, RunningCall
from billing.services import admission
from tests.billing.conftest import CHAT, bearer, chat, issue_token, wait_for_calls
from tests.waiting import wait_until_async

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def set_limit(alice: User):
    """A function that sets Alice's cost limit in micro-dollars."""

    def set_limit(micros: int | None) -> None:
        values = {} if micros is None else {"max_budget_per_task_micros": micros}
        UserSettings.objects.update_or_create(
            user=alice, organization=alice.personal_organization, defaults={"values": values}
        )

    return set_limit


async def spend(conversation_id: UUID) -> int:
    usage = await ConversationUsage.objects.aget(pk=conversation_id)
    return usage.cost_micros


class TestCostLimit:
    @pytest.mark.parametrize("stream", [False, True])
    async def test_limit_of_one_microdollar_lets_one_call_through(
        self, live, token, access, provider, conversation_id, set_limit, stream
    ):
        await sync_to_async(set_limit)(1)
        request = chat("!usage 40000000 0\n!say hi", stream=stream)  # 40 dollars
        first = await live.post(CHAT, json=request, headers=bearer(token))
        await wait_for_calls(conversation_id)
        others = [await live.post(CHAT, json=request, headers=bearer(token)) for _ in range(2)]

        assert first.status_code == 200
        for refused in others:
            assert refused.status_code == 402
            assert refused.json()["error"] == {
                "message": "This conversation has cost $40.00 and has reached its cost limit of $0.000001, so the "
                "model was not called. To continue, raise the maximum cost per conversation in Settings > Agents "
                "and send a message, or start a new conversation.",
                "type": "budget_reached",
                "param": None,
                "code": "budget_reached",
            }
        assert len(provider.requests) == 1
        assert await spend(conversation_id) == 40_000_000
        assert not await RunningCall.objects.aexists()

    async def test_forty_parallel_calls_with_a_tiny_limit_are_one_call(
        self, live, token, access, provider, conversation_id, set_limit, monkeypatch, settings
    ):
        monkeypatch.setattr(gateway_call, "ADMISSION_PAUSE", 0.05)
        settings.GATEWAY_MAX_CALLS = 100
        await sync_to_async(set_limit)(1)
        request = chat("!usage 3000000 0\n!sleep 0.5\n!say hi")
        answers = await asyncio.gather(
            *(live.post(CHAT, json=request, headers=bearer(token)) for _ in range(40))
        )
        assert sorted(answer.status_code for answer in answers) == [200] + [402] * 39
        assert len(provider.requests) == 1
        assert await spend(conversation_id) == 3_000_000

    async def test_parallel_calls_exceed_the_limit_by_at_most_one_reservation(
        self, live, token, access, provider, conversation_id, set_limit, monkeypatch
    ):
        monkeypatch.setattr(gateway_call, "ADMISSION_PAUSE", 0.05)
        # Each call may cost 0.01 dollars for its completion, and a little for its prompt.
        request = chat("!usage 100 5000\n!sleep 0.1\n!say hi", max_tokens=5_000)
        await sync_to_async(set_limit)(35_000)
        answers = await asyncio.gather(
            *(live.post(CHAT, json=request, headers=bearer(token)) for _ in range(16))
        )
        statuses = [answer.status_code for answer in answers]
        # 3 calls cost 0.0303 dollars, so a fourth begins, and a fifth does not.
        assert (statuses.count(200), statuses.count(402)) == (4, 12)
        assert await spend(conversation_id) == 4 * 10_100
        calls = await wait_for_calls(conversation_id, count=4)
        assert [call.outcome for call in calls] == ["answered"] * 4

    async def test_other_token_of_the_conversation_counts_too(
        self, live, alice, token, access, conversation_id, set_limit
    ):
        await sync_to_async(set_limit)(1)
        other = await sync_to_async(issue_token)(alice, conversation_id)
        await live.post(CHAT, json=chat("!usage 10 0\n!say x"), headers=bearer(token))
        await wait_for_calls(conversation_id)
        refused = await live.post(CHAT, json=chat("!say x"), headers=bearer(other))
        assert refused.status_code == 402
        elsewhere = await sync_to_async(issue_token)(alice, uuid4())
        answer = await live.post(CHAT, json=chat("!say x"), headers=bearer(elsewhere))
        assert answer.status_code == 200

    async def test_raised_limit_lets_the_conversation_continue(
        self, live, token, access, conversation_id, set_limit
    ):
        await sync_to_async(set_limit)(10)
        request = chat("!usage 10 0\n!say x")
        await live.post(CHAT, json=request, headers=bearer(token))
        await wait_for_calls(conversation_id)
        refused = await live.post(CHAT, json=request, headers=bearer(token))
        await sync_to_async(set_limit)(11)
        answer = await live.post(CHAT, json=request, headers=bearer(token))
        assert (refused.status_code, answer.status_code) == (402, 200)

    async def test_limit_that_the_organization_enforces_applies(
        self, live, alice, token, access, conversation_id, set_limit
    ):
        await sync_to_async(set_limit)(10**12)
        await OrganizationSettings.objects.aupdate_or_create(
            organization_id=(await sync_to_async(lambda: alice.personal_organization.pk)()),
            defaults={
                "values": {"max_budget_per_task_micros": 5},
                "enforced": ["max_budget_per_task_micros"],
            },
        )
        request = chat("!usage 10 0\n!say x")
        await live.post(CHAT, json=request, headers=bearer(token))
        await wait_for_calls(conversation_id)
        refused = await live.post(CHAT, json=request, headers=bearer(token))
        assert refused.status_code == 402
        assert "ask an owner or admin of your organization" in refused.json()["error"]["message"]

    async def test_free_models_are_not_limited(
        self, live, alice, token, access, conversation_id, set_limit
    ):
        await sync_to_async(set_limit)(1)
        await live.post(CHAT, json=chat("!usage 10 0\n!say x"), headers=bearer(token))
        await wait_for_calls(conversation_id)
        await ModelAccess.objects.aupdate(
            prompt_micros_per_million=0,
            completion_micros_per_million=0,
            cached_micros_per_million=0,
        )
        answer = await live.post(CHAT, json=chat("!say x"), headers=bearer(token))
        assert answer.status_code == 200

    async def test_call_waits_for_the_reservation_of_another_and_is_429_after_the_maximum_wait(
        self, live, token, access, conversation_id, set_limit, monkeypatch
    ):
        monkeypatch.setattr(gateway_call, "ADMISSION_PAUSE", 0.05)
        monkeypatch.setattr(gateway_call, "ADMISSION_SECONDS", 0.2)
        await sync_to_async(set_limit)(100)
        await RunningCall.objects.acreate(
            organization=access.organization,
            conversation_id=conversation_id,
            reserved_micros=100,
            expires_at=timezone.now() + timedelta(hours=1),
        )
        refused = await live.post(CHAT, json=chat("!say x"), headers=bearer(token))
        assert (refused.status_code, refused.headers["Retry-After"]) == (429, "5")
        assert refused.json()["error"]["code"] == "budget_reserved"
        # The process that made the other call died.
        await RunningCall.objects.aupdate(expires_at=timezone.now())
        answer = await live.post(CHAT, json=chat("!say x"), headers=bearer(token))
        assert answer.status_code == 200

    async def test_waiting_call_that_is_abandoned_leaves_no_reservation(
        self, live, token, access, conversation_id, set_limit
    ):
        await sync_to_async(set_limit)(1)
        running = await RunningCall.objects.acreate(
            organization=access.organization,
            conversation_id=conversation_id,
            reserved_micros=100,
            expires_at=timezone.now() + timedelta(hours=1),
        )
        with pytest.raises(httpx2.ReadTimeout):
            await live.post(CHAT, json=chat("!say x"), headers=bearer(token), timeout=0.3)
        await running.adelete()
        await asyncio.sleep(1)
        assert not await RunningCall.objects.aexists()
        assert not await ModelCall.objects.aexists()


class TestCallsAtTheSameTime:
    async def test_calls_over_the_limit_are_429_and_the_others_are_answered(
        self, live, token, conversation_id, settings
    ):
        settings.GATEWAY_MAX_CALLS = 3
        request = chat("!sleep 2\n!say hi", stream=True)
        running = [
            asyncio.create_task(live.post(CHAT, json=request, headers=bearer(token)))
            for _ in range(3)
        ]

        async def are_running() -> bool:
            return await RunningCall.objects.acount() == 3

        await wait_until_async(are_running, "three calls to run", seconds=10, pause=0.02)
        refused = await live.post(CHAT, json=chat("!say hi"), headers=bearer(token))
        assert (refused.status_code, refused.headers["Retry-After"]) == (429, "2")
        assert refused.json()["error"]["code"] == "too_many_calls"
        assert "GATEWAY_MAX_CALLS" in refused.json()["error"]["message"]
        assert [(await task).status_code for task in running] == [200] * 3
        await wait_for_calls(conversation_id, count=3)
        # The refused call can be repeated, and was not recorded.
        answer = await live.post(CHAT, json=chat("!say hi"), headers=bearer(token))
        assert answer.status_code == 200
        assert len(await wait_for_calls(conversation_id, count=4)) == 4

    async def test_every_way_to_end_a_call_frees_its_place(
        self, live, token, access, provider, conversation_id, settings
    ):
        settings.GATEWAY_MAX_CALLS = 1
        for script in ("!say x", "!fail 500 always", "!fail drop always", "!usage 1 1\n!say x"):
            for stream in (False, True):
                request = chat(script, stream=stream)
                response = await live.post(CHAT, json=request, headers=bearer(token))
                assert response.status_code != 429

                async def is_free() -> bool:
                    return not await RunningCall.objects.aexists()

                await wait_until_async(is_free, "the place to be free", seconds=5, pause=0.02)

    async def test_limit_is_exact_for_parallel_calls(self, live, token, conversation_id, settings):
        settings.GATEWAY_MAX_CALLS = 5
        request = chat("!sleep 1.5\n!say hi")
        answers = await asyncio.gather(
            *(live.post(CHAT, json=request, headers=bearer(token)) for _ in range(12))
        )
        statuses = sorted(answer.status_code for answer in answers)
        assert statuses == [200] * 5 + [429] * 7


class TestServices:
    @pytest.mark.parametrize(
        ("body", "completion"),
        [
            ({}, 16_384),
            ({"max_tokens": 100}, 100),
            ({"max_completion_tokens": 200, "max_tokens": 100}, 200),
            ({"max_tokens": 100, "n": 3}, 300),
            ({"max_tokens": 10**30, "n": 10**30}, 2**31 - 1),
            ({"max_tokens": -1, "n": -1}, 16_384),
            ({"max_tokens": True, "n": "5"}, 16_384),
            ({"max_tokens": 1e300, "n": [1]}, 16_384),
        ],
    )
    def test_estimate_reads_the_maximum_of_the_request(self, body, completion):
        tokens = services.estimate_tokens(body, size=1_001)
        assert (tokens.prompt, tokens.completion) == (500, completion)

    def test_long_call_keeps_its_reservation(self, token, conversation_id):
        row = GatewayToken.objects.get()
        call_id = uuid4()
        services.begin_call(call_id=call_id, token=row, access=None, tokens=admission.Tokens())
        RunningCall.objects.update(expires_at=timezone.now())
        services.extend_call(call_id=call_id)
        assert RunningCall.objects.get().expires_at > timezone.now() + timedelta(minutes=10)

    def test_deleted_conversation_has_no_running_calls(self, token, conversation_id):
        row = GatewayToken.objects.get()
        services.begin_call(call_id=uuid4(), token=row, access=None, tokens=admission.Tokens())
        services.revoke_gateway_tokens(conversation_id=conversation_id)
        assert not RunningCall.objects.exists()


async def test_unreachable_database_at_admission_is_503(live, token, monkeypatch):
    def fail(**_fields):
        raise OperationalError

    monkeypatch.setattr(services, "begin_call", fail)
    response = await live.post(CHAT, json=chat("!say x"), headers=bearer(token))
    assert (response.status_code, response.headers["Retry-After"]) == (503, "2")

"""The caller that a rate limit counts: the one whom the route authenticates, not the one whom a header names."""

import pytest
import time_machine
from django.core.cache import cache
from django.test import Client
from rest_framework.test import APIClient

from accounts import services as accounts
from conversations.services.keys import conversation_key
from lib import limits
from tests.conftest import key_client
from tests.factories.conversations import ConversationFactory

ME = "/api/v1/users/me"
COMPAT = "/api/settings"
MCP = "/mcp"
INVENTED = [
    {"Authorization": "Bearer oh_{n:012x}.x"},
    {"X-API-Key": "oh_{n:012x}.x"},
    {"X-API-Key": "{n}"},
    {"X-Session-API-Key": "oh_{n:012x}.x"},
    {"X-Session-API-Key": "ocs_{n:012x}.x"},
    {"X-Session-API-Key": "{n}"},
    {"Authorization": "Bearer {n}.x.y"},
    {"Authorization": "Bearer ocs_{n:064x}.x"},
    {"Authorization": "Basic {n}"},
    {"X-Forwarded-For": "192.0.2.{n}"},
]


@pytest.fixture(autouse=True)
def clean_counts():
    cache.clear()
    limits.drop_blocks()
    limits._Breaker.open_until = 0.0
    with time_machine.travel("2026-01-01T00:00:10Z", tick=False):
        yield


@pytest.fixture
def rates(settings):
    settings.RATE_LIMITS = {"read": "2/m", "write": "2/m", "keys": "2/m", "spend": "2/m"}


def fill(headers, n):
    return {name: value.format(n=n) for name, value in headers.items()}


def count_429(client, url, headers, *, method="get", times=5):
    calls = (
        getattr(client, method)(url, headers=fill(headers, n), format="json") for n in range(times)
    )
    return [response.status_code for response in calls].count(429)


@pytest.mark.parametrize("headers", INVENTED)
@pytest.mark.parametrize("url", [ME, COMPAT, "/api/v1/conversations", "/settings"])
def test_invented_header_beside_a_session_gets_no_counter_of_its_own(rates, alice, url, headers):
    browser = APIClient()
    browser.force_login(alice)

    assert count_429(browser, url, headers) == 3


@pytest.mark.parametrize("headers", INVENTED)
@pytest.mark.parametrize("url", [ME, COMPAT, "/api/v1/app-conversations/search", MCP])
def test_invented_header_beside_a_key_gets_no_counter_of_its_own(rates, api, alice, url, headers):
    _, token = accounts.issue_api_key(user=alice, name="x")
    # The key is in the header that the invented value leaves free.
    own = "X-API-Key" if "Authorization" in headers else "Authorization"
    value = token if own == "X-API-Key" else f"Bearer {token}"
    client = APIClient(headers={own: value})

    assert count_429(client, url, headers) == 3


@pytest.mark.parametrize("method", ["post", "get"])
def test_invented_bearer_beside_a_session_key_header_counts_for_the_key(rates, alice, method):
    _, token = accounts.issue_api_key(user=alice, name="x")
    client = APIClient(headers={"X-Session-API-Key": token})

    refused = count_429(client, MCP, {"Authorization": "Bearer oh_{n:012x}.x"}, method=method)

    assert refused == 3


def test_invented_bearer_beside_a_conversation_key_counts_for_the_key(rates, alice):
    conversation = ConversationFactory(created_by=alice, organization=alice.personal_organization)
    caller = accounts.authenticate_api_key(accounts.issue_api_key(user=alice, name="x")[1]).user
    token = conversation_key(user=caller, conversation=conversation)
    client = APIClient(headers={"X-Session-API-Key": token})
    url = f"/api/v1/app-conversations?ids={conversation.pk}"

    assert count_429(client, url, {"Authorization": "Bearer oh_{n:012x}.x"}) == 3


@pytest.mark.parametrize("headers", INVENTED[:-2])
def test_anonymous_requests_with_invented_keys_count_for_their_address(rates, db, headers):
    assert count_429(APIClient(), ME, headers) == 3


@pytest.mark.parametrize(
    "header", ["Authorization", "X-API-Key", "X-Session-API-Key"], ids=lambda name: name.lower()
)
@pytest.mark.parametrize("url", [ME, COMPAT, MCP])
def test_nobody_locks_a_key_out_by_its_public_prefix(rates, alice, url, header):
    key, token = accounts.issue_api_key(user=alice, name="x")
    forged = f"{key.prefix}.wrong"
    value = f"Bearer {forged}" if header == "Authorization" else forged
    attacker = Client(REMOTE_ADDR="198.51.100.7")
    for _ in range(5):
        attacker.get(url, headers={header: value})

    owner = Client(headers={"Authorization": f"Bearer {token}"})

    assert owner.get(url).status_code not in (401, 429)


def test_nobody_locks_a_user_out_with_an_unsigned_token(rates, alice):
    attacker = Client(REMOTE_ADDR="198.51.100.7")
    for _ in range(5):
        attacker.get(ME, headers={"Authorization": "Bearer a.b.c"})

    assert key_client(alice).get(ME).status_code == 200


def test_rate_for_new_keys_holds_for_a_session_with_invented_keys(rates, alice):
    browser = APIClient()
    browser.force_login(alice)

    statuses = [
        browser.post(
            "/api/v1/api-keys",
            {"name": "x"},
            format="json",
            headers={"X-API-Key": f"oh_{n:012x}.x"},
        ).status_code
        for n in range(4)
    ]

    assert statuses.count(429) == 2


def test_request_with_a_key_is_authenticated_once(alice, django_assert_num_queries):
    client = key_client(alice)
    client.get(ME)

    with django_assert_num_queries(
        3
    ):  # the key, the user's organizations, the time of the last use
        assert client.get(ME).status_code == 200


def test_command_over_a_socket_counts_for_the_caller_of_requests(rates, alice):
    from accounts.limits import caller_name
    from conversations.realtime import access

    _, token = accounts.issue_api_key(user=alice, name="x")
    caller = access.Credentials(keys=(token,)).user()
    client = APIClient(headers={"Authorization": f"Bearer {token}"})
    for _ in range(2):
        access.count_command(caller)

    assert client.post("/api/v1/conversations", {}, format="json").status_code == 429
    assert caller_name(caller).startswith("key ")

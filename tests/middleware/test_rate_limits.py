"""Rate limits by address, by caller and by route: their counts, headers, and behavior without Redis."""

import pytest
import redis
import time_machine
from django.core.cache import cache
from django.http import HttpRequest
from django.test import Client
from django.urls import get_resolver

from lib import env, limits
from openhands_site.middleware import rate_limits
from tests.conftest import key_client


@pytest.fixture(autouse=True)
def reset_counts():
    cache.clear()
    limits.drop_blocks()
    limits._Breaker.open_until = 0.0
    with time_machine.travel("2026-01-01T00:00:10Z", tick=False):
        yield
    limits._Breaker.open_until = 0.0


@pytest.fixture
def rates(settings):
    def set_rates(**limits_by_name):
        settings.RATE_LIMITS = {
            name.replace("_", " "): rate for name, rate in limits_by_name.items()
        }

    return set_rates


@pytest.fixture
def no_redis(monkeypatch):
    def raise_connection_error(*_args, **_kwargs):
        raise redis.exceptions.ConnectionError

    monkeypatch.setattr(
        redis.connection.UnixDomainSocketConnection, "send_packed_command", raise_connection_error
    )
    monkeypatch.setattr(redis.connection.Connection, "send_packed_command", raise_connection_error)


def test_headers_count_down_and_the_429_has_retry_after(rates, api):
    rates(read="3/m")

    responses = [api.get("/api/v1/users/me") for _ in range(4)]

    assert [a.status_code for a in responses] == [200, 200, 200, 429]
    assert [a.headers["X-RateLimit-Remaining"] for a in responses] == ["2", "1", "0", "0"]
    assert {a.headers["X-RateLimit-Limit"] for a in responses} == {"3"}
    assert responses[3].headers["Retry-After"] == responses[3].headers["X-RateLimit-Reset"]
    assert 1 <= int(responses[3].headers["Retry-After"]) <= 61
    assert "Retry-After" not in responses[2].headers
    assert responses[3].json()["code"] == "too-many-requests"


def test_page_over_the_limit_is_an_html_page(rates, client, alice):
    rates(read="1/m")
    client.force_login(alice)
    client.get("/settings")

    response = client.get("/settings")

    assert response.status_code == 429
    assert "text/html" in response.headers["Content-Type"]
    assert "Too many requests" in response.content.decode()


def test_keys_users_and_addresses_are_counted_separately(rates, alice, bob):
    rates(read="1/m")
    callers = [key_client(alice), key_client(alice), key_client(bob), Client(), Client()]
    callers[3].force_login(alice)

    first = [caller.get("/api/v1/users/me").status_code for caller in callers]
    second = [caller.get("/api/v1/users/me").status_code for caller in callers]

    assert first == [200, 200, 200, 200, 401]
    assert second == [429] * 5


def test_kinds_of_requests_are_counted_separately(rates, api):
    rates(read="1/m", keys="1/m", spend="1/m", write="1/m")

    def send_one_of_each_kind():
        return [
            api.get("/api/v1/users/me").status_code,
            api.post("/api/v1/api-keys", {"name": "x"}, format="json").status_code,
            api.post("/api/v1/settings/model-access/test").status_code,
            api.post("/api/v1/auth/sign-out").status_code,
        ]

    assert send_one_of_each_kind() == [200, 201, 409, 204]
    assert send_one_of_each_kind() == [429] * 4


def test_requests_with_unknown_keys_count_for_their_address(rates, db):
    rates(address="5/m", read="1/m")

    statuses = [
        Client()
        .get("/api/v1/users/me", headers={"Authorization": f"Bearer oh_{n:012x}.x"})
        .status_code
        for n in range(7)
    ]

    assert statuses == [401] + [429] * 6


def test_requests_of_unknown_paths_count_for_their_address(rates, db):
    rates(address="2/m")

    assert [Client().get("/nothing").status_code for _ in range(3)] == [404, 404, 429]


def test_route_with_its_own_rate_is_limited_separately(settings, api):
    settings.RATE_LIMITS = {"GET api/v1/users/me": "1/m"}

    assert api.get("/api/v1/users/me").status_code == 200
    assert api.get("/api/v1/users/me").status_code == 429
    assert api.get("/api/v1/api-keys").status_code == 200


def test_headers_report_the_lowest_of_several_limits(rates, api):
    rates(address="100/m", read="50/m")

    assert api.get("/api/v1/users/me").headers["X-RateLimit-Limit"] == "50"


def test_failed_sign_in_reports_its_own_limit(rates, client, alice, settings):
    settings.SIGN_IN_RATE = "2/m"
    rates(address="100/m")
    form = {"email": "alice@example.com", "password": "wrong"}

    responses = [client.post("/sign-in", form) for _ in range(3)]

    assert [a.status_code for a in responses] == [422, 422, 429]
    assert [a.headers["X-RateLimit-Remaining"] for a in responses] == ["1", "0", "0"]
    assert int(responses[2].headers["Retry-After"]) >= 1


@pytest.mark.parametrize(
    "path", ["/alive", "/metrics", "/static/css/base.css", "/api/llm/v1/models"]
)
def test_exempt_path_is_not_limited(rates, client, db, path):
    rates(address="1/m", read="1/m")

    responses = [client.get(path) for _ in range(3)]
    for response in responses:
        response.close()

    assert 429 not in {response.status_code for response in responses}
    assert "X-RateLimit-Limit" not in responses[-1].headers


def test_without_redis_reads_are_served_and_costly_requests_are_rejected(
    rates, no_redis, api, alice, client
):
    rates(address="100/m", read="100/m", write="100/m", keys="100/m", spend="100/m")
    credentials = {"email": "alice@example.com", "password": "correct horse battery"}

    assert api.get("/api/v1/users/me").status_code == 200
    assert api.post("/api/v1/auth/sign-out").status_code == 204
    for response in (
        api.post("/api/v1/api-keys", {"name": "x"}, format="json"),
        api.post("/api/v1/conversations", {}, format="json"),
        client.post("/sign-in", credentials),
    ):
        assert response.status_code == 503
        assert response.headers["Retry-After"] == "5"
    assert "sessionid" not in client.cookies


def test_open_circuit_breaker_skips_redis(rates, no_redis, api, monkeypatch):
    rates(read="100/m")
    counts = []
    monkeypatch.setattr(limits, "count_in_blocks", lambda *a, **k: counts.append(1))
    limits._Breaker.open_until = float("inf")

    assert api.get("/api/v1/users/me").status_code == 200
    assert not counts


def test_processes_that_reserve_blocks_never_exceed_the_limit(rates, api, monkeypatch):
    rates(read="400/m")  # a process reserves two requests at a time
    processes = [{}, {}]
    allowed, remaining = 0, []
    for n in range(402):
        monkeypatch.setattr(limits, "_blocks", processes[n % 7 == 0])
        usage = limits.count_in_blocks(HttpRequest(), group="read|", value="a caller", rate="400/m")
        allowed += not usage.is_over
        remaining.append(usage.remaining)

    assert allowed == 400
    assert remaining[:3] == [399, 397, 396]
    assert remaining[-1] == 0


def test_requests_of_one_block_take_one_redis_call(rates, monkeypatch):
    sizes = []
    monkeypatch.setattr(cache, "incr", lambda name, size: sizes.append(size) or sum(sizes))
    for _ in range(12):
        limits.count_in_blocks(HttpRequest(), group="read|", value="a caller", rate="1200/m")

    assert sizes == [6, 6]


def count_kilobytes(amount: int, limit: int) -> bool:
    """Count an amount; return whether it fits the limit."""
    usage = limits.count_amount(
        group="published|", value="a team", amount=amount, limit=limit, seconds=60
    )
    return not usage.is_over


def test_amounts_of_processes_that_reserve_blocks_never_exceed_the_limit(monkeypatch):
    processes = [{}, {}]
    counted = 0
    for n in range(400):
        monkeypatch.setattr(limits, "_blocks", processes[n % 7 == 0])
        amount = n % 5 + 1
        counted += amount * count_kilobytes(amount, limit=1_000)

    assert 990 <= counted <= 1_000


def test_amount_over_the_limit_is_not_counted_and_a_smaller_one_fits():
    fits = [count_kilobytes(amount, limit=20) for amount in (15, 6, 30, 5, 1)]

    assert fits == [True, False, False, True, False]


def test_amounts_of_one_block_take_one_redis_call(monkeypatch):
    sizes = []
    monkeypatch.setattr(cache, "incr", lambda name, size: sizes.append(size) or sum(sizes))

    assert all(count_kilobytes(2, limit=2_000) for _ in range(10))
    assert sizes == [10, 10]


def test_routes_that_count_as_keys_and_spend_are_these():
    def list_rates(resolver, before=""):
        for pattern in resolver.url_patterns:
            if hasattr(pattern, "url_patterns"):
                inner = f"{before}{pattern.namespace}:" if pattern.namespace else before
                yield from list_rates(pattern, inner)
            elif pattern.name:
                yield before + pattern.name, rate_limits.select_rate("POST", pattern.callback)

    rates = dict(list_rates(get_resolver()))
    assert {name for name, rate in rates.items() if rate == "keys"} == {
        "v1:api-key-list",
        "api-keys",
    }
    assert {name for name, rate in rates.items() if rate == "spend"} == {
        "v1:conversation-list",
        "v1:conversation-messages",
        "v1:conversation-resume",
        "v1:conversation-confirmation",
        "v1:fork",
        "v1:sandbox-start",
        "v1:sandbox-resume",
        "v1:app-conversation-list",
        "v1:app-conversation-stream-start",
        "v1:sandbox-list",
        "runtime-run",
        "v1:model-access-test",
        "model-servers",
        "home",
        "conversation-act",
        "v0-conversations",
        "v0-start",
        "v0-message",
        "v0-events",
    }


@pytest.mark.parametrize(
    ("text", "rates"),
    [
        ("off", {}),
        ("read=5/m", {"address": "9/m", "read": "5/m"}),
        ("address=off, read=1/10s", {"read": "1/10s"}),
        (
            "GET api/v1/users/me=2/h",
            {"address": "9/m", "read": "9/m", "GET api/v1/users/me": "2/h"},
        ),
    ],
)
def test_setting_replaces_the_named_default_rates(monkeypatch, text, rates):
    monkeypatch.setenv("RATES", text)

    assert env.rates("RATES", {"address": "9/m", "read": "9/m"}) == rates


@pytest.mark.parametrize(
    "text", ["read", "read=5", "read=0/m", "reads=5/m", "read=5/w", "read=-1/m"]
)
def test_invalid_setting_raises(monkeypatch, text):
    monkeypatch.setenv("RATES", text)

    with pytest.raises(env.ImproperlyConfigured):
        env.rates("RATES", {"read": "9/m"})


@pytest.mark.parametrize(
    ("error", "word"),
    [
        (redis.exceptions.OutOfMemoryError("command not allowed"), "memory"),
        (redis.exceptions.ReadOnlyError("You can't write"), "no changes"),
        (redis.exceptions.ResponseError("NOREPLICAS Not enough good replicas"), "no changes"),
        (redis.exceptions.ConnectionError("refused"), "unreachable"),
    ],
)
def test_failure_of_redis_is_named_and_logged_once_a_minute(
    rates, api, monkeypatch, caplog, error, word
):
    def fail(*args, **kwargs):
        raise error

    rates(address="100/m", read="100/m", write="100/m", keys="100/m", spend="100/m")
    monkeypatch.setattr(limits, "get_usage", fail)
    monkeypatch.setattr(cache, "incr", fail)
    monkeypatch.setattr("lib.logs._last_lines", {})

    with caplog.at_level("WARNING", "lib.limits"):
        answers = [api.post("/api/v1/api-keys", {"name": "x"}, format="json") for _ in range(5)]

    assert {answer.status_code for answer in answers} == {503}
    assert word in answers[-1].json()["detail"]
    assert len([line for line in caplog.records if line.name == "lib.limits"]) == 1

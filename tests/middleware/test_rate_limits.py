"""Rates by address, by caller and by route: exact, told in headers, and closed where they must be."""

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
def clean():
    cache.clear()
    limits.drop_blocks()
    limits._Breaker.open_until = 0.0
    with time_machine.travel("2026-01-01T00:00:10Z", tick=False):
        yield
    limits._Breaker.open_until = 0.0


@pytest.fixture
def rates(settings):
    def set_rates(**given):
        settings.RATE_LIMITS = {name.replace("_", " "): rate for name, rate in given.items()}

    return set_rates


@pytest.fixture
def no_redis(monkeypatch):
    def gone(*_args, **_kwargs):
        raise redis.exceptions.ConnectionError

    monkeypatch.setattr(redis.connection.UnixDomainSocketConnection, "send_packed_command", gone)
    monkeypatch.setattr(redis.connection.Connection, "send_packed_command", gone)


def test_headers_count_down_and_429_says_when_to_return(rates, api):
    rates(read="3/m")

    answers = [api.get("/api/v1/users/me") for _ in range(4)]

    assert [a.status_code for a in answers] == [200, 200, 200, 429]
    assert [a.headers["X-RateLimit-Remaining"] for a in answers] == ["2", "1", "0", "0"]
    assert {a.headers["X-RateLimit-Limit"] for a in answers} == {"3"}
    assert answers[3].headers["Retry-After"] == answers[3].headers["X-RateLimit-Reset"]
    assert 1 <= int(answers[3].headers["Retry-After"]) <= 61
    assert "Retry-After" not in answers[2].headers
    assert answers[3].json()["code"] == "too-many-requests"


def test_a_page_says_it_to_people(rates, client, alice):
    rates(read="1/m")
    client.force_login(alice)
    client.get("/settings")

    response = client.get("/settings")

    assert response.status_code == 429
    assert "text/html" in response.headers["Content-Type"]
    assert "Too many requests" in response.content.decode()


def test_keys_users_and_addresses_are_counted_apart(rates, alice, bob):
    rates(read="1/m")
    callers = [key_client(alice), key_client(alice), key_client(bob), Client(), Client()]
    callers[3].force_login(alice)

    first = [caller.get("/api/v1/users/me").status_code for caller in callers]
    second = [caller.get("/api/v1/users/me").status_code for caller in callers]

    assert first == [200, 200, 200, 200, 401]
    assert second == [429] * 5


def test_kinds_are_counted_apart(rates, api):
    rates(read="1/m", keys="1/m", spend="1/m", write="1/m")

    def ask():
        return [
            api.get("/api/v1/users/me").status_code,
            api.post("/api/v1/api-keys", {"name": "x"}, format="json").status_code,
            api.post("/api/v1/settings/model-access/test").status_code,
            api.post("/api/v1/auth/sign-out").status_code,
        ]

    assert ask() == [200, 201, 409, 204]
    assert ask() == [429] * 4


def test_invented_keys_do_not_escape_the_limit_of_the_address(rates, db):
    rates(address="5/m", read="1/m")

    statuses = [
        Client()
        .get("/api/v1/users/me", headers={"Authorization": f"Bearer oh_{n:012x}.x"})
        .status_code
        for n in range(7)
    ]

    assert statuses == [401] * 5 + [429] * 2


def test_unknown_addresses_count_too(rates, db):
    rates(address="2/m")

    assert [Client().get("/nothing").status_code for _ in range(3)] == [404, 404, 429]


def test_one_route_may_have_its_own_rate(settings, api):
    settings.RATE_LIMITS = {"GET api/v1/users/me": "1/m"}

    assert api.get("/api/v1/users/me").status_code == 200
    assert api.get("/api/v1/users/me").status_code == 429
    assert api.get("/api/v1/api-keys").status_code == 200


def test_the_tightest_limit_is_the_one_that_is_told(rates, api):
    rates(address="100/m", read="50/m")

    assert api.get("/api/v1/users/me").headers["X-RateLimit-Limit"] == "50"


def test_signing_in_tells_its_limit(rates, client, alice, settings):
    settings.SIGN_IN_RATE = "2/m"
    rates(address="100/m")
    form = {"email": "alice@example.com", "password": "wrong"}

    answers = [client.post("/sign-in", form) for _ in range(3)]

    assert [a.status_code for a in answers] == [422, 422, 429]
    assert [a.headers["X-RateLimit-Remaining"] for a in answers] == ["1", "0", "0"]
    assert int(answers[2].headers["Retry-After"]) >= 1


@pytest.mark.parametrize(
    "path", ["/alive", "/metrics", "/static/css/base.css", "/api/llm/v1/models"]
)
def test_what_is_exempt(rates, client, db, path):
    rates(address="1/m", read="1/m")

    answers = [client.get(path) for _ in range(3)]
    for answer in answers:
        answer.close()

    assert 429 not in {answer.status_code for answer in answers}
    assert "X-RateLimit-Limit" not in answers[-1].headers


def test_without_redis_reading_is_open_and_what_costs_is_closed(
    rates, no_redis, api, alice, client
):
    rates(address="100/m", read="100/m", write="100/m", keys="100/m", spend="100/m")
    credentials = {"email": "alice@example.com", "password": "correct horse battery"}

    assert api.get("/api/v1/users/me").status_code == 200
    assert api.post("/api/v1/auth/sign-out").status_code == 204
    for refused in (
        api.post("/api/v1/api-keys", {"name": "x"}, format="json"),
        api.post("/api/v1/conversations", {}, format="json"),
        client.post("/sign-in", credentials),
    ):
        assert refused.status_code == 503
        assert refused.headers["Retry-After"] == "5"
    assert "sessionid" not in client.cookies


def test_one_failure_spares_the_next_reader_the_wait(rates, no_redis, api, monkeypatch):
    rates(read="100/m")
    asked = []
    monkeypatch.setattr(limits, "count_in_blocks", lambda *a, **k: asked.append(1))
    limits._Breaker.open_until = float("inf")

    assert api.get("/api/v1/users/me").status_code == 200
    assert not asked


def test_blocks_of_two_processes_never_let_more_than_the_limit_pass(rates, api, monkeypatch):
    rates(read="400/m")  # two at a time
    processes = [{}, {}]
    passed, remaining = 0, []
    for n in range(402):
        monkeypatch.setattr(limits, "_blocks", processes[n % 7 == 0])
        usage = limits.count_in_blocks(HttpRequest(), group="read|", value="somebody", rate="400/m")
        passed += not usage.is_over
        remaining.append(usage.remaining)

    assert passed == 400
    assert remaining[:3] == [399, 397, 396]
    assert remaining[-1] == 0


def test_a_block_spares_redis(rates, monkeypatch):
    asked = []
    monkeypatch.setattr(cache, "incr", lambda name, size: asked.append(size) or sum(asked))
    for _ in range(12):
        limits.count_in_blocks(HttpRequest(), group="read|", value="somebody", rate="1200/m")

    assert asked == [6, 6]


def test_named_routes_count_against_these_rates():
    def names(resolver, before=""):
        for pattern in resolver.url_patterns:
            if hasattr(pattern, "url_patterns"):
                inner = f"{before}{pattern.namespace}:" if pattern.namespace else before
                yield from names(pattern, inner)
            elif pattern.name:
                yield before + pattern.name, rate_limits.select_rate("POST", pattern.callback)

    rates = dict(names(get_resolver()))
    assert {name for name, rate in rates.items() if rate == "keys"} == {
        "v1:api-key-list",
        "api-keys",
    }
    assert {name for name, rate in rates.items() if rate == "spend"} == {
        "v1:conversation-list",
        "v1:conversation-messages",
        "v1:conversation-resume",
        "v1:app-conversation-list",
        "v1:app-conversation-stream-start",
        "v1:sandbox-list",
        "runtime-run",
        "v1:model-access-test",
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
def test_the_setting(monkeypatch, text, rates):
    monkeypatch.setenv("RATES", text)

    assert env.rates("RATES", {"address": "9/m", "read": "9/m"}) == rates


@pytest.mark.parametrize(
    "text", ["read", "read=5", "read=0/m", "reads=5/m", "read=5/w", "read=-1/m"]
)
def test_what_the_setting_does_not_take(monkeypatch, text):
    monkeypatch.setenv("RATES", text)

    with pytest.raises(env.ImproperlyConfigured):
        env.rates("RATES", {"read": "9/m"})

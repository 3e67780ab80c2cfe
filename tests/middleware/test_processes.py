"""Rate limits and body limits of real web processes, which share their counts through Redis."""

import concurrent.futures
import time

import httpx2
import pytest

from accounts import services
from openhands_site.operating import embedded
from tests.fakes.processes import webs
from tests.fakes.stack import figure

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.timeout(170)]
PROCESSES, REQUESTS, RATE = 4, 200, 10


def test_four_processes_share_one_rate_limit_and_reject_costly_requests_without_redis(
    alice, tmp_path
):
    _, key = services.issue_api_key(user=alice, name="parallel")
    server = embedded.Redis(tmp_path, tmp_path)
    server.start()
    environment = {
        "REDIS_URL": server.url,
        "RATE_LIMITS": f"read={RATE}/m,address=off,write=off,keys=100/m,spend=100/m",
        # A request is served uncounted if Redis does not respond in time, which happens on a busy machine.
        "REDIS_TIMEOUT_MS": "10000",
        "PUBLIC_URL": "http://127.0.0.1",
        "SESSION_SECONDS": "600",
    }
    with webs(PROCESSES, tmp_path, **environment) as urls:
        headers = {"Authorization": f"Bearer {key}"}

        def send_request(n):
            return client.get(f"{urls[n % PROCESSES]}/api/v1/users/me", headers=headers)

        with (
            httpx2.Client(timeout=60, trust_env=False) as client,
            concurrent.futures.ThreadPoolExecutor(50) as pool,
        ):
            # The requests must fall into one window of the limit. If a window ended between them, try the next one.
            for _attempt in range(3):
                started = time.monotonic()
                responses = list(pool.map(send_request, range(REQUESTS)))
                seconds = time.monotonic() - started
                resets = [int(r.headers["X-RateLimit-Reset"]) for r in responses]
                if max(resets) - min(resets) <= seconds + 1 and min(resets) > 1:
                    break
                time.sleep(1.5)
            statuses = [response.status_code for response in responses]
            assert (statuses.count(200), statuses.count(429)) == (RATE, REQUESTS - RATE)
            assert {
                r.headers["Retry-After"].isdigit() for r in responses if r.status_code == 429
            } == {True}

            server.stop()
            time.sleep(0.5)
            read_statuses = [send_request(n).status_code for n in range(8)]
            sign_in_statuses = [sign_in(client, url) for url in urls]
            key_statuses = [
                client.post(
                    f"{url}/api/v1/api-keys", headers=headers, json={"name": "x"}
                ).status_code
                for url in urls
            ]
    figure(
        "rate limit", rate=RATE, requests=REQUESTS, processes=PROCESSES, allowed=statuses.count(200),
        seconds=round(seconds, 2), without_redis={"reading": read_statuses, "sign-in": sign_in_statuses, "keys": key_statuses},
    )  # fmt: skip
    assert read_statuses == [200] * 8
    assert sign_in_statuses == key_statuses == [503] * PROCESSES


def sign_in(client, url):
    """Return the status of a sign-in that must not create a session."""
    token = client.get(f"{url}/api/v1/auth/csrf")
    cookie = token.cookies["XSRF-TOKEN"]
    body = {"email": "alice@example.com", "password": "correct horse battery"}
    headers = {"X-XSRF-TOKEN": cookie, "Cookie": f"XSRF-TOKEN={cookie}"}
    response = client.post(f"{url}/api/v1/auth/sign-in", json=body, headers=headers)
    assert "sessionid" not in response.cookies
    return response.status_code


def test_web_process_limits_chunked_bodies_and_headers(alice, tmp_path):
    _, key = services.issue_api_key(user=alice, name="chunked")
    environment = {"BODY_MAX_BYTES": "4096", "PUBLIC_URL": "http://127.0.0.1"}

    def generate_body(number):
        yield b'{"name": "'
        for _ in range(number):
            yield b"x" * 50
        yield b'"}'

    with (
        webs(1, tmp_path, **environment) as [url],
        httpx2.Client(timeout=30, trust_env=False) as client,
    ):
        headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
        accepted = client.post(f"{url}/api/v1/api-keys", headers=headers, content=generate_body(1))
        rejected = client.post(
            f"{url}/api/v1/api-keys", headers=headers, content=generate_body(200)
        )
        many_headers = client.get(f"{url}/alive", headers={f"X-{n}": "y" for n in range(120)})

    assert (accepted.status_code, accepted.json()["name"]) == (201, "x" * 50)
    assert (rejected.status_code, rejected.json()["code"]) == (413, "too-large")
    assert (many_headers.status_code, many_headers.json()["code"]) == (431, "headers-too-large")
    assert rejected.headers["X-Content-Type-Options"] == "nosniff"

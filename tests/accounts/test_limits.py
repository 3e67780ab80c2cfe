"""Rate limits of sign-in attempts, and the network of a caller that they count by."""

import hashlib
import subprocess
import sys
import threading
import time
from itertools import count

import pytest
import redis
import time_machine
from django.conf import settings
from django.core.cache import cache
from django.test import RequestFactory, override_settings
from django_ratelimit.core import _get_window

from accounts import limits


@pytest.fixture(autouse=True)
def clean_cache():
    cache.clear()


def attempt(email="a@example.com", address="192.0.2.1"):
    limits.check_sign_in(RequestFactory().post("/", REMOTE_ADDR=address), email)


@pytest.fixture
def fixed_clock():
    """Stop the clock, so that no window ends in the middle of a test."""
    with time_machine.travel("2026-01-01T00:00:00Z", tick=False):
        yield


def test_eleventh_attempt_is_429_with_the_time_to_wait(fixed_clock):
    for _ in range(10):
        attempt()

    with pytest.raises(limits.TooManyAttempts) as refused:
        attempt(email="A@example.com ")

    assert refused.value.status == 429
    assert 1 <= refused.value.extra["retry_after"] <= 61


def test_owner_at_another_address_is_not_locked_out(fixed_clock):
    for _ in range(10):
        attempt()

    attempt(address="198.51.100.7")


def test_one_address_can_try_50_accounts_only(fixed_clock):
    for number in range(50):
        attempt(email=f"u{number}@example.com")

    with pytest.raises(limits.TooManyAttempts):
        attempt(email="another@example.com")


def test_201st_attempt_on_an_account_from_many_addresses_is_refused(fixed_clock):
    for number in range(200):
        attempt(address=f"10.0.{number}.1")

    with pytest.raises(limits.TooManyAttempts):
        attempt(address="10.1.0.1")


def test_ten_of_sixty_parallel_attempts_pass(fixed_clock):
    passed = []

    def try_once():
        try:
            attempt()
        except limits.TooManyAttempts:
            return
        passed.append(1)

    threads = [threading.Thread(target=try_once) for _ in range(60)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(passed) == 10


def test_attempt_while_redis_is_unreachable_is_503(monkeypatch):
    def refuse_connection(*_args, **_kwargs):
        raise redis.exceptions.ConnectionError

    monkeypatch.setattr(
        redis.connection.UnixDomainSocketConnection, "send_packed_command", refuse_connection
    )
    monkeypatch.setattr(redis.connection.Connection, "send_packed_command", refuse_connection)

    with pytest.raises(limits.AttemptsNotCounted) as refused:
        attempt()

    assert refused.value.status == 503


@pytest.mark.parametrize(
    ("address", "network"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("2001:db8:0:1:2:3:4:5", "2001:db8:0:1::/64"),
        ("", "unknown"),
        ("nonsense", "unknown"),
    ],
)
def test_client_network_of_an_address(address, network):
    assert limits.client_network(RequestFactory().get("/", REMOTE_ADDR=address)) == network


@pytest.mark.parametrize(
    ("header", "network"),
    [
        (None, "10.0.0.1"),
        ("192.0.2.1", "192.0.2.1"),
        ("198.51.100.66, 192.0.2.1", "192.0.2.1"),
        ("192.0.2.1, nonsense", "unknown"),
    ],
)
def test_address_from_the_proxy_is_the_last_forwarded_one(settings, header, network):
    settings.SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https")
    headers = {"X-Forwarded-For": header} if header else {}
    request = RequestFactory().get("/", REMOTE_ADDR="10.0.0.1", headers=headers)

    assert limits.client_network(request) == network


def test_forwarded_address_without_a_proxy_is_ignored():
    headers = {"X-Forwarded-For": "192.0.2.1"}
    request = RequestFactory().get("/", REMOTE_ADDR="10.0.0.1", headers=headers)

    assert limits.client_network(request) == "10.0.0.1"


@override_settings(SIGN_IN_RATE="2/h")
def test_sign_in_rate_setting_changes_the_limit(fixed_clock):
    attempt()
    attempt()
    with pytest.raises(limits.TooManyAttempts):
        attempt()


ATTEMPTS = """
import sys
from concurrent.futures import ThreadPoolExecutor
import django
django.setup()
from django.test import RequestFactory
from accounts import limits

def attempt(_):
    try:
        limits.check_sign_in(RequestFactory().post("/", REMOTE_ADDR="192.0.2.1"), sys.argv[1])
    except limits.TooManyAttempts:
        return 0
    return 1

print("ready", flush=True)
sys.stdin.readline()
with ThreadPoolExecutor(25) as pool:
    print(sum(pool.map(attempt, range(50))))
"""


def test_200_attempts_over_four_processes_let_exactly_ten_pass():
    """``SIGN_IN_RATE`` limits the whole installation, not each process."""
    email = next(
        email for email in map("u{}@example.com".format, count()) if seconds_left(email) > 30
    )
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", ATTEMPTS, email],
            cwd=settings.BASE_DIR,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(4)
    ]

    assert [process.stdout.readline() for process in processes] == ["ready\n"] * 4
    for process in processes:
        process.stdin.write("go\n")
        process.stdin.flush()
    passed = [int(process.communicate(timeout=60)[0]) for process in processes]

    print(f'{{"passed": {sum(passed)}, "by_process": {passed}}}')
    assert sum(passed) == 10


def seconds_left(email):
    """Return the seconds until the account's window ends; the test must run within one window."""
    request = RequestFactory().get("/", REMOTE_ADDR="192.0.2.1")
    account = hashlib.sha256(email.encode()).hexdigest()
    value = f"{limits.client_network(request)} {account}"
    return _get_window(value, 60) - time.time()

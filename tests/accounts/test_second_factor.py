"""Second factors: codes, services, rate limits, the command that resets."""

import base64
import io
import threading
from datetime import timedelta

import pytest
import time_machine
from django.core.cache import cache
from django.core.management import CommandError, call_command
from django.db import connection
from django.test import RequestFactory
from django.utils import timezone

from accounts import limits
from accounts.models import AuditEntry, RecoveryCode, SecondFactor, UserSession
from accounts.services import second_factor as verbs
from accounts.sign_in import second_step
from lib import resealing
from tests.accounts.second_factor import PASSWORD, current_code, enrol

RFC_SECRET = base64.b32encode(b"12345678901234567890").decode()


@pytest.fixture(autouse=True)
def _clean_cache() -> None:
    cache.clear()


@pytest.fixture
def clock():
    """A stopped clock, which a test can move."""
    with time_machine.travel("2026-01-01T00:00:10Z", tick=False) as stopped:
        yield stopped


def latest_entry(action):
    return AuditEntry.objects.filter(action=action).order_by("-created_at").first()


@pytest.mark.parametrize(
    ("seconds", "code"),
    [
        (59, "94287082"), (1111111109, "07081804"), (1111111111, "14050471"), (1234567890, "89005924"),
        (2000000000, "69279037"), (20000000000, "65353130"),
    ],
)  # fmt: skip
def test_codes_are_those_of_rfc_6238(seconds, code):
    assert verbs.code_at(RFC_SECRET, seconds // 30, digits=8) == code


@pytest.mark.parametrize(("steps", "is_valid"), [(-2, 0), (-1, 1), (0, 1), (1, 1), (2, 0)])
def test_code_of_one_step_before_or_after_is_valid(alice, clock, steps, is_valid):
    enrol(alice)

    if is_valid:
        verbs.verify_second_factor(user=alice, code=current_code(alice, steps=steps))
    else:
        with pytest.raises(verbs.WrongCode):
            verbs.verify_second_factor(user=alice, code=current_code(alice, steps=steps))


def test_used_and_earlier_codes_are_wrong(alice, clock):
    enrol(alice)
    verbs.verify_second_factor(user=alice, code=current_code(alice))

    for steps in (0, -1):
        with pytest.raises(verbs.WrongCode):
            verbs.verify_second_factor(user=alice, code=current_code(alice, steps=steps))

    clock.shift(30)
    verbs.verify_second_factor(user=alice, code=current_code(alice))
    assert latest_entry("second_factor.refused").subject_id == str(alice.pk)


def test_code_that_confirmed_the_factor_cannot_be_used_again(alice, clock):
    verbs.begin_second_factor(user=alice, password=PASSWORD)
    code = current_code(alice)
    verbs.confirm_second_factor(user=alice, code=code)

    with pytest.raises(verbs.WrongCode):
        verbs.verify_second_factor(user=alice, code=code)


@pytest.mark.django_db(transaction=True)
def test_one_of_parallel_requests_with_the_same_code_passes(alice, clock):
    codes = enrol(alice)
    passed = []

    def verify(code):
        try:
            verbs.verify_second_factor(user=alice, code=code)
            passed.append(code)
        except verbs.WrongCode:
            pass
        finally:
            connection.close()

    codes_to_try = [current_code(alice), codes[0]]
    threads = [threading.Thread(target=verify, args=[code]) for code in codes_to_try * 6]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert sorted(passed) == sorted(codes_to_try)


@pytest.mark.parametrize("code", ["", "-", "000000 ", "12345", "abcdef", "½½½½½½", "\0", "x" * 40])
def test_malformed_code_is_wrong(alice, clock, code):
    enrol(alice)
    assert current_code(alice) != "000000"

    with pytest.raises(verbs.WrongCode):
        verbs.verify_second_factor(user=alice, code=code)


def test_recovery_code_is_valid_once_in_any_spelling_and_not_stored(alice, clock):
    codes = enrol(alice)
    assert len(set(codes)) == 10
    assert not set(codes) & set(RecoveryCode.objects.values_list("digest", flat=True))

    verbs.verify_second_factor(user=alice, code=codes[3].upper().replace("-", " "))
    with pytest.raises(verbs.WrongCode):
        verbs.verify_second_factor(user=alice, code=codes[3])

    assert verbs.recovery_codes_left(user=alice) == 9
    assert latest_entry("second_factor.recovery_code_used").after == {"recovery_codes": 9}


def test_recovery_code_of_another_user_is_wrong(alice, charlie, clock):
    codes = enrol(alice)
    enrol(charlie)

    with pytest.raises(verbs.WrongCode):
        verbs.verify_second_factor(user=charlie, code=codes[0])


def test_unconfirmed_factor_is_not_in_use(alice, clock):
    verbs.begin_second_factor(user=alice, password=PASSWORD)

    assert not verbs.has_second_factor(user=alice)
    with pytest.raises(verbs.WrongCode):
        verbs.confirm_second_factor(user=alice, code=current_code(alice, steps=5))
    with pytest.raises(verbs.WrongCode):
        verbs.verify_second_factor(user=alice, code=current_code(alice))


def test_begin_needs_the_password_and_no_confirmed_factor(alice, clock):
    with pytest.raises(verbs.NotYourPassword):
        verbs.begin_second_factor(user=alice, password="wrong")
    with pytest.raises(verbs.NoSecondFactor):
        verbs.confirm_second_factor(user=alice, code="123456")
    enrol(alice)
    with pytest.raises(verbs.SecondFactorExists):
        verbs.begin_second_factor(user=alice, password=PASSWORD)
    with pytest.raises(verbs.SecondFactorExists):
        verbs.confirm_second_factor(user=alice, code=current_code(alice))


def test_account_without_a_password_cannot_begin(alice):
    alice.set_unusable_password()
    alice.save()

    with pytest.raises(verbs.NotYourPassword):
        verbs.begin_second_factor(user=alice, password="")


def test_removal_needs_a_valid_code(alice, clock):
    enrol(alice)
    with pytest.raises(verbs.WrongCode):
        verbs.remove_second_factor(user=alice, code=current_code(alice, steps=9))
    assert verbs.has_second_factor(user=alice)

    verbs.remove_second_factor(user=alice, code=current_code(alice))

    assert not SecondFactor.objects.exists()
    assert latest_entry("second_factor.removed")


def test_secret_is_in_a_resealable_column(alice):
    verbs.begin_second_factor(user=alice, password=PASSWORD)
    column = next(c for c in resealing.columns() if str(c) == "accounts_secondfactor.sealed_secret")

    keys, broken = resealing.audit(column)

    assert (dict(keys), broken) == ({"k1": 1}, [])


def test_enrolment_uri_has_the_otpauth_format(alice):
    factor = verbs.begin_second_factor(user=alice, password=PASSWORD)

    assert verbs.enrolment_uri(factor=factor, account="a+b@example.com") == (
        f"otpauth://totp/Agent%20Server:a%2Bb@example.com?secret={factor.secret}"
        "&issuer=Agent%20Server&digits=6&period=30"
    )


def test_reset_command_needs_a_reason_and_ends_the_sessions(alice, client, clock):
    enrol(alice)
    client.force_login(alice)

    with pytest.raises(CommandError, match="enter a text of 1 to 1000 characters"):
        call_command("reset_second_factor", email=alice.email, reason=" ")
    call_command(
        "reset_second_factor", email="ALICE@example.com", reason="lost phone", stdout=io.StringIO()
    )

    assert not SecondFactor.objects.exists()
    assert latest_entry("second_factor.reset").reason == "lost phone"
    assert client.get("/settings").status_code == 302
    with pytest.raises(CommandError, match="no second factor"):
        call_command("reset_second_factor", email=alice.email, reason="again")


# --- Limits -------------------------------------------------------------------------


def count_attempt(user, code="000000", address="192.0.2.1"):
    second_step.count_attempt(RequestFactory().post("/", REMOTE_ADDR=address), user, code)


def test_21st_attempt_of_an_address_within_an_hour_is_refused(alice, clock):
    for _ in range(20):
        count_attempt(alice)

    with pytest.raises(limits.TooManyAttempts) as refused:
        count_attempt(alice)
    assert refused.value.extra["retry_after"] <= 3_601


def test_attempts_of_unknown_addresses_do_not_lock_out_the_owner(alice, clock):
    codes = enrol(alice)
    later = timezone.now() + timedelta(seconds=1)
    UserSession.objects.create(
        user=alice, address="203.0.113.5", created_at=later, expires_at=later + timedelta(days=1)
    )
    for number in range(60):
        count_attempt(alice, address=f"198.51.100.{number}")

    with pytest.raises(limits.TooManyAttempts):
        count_attempt(alice, address="192.0.2.1")
    count_attempt(alice, address="203.0.113.5")
    count_attempt(alice, code=codes[0], address="192.0.2.2")


def test_address_of_a_session_before_the_second_factor_is_unknown(alice, clock):
    before = timezone.now() - timedelta(days=1)
    UserSession.objects.create(
        user=alice, address="203.0.113.5", created_at=before, expires_at=before + timedelta(days=9)
    )
    enrol(alice)

    assert not verbs.is_from_known_address(user=alice, address="203.0.113.5")

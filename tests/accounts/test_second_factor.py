"""Second factors: the codes, the verbs, the limits, the command."""

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

PASSWORD = "correct horse battery"
RFC_SECRET = base64.b32encode(b"12345678901234567890").decode()


@pytest.fixture(autouse=True)
def _clean_cache() -> None:
    cache.clear()


@pytest.fixture
def still():
    """A fixed clock; moving it is up to the test."""
    with time_machine.travel("2026-01-01T00:00:10Z", tick=False) as clock:
        yield clock


def code_of(user, *, steps=0):
    """What the user's app shows, so many steps from now."""
    now = int(timezone.now().timestamp()) // 30
    return verbs.code_at(SecondFactor.objects.get(user=user).secret, now + steps)


def enrol(user):
    """A confirmed second factor whose codes from now on are unused; gives the recovery codes."""
    verbs.begin_second_factor(user=user, password=PASSWORD)
    codes = verbs.confirm_second_factor(user=user, code=code_of(user))
    SecondFactor.objects.filter(user=user).update(last_used_step=0)
    return codes


def last(action):
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


@pytest.mark.parametrize(("steps", "is_taken"), [(-2, 0), (-1, 1), (0, 1), (1, 1), (2, 0)])
def test_clocks_may_be_one_step_off(alice, still, steps, is_taken):
    enrol(alice)

    if is_taken:
        verbs.verify_second_factor(user=alice, code=code_of(alice, steps=steps))
    else:
        with pytest.raises(verbs.WrongCode):
            verbs.verify_second_factor(user=alice, code=code_of(alice, steps=steps))


def test_a_code_counts_once_and_so_do_those_before_it(alice, still):
    enrol(alice)
    verbs.verify_second_factor(user=alice, code=code_of(alice))

    for steps in (0, -1):
        with pytest.raises(verbs.WrongCode):
            verbs.verify_second_factor(user=alice, code=code_of(alice, steps=steps))

    still.shift(30)
    verbs.verify_second_factor(user=alice, code=code_of(alice))
    assert last("second_factor.refused").subject_id == str(alice.pk)


def test_the_code_that_confirms_does_not_sign_in(alice, still):
    verbs.begin_second_factor(user=alice, password=PASSWORD)
    code = code_of(alice)
    verbs.confirm_second_factor(user=alice, code=code)

    with pytest.raises(verbs.WrongCode):
        verbs.verify_second_factor(user=alice, code=code)


@pytest.mark.django_db(transaction=True)
def test_of_parallel_requests_with_one_code_one_passes(alice, still):
    codes = enrol(alice)
    passed = []

    def attempt(code):
        try:
            verbs.verify_second_factor(user=alice, code=code)
            passed.append(code)
        except verbs.WrongCode:
            pass
        finally:
            connection.close()

    given = [code_of(alice), codes[0]]
    threads = [threading.Thread(target=attempt, args=[code]) for code in given * 6]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert sorted(passed) == sorted(given)


@pytest.mark.parametrize("code", ["", "-", "000000 ", "12345", "abcdef", "½½½½½½", "\0", "x" * 40])
def test_nonsense_is_refused(alice, still, code):
    enrol(alice)
    assert code_of(alice) != "000000"

    with pytest.raises(verbs.WrongCode):
        verbs.verify_second_factor(user=alice, code=code)


def test_recovery_codes_count_once_in_any_writing_and_are_not_stored(alice, still):
    codes = enrol(alice)
    assert len(set(codes)) == 10
    assert not set(codes) & set(RecoveryCode.objects.values_list("digest", flat=True))

    verbs.verify_second_factor(user=alice, code=codes[3].upper().replace("-", " "))
    with pytest.raises(verbs.WrongCode):
        verbs.verify_second_factor(user=alice, code=codes[3])

    assert verbs.recovery_codes_left(user=alice) == 9
    assert last("second_factor.recovery_code_used").after == {"recovery_codes": 9}


def test_recovery_codes_are_ones_own(alice, charlie, still):
    codes = enrol(alice)
    enrol(charlie)

    with pytest.raises(verbs.WrongCode):
        verbs.verify_second_factor(user=charlie, code=codes[0])


def test_what_is_not_confirmed_does_not_count(alice, still):
    verbs.begin_second_factor(user=alice, password=PASSWORD)

    assert not verbs.has_second_factor(user=alice)
    with pytest.raises(verbs.WrongCode):
        verbs.confirm_second_factor(user=alice, code=code_of(alice, steps=5))
    with pytest.raises(verbs.WrongCode):
        verbs.verify_second_factor(user=alice, code=code_of(alice))


def test_beginning_needs_the_password_and_no_confirmed_one(alice, still):
    with pytest.raises(verbs.NotYourPassword):
        verbs.begin_second_factor(user=alice, password="wrong")
    with pytest.raises(verbs.NoSecondFactor):
        verbs.confirm_second_factor(user=alice, code="123456")
    enrol(alice)
    with pytest.raises(verbs.SecondFactorExists):
        verbs.begin_second_factor(user=alice, password=PASSWORD)
    with pytest.raises(verbs.SecondFactorExists):
        verbs.confirm_second_factor(user=alice, code=code_of(alice))


def test_accounts_without_a_password_have_none(alice):
    alice.set_unusable_password()
    alice.save()

    with pytest.raises(verbs.NotYourPassword):
        verbs.begin_second_factor(user=alice, password="")


def test_removing_needs_a_code(alice, still):
    enrol(alice)
    with pytest.raises(verbs.WrongCode):
        verbs.remove_second_factor(user=alice, code=code_of(alice, steps=9))
    assert verbs.has_second_factor(user=alice)

    verbs.remove_second_factor(user=alice, code=code_of(alice))

    assert not SecondFactor.objects.exists()
    assert last("second_factor.removed")


def test_the_secret_is_sealed_as_resealing_expects(alice):
    verbs.begin_second_factor(user=alice, password=PASSWORD)
    column = next(c for c in resealing.columns() if str(c) == "accounts_secondfactor.sealed_secret")

    keys, broken = resealing.audit(column)

    assert (dict(keys), broken) == ({"k1": 1}, [])


def test_the_uri_is_what_apps_read(alice):
    factor = verbs.begin_second_factor(user=alice, password=PASSWORD)

    assert verbs.enrolment_uri(factor=factor, account="a+b@example.com") == (
        f"otpauth://totp/Agent%20Server:a%2Bb@example.com?secret={factor.secret}"
        "&issuer=Agent%20Server&digits=6&period=30"
    )


def test_the_command_resets_with_a_reason_and_signs_out(alice, client, still):
    enrol(alice)
    client.force_login(alice)

    with pytest.raises(CommandError, match="Enter the reason"):
        call_command("reset_second_factor", email=alice.email, reason=" ")
    call_command(
        "reset_second_factor", email="ALICE@example.com", reason="lost phone", stdout=io.StringIO()
    )

    assert not SecondFactor.objects.exists()
    assert last("second_factor.reset").reason == "lost phone"
    assert client.get("/settings").status_code == 302
    with pytest.raises(CommandError, match="no second factor"):
        call_command("reset_second_factor", email=alice.email, reason="again")


# --- Limits -------------------------------------------------------------------------


def attempt(user, code="000000", address="192.0.2.1"):
    second_step.count_attempt(RequestFactory().post("/", REMOTE_ADDR=address), user, code)


def test_one_address_has_twenty_codes_an_hour(alice, still):
    for _ in range(20):
        attempt(alice)

    with pytest.raises(limits.TooManyAttempts) as refused:
        attempt(alice)
    assert refused.value.extra["retry_after"] <= 3_601


def test_many_addresses_cannot_guess_and_the_owner_is_not_locked_out(alice, still):
    codes = enrol(alice)
    later = timezone.now() + timedelta(seconds=1)
    UserSession.objects.create(
        user=alice, address="203.0.113.5", created_at=later, expires_at=later + timedelta(days=1)
    )
    for number in range(60):
        attempt(alice, address=f"198.51.100.{number}")

    with pytest.raises(limits.TooManyAttempts):
        attempt(alice, address="192.0.2.1")
    attempt(alice, address="203.0.113.5")
    attempt(alice, code=codes[0], address="192.0.2.2")


def test_a_session_from_before_the_second_factor_makes_no_address_known(alice, still):
    before = timezone.now() - timedelta(days=1)
    UserSession.objects.create(
        user=alice, address="203.0.113.5", created_at=before, expires_at=before + timedelta(days=9)
    )
    enrol(alice)

    assert not verbs.is_from_known_address(user=alice, address="203.0.113.5")

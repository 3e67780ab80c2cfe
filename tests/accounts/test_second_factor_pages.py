"""The second step of a sign-in on the pages and the API, its set-up, and the admin site behind it."""

import re
from datetime import timedelta

import pytest
import time_machine
from django.contrib.auth import get_user_model
from django.core.cache import cache
from django.test import Client
from django.utils import timezone

from accounts.models import (
    AuditEntry,
    Identity,
    IdentityProvider,
    ProviderSession,
    SecondFactor,
    UserSession,
)
from accounts.services import second_factor as verbs
from tests.accounts.second_factor import PASSWORD, current_code, enrol
from tests.factories.accounts import UserFactory

SIGN_IN, STEP, PAGE = "/sign-in", "/sign-in/second-factor", "/settings/second-factor"


@pytest.fixture(autouse=True)
def _many_attempts(settings) -> None:
    settings.SIGN_IN_RATE = "1000/m"
    cache.clear()


@pytest.fixture(autouse=True)
def clock():
    with time_machine.travel(timezone.now(), tick=False) as stopped:
        yield stopped


@pytest.fixture
def root(db, settings):
    """A superuser with a password on a server that requires a second factor of staff."""
    settings.STAFF_SECOND_FACTOR = True
    return UserFactory(
        email="root@example.com", password=PASSWORD, is_staff=True, is_superuser=True
    )


def post_password(client, email="alice@example.com", **fields):
    return client.post(SIGN_IN, {"email": email, "password": PASSWORD} | fields)


def is_signed_in(client):
    return client.get("/settings").status_code == 200


def test_password_without_the_code_does_not_sign_in(client, alice):
    enrol(alice)

    answer = post_password(client, next="/settings/model")

    assert answer.headers["Location"] == STEP
    assert not is_signed_in(client)
    assert client.get("/api/v1/users/me").status_code == 401
    assert not UserSession.objects.exists()

    answer = client.post(STEP, {"code": current_code(alice), "next": "https://evil.example"})
    assert answer.headers["Location"] == "/settings/model"
    assert is_signed_in(client)


def test_session_id_changes_at_each_step(client, alice):
    enrol(alice)
    session = client.session
    session["planted"] = "yes"
    session.save()
    ids = [session.session_key]

    post_password(client)
    ids.append(client.session.session_key)
    client.post(STEP, {"code": current_code(alice)})
    ids.append(client.session.session_key)

    assert len(set(ids)) == 3


@pytest.mark.parametrize("code", ["", "000000", "nonsense", "x" * 40])
def test_wrong_code_is_422_and_in_the_audit_log(client, alice, code):
    enrol(alice)
    post_password(client)

    answer = client.post(STEP, {"code": code})

    assert answer.status_code == 422
    assert "wrong or was already used" in answer.text
    assert not is_signed_in(client)
    assert AuditEntry.objects.filter(action="sign_in.failed").count() == 1


def test_recovery_code_signs_in_once(client, alice):
    code = enrol(alice)[0]
    post_password(client)
    assert client.post(STEP, {"code": code}).status_code == 302
    assert is_signed_in(client)

    other = Client()
    post_password(other)
    assert other.post(STEP, {"code": code}).status_code == 422


def test_21st_code_is_429_even_if_it_is_right(client, alice):
    enrol(alice)
    post_password(client)
    answers = [client.post(STEP, {"code": "000000"}) for _ in range(21)]

    assert {answer.status_code for answer in answers[:20]} == {422}
    assert answers[20].status_code == 429
    assert int(answers[20].headers["Retry-After"]) > 0
    assert client.post(STEP, {"code": current_code(alice)}).status_code == 429


def test_second_step_expires_after_five_minutes(client, alice, clock):
    enrol(alice)
    post_password(client)
    clock.shift(301)

    assert client.post(STEP, {"code": current_code(alice)}).headers["Location"] == SIGN_IN
    assert not is_signed_in(client)


@pytest.mark.parametrize("change", ["password", "suspended"])
def test_second_step_ends_with_a_new_password_or_a_suspension(client, alice, change):
    enrol(alice)
    post_password(client)
    if change == "password":
        alice.set_password("another battery staple")
        alice.save()
    else:
        get_user_model().objects.filter(pk=alice.pk).update(is_active=False)

    assert client.post(STEP, {"code": current_code(alice)}).headers["Location"] == SIGN_IN


def test_second_step_without_the_first_redirects_to_sign_in(client, db):
    assert client.get(STEP).headers["Location"] == SIGN_IN
    assert client.post(STEP, {"code": "123456"}).headers["Location"] == SIGN_IN


# --- API ------------------------------------------------------------------------------


def sign_in_by_api(client, **fields):
    body = {"email": "alice@example.com", "password": PASSWORD} | fields
    return client.post("/api/v1/auth/sign-in", body, content_type="application/json")


def test_api_requires_the_code_and_accepts_it_once(client, alice):
    enrol(alice)

    missing, wrong = sign_in_by_api(client), sign_in_by_api(client, code="000000")
    assert (missing.status_code, missing.json()["code"]) == (401, "second-factor-needed")
    assert (wrong.status_code, wrong.json()["code"]) == (401, "wrong-code")
    assert client.get("/api/v1/users/me").status_code == 401

    assert sign_in_by_api(client, code=current_code(alice)).status_code == 200
    assert client.get("/api/v1/users/me").json()["email"] == "alice@example.com"
    assert sign_in_by_api(Client(), code=current_code(alice)).json()["code"] == "wrong-code"


def test_api_does_not_use_up_the_code_with_a_wrong_password(client, alice):
    enrol(alice)

    refused = sign_in_by_api(client, password="wrong", code=current_code(alice))

    assert refused.json()["code"] == "wrong-credentials"
    assert SecondFactor.objects.get().last_used_step == 0


# --- Setting it up --------------------------------------------------------------------


def test_setup_shows_the_secret_and_then_the_recovery_codes_once(client, alice):
    client.force_login(alice)
    assert client.post(PAGE, {"act": "begin", "password": "wrong"}).status_code == 422
    assert client.post(PAGE, {"act": "begin", "password": PASSWORD}).status_code == 302
    page = client.get(PAGE).text
    secret = SecondFactor.objects.get().secret
    assert "<svg" in page
    assert secret in page

    assert client.post(PAGE, {"act": "confirm", "code": "000000"}).status_code == 422
    confirmed = client.post(PAGE, {"act": "confirm", "code": current_code(alice)}).text
    codes = re.findall(r"\b(?:[a-z2-7]{4}-){3}[a-z2-7]{4}\b", confirmed)
    after = client.get(PAGE).text

    assert len(codes) == 10
    assert not any(code in after for code in codes)
    assert secret not in confirmed + after
    assert "10 recovery codes left" in after


def test_removal_needs_a_valid_code(client, alice):
    enrol(alice)
    client.force_login(alice)

    assert client.post(PAGE, {"act": "remove", "code": "000000"}).status_code == 422
    assert verbs.has_second_factor(user=alice)
    assert client.post(PAGE, {"act": "remove", "code": current_code(alice)}).status_code == 302
    assert not verbs.has_second_factor(user=alice)


# --- The admin site -------------------------------------------------------------------


def test_staff_without_a_second_factor_are_redirected_to_the_setup(client, root):
    post_password(client, email=root.email)
    redirect = client.get("/admin/")
    assert redirect.headers["Location"] == f"{PAGE}?next=%2Fadmin%2F"
    page = client.get(redirect.headers["Location"])
    assert "The admin site requires a second factor" in page.text

    client.post(PAGE, {"act": "begin", "password": PASSWORD})
    client.post(PAGE, {"act": "confirm", "code": current_code(root)})

    assert client.get("/admin/").status_code == 200


def test_session_without_the_second_step_is_redirected_to_it(client, root):
    enrol(root)
    client.force_login(root)
    redirect = client.get("/admin/accounts/user/")
    assert redirect.headers["Location"] == f"{STEP}?next=%2Fadmin%2Faccounts%2Fuser%2F"
    assert client.post(STEP, {"code": "000000"}).status_code == 422
    assert client.get("/admin/").status_code == 302

    passed = client.post(STEP, {"code": current_code(root), "next": "/admin/accounts/user/"})

    assert client.get(passed.headers["Location"]).status_code == 200


def test_sign_in_with_the_second_factor_opens_the_admin_site(client, root):
    enrol(root)
    post_password(client, email=root.email)
    client.post(STEP, {"code": current_code(root)})

    assert client.get("/admin/").status_code == 200


def test_second_step_of_an_earlier_session_does_not_count(client, root):
    enrol(root)
    post_password(client, email=root.email)
    client.post(STEP, {"code": current_code(root)})
    client.force_login(root)

    assert client.get("/admin/").status_code == 302


def test_sign_in_form_of_the_admin_site_does_not_bypass_the_second_step(client, root):
    enrol(root)

    answer = client.post(
        "/admin/login/", {"username": root.email, "password": PASSWORD, "next": "/admin/"}
    )

    assert answer.status_code == 200
    assert 'href="/sign-in?next=%2Fadmin%2F"' in answer.text
    assert not is_signed_in(client)


def test_password_suffices_if_the_setting_is_off(client, root, settings):
    settings.STAFF_SECOND_FACTOR = False
    post_password(client, email=root.email)

    assert client.get("/admin/").status_code == 200


def test_session_of_a_provider_needs_no_second_factor(client, root):
    client.force_login(root)
    provider = IdentityProvider.objects.create(
        slug="p", name="P", issuer="https://p.example", client_id="c"
    )
    identity = Identity.objects.create(
        user=root, provider=provider, issuer=provider.issuer, sub="1"
    )
    ProviderSession.objects.create(
        session=UserSession.objects.get(user=root),
        identity=identity,
        access_expires_at=timezone.now() + timedelta(hours=1),
    )

    assert client.get("/admin/").status_code == 200


def test_reset_action_needs_a_reason_and_is_audited(client, root, alice, settings):
    settings.STAFF_SECOND_FACTOR = False
    enrol(alice)
    client.force_login(root)
    form = {"action": "reset", "_selected_action": str(SecondFactor.objects.get().pk)}
    path = "/admin/accounts/secondfactor/"

    assert "Enter the reason" in client.post(path, form, follow=True).text
    assert verbs.has_second_factor(user=alice)
    client.post(path, form | {"reason": "lost phone"})

    assert not verbs.has_second_factor(user=alice)
    entry = AuditEntry.objects.get(action="second_factor.reset")
    assert (entry.reason, entry.actor_id) == ("lost phone", str(root.pk))


def test_staff_cannot_reset_the_second_factor_of_a_superuser(
    client, root, settings, django_user_model
):
    from django.contrib.auth.models import Permission

    settings.STAFF_SECOND_FACTOR = False
    enrol(root)
    staff = UserFactory(is_staff=True)
    staff.user_permissions.set(Permission.objects.filter(codename__endswith="_secondfactor"))
    client.force_login(staff)
    form = {"action": "reset", "_selected_action": str(SecondFactor.objects.get().pk)}

    client.post("/admin/accounts/secondfactor/", form | {"reason": "because"})

    assert verbs.has_second_factor(user=root)

"""The second step of signing in, on the pages and the API; setting it up; the admin desk behind it."""

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
from tests.accounts.test_second_factor import PASSWORD, code_of, enrol
from tests.factories.accounts import UserFactory

SIGN_IN, STEP, PAGE = "/sign-in", "/sign-in/second-factor", "/settings/second-factor"


@pytest.fixture(autouse=True)
def _many_attempts(settings) -> None:
    settings.SIGN_IN_RATE = "1000/m"
    cache.clear()


@pytest.fixture(autouse=True)
def still():
    with time_machine.travel(timezone.now(), tick=False) as clock:
        yield clock


@pytest.fixture
def root(db, settings):
    """Staff with a password, where staff need a second factor."""
    settings.STAFF_SECOND_FACTOR = True
    return UserFactory(
        email="root@example.com", password=PASSWORD, is_staff=True, is_superuser=True
    )


def give_password(client, email="alice@example.com", **more):
    return client.post(SIGN_IN, {"email": email, "password": PASSWORD} | more)


def is_signed_in(client):
    return client.get("/settings").status_code == 200


def test_a_right_password_alone_does_not_sign_in(client, alice):
    enrol(alice)

    answer = give_password(client, next="/settings/model")

    assert answer.headers["Location"] == STEP
    assert not is_signed_in(client)
    assert client.get("/api/v1/users/me").status_code == 401
    assert not UserSession.objects.exists()

    answer = client.post(STEP, {"code": code_of(alice), "next": "https://evil.example"})
    assert answer.headers["Location"] == "/settings/model"
    assert is_signed_in(client)


def test_the_session_id_changes_at_each_step(client, alice):
    enrol(alice)
    session = client.session
    session["planted"] = "yes"
    session.save()
    ids = [session.session_key]

    give_password(client)
    ids.append(client.session.session_key)
    client.post(STEP, {"code": code_of(alice)})
    ids.append(client.session.session_key)

    assert len(set(ids)) == 3


@pytest.mark.parametrize("code", ["", "000000", "nonsense", "x" * 40])
def test_a_wrong_code_is_refused_and_noted(client, alice, code):
    enrol(alice)
    give_password(client)

    answer = client.post(STEP, {"code": code})

    assert answer.status_code == 422
    assert "wrong or was already used" in answer.text
    assert not is_signed_in(client)
    assert AuditEntry.objects.filter(action="sign_in.failed").count() == 1


def test_a_recovery_code_signs_in_once(client, alice):
    code = enrol(alice)[0]
    give_password(client)
    assert client.post(STEP, {"code": code}).status_code == 302
    assert is_signed_in(client)

    other = Client()
    give_password(other)
    assert other.post(STEP, {"code": code}).status_code == 422


def test_codes_are_limited(client, alice):
    enrol(alice)
    give_password(client)
    answers = [client.post(STEP, {"code": "000000"}) for _ in range(21)]

    assert {answer.status_code for answer in answers[:20]} == {422}
    assert answers[20].status_code == 429
    assert int(answers[20].headers["Retry-After"]) > 0
    assert client.post(STEP, {"code": code_of(alice)}).status_code == 429


def test_waiting_ends_after_five_minutes(client, alice, still):
    enrol(alice)
    give_password(client)
    still.shift(301)

    assert client.post(STEP, {"code": code_of(alice)}).headers["Location"] == SIGN_IN
    assert not is_signed_in(client)


@pytest.mark.parametrize("change", ["password", "suspended"])
def test_waiting_ends_with_the_password_and_the_account(client, alice, change):
    enrol(alice)
    give_password(client)
    if change == "password":
        alice.set_password("another battery staple")
        alice.save()
    else:
        get_user_model().objects.filter(pk=alice.pk).update(is_active=False)

    assert client.post(STEP, {"code": code_of(alice)}).headers["Location"] == SIGN_IN


def test_the_second_step_without_the_first_goes_back(client, db):
    assert client.get(STEP).headers["Location"] == SIGN_IN
    assert client.post(STEP, {"code": "123456"}).headers["Location"] == SIGN_IN


# --- API ------------------------------------------------------------------------------


def api_sign_in(client, **more):
    body = {"email": "alice@example.com", "password": PASSWORD} | more
    return client.post("/api/v1/auth/sign-in", body, content_type="application/json")


def test_the_api_asks_for_the_code_and_takes_it(client, alice):
    enrol(alice)

    asked, wrong = api_sign_in(client), api_sign_in(client, code="000000")
    assert (asked.status_code, asked.json()["code"]) == (401, "second-factor-needed")
    assert (wrong.status_code, wrong.json()["code"]) == (401, "wrong-code")
    assert client.get("/api/v1/users/me").status_code == 401

    assert api_sign_in(client, code=code_of(alice)).status_code == 200
    assert client.get("/api/v1/users/me").json()["email"] == "alice@example.com"
    assert api_sign_in(Client(), code=code_of(alice)).json()["code"] == "wrong-code"


def test_the_api_does_not_look_at_the_code_before_the_password(client, alice):
    enrol(alice)

    refused = api_sign_in(client, password="wrong", code=code_of(alice))

    assert refused.json()["code"] == "wrong-credentials"
    assert SecondFactor.objects.get().last_used_step == 0


# --- Setting it up --------------------------------------------------------------------


def test_setting_up_shows_a_picture_and_then_the_codes_once(client, alice):
    client.force_login(alice)
    assert client.post(PAGE, {"act": "begin", "password": "wrong"}).status_code == 422
    assert client.post(PAGE, {"act": "begin", "password": PASSWORD}).status_code == 302
    page = client.get(PAGE).text
    secret = SecondFactor.objects.get().secret
    assert "<svg" in page
    assert secret in page

    assert client.post(PAGE, {"act": "confirm", "code": "000000"}).status_code == 422
    made = client.post(PAGE, {"act": "confirm", "code": code_of(alice)}).text
    codes = re.findall(r"\b(?:[a-z2-7]{4}-){3}[a-z2-7]{4}\b", made)
    after = client.get(PAGE).text

    assert len(codes) == 10
    assert not any(code in after for code in codes)
    assert secret not in made + after
    assert "10 recovery codes left" in after


def test_turning_it_off_takes_a_code(client, alice):
    enrol(alice)
    client.force_login(alice)

    assert client.post(PAGE, {"act": "remove", "code": "000000"}).status_code == 422
    assert verbs.has_second_factor(user=alice)
    assert client.post(PAGE, {"act": "remove", "code": code_of(alice)}).status_code == 302
    assert not verbs.has_second_factor(user=alice)


# --- The admin desk -------------------------------------------------------------------


def test_staff_without_one_are_sent_to_set_one_up_and_then_let_in(client, root):
    give_password(client, email=root.email)
    sent = client.get("/admin/")
    assert sent.headers["Location"] == f"{PAGE}?next=%2Fadmin%2F"
    assert "The admin site requires a second factor" in client.get(sent.headers["Location"]).text

    client.post(PAGE, {"act": "begin", "password": PASSWORD})
    client.post(PAGE, {"act": "confirm", "code": code_of(root)})

    assert client.get("/admin/").status_code == 200


def test_a_session_that_did_not_use_it_is_asked(client, root):
    enrol(root)
    client.force_login(root)
    sent = client.get("/admin/accounts/user/")
    assert sent.headers["Location"] == f"{STEP}?next=%2Fadmin%2Faccounts%2Fuser%2F"
    assert client.post(STEP, {"code": "000000"}).status_code == 422
    assert client.get("/admin/").status_code == 302

    passed = client.post(STEP, {"code": code_of(root), "next": "/admin/accounts/user/"})

    assert client.get(passed.headers["Location"]).status_code == 200


def test_signing_in_with_it_opens_the_desk(client, root):
    enrol(root)
    give_password(client, email=root.email)
    client.post(STEP, {"code": code_of(root)})

    assert client.get("/admin/").status_code == 200


def test_use_in_an_earlier_session_does_not_count(client, root):
    enrol(root)
    give_password(client, email=root.email)
    client.post(STEP, {"code": code_of(root)})
    client.force_login(root)

    assert client.get("/admin/").status_code == 302


def test_the_desks_own_form_is_no_way_around(client, root):
    enrol(root)

    answer = client.post(
        "/admin/login/", {"username": root.email, "password": PASSWORD, "next": "/admin/"}
    )

    assert answer.status_code == 200
    assert 'href="/sign-in?next=%2Fadmin%2F"' in answer.text
    assert not is_signed_in(client)


def test_where_the_setting_is_off_the_password_suffices(client, root, settings):
    settings.STAFF_SECOND_FACTOR = False
    give_password(client, email=root.email)

    assert client.get("/admin/").status_code == 200


def test_sessions_of_a_provider_are_exempt(client, root):
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


def test_staff_reset_with_a_reason(client, root, alice, settings):
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


def test_only_a_superuser_resets_a_superuser(client, root, settings, django_user_model):
    from django.contrib.auth.models import Permission

    settings.STAFF_SECOND_FACTOR = False
    enrol(root)
    staff = UserFactory(is_staff=True)
    staff.user_permissions.set(Permission.objects.filter(codename__endswith="_secondfactor"))
    client.force_login(staff)
    form = {"action": "reset", "_selected_action": str(SecondFactor.objects.get().pk)}

    client.post("/admin/accounts/secondfactor/", form | {"reason": "because"})

    assert verbs.has_second_factor(user=root)

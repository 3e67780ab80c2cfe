"""Attempts to sign in by any spelling of an address, changes of the own account by keys, and mails to others."""

import pytest
from django.core import mail
from django.core.cache import cache
from django.test import Client
from rest_framework.test import APIClient

from accounts import limits
from accounts import services as accounts
from accounts.models import EmailChange, TermsAcceptance
from accounts.roles import PRESETS
from accounts.services import organizations
from tests.conftest import key_client

SPELLINGS = [
    "billing@example.com",
    "BILLING@example.com",
    "bıllıng@example.com",
    "bİlling@example.com",
    "ｂｉｌｌｉｎｇ@example.com",
    "billing@ｅxample.com",
    " billing@example.com\t",
    "\u00a0billing@example.com\u2003",
    "bi\u017fling@example.com",
]


@pytest.fixture(autouse=True)
def clean_counts():
    cache.clear()


@pytest.fixture
def billing(db):
    return accounts.create_user(email="billing@example.com", password="correct horse battery")


@pytest.mark.parametrize("door", ["page", "api", "admin"])
def test_attempts_count_for_the_user_whatever_the_spelling(billing, settings, door):
    settings.SIGN_IN_RATE = "6/h"
    client = Client()
    spellings = [s for s in SPELLINGS if not s.startswith(("bİ", "bi\u017f"))]

    statuses = [try_sign_in(client, door, email, "wrong") for email in spellings]

    assert statuses.count("refused") == 1, statuses
    assert try_sign_in(client, door, "billing@example.com", "correct horse battery") == "refused"


def try_sign_in(client, door, email, password):
    if door == "api":
        body = {"email": email, "password": password}
        response = client.post("/api/v1/auth/sign-in", body, "application/json")
    elif door == "admin":
        response = client.post("/admin/login/", {"username": email, "password": password})
    else:
        response = client.post("/sign-in", {"email": email, "password": password})
    text = response.content.decode()
    return "refused" if response.status_code == 429 or "Too many attempts" in text else "wrong"


def test_every_spelling_that_signs_in_is_counted(billing, settings):
    settings.SIGN_IN_RATE = "1/h"
    for spelling in SPELLINGS:
        cache.clear()
        client = Client()
        form = {"email": spelling, "password": "correct horse battery"}
        if client.post("/sign-in", form).status_code == 302:
            again = Client().post("/sign-in", {"email": "billing@example.com", "password": "x"})
            assert again.status_code == 429, spelling


def test_exact_address_signs_in_before_a_confusable_one(billing):
    other = accounts.create_user(email="zoe@example.com", password="another horse battery")
    type(other).objects.filter(pk=other.pk).update(email="bıllıng@example.com")
    find = type(other).objects.find_for_sign_in

    assert find("billing@example.com") == billing
    assert find("BILLING@EXAMPLE.COM") == billing
    assert find("bıllıng@example.com") == other


@pytest.mark.parametrize(
    "email", ["", " ", "\0", "a\0b@example.com", "\ud800@example.com", "x" * 9_000]
)
def test_text_that_is_no_address_finds_nobody(billing, email):
    assert type(billing).objects.find_for_sign_in(email) is None


CHANGES = [
    ("post", "/api/email", {"email": "new@example.com"}),
    ("put", "/api/email/verify", {}),
    ("post", "/api/accept_tos", {}),
]


@pytest.mark.parametrize(("method", "url", "body"), CHANGES)
@pytest.mark.parametrize("preset", sorted(PRESETS))
def test_key_with_a_preset_changes_no_account(alice, settings, preset, method, url, body):
    settings.TERMS_VERSION = "1"
    client = key_client(alice, scopes=sorted(PRESETS[preset]))

    response = getattr(client, method)(url, body, format="json")

    assert response.status_code == 403
    assert not mail.outbox
    assert not EmailChange.objects.exists()
    assert not TermsAcceptance.objects.exists()


@pytest.mark.parametrize(("method", "url", "body"), CHANGES)
def test_session_changes_the_account(alice, settings, method, url, body):
    settings.TERMS_VERSION = "1"
    client = APIClient()
    client.force_login(alice)
    client.post("/api/email", {"email": "first@example.com"}, format="json")

    assert getattr(client, method)(url, body, format="json").status_code == 200


def test_one_mailbox_gets_five_mails_an_hour_from_all_users_together(alice, charlie):
    statuses = []
    for number in range(4):
        for user in (alice, charlie):
            client = APIClient()
            client.force_login(user)
            address = f"Victim+{number}@Example.com"
            response = client.post("/api/email", {"email": address}, format="json")
            statuses.append(response.status_code)

    assert statuses == [200] * 5 + [429] * 3
    assert len(mail.outbox) == 5


def test_mail_that_is_sent_again_counts_too(alice):
    client = APIClient()
    client.force_login(alice)
    client.post("/api/email", {"email": "victim@example.com"}, format="json")

    statuses = [client.put("/api/email/verify").status_code for _ in range(6)]

    assert statuses == [200] * 4 + [429] * 2


def test_one_user_sends_mails_to_few_addresses(alice, monkeypatch):
    monkeypatch.setattr(limits, "MAIL_SENDER_RATE", "3/h")
    client = APIClient()
    client.force_login(alice)

    statuses = [
        client.post("/api/email", {"email": f"victim{n}@example.com"}, format="json").status_code
        for n in range(4)
    ]

    assert statuses == [200] * 3 + [429]


@pytest.mark.parametrize("door", ["api", "page"])
def test_invitations_by_mail_count_for_the_mailbox(alice, settings, door):
    settings.EMAIL_HOST = "mail.example.com"
    team = organizations.create_organization(user=alice, name="Team")
    client = APIClient()
    client.force_login(alice)
    url = f"/api/v1/organizations/{team.pk}/invitations"
    body = {"role": "viewer", "email": "victim@example.com", "days": 7, "max_uses": 1}
    if door == "page":
        client, url = Client(), f"/settings/organizations/{team.pk}/invite"
        client.force_login(alice)

    for _ in range(7):
        client.post(url, body) if door == "page" else client.post(url, body, format="json")

    assert len(mail.outbox) == 5
    assert team.invitations.count() == 5

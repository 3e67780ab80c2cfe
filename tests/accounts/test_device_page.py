"""`/device`: where a person approves or denies a program."""

import pytest
from django.core.cache import cache
from django.test import Client

from accounts.models import AuditEntry, DeviceGrant, Membership
from accounts.services import devices, organizations


@pytest.fixture(autouse=True)
def clean_cache(db):
    cache.clear()


@pytest.fixture
def codes(db):
    return devices.start_device_sign_in(
        client_name="tool <b>", scopes=["account.view"], address="192.0.2.9"
    )


def browser(user, **options):
    client = Client(**options)
    client.force_login(user)
    return client


def decide(user, codes, decision, **form):
    form = {"user_code": codes.user_code, "decision": decision} | form
    return browser(user).post("/device", form)


def status():
    return DeviceGrant.objects.get().status


def test_strangers_sign_in_first_and_come_back(client, codes):
    answer = client.get("/device", {"user_code": codes.user_code})

    assert answer.status_code == 302
    assert answer.headers["Location"].startswith("/sign-in?next=/device%3Fuser_code%3D")


def test_complete_address_shows_who_asks_and_approves_nothing(alice, codes):
    page = browser(alice).get("/device", {"user_code": codes.user_code, "decision": "approve"})

    assert page.status_code == 200
    for text in ("tool &lt;b&gt;", "192.0.2.9", "account.view", codes.user_code, "Approve", "Deny"):
        assert text in page.text
    assert status() == "pending"


def test_entering_a_code_approves_nothing(alice, codes):
    page = browser(alice).post("/device", {"user_code": codes.user_code.lower().replace("-", " ")})

    assert "tool &lt;b&gt;" in page.text
    assert status() == "pending"


def test_without_a_code_there_is_a_form(alice):
    assert 'name="user_code"' in browser(alice).get("/device").text


def test_approving_in_a_chosen_organization(alice, codes):
    team = organizations.create_organization(user=alice, name="Team")

    page = decide(alice, codes, "approve", organization=str(team.pk))

    grant = DeviceGrant.objects.get()
    assert "Approved “" in page.text
    assert (grant.status, grant.user, grant.organization) == ("approved", alice, team)
    entry = AuditEntry.objects.get(action="device.approved")
    assert (entry.chain, entry.actor_id) == (team.pk, str(alice.pk))
    assert entry.after["client"] == "tool <b>"


def test_denying(alice, codes):
    page = decide(alice, codes, "deny")

    assert "Denied" in page.text
    assert status() == "denied"
    assert AuditEntry.objects.get(action="device.denied").actor_id == str(alice.pk)
    assert decide(alice, codes, "approve").status_code == 404
    assert status() == "denied"


def test_forms_need_their_csrf_token(alice, codes):
    client = browser(alice, enforce_csrf_checks=True)

    answer = client.post("/device", {"user_code": codes.user_code, "decision": "approve"})

    assert answer.status_code == 403
    assert status() == "pending"


def test_organization_of_others_cannot_be_chosen(alice, charlie, codes):
    answer = decide(alice, codes, "approve", organization=str(charlie.personal_organization.pk))

    assert answer.status_code == 404
    assert status() == "pending"


def test_who_may_make_no_keys_approves_none(alice, charlie, codes):
    team = organizations.create_organization(user=alice, name="Team")
    Membership.objects.create(organization=team, user=charlie, role="viewer")

    answer = decide(charlie, codes, "approve", organization=str(team.pk))

    assert answer.status_code == 403
    assert "api_keys.edit" in answer.text
    assert status() == "pending"


def test_nothing_of_what_is_asked_is_not_everything(alice, charlie):
    team = organizations.create_organization(user=alice, name="Team")
    Membership.objects.create(organization=team, user=charlie, role="member")
    codes = devices.start_device_sign_in(client_name="tool", scopes=["members.edit"])

    answer = decide(charlie, codes, "approve", organization=str(team.pk))

    assert answer.status_code == 403
    assert status() == "pending"


def test_codes_cannot_be_guessed_for_long(alice, charlie, codes):
    client = browser(alice)

    statuses = [client.get("/device", {"user_code": "BBBB-BBBB"}).status_code for _ in range(11)]

    last = client.get("/device", {"user_code": codes.user_code})
    assert statuses == [404] * 10 + [429]
    assert last.status_code == 429
    assert int(last.headers["Retry-After"]) > 0
    assert browser(charlie).get("/device", {"user_code": codes.user_code}).status_code == 200


def test_decision_that_is_none_is_refused(alice, codes):
    answer = decide(alice, codes, "perhaps")

    assert answer.status_code == 422
    assert 'role="alert"' in answer.text
    assert status() == "pending"

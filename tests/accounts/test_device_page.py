"""The page ``/device``, on which a person approves or denies a program."""

import pytest
import time_machine
from django.core.cache import cache
from django.test import Client
from django.utils import timezone

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


def open_browser(user, **options):
    client = Client(**options)
    client.force_login(user)
    return client


def post_decision(user, codes, decision, **form):
    form = {"user_code": codes.user_code, "decision": decision} | form
    return open_browser(user).post("/device", form)


def read_status():
    return DeviceGrant.objects.get().status


def test_anonymous_visitor_is_sent_to_sign_in_and_back_with_the_code(client, codes):
    answer = client.get("/device", {"user_code": codes.user_code})

    assert answer.status_code == 302
    assert answer.headers["Location"].startswith("/sign-in?next=/device%3Fuser_code%3D")


def test_complete_address_shows_the_program_and_approves_nothing(alice, codes):
    page = open_browser(alice).get("/device", {"user_code": codes.user_code, "decision": "approve"})

    assert page.status_code == 200
    for text in ("tool &lt;b&gt;", "192.0.2.9", "account.view", codes.user_code, "Approve", "Deny"):
        assert text in page.text
    assert read_status() == "pending"


def test_entering_a_code_shows_the_program_and_approves_nothing(alice, codes):
    page = open_browser(alice).post(
        "/device", {"user_code": codes.user_code.lower().replace("-", " ")}
    )

    assert "tool &lt;b&gt;" in page.text
    assert read_status() == "pending"


def test_page_without_a_code_has_a_form(alice):
    assert 'name="user_code"' in open_browser(alice).get("/device").text


def test_approval_is_for_the_chosen_organization_and_in_the_audit_log(alice, codes):
    team = organizations.create_organization(user=alice, name="Team")

    page = post_decision(alice, codes, "approve", organization=str(team.pk))

    grant = DeviceGrant.objects.get()
    assert "Approved “" in page.text
    assert (grant.status, grant.user, grant.organization) == ("approved", alice, team)
    entry = AuditEntry.objects.get(action="device.approved")
    assert (entry.chain, entry.actor_id) == (team.pk, str(alice.pk))
    assert entry.after["client"] == "tool <b>"


def test_denial_is_final_and_in_the_audit_log(alice, codes):
    page = post_decision(alice, codes, "deny")

    assert "Denied" in page.text
    assert read_status() == "denied"
    assert AuditEntry.objects.get(action="device.denied").actor_id == str(alice.pk)
    assert post_decision(alice, codes, "approve").status_code == 404
    assert read_status() == "denied"


def test_decision_without_csrf_token_is_403(alice, codes):
    client = open_browser(alice, enforce_csrf_checks=True)

    answer = client.post("/device", {"user_code": codes.user_code, "decision": "approve"})

    assert answer.status_code == 403
    assert read_status() == "pending"


def test_organization_without_membership_is_404(alice, charlie, codes):
    answer = post_decision(
        alice, codes, "approve", organization=str(charlie.personal_organization.pk)
    )

    assert answer.status_code == 404
    assert read_status() == "pending"


def test_role_without_api_keys_edit_cannot_approve(alice, charlie, codes):
    team = organizations.create_organization(user=alice, name="Team")
    Membership.objects.create(organization=team, user=charlie, role="viewer")

    answer = post_decision(charlie, codes, "approve", organization=str(team.pk))

    assert answer.status_code == 403
    assert "api_keys.edit" in answer.text
    assert read_status() == "pending"


def test_role_with_none_of_the_requested_scopes_cannot_approve(alice, charlie):
    team = organizations.create_organization(user=alice, name="Team")
    Membership.objects.create(organization=team, user=charlie, role="member")
    codes = devices.start_device_sign_in(client_name="tool", scopes=["members.edit"])

    answer = post_decision(charlie, codes, "approve", organization=str(team.pk))

    assert answer.status_code == 403
    assert read_status() == "pending"


def test_eleventh_unknown_code_of_a_user_is_429(alice, charlie, codes):
    client = open_browser(alice)

    # The clock is stopped, so that the window of the limit does not end in the middle.
    with time_machine.travel(timezone.now(), tick=False):
        pages = [client.get("/device", {"user_code": "BBBB-BBBB"}) for _ in range(11)]
        response = client.get("/device", {"user_code": codes.user_code})

    statuses = [page.status_code for page in pages]
    assert statuses == [404] * 10 + [429]
    assert response.status_code == 429
    assert int(response.headers["Retry-After"]) > 0
    assert open_browser(charlie).get("/device", {"user_code": codes.user_code}).status_code == 200


def test_unknown_decision_is_422(alice, codes):
    answer = post_decision(alice, codes, "perhaps")

    assert answer.status_code == 422
    assert 'role="alert"' in answer.text
    assert read_status() == "pending"

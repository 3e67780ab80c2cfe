"""`POST /api/v1/auth/device/token`: polling until there is a key."""

import threading
from datetime import timedelta

import pytest
import time_machine
from django.db import connections
from django.utils import timezone
from rest_framework.test import APIClient

from accounts import services
from accounts.models import ApiKey, AuditEntry, DeviceGrant, Membership
from accounts.services import devices, organizations
from lib.problems import Problem
from tests.factories.accounts import UserFactory

PATH = "/api/v1/auth/device/token"
START = "2026-01-01T00:00:00Z"


def poll(codes):
    return APIClient().post(PATH, {"device_code": codes.device_code}, format="json")


def ask(*scopes):
    return devices.start_device_sign_in(client_name="tool", scopes=scopes, address="192.0.2.9")


def approve(codes, user, organization=None):
    organization = organization or user.personal_organization
    devices.approve_device(user_code=codes.user_code, user=user, organization=organization)


def refusal(answer):
    assert answer.status_code == 400
    body = answer.json()
    assert answer.headers["Content-Type"].startswith("application/problem+json")
    assert body["status"] == 400
    assert body["detail"].endswith(".")
    return body["error"]


def test_pending_then_approved_gives_a_working_key_once(alice):
    codes = ask("account.view", "files.view")
    assert refusal(poll(codes)) == "authorization_pending"
    approve(codes, alice)

    answer = poll(codes)

    body = answer.json()
    assert answer.status_code == 200
    assert answer.headers["Cache-Control"] == "no-store"
    assert (body["token_type"], body["scope"]) == ("Bearer", "account.view files.view")
    assert 89 * 86_400 < body["expires_in"] <= 90 * 86_400
    key = APIClient(headers={"Authorization": f"Bearer {body['access_token']}"})
    assert key.get("/api/v1/users/me").json()["email"] == alice.email
    assert key.get("/api/v1/conversations").status_code == 403
    assert refusal(poll(codes)) == "invalid_grant"
    assert ApiKey.objects.count() == 1


def test_without_scopes_the_key_follows_the_role(alice):
    codes = ask()
    approve(codes, alice)

    body = poll(codes).json()

    assert ApiKey.objects.get().scopes == []
    assert "conversations.create" in body["scope"].split()


def test_key_has_no_more_than_its_owner_holds(alice, bob):
    codes = ask("account.view", "members.edit")
    approve(codes, bob, alice.personal_organization)

    assert poll(codes).json()["scope"] == "account.view"
    assert ApiKey.objects.get().scopes == ["account.view"]


def test_asking_too_often_slows_down(db):
    with time_machine.travel(START, tick=False) as clock:
        codes = ask()
        assert refusal(poll(codes)) == "authorization_pending"
        clock.shift(2)
        early = poll(codes)
        assert refusal(early) == "slow_down"
        assert early.json()["interval"] == 10
        assert early.headers["Retry-After"] == "10"
        clock.shift(6)  # enough for the first interval, not for the one that it became
        assert refusal(poll(codes)) == "slow_down"
        clock.shift(15)
        assert refusal(poll(codes)) == "authorization_pending"


def test_denied(alice):
    codes = ask()
    devices.deny_device(user_code=codes.user_code, user=alice)

    assert refusal(poll(codes)) == "access_denied"
    assert refusal(poll(codes)) == "access_denied"


@pytest.mark.parametrize("is_approved", [False, True])
def test_expired(alice, is_approved):
    codes = ask()
    if is_approved:
        approve(codes, alice)
    DeviceGrant.objects.update(expires_at=timezone.now() - timedelta(seconds=1))

    assert refusal(poll(codes)) == "expired_token"
    assert not ApiKey.objects.exists()


@pytest.mark.parametrize(
    "code", ["x", "x.y", "018f000000007000800000000000000.x", "\u00e9.\u0000a"]
)
def test_unknown(db, code):
    answer = APIClient().post(PATH, {"device_code": code}, format="json")

    assert answer.status_code == 400
    assert answer.json()["code"] in ("invalid-grant", "invalid")


def test_right_grant_with_wrong_secret(alice):
    codes = ask()
    approve(codes, alice)
    wrong = codes.device_code[:-1] + ("A" if codes.device_code[-1] != "A" else "B")

    answer = APIClient().post(PATH, {"device_code": wrong}, format="json")

    assert refusal(answer) == "invalid_grant"
    assert poll(codes).status_code == 200


@pytest.mark.parametrize("loss", ["suspended", "removed", "lower role"])
def test_who_lost_the_right_since_gives_no_key(alice, loss):
    team = organizations.create_organization(user=alice, name="Team")
    user = UserFactory()
    Membership.objects.create(organization=team, user=user, role="member")
    codes = ask()
    approve(codes, user, team)
    if loss == "suspended":
        services.suspend_user(user=user)
    elif loss == "removed":
        organizations.remove_member(organization=team, by=alice, user_id=user.pk)
    else:
        organizations.change_role(organization=team, by=alice, user_id=user.pk, role="viewer")

    assert refusal(poll(codes)) == "access_denied"
    assert not ApiKey.objects.exists()


def test_audit_names_who_approved(alice):
    codes = ask()
    approve(codes, alice)
    poll(codes)

    entry = AuditEntry.objects.get(action="api_key.created")
    assert (entry.actor_kind, entry.actor_id) == ("person", str(alice.pk))
    assert entry.reason == f"device sign-in {codes.grant.pk}"
    assert entry.address == "127.0.0.1"
    assert entry.chain == alice.personal_organization.pk


@pytest.mark.django_db(transaction=True)
def test_of_many_polls_at_once_one_gets_the_key():
    codes = ask()
    approve(codes, UserFactory())
    got, refused, gate = [], [], threading.Barrier(6)

    def run():
        gate.wait()
        try:
            got.append(devices.fetch_device_key(device_code=codes.device_code))
        except Problem as error:
            refused.append(error.extra["error"])
        finally:
            connections.close_all()

    threads = [threading.Thread(target=run) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(got) == 1
    assert refused == ["invalid_grant"] * 5
    assert ApiKey.objects.count() == 1

"""``POST /api/v1/auth/device/token``: polling for the key of an approved program."""

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


def start_sign_in(*scopes):
    return devices.start_device_sign_in(client_name="tool", scopes=scopes, address="192.0.2.9")


def approve(codes, user, organization=None):
    organization = organization or user.personal_organization
    devices.approve_device(user_code=codes.user_code, user=user, organization=organization)


def read_error(answer):
    assert answer.status_code == 400
    body = answer.json()
    assert answer.headers["Content-Type"].startswith("application/problem+json")
    assert body["status"] == 400
    assert body["detail"].endswith(".")
    return body["error"]


def test_approved_code_returns_a_working_key_once(alice):
    codes = start_sign_in("account.view", "files.view")
    assert read_error(poll(codes)) == "authorization_pending"
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
    assert read_error(poll(codes)) == "invalid_grant"
    assert ApiKey.objects.count() == 1


def test_key_requested_without_scopes_has_those_of_the_role(alice):
    codes = start_sign_in()
    approve(codes, alice)

    body = poll(codes).json()

    assert ApiKey.objects.get().scopes == []
    assert "conversations.create" in body["scope"].split()


def test_key_gets_only_the_requested_scopes_that_its_owner_holds(alice, bob):
    codes = start_sign_in("account.view", "members.edit")
    approve(codes, bob, alice.personal_organization)

    assert poll(codes).json()["scope"] == "account.view"
    assert ApiKey.objects.get().scopes == ["account.view"]


def test_early_poll_is_slow_down_with_a_longer_interval(db):
    with time_machine.travel(START, tick=False) as clock:
        codes = start_sign_in()
        assert read_error(poll(codes)) == "authorization_pending"
        clock.shift(2)
        early = poll(codes)
        assert read_error(early) == "slow_down"
        assert early.json()["interval"] == 10
        assert early.headers["Retry-After"] == "10"
        clock.shift(6)  # longer than the first interval of 5 s, shorter than the new one of 10 s
        assert read_error(poll(codes)) == "slow_down"
        clock.shift(15)
        assert read_error(poll(codes)) == "authorization_pending"


def test_poll_after_denial_is_access_denied(alice):
    codes = start_sign_in()
    devices.deny_device(user_code=codes.user_code, user=alice)

    assert read_error(poll(codes)) == "access_denied"
    assert read_error(poll(codes)) == "access_denied"


@pytest.mark.parametrize("is_approved", [False, True])
def test_poll_after_expiry_is_expired_token(alice, is_approved):
    codes = start_sign_in()
    if is_approved:
        approve(codes, alice)
    DeviceGrant.objects.update(expires_at=timezone.now() - timedelta(seconds=1))

    assert read_error(poll(codes)) == "expired_token"
    assert not ApiKey.objects.exists()


@pytest.mark.parametrize(
    "code", ["x", "x.y", "018f000000007000800000000000000.x", "\u00e9.\u0000a"]
)
def test_unknown_device_code_is_400(db, code):
    answer = APIClient().post(PATH, {"device_code": code}, format="json")

    assert answer.status_code == 400
    assert answer.json()["code"] in ("invalid-grant", "invalid")


def test_device_code_with_a_wrong_secret_is_invalid_grant(alice):
    codes = start_sign_in()
    approve(codes, alice)
    wrong = codes.device_code[:-1] + ("A" if codes.device_code[-1] != "A" else "B")

    answer = APIClient().post(PATH, {"device_code": wrong}, format="json")

    assert read_error(answer) == "invalid_grant"
    assert poll(codes).status_code == 200


@pytest.mark.parametrize("change", ["suspended", "removed", "lower role"])
def test_approver_without_the_permission_any_more_is_access_denied(alice, change):
    team = organizations.create_organization(user=alice, name="Team")
    user = UserFactory()
    Membership.objects.create(organization=team, user=user, role="member")
    codes = start_sign_in()
    approve(codes, user, team)
    if change == "suspended":
        services.suspend_user(user=user)
    elif change == "removed":
        organizations.remove_member(organization=team, by=alice, user_id=user.pk)
    else:
        organizations.change_role(organization=team, by=alice, user_id=user.pk, role="viewer")

    assert read_error(poll(codes)) == "access_denied"
    assert not ApiKey.objects.exists()


def test_audit_entry_of_the_key_names_the_approver(alice):
    codes = start_sign_in()
    approve(codes, alice)
    poll(codes)

    entry = AuditEntry.objects.get(action="api_key.created")
    assert (entry.actor_kind, entry.actor_id) == ("person", str(alice.pk))
    assert entry.reason == f"device sign-in {codes.grant.pk}"
    assert entry.address == "127.0.0.1"
    assert entry.chain == alice.personal_organization.pk


@pytest.mark.django_db(transaction=True)
def test_one_of_parallel_polls_gets_the_key():
    codes = start_sign_in()
    approve(codes, UserFactory())
    keys, errors, barrier = [], [], threading.Barrier(6)

    def run():
        barrier.wait()
        try:
            keys.append(devices.fetch_device_key(device_code=codes.device_code))
        except Problem as error:
            errors.append(error.extra["error"])
        finally:
            connections.close_all()

    threads = [threading.Thread(target=run) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(keys) == 1
    assert errors == ["invalid_grant"] * 5
    assert ApiKey.objects.count() == 1

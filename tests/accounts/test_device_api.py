"""``POST /api/v1/auth/device``: the codes of a program that needs a key."""

import re
from datetime import timedelta

import pytest
from django.core.cache import cache
from django.utils import timezone
from rest_framework.test import APIClient

from accounts.models import DeviceGrant
from accounts.services import devices

PATH = "/api/v1/auth/device"


@pytest.fixture(autouse=True)
def clean_cache(db):
    cache.clear()


def start_sign_in(**body):
    return APIClient().post(PATH, body, format="json")


def test_response_has_the_codes_and_the_address_to_enter_them():
    answer = start_sign_in(client_name="my tool", scope="account.view files.view")

    body = answer.json()
    assert answer.status_code == 200
    assert re.fullmatch(r"[BCDFGHJKLMNPQRSTVWXZ]{4}-[BCDFGHJKLMNPQRSTVWXZ]{4}", body["user_code"])
    assert body["verification_uri"] == "http://testserver/device"
    assert (
        body["verification_uri_complete"]
        == f"http://testserver/device?user_code={body['user_code']}"
    )
    assert (body["expires_in"], body["interval"]) == (600, 5)
    assert answer.headers["Cache-Control"] == "no-store"
    grant = DeviceGrant.objects.get()
    assert (grant.client_name, grant.scopes) == ("my tool", ["account.view", "files.view"])
    assert (grant.status, grant.address) == ("pending", "127.0.0.1")


def test_codes_are_not_stored():
    body = start_sign_in().json()

    stored = " ".join(str(value) for value in DeviceGrant.objects.values().get().values())
    assert body["device_code"] not in stored
    assert body["device_code"].partition(".")[2] not in stored
    assert body["user_code"] not in stored
    assert body["user_code"].replace("-", "") not in stored


@pytest.mark.parametrize(
    "body",
    [
        {"scope": "no.such"},
        {"client_name": "a\x00b"},
        {"client_name": "a\u202eb"},
        {"client_name": ""},
    ],
)
def test_bad_body_is_400_and_creates_no_grant(body):
    answer = start_sign_in(**body)

    assert answer.status_code == 400
    assert not DeviceGrant.objects.exists()


def test_sixth_request_of_an_address_is_429(settings):
    settings.SIGN_IN_RATE = "1/h"

    statuses = [start_sign_in().status_code for _ in range(6)]

    assert statuses == [200] * 5 + [429]


def test_new_grant_deletes_grants_that_expired_long_ago():
    old = devices.start_device_sign_in(client_name="old").grant
    DeviceGrant.objects.filter(pk=old.pk).update(expires_at=timezone.now() - timedelta(days=2))

    start_sign_in(client_name="new")

    assert DeviceGrant.objects.get().client_name == "new"

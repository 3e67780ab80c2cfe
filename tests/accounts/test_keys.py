"""API keys: presets, allowed networks, rotation with an overlap, the last use."""

from datetime import timedelta

import pytest
import time_machine
from django.utils import timezone
from rest_framework.test import APIClient

from accounts import services
from accounts.models import ApiKey, AuditEntry
from accounts.roles import PRESETS, ROLE_PERMISSIONS
from accounts.services import api_keys
from tests.conftest import key_client


def bearer_client(token):
    return APIClient(headers={"Authorization": f"Bearer {token}"})


def get_status(token, address="192.0.2.10"):
    """Return the status of a request with this key from this address."""
    return bearer_client(token).get("/api/v1/users/me", REMOTE_ADDR=address).status_code


@pytest.mark.parametrize("preset", sorted(PRESETS))
def test_key_with_a_preset_gets_its_scopes(api, preset):
    answer = api.post("/api/v1/api-keys", {"name": "x", "preset": preset}, "json")

    assert answer.status_code == 201
    assert answer.json()["scopes"] == sorted(PRESETS[preset])
    assert PRESETS[preset] < ROLE_PERMISSIONS["member"]


def test_preset_together_with_scopes_is_400(api):
    body = {"name": "x", "preset": "ci", "scopes": ["files.view"]}

    assert api.post("/api/v1/api-keys", body, "json").status_code == 400


@pytest.mark.parametrize(
    ("networks", "address", "status"),
    [
        (["192.0.2.0/24"], "192.0.2.10", 200),
        (["192.0.2.0/24"], "192.0.3.10", 401),
        (["192.0.2.10"], "192.0.2.10", 200),
        (["192.0.2.0/24"], "::ffff:192.0.2.10", 200),
        (["2001:db8::/32"], "2001:db8::1", 200),
        (["2001:db8::/32"], "192.0.2.10", 401),
        (["192.0.2.0/24"], "", 401),
    ],
)
def test_key_works_from_its_allowed_networks_only(alice, networks, address, status):
    _, token = services.issue_api_key(user=alice, name="x", allowed_networks=networks)

    assert get_status(token, address) == status


def test_forwarded_address_of_an_untrusted_caller_is_ignored(alice):
    _, token = services.issue_api_key(user=alice, name="x", allowed_networks=["192.0.2.0/24"])

    answer = bearer_client(token).get(
        "/api/v1/users/me", REMOTE_ADDR="198.51.100.1", HTTP_X_FORWARDED_FOR="192.0.2.10"
    )

    assert answer.status_code == 401


@pytest.mark.parametrize("network", ["nonsense", "192.0.2.0/33", "", "192.0.2.0/24; drop"])
def test_malformed_network_is_400(api, network):
    body = {"name": "x", "allowed_networks": [network]}

    assert api.post("/api/v1/api-keys", body, "json").status_code == 400


def test_key_with_networks_creates_keys_within_them_only(alice):
    client = key_client(alice, allowed_networks=["127.0.0.0/8"])

    def create_key(*networks):
        body = {"name": "x", "allowed_networks": list(networks)}
        return client.post("/api/v1/api-keys", body, "json")

    assert create_key().json()["allowed_networks"] == ["127.0.0.0/8"]
    assert create_key("127.0.0.1").json()["allowed_networks"] == ["127.0.0.1/32"]
    assert create_key("0.0.0.0/0").json()["code"] == "bad-network"
    assert create_key("2001:db8::/32").json()["code"] == "bad-network"


def test_use_stores_the_time_and_the_address(alice):
    key, token = services.issue_api_key(user=alice, name="x")

    get_status(token, "192.0.2.77")

    key.refresh_from_db()
    assert key.last_used_address == "192.0.2.77"
    assert timezone.now() - key.last_used_at < timedelta(minutes=1)


def test_21_networks_raise_bad_network(alice):
    networks = [f"192.0.2.{number}" for number in range(21)]

    with pytest.raises(api_keys.BadNetwork, match="at most 20 networks"):
        services.issue_api_key(user=alice, name="x", allowed_networks=networks)

    assert not ApiKey.objects.exists()


def test_key_for_an_organization_without_membership_raises_not_a_member(alice, charlie):
    with pytest.raises(api_keys.NotAMember):
        services.issue_api_key(user=alice, name="x", organization=charlie.personal_organization)

    assert not ApiKey.objects.exists()


class TestLoadApiKey:
    """The lookup of a key for credentials that were derived from it."""

    def test_user_is_limited_to_organization_and_scopes(self, alice):
        key, _ = services.issue_api_key(user=alice, name="x", scopes=["files.view"])

        user = api_keys.load_api_key(key.pk).user

        assert (user, user.key_scopes) == (alice, {"files.view"})
        assert user.bound_organization_id == alice.personal_organization.pk

    @pytest.mark.parametrize("change", ["revoked", "expired", "suspended", "other network"])
    def test_unusable_key_raises_invalid_key(self, alice, change):
        key, _ = services.issue_api_key(user=alice, name="x", allowed_networks=["192.0.2.1"])
        assert api_keys.load_api_key(key.pk, address="192.0.2.1").pk == key.pk
        if change == "revoked":
            services.revoke_api_key(key=key)
        elif change == "expired":
            ApiKey.objects.update(expires_at=timezone.now() - timedelta(seconds=1))
        elif change == "suspended":
            services.suspend_user(user=alice)
        address = "192.0.2.2" if change == "other network" else "192.0.2.1"

        with pytest.raises(services.InvalidKey):
            api_keys.load_api_key(key.pk, address=address)


class TestRotation:
    def rotate(self, client, key, **body):
        return client.post(f"/api/v1/api-keys/{key.pk}/rotate", body, "json")

    def test_old_key_works_until_the_overlap_ends(self, api, alice):
        key, old = services.issue_api_key(
            user=alice,
            name="ci",
            scopes=["account.view"],
            days=30,
            allowed_networks=["192.0.2.0/24"],
        )

        answer = self.rotate(api, key, overlap_hours=2)

        assert answer.status_code == 201
        new = answer.json()
        assert (new["name"], new["scopes"], new["allowed_networks"], new["replaces"]) == (
            "ci",
            ["account.view"],
            ["192.0.2.0/24"],
            str(key.pk),
        )
        assert (get_status(old), get_status(new["key"])) == (200, 200)
        with time_machine.travel(timezone.now() + timedelta(hours=2, minutes=1)):
            assert (get_status(old), get_status(new["key"])) == (401, 200)
        with time_machine.travel(timezone.now() + timedelta(days=31)):
            assert get_status(new["key"]) == 401
        assert AuditEntry.objects.filter(action="api_key.rotated").count() == 1

    def test_old_key_without_overlap_stops_immediately(self, api, alice):
        key, old = services.issue_api_key(user=alice, name="ci")

        self.rotate(api, key, overlap_hours=0)

        assert get_status(old) == 401

    def test_second_rotation_of_a_key_is_409(self, api, alice):
        key, _ = services.issue_api_key(user=alice, name="ci")

        answers = [self.rotate(api, key).status_code for _ in range(2)]

        assert answers == [201, 409]

    def test_overlap_does_not_extend_the_old_keys_expiry(self, api, alice):
        key, _ = services.issue_api_key(user=alice, name="ci", days=1)
        before = key.expires_at

        self.rotate(api, key, overlap_hours=168)

        key.refresh_from_db()
        assert key.expires_at == before

    def test_limited_key_cannot_rotate_a_wider_one(self, alice):
        wide, _ = services.issue_api_key(user=alice, name="wide")
        client = key_client(alice, scopes=["api_keys.edit", "account.view"])

        assert self.rotate(client, wide).json()["code"] == "scope-not-held"
        assert not ApiKey.objects.filter(replaces=wide).exists()

    @pytest.mark.parametrize("change", ["revoked", "expired"])
    def test_ended_key_is_409_and_gets_no_successor(self, api, alice, change):
        key, _ = services.issue_api_key(user=alice, name="ci")
        if change == "revoked":
            services.revoke_api_key(key=key)
        else:
            ApiKey.objects.filter(pk=key.pk).update(expires_at=timezone.now())

        response = self.rotate(api, key)

        assert (response.status_code, response.json()["code"]) == (409, "key-ended")
        assert not ApiKey.objects.filter(replaces=key).exists()

    def test_successor_of_a_key_without_expiry_has_the_maximum_lifetime(self, api, alice, settings):
        key, _ = services.issue_api_key(user=alice, name="ci")
        ApiKey.objects.filter(pk=key.pk).update(expires_at=None)

        successor = ApiKey.objects.get(pk=self.rotate(api, key).json()["id"])

        lifetime = successor.expires_at - successor.created_at
        assert abs(lifetime - timedelta(days=settings.API_KEY_MAX_DAYS)) < timedelta(seconds=5)
        key.refresh_from_db()
        assert key.expires_at < timezone.now() + timedelta(hours=25)

    def test_successor_expires_no_later_than_the_key_that_rotated(self, alice):
        _, token = services.issue_api_key(user=alice, name="short", days=2)
        key, _ = services.issue_api_key(user=alice, name="long", days=300)

        answer = self.rotate(bearer_client(token), key)

        successor = ApiKey.objects.get(pk=answer.json()["id"])
        assert successor.expires_at - timezone.now() < timedelta(days=2)

    def test_key_of_another_user_is_404(self, api, charlie):
        key, _ = services.issue_api_key(user=charlie, name="x")

        assert self.rotate(api, key).status_code == 404

"""``/api/v1/users/me``, ``/api/v1/api-keys`` and ``/api/v1/auth``: the user, the keys, the session."""

import datetime as dt

import pytest
from django.core.cache import cache
from django.test import Client
from django.utils import timezone
from django.utils.dateparse import parse_datetime

from accounts import services
from accounts.models import ApiKey, Membership, Organization
from accounts.roles import ROLE_PERMISSIONS
from accounts.services import organizations
from tests.conftest import key_client

PASSWORD = "correct horse battery"


def create_team(user, role, name="Team"):
    """Create a team in which the user has this role, and return it."""
    team = Organization.objects.create(name=name)
    Membership.objects.create(organization=team, user=user, role=role)
    return team


class TestMe:
    def test_response_has_the_user_and_every_organization(self, api, alice):
        team = create_team(alice, Membership.Role.AUDITOR)
        client = Client()
        client.force_login(alice)

        body = client.get("/api/v1/users/me").json()
        names = ("id", "email", "name", "is_staff", "organizations")
        assert {name: body[name] for name in names} == {
            "id": str(alice.pk),
            "email": "alice@example.com",
            "name": "Alice",
            "is_staff": False,
            "organizations": [
                {
                    "id": str(alice.personal_organization.pk),
                    "name": "Alice",
                    "role": "owner",
                    "is_personal": True,
                    "permissions": sorted(ROLE_PERMISSIONS["owner"]),
                },
                {
                    "id": str(team.pk),
                    "name": "Team",
                    "role": "auditor",
                    "is_personal": False,
                    "permissions": sorted(ROLE_PERMISSIONS["auditor"]),
                },
            ],
        }

    def test_key_gets_its_organization_and_its_scopes_only(self, alice):
        create_team(alice, Membership.Role.MEMBER)

        body = key_client(alice, scopes=["account.view"]).get("/api/v1/users/me").json()

        assert [(o["name"], o["permissions"]) for o in body["organizations"]] == [
            ("Alice", ["account.view"])
        ]

    def test_suspended_organization_has_no_permissions(self, alice):
        organizations.suspend_organization(organization=alice.personal_organization)
        client = Client()
        client.force_login(alice)

        body = client.get("/api/v1/users/me").json()

        assert body["organizations"][0]["permissions"] == []

    def test_number_of_queries_is_fixed(self, alice, django_assert_num_queries):
        for number in range(5):
            create_team(alice, Membership.Role.MEMBER, name=f"Team {number}")
        client = Client()
        client.force_login(alice)
        client.get("/api/v1/users/me")

        with django_assert_num_queries(5):  # session, user, memberships, own organization, settings
            assert client.get("/api/v1/users/me").status_code == 200

    def test_anonymous_is_401_with_the_bearer_scheme(self, client, db):
        response = client.get("/api/v1/users/me")

        assert response.status_code == 401
        assert response.headers["WWW-Authenticate"] == 'Bearer realm="api"'

    def test_x_api_key_header_authenticates(self, client, alice):
        _, token = services.issue_api_key(user=alice, name="x")

        assert client.get("/api/v1/users/me", headers={"X-API-Key": token}).status_code == 200


class TestApiKeys:
    def test_new_key_works_and_its_secret_is_in_no_later_response(self, api, alice):
        response = api.post(
            "/api/v1/api-keys",
            {"name": "ci", "days": 7, "scopes": ["usage.view", "account.view"]},
            format="json",
        )

        created = response.json()
        stored = ApiKey.objects.get(pk=created["id"])
        assert response.status_code == 201
        assert created == {
            "id": str(stored.pk),
            "name": "ci",
            "prefix": stored.prefix,
            "organization": str(alice.personal_organization.pk),
            "scopes": ["account.view", "usage.view"],
            "created_at": created["created_at"],
            "expires_at": created["expires_at"],
            "revoked_at": None,
            "last_used_at": None,
            "last_used_address": None,
            "allowed_networks": [],
            "replaces": None,
            "parent": str(ApiKey.objects.get(name="test").pk),
            "key": created["key"],
        }
        assert parse_datetime(created["expires_at"]) - parse_datetime(
            created["created_at"]
        ) < dt.timedelta(days=7, seconds=5)
        assert services.authenticate_api_key(created["key"]).pk == stored.pk
        secret = created["key"].partition(".")[2]
        for path in ("/api/v1/api-keys", f"/api/v1/api-keys/{stored.pk}"):
            text = api.get(path).content.decode()
            assert stored.prefix in text
            assert secret not in text
            assert stored.digest not in text

    def test_pages_have_every_key_newest_first(self, api, alice):
        for number in range(3):
            services.issue_api_key(user=alice, name=f"n{number}")

        first = api.get("/api/v1/api-keys?limit=2").json()
        second = api.get(f"/api/v1/api-keys?limit=2&cursor={first['next']}").json()

        assert [key["name"] for key in first["items"] + second["items"]] == [
            "n2",
            "n1",
            "n0",
            "test",
        ]
        assert second["next"] is None

    def test_revoked_key_stops_working_and_stays_listed(self, api, alice):
        key, token = services.issue_api_key(user=alice, name="x")

        assert api.delete(f"/api/v1/api-keys/{key.pk}").status_code == 204
        assert api.delete(f"/api/v1/api-keys/{key.pk}").status_code == 204

        with pytest.raises(services.InvalidKey):
            services.authenticate_api_key(token)
        assert api.get(f"/api/v1/api-keys/{key.pk}").json()["revoked_at"]

    @pytest.mark.parametrize("method", ["get", "delete"])
    def test_key_of_another_user_is_404(self, api, alice, bob, charlie, method):
        for user in (bob, charlie):
            key, _ = services.issue_api_key(user=user, name="x")
            assert getattr(api, method)(f"/api/v1/api-keys/{key.pk}").status_code == 404
            key.refresh_from_db()
            assert key.revoked_at is None

    @pytest.mark.parametrize(
        ("fields", "status", "code"),
        [
            ({}, 400, "invalid"),
            ({"name": ""}, 400, "invalid"),
            ({"name": "x" * 81}, 400, "invalid"),
            ({"name": "x", "days": 0}, 400, "invalid"),
            ({"name": "x", "days": 366}, 400, "invalid"),
            ({"name": "x", "scopes": ["fly"]}, 400, "unknown-scope"),
            ({"name": "x", "organization": "no"}, 400, "invalid"),
            (
                {"name": "x", "organization": "018f0000-0000-7000-8000-000000000000"},
                404,
                "not-found",
            ),
        ],
    )
    def test_bad_body_is_refused_and_creates_no_key(self, api, fields, status, code):
        response = api.post("/api/v1/api-keys", fields, format="json")

        assert (response.status_code, response.json()["code"]) == (status, code)
        assert ApiKey.objects.count() == 1

    def test_organization_without_membership_is_404(self, api, charlie):
        fields = {"name": "x", "organization": str(charlie.personal_organization.pk)}

        assert api.post("/api/v1/api-keys", fields, format="json").status_code == 404

    def test_role_without_the_permission_is_403(self, alice):
        team = create_team(alice, Membership.Role.VIEWER)
        client = Client()
        client.force_login(alice)

        response = client.post(
            "/api/v1/api-keys",
            {"name": "x", "organization": str(team.pk)},
            content_type="application/json",
        )

        assert (response.status_code, response.json()["permission"]) == (403, "api_keys.edit")

    def test_key_beyond_the_maximum_is_409_until_another_is_revoked(self, api, alice, settings):
        settings.API_KEYS_PER_USER = 2
        second, _ = services.issue_api_key(user=alice, name="second")

        refused = api.post("/api/v1/api-keys", {"name": "third"}, format="json")
        services.revoke_api_key(key=second)
        accepted = api.post("/api/v1/api-keys", {"name": "third"}, format="json")

        assert (refused.status_code, accepted.status_code) == (409, 201)


class TestKeyCreatedByKey:
    """A key that another key creates, which never exceeds that key."""

    scopes = ("api_keys.edit", "api_keys.view", "account.view")

    def create_key(self, client, **fields):
        return client.post("/api/v1/api-keys", {"name": "child"} | fields, format="json")

    def test_scope_that_the_creating_key_lacks_is_403(self, alice):
        response = self.create_key(key_client(alice, scopes=self.scopes), scopes=["files.edit"])

        assert (response.status_code, response.json()["code"]) == (403, "scope-not-held")

    def test_key_without_scopes_gets_those_of_the_creating_key(self, alice):
        response = self.create_key(key_client(alice, scopes=self.scopes))

        assert response.json()["scopes"] == sorted(self.scopes)

    def test_key_expires_no_later_than_the_creating_key(self, alice):
        response = self.create_key(key_client(alice, days=2), days=300)

        assert parse_datetime(response.json()["expires_at"]) <= timezone.now() + dt.timedelta(
            days=2
        )

    def test_other_organization_than_that_of_the_creating_key_is_404(self, alice):
        team = create_team(alice, Membership.Role.OWNER)

        response = self.create_key(key_client(alice), organization=str(team.pk))

        assert response.status_code == 404

    def test_organization_defaults_to_that_of_the_creating_key(self, alice):
        team = create_team(alice, Membership.Role.OWNER)

        response = self.create_key(key_client(alice, organization=team))

        assert response.json()["organization"] == str(team.pk)

    def test_creating_key_without_the_scope_is_403(self, alice):
        response = self.create_key(key_client(alice, scopes=["api_keys.view"]))

        assert (response.status_code, response.json()["permission"]) == (403, "api_keys.edit")

    def test_creating_key_whose_owner_lost_the_permission_is_403(self, alice):
        team = create_team(alice, Membership.Role.OWNER)
        client = key_client(alice, organization=team)
        Membership.objects.filter(organization=team).update(role=Membership.Role.VIEWER)

        assert self.create_key(client).status_code == 403


class TestSession:
    @pytest.fixture(autouse=True)
    def clean_cache(self):
        cache.clear()

    @pytest.fixture
    def browser(self):
        return Client(enforce_csrf_checks=True)

    def post(self, browser, path, body=None, token=None):
        token = token or browser.get("/api/v1/auth/csrf").json()["csrf_token"]
        headers = {"X-XSRF-TOKEN": token}
        return browser.post(
            f"/api/v1/auth/{path}", body or {}, content_type="application/json", headers=headers
        )

    def sign_in(self, browser, email="Alice@example.com", password=PASSWORD):
        return self.post(browser, "sign-in", {"email": email, "password": password})

    def test_sign_in_returns_the_user_and_a_new_session_id(self, browser, alice):
        browser.cookies["sessionid"] = "chosen-by-an-attacker"

        response = self.sign_in(browser)

        assert (response.status_code, response.json()["email"]) == (200, "alice@example.com")
        assert browser.cookies["sessionid"].value != "chosen-by-an-attacker"
        assert browser.cookies["sessionid"]["httponly"]
        me = browser.get("/api/v1/users/me").json()  # has the settings in addition
        assert me.items() >= response.json().items()

    def test_sign_in_response_has_the_organizations_and_permissions(self, browser, alice):
        assert self.sign_in(browser).json()["organizations"][0]["permissions"] == sorted(
            ROLE_PERMISSIONS["owner"]
        )

    @pytest.mark.parametrize(
        ("email", "password"),
        [
            ("alice@example.com", "wrong"),
            ("nobody@example.com", PASSWORD),
            ("a\U0001f600", PASSWORD),
        ],
    )
    def test_wrong_address_and_wrong_password_get_the_same_error(
        self, browser, alice, email, password
    ):
        response = self.sign_in(browser, email, password)

        assert (response.status_code, response.json()["code"]) == (401, "wrong-credentials")
        assert browser.get("/api/v1/users/me").status_code == 401

    def test_suspended_user_cannot_sign_in(self, browser, alice):
        services.suspend_user(user=alice)

        assert self.sign_in(browser).status_code == 401

    def test_suspension_ends_an_open_session(self, browser, alice):
        self.sign_in(browser)
        services.suspend_user(user=alice)

        assert browser.get("/api/v1/users/me").status_code == 401

    def test_new_password_ends_an_open_session(self, browser, alice):
        self.sign_in(browser)
        alice.set_password("another good password")
        alice.save()

        assert browser.get("/api/v1/users/me").status_code == 401

    def test_eleventh_attempt_is_429_with_retry_after(self, browser, alice):
        for _ in range(10):
            self.sign_in(browser, password="wrong")

        response = self.sign_in(browser)

        assert response.status_code == 429
        assert 1 <= int(response.headers["Retry-After"]) <= 61

    @pytest.mark.parametrize("path", ["sign-in", "sign-out"])
    def test_request_with_a_wrong_csrf_token_is_403(self, browser, alice, path):
        self.sign_in(browser)

        response = self.post(
            browser, path, {"email": alice.email, "password": PASSWORD}, token="wrong"
        )

        assert response.status_code == 403
        assert browser.get("/api/v1/users/me").status_code == 200

    def test_sign_in_without_session_and_csrf_token_is_403(self, alice):
        response = Client(enforce_csrf_checks=True).post(
            "/api/v1/auth/sign-in",
            {"email": alice.email, "password": PASSWORD},
            content_type="application/json",
        )

        assert (response.status_code, response.json()["code"]) == (403, "csrf")

    def test_sign_out_ends_the_session_and_is_safe_to_repeat(self, browser, alice):
        self.sign_in(browser)

        assert self.post(browser, "sign-out").status_code == 204
        assert self.post(browser, "sign-out").status_code == 204
        assert browser.get("/api/v1/users/me").status_code == 401

    def test_password_is_not_in_an_error_report(self, browser, alice, monkeypatch, caplog):
        def broken(*_args, **_kwargs):
            raise RuntimeError("broken")

        monkeypatch.setattr("django.contrib.auth.authenticate", broken)
        browser.raise_request_exception = False

        assert self.sign_in(browser).status_code == 500
        assert PASSWORD not in caplog.text

"""``/api/v1/organizations/{id}/service-accounts`` and their keys: each method and the roles that may call it."""

import pytest

from accounts.models import ApiKey, AuditEntry, ServiceAccount
from accounts.services import organizations, service_accounts
from tests.accounts.api.conftest import UNKNOWN, add_member, open_session, send
from tests.conftest import key_client


@pytest.fixture
def url(team):
    return f"/api/v1/organizations/{team.pk}/service-accounts"


@pytest.fixture
def account(alice, team):
    return service_accounts.create_service_account(
        organization=team, by=alice, name="builder", role="member"
    )


@pytest.fixture
def key(alice, account):
    return service_accounts.issue_service_account_key(account=account, by=alice, name="ci")[0]


@pytest.fixture
def keys_url(url, account):
    return f"{url}/{account.pk}/keys"


@pytest.mark.parametrize(
    ("method", "tail", "body"),
    [
        ("get", "", None),
        ("post", "", {"name": "x"}),
        ("get", "/account", None),
        ("delete", "/account", None),
        ("get", "/account/keys", None),
        ("post", "/account/keys", {"name": "x"}),
        ("delete", "/account/keys/KEY", None),
    ],
)
class TestEveryMethod:
    @pytest.fixture
    def target(self, url, tail, account, key):
        return url + tail.replace("/account", f"/{account.pk}").replace("/KEY", f"/{key.pk}")

    def assert_unchanged(self):
        assert ServiceAccount.objects.filter(revoked_at=None).count() == 1
        assert ApiKey.objects.filter(revoked_at=None, user__is_service_account=True).count() == 1

    def test_foreign_organization_is_404(self, stranger, method, body, target):
        response = send(stranger, method, target, body)

        assert (response.status_code, response.json()["code"]) == (404, "not-found")
        self.assert_unchanged()

    @pytest.mark.parametrize("role", ["member", "billing", "viewer"])
    def test_role_without_the_permission_is_403(self, team, role, method, body, target):
        response = send(open_session(add_member(team, role)), method, target, body)

        permission = f"service_accounts.{'view' if method == 'get' else 'edit'}"
        assert (response.status_code, response.json()["permission"]) == (403, permission)
        self.assert_unchanged()

    def test_auditor_may_read_but_not_change(self, team, method, body, target):
        response = send(open_session(add_member(team, "auditor")), method, target, body)

        assert response.status_code == (200 if method == "get" else 403)
        self.assert_unchanged()

    def test_suspended_organization_is_403(self, owner, team, method, body, target):
        organizations.suspend_organization(organization=team)

        response = send(owner, method, target, body)

        assert (response.status_code, response.json()["code"]) == (403, "organization-suspended")

    def test_account_of_another_organization_is_404(
        self, owner, alice, team, method, body, target, account
    ):
        other = organizations.create_organization(user=alice, name="Other")
        foreign = target.replace(str(team.pk), str(other.pk))
        if str(account.pk) in target:  # The lists and creations of ``Other`` itself are allowed.
            assert send(owner, method, foreign, body).status_code == 404
        self.assert_unchanged()

    def test_anonymous_is_401(self, client, method, body, target):
        assert getattr(client, method)(target).status_code == 401


class TestAccounts:
    def test_detail_and_list_equal_the_response_of_the_creation(self, owner, alice, url):
        response = send(owner, "post", url, {"name": "builder", "role": "viewer"})

        account = ServiceAccount.objects.get()
        assert response.status_code == 201
        assert response.json() == {
            "id": str(account.pk),
            "name": "builder",
            "role": "viewer",
            "created_by": str(alice.pk),
            "created_at": account.created_at.isoformat().replace("+00:00", "Z"),
            "revoked_at": None,
        }
        assert owner.get(f"{url}/{account.pk}").json() == response.json()
        assert owner.get(url).json() == {"items": [response.json()], "next": None}

    def test_number_of_queries_is_fixed(self, alice, team, url, django_assert_num_queries):
        client = key_client(alice, organization=team)
        client.get(url)
        for number in range(5):
            service_accounts.create_service_account(
                organization=team, by=alice, name=f"n{number}", role="member"
            )

        with django_assert_num_queries(5):  # key, organization, permission, accounts, roles
            assert len(client.get(url).json()["items"]) == 5

    @pytest.mark.parametrize(
        ("body", "field"),
        [
            ({}, "name"),
            ({"name": "x" * 81}, "name"),
            ({"name": "x", "role": "owner"}, "role"),
            ({"name": "x", "role": "king"}, "role"),
        ],
    )
    def test_bad_body_is_400(self, owner, url, body, field):
        response = send(owner, "post", url, body)

        assert (response.status_code, list(response.json()["errors"])) == (400, [field])
        assert not ServiceAccount.objects.exists()

    def test_unknown_account_is_404(self, owner, url):
        for pk in (UNKNOWN, "x"):
            assert owner.get(f"{url}/{pk}").status_code == 404
            assert owner.delete(f"{url}/{pk}").status_code == 404

    @pytest.mark.parametrize("method", ["put", "patch"])
    def test_other_methods_on_an_account_are_405(self, owner, url, account, method):
        assert send(owner, method, f"{url}/{account.pk}").status_code == 405


class TestKeys:
    def test_secret_is_in_the_response_of_the_creation_only(self, owner, keys_url):
        body = {"name": "ci", "scopes": ["account.view"], "allowed_networks": ["192.0.2.0/24"]}

        response = send(owner, "post", keys_url, body)

        created = response.json()
        assert response.status_code == 201
        assert (created["name"], created["scopes"]) == ("ci", ["account.view"])
        secret = created.pop("key")
        listed = owner.get(keys_url)
        assert listed.json() == {"items": [created], "next": None}
        assert secret.encode() not in listed.content

    def test_list_has_only_keys_of_the_account(self, owner, alice, team, keys_url, key):
        other = service_accounts.create_service_account(
            organization=team, by=alice, name="other", role="member"
        )
        foreign, _ = service_accounts.issue_service_account_key(account=other, by=alice, name="x")

        assert [row["id"] for row in owner.get(keys_url).json()["items"]] == [str(key.pk)]
        assert owner.delete(f"{keys_url}/{foreign.pk}").status_code == 404
        foreign.refresh_from_db()
        assert foreign.revoked_at is None

    @pytest.mark.parametrize(
        ("body", "code"),
        [
            ({}, "invalid"),
            ({"name": "x", "days": 0}, "invalid"),
            ({"name": "x", "scopes": "files.view"}, "invalid"),
            ({"name": "x", "preset": "ci", "scopes": ["files.view"]}, "invalid"),
            ({"name": "x", "allowed_networks": ["nonsense"]}, "bad-network"),
        ],
    )
    def test_bad_body_is_400(self, owner, keys_url, body, code):
        response = send(owner, "post", keys_url, body)

        assert (response.status_code, response.json()["code"]) == (400, code)
        assert not ApiKey.objects.exists()

    def test_too_many_days_are_400_with_the_maximum(self, owner, keys_url, settings):
        body = {"name": "x", "days": settings.API_KEY_MAX_DAYS + 1}

        response = send(owner, "post", keys_url, body)

        assert response.status_code == 400
        assert f"at most {settings.API_KEY_MAX_DAYS} days" in response.json()["detail"]

    def test_revoked_key_stays_listed_and_can_be_revoked_again(self, owner, keys_url, key):
        statuses = [owner.delete(f"{keys_url}/{key.pk}").status_code for _ in range(2)]

        [row] = owner.get(keys_url).json()["items"]
        assert (statuses, bool(row["revoked_at"])) == ([204, 204], True)
        assert AuditEntry.objects.filter(action="api_key.revoked").count() == 1

    def test_unknown_key_is_404(self, owner, keys_url):
        for pk in (UNKNOWN, "x"):
            assert owner.delete(f"{keys_url}/{pk}").status_code == 404

    @pytest.mark.parametrize("method", ["get", "patch"])
    def test_other_methods_on_a_key_are_405(self, owner, keys_url, key, method):
        assert send(owner, method, f"{keys_url}/{key.pk}").status_code == 405

"""``/api/v1/organizations/{id}/members``: each method and the roles that may call it."""

import pytest

from accounts.models import AuditEntry, Membership
from accounts.services import organizations
from tests.accounts.api.conftest import UNKNOWN, add_member, open_session, send
from tests.conftest import key_client


@pytest.fixture
def url(team):
    return f"/api/v1/organizations/{team.pk}/members"


@pytest.fixture
def bob(team):
    return add_member(team, "member")


METHODS = [("get", "", None), ("patch", "/bob", {"role": "viewer"}), ("delete", "/bob", None)]


@pytest.mark.parametrize(("method", "tail", "body"), METHODS)
class TestEveryMethod:
    def call(self, client, method, tail, body, url, bob):
        return send(client, method, url + tail.replace("bob", str(bob.pk)), body)

    def test_foreign_organization_is_404(self, stranger, method, tail, body, url, bob):
        response = self.call(stranger, method, tail, body, url, bob)

        assert (response.status_code, response.json()["code"]) == (404, "not-found")
        assert Membership.objects.get(user=bob, organization__name="Team").role == "member"

    def test_suspended_organization_is_403(self, owner, team, method, tail, body, url, bob):
        organizations.suspend_organization(organization=team)

        response = self.call(owner, method, tail, body, url, bob)

        assert (response.status_code, response.json()["code"]) == (403, "organization-suspended")

    def test_key_without_the_scope_is_403(self, alice, team, method, tail, body, url, bob):
        client = key_client(alice, organization=team, scopes=["organization.view"])

        response = self.call(client, method, tail, body, url, bob)

        permission = "members.view" if method == "get" else "members.edit"
        assert (response.status_code, response.json()["permission"]) == (403, permission)

    def test_anonymous_is_401(self, client, method, tail, body, url, bob):
        tail = tail.replace("bob", str(bob.pk))
        assert getattr(client, method)(url + tail).status_code == 401


@pytest.mark.parametrize(("method", "body"), [("patch", {"role": "viewer"}), ("delete", None)])
class TestChanges:
    @pytest.mark.parametrize("role", ["member", "billing", "auditor", "viewer"])
    def test_role_without_the_permission_is_403(self, team, url, bob, method, body, role):
        response = send(open_session(add_member(team, role)), method, f"{url}/{bob.pk}", body)

        assert (response.status_code, response.json()["permission"]) == (403, "members.edit")

    def test_user_outside_the_team_is_404(self, owner, url, charlie, method, body):
        for pk in (charlie.pk, UNKNOWN):
            response = send(owner, method, f"{url}/{pk}", body)
            assert (response.status_code, response.json()["code"]) == (404, "unknown-member")

    def test_malformed_id_is_404(self, owner, url, method, body):
        assert send(owner, method, f"{url}/x", body).status_code == 404


def test_list_has_every_field_of_a_member(owner, alice, url, team):
    [row] = owner.get(url).json()["items"]

    joined_at = Membership.objects.get(user=alice, organization=team).created_at
    assert row == {
        "id": str(alice.pk),
        "email": "alice@example.com",
        "name": "Alice",
        "role": "owner",
        "is_active": True,
        "is_service_account": False,
        "joined_at": joined_at.isoformat().replace("+00:00", "Z"),
    }


def test_pages_have_every_member_once_newest_first(owner, team, url):
    users = [add_member(team, "member") for _ in range(3)]

    first = owner.get(f"{url}?limit=2").json()
    second = owner.get(f"{url}?limit=2&cursor={first['next']}").json()

    rows = [row["id"] for row in first["items"] + second["items"]]
    assert rows[:3] == [str(user.pk) for user in reversed(users)]
    assert (len(rows), second["next"]) == (4, None)


def test_list_takes_four_queries(alice, team, url, django_assert_num_queries):
    client = key_client(alice, organization=team)
    client.get(url)
    for _ in range(5):
        add_member(team, "member")

    with django_assert_num_queries(4):  # key, organization, permission, members with users
        assert len(client.get(url).json()["items"]) == 6


def test_list_has_no_member_of_another_organization(owner, url, charlie):
    organizations.create_organization(user=charlie, name="Other")

    assert len(owner.get(url).json()["items"]) == 1


def test_changing_a_role_twice_is_one_change(owner, url, bob):
    responses = [send(owner, "patch", f"{url}/{bob.pk}", {"role": "admin"}) for _ in range(2)]

    assert [response.status_code for response in responses] == [200, 200]
    [row] = [row for row in owner.get(url).json()["items"] if row["id"] == str(bob.pk)]
    assert [response.json() for response in responses] == [row, row]
    assert row["role"] == "admin"
    assert AuditEntry.objects.filter(action="member.role_changed").count() == 1


@pytest.mark.parametrize("body", [{}, {"role": "king"}, {"role": None}, {"role": ["admin"]}])
def test_bad_role_is_400(owner, url, bob, body):
    response = send(owner, "patch", f"{url}/{bob.pk}", body)

    assert (response.status_code, list(response.json()["errors"])) == (400, ["role"])


def test_removed_member_cannot_be_removed_again(owner, url, bob):
    statuses = [owner.delete(f"{url}/{bob.pk}").status_code for _ in range(2)]

    assert statuses == [204, 404]
    assert AuditEntry.objects.filter(action="member.removed").count() == 1


@pytest.mark.parametrize("method", ["get", "put"])
def test_other_methods_on_a_member_are_405(owner, url, bob, method):
    assert send(owner, method, f"{url}/{bob.pk}").status_code == 405

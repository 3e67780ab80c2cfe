"""``/api/v1/organizations``: each method and the roles that may call it."""

import pytest
from django.urls import reverse

from accounts.models import AuditEntry, Membership
from accounts.roles import ROLE_PERMISSIONS
from accounts.services import organizations, service_accounts
from accounts.settings.fields import FIELDS
from tests.accounts.api.conftest import UNKNOWN, add_member, open_session, send
from tests.conftest import key_client

URL = "/api/v1/organizations"
CALLS_ON_A_TEAM = [
    ("get", "", None),
    ("patch", "", {"name": "Crew"}),
    ("post", "/leave", None),
    ("post", "/transfer", {"user": UNKNOWN}),
    ("get", "/settings", None),
    ("patch", "/settings", {"values": {"language": "de"}}),
]


def test_url_names_are_stable(team):
    of_team, pk = {"pk": team.pk}, str(team.pk)
    child = of_team | {"account_id": pk}
    names = {
        "organization-list": {},
        "invitation-accept": {},
        **dict.fromkeys(
            (
                *("organization-detail", "organization-settings", "leave", "transfer", "members"),
                *("invitation-list", "service-account-list"),
            ),
            of_team,
        ),
        "member": of_team | {"user_id": pk},
        "invitation": of_team | {"invitation_id": pk},
        "service-account": child,
        "service-account-keys": child,
        "service-account-key": child | {"key_id": pk},
    }

    urls = {name: reverse(f"v1:{name}", kwargs=kwargs) for name, kwargs in names.items()}

    assert {name: url.replace(pk, "ID") for name, url in urls.items()} == {
        "organization-list": URL,
        "organization-detail": f"{URL}/ID",
        "organization-settings": f"{URL}/ID/settings",
        "leave": f"{URL}/ID/leave",
        "transfer": f"{URL}/ID/transfer",
        "members": f"{URL}/ID/members",
        "member": f"{URL}/ID/members/ID",
        "invitation-list": f"{URL}/ID/invitations",
        "invitation": f"{URL}/ID/invitations/ID",
        "invitation-accept": "/api/v1/invitations/accept",
        "service-account-list": f"{URL}/ID/service-accounts",
        "service-account": f"{URL}/ID/service-accounts/ID",
        "service-account-keys": f"{URL}/ID/service-accounts/ID/keys",
        "service-account-key": f"{URL}/ID/service-accounts/ID/keys/ID",
    }


@pytest.mark.parametrize(("method", "tail", "body"), CALLS_ON_A_TEAM)
class TestEveryMethod:
    def test_foreign_organization_is_404(self, stranger, team, method, tail, body):
        response = send(stranger, method, f"{URL}/{team.pk}{tail}", body)

        assert (response.status_code, response.json()["code"]) == (404, "not-found")

    def test_unknown_organization_is_404(self, owner, method, tail, body):
        for pk in (UNKNOWN, "x"):
            assert send(owner, method, f"{URL}/{pk}{tail}", body).status_code == 404

    def test_key_of_another_organization_gets_404(self, alice, team, method, tail, body):
        client = key_client(alice, organization=alice.personal_organization)

        assert send(client, method, f"{URL}/{team.pk}{tail}", body).status_code == 404

    def test_suspended_organization_is_403(self, owner, team, method, tail, body):
        organizations.suspend_organization(organization=team)

        response = send(owner, method, f"{URL}/{team.pk}{tail}", body)

        assert (response.status_code, response.json()["code"]) == (403, "organization-suspended")

    def test_anonymous_is_401(self, client, team, method, tail, body):
        assert getattr(client, method)(f"{URL}/{team.pk}{tail}").status_code == 401


@pytest.mark.parametrize(
    ("method", "tail", "body", "permission"),
    [
        ("patch", "", {"name": "Crew"}, "organization.edit"),
        ("post", "/transfer", {"user": UNKNOWN}, "organization.transfer"),
        ("get", "/settings", None, "organization_settings.view"),
        ("patch", "/settings", {"values": {}}, "organization_settings.edit"),
    ],
)
def test_viewer_without_the_permission_is_403(viewer, team, method, tail, body, permission):
    response = send(viewer, method, f"{URL}/{team.pk}{tail}", body)

    assert (response.status_code, response.json()["permission"]) == (403, permission)
    team.refresh_from_db()
    assert team.name == "Team"


@pytest.mark.parametrize(
    ("method", "tail"),
    [("put", ""), ("delete", ""), ("get", "/leave"), ("get", "/transfer"), ("put", "/settings")],
)
def test_other_methods_are_405(owner, team, method, tail):
    assert send(owner, method, f"{URL}/{team.pk}{tail}").status_code == 405


class TestRetrieve:
    def test_response_has_every_field_and_the_callers_role(self, team):
        viewer = add_member(team, "viewer")

        response = open_session(viewer).get(f"{URL}/{team.pk}")

        assert response.json() == {
            "id": str(team.pk),
            "name": "Team",
            "role": "viewer",
            "is_personal": False,
            "permissions": sorted(ROLE_PERMISSIONS["viewer"]),
            "suspended_at": None,
            "created_at": team.created_at.isoformat().replace("+00:00", "Z"),
        }

    def test_key_needs_three_queries(self, alice, team, django_assert_num_queries):
        client = key_client(alice, organization=team)
        client.get(f"{URL}/{team.pk}")

        with django_assert_num_queries(3):  # key, membership with organization, permission
            assert client.get(f"{URL}/{team.pk}").status_code == 200


class TestList:
    def test_pages_have_every_organization_once(self, alice, owner):
        names = [f"Team {number}" for number in range(3)]
        for name in names:
            organizations.create_organization(user=alice, name=name)

        first = owner.get(f"{URL}?limit=2").json()
        second = owner.get(f"{URL}?limit=2&cursor={first['next']}").json()

        rows = [row["name"] for row in first["items"] + second["items"]]
        assert rows == [*reversed(names), "Alice"]
        assert second["next"] is None

    def test_suspended_organization_is_listed_without_permissions(self, owner, team):
        organizations.suspend_organization(organization=team)

        [row] = [row for row in owner.get(URL).json()["items"] if row["name"] == "Team"]

        assert (bool(row["suspended_at"]), row["permissions"]) == (True, [])

    def test_number_of_queries_is_fixed(self, alice, team, django_assert_num_queries):
        client = key_client(alice)
        client.get(URL)

        with django_assert_num_queries(2):  # key, memberships with organizations
            client.get(URL)


class TestCreate:
    @pytest.mark.parametrize("body", [{}, {"name": ""}, {"name": "x" * 121}, {"name": ["x"]}, []])
    def test_bad_body_is_400(self, owner, body):
        assert send(owner, "post", URL, body).status_code == 400
        assert not AuditEntry.objects.filter(action="organization.created").exists()

    def test_key_without_the_scope_is_403(self, alice):
        response = send(key_client(alice, scopes=["organization.view"]), "post", URL, {"name": "x"})

        assert response.json()["permission"] == "organization.create"

    def test_service_account_is_403(self, alice, team):
        account = service_accounts.create_service_account(
            organization=team, by=alice, name="ci", role="member"
        )

        response = send(open_session(account.user), "post", URL, {"name": "x"})

        assert (response.status_code, response.json()["code"]) == (403, "needs-session")
        assert response.json()["detail"].endswith("Sign in with a browser and try again.")

    def test_each_request_creates_another_team(self, owner):
        first, second = (send(owner, "post", URL, {"name": "x"}).json() for _ in range(2))

        assert first["id"] != second["id"]


class TestRename:
    def test_changing_a_name_twice_is_one_change(self, owner, team):
        responses = [send(owner, "patch", f"{URL}/{team.pk}", {"name": " Crew "}) for _ in range(2)]

        assert [response.status_code for response in responses] == [200, 200]
        assert {response.json()["name"] for response in responses} == {"Crew"}
        assert responses[0].json() == owner.get(f"{URL}/{team.pk}").json()
        assert AuditEntry.objects.filter(action="organization.renamed").count() == 1

    @pytest.mark.parametrize("body", [{}, {"name": None}, {"title": "x"}])
    def test_bad_body_is_400(self, owner, team, body):
        response = send(owner, "patch", f"{URL}/{team.pk}", body)

        assert (response.status_code, list(response.json()["errors"])) == (400, ["name"])


class TestLeave:
    def test_member_leaves_and_cannot_leave_again(self, team):
        user = add_member(team, "member")
        client = open_session(user)

        statuses = [client.post(f"{URL}/{team.pk}/leave").status_code for _ in range(2)]

        assert statuses == [204, 404]
        assert not Membership.objects.filter(organization=team, user=user).exists()

    def test_key_without_the_scope_is_403(self, alice, team):
        client = key_client(alice, organization=team, scopes=["organization.view"])

        response = client.post(f"{URL}/{team.pk}/leave")

        assert response.json()["permission"] == "organization.leave"


class TestTransfer:
    @pytest.mark.parametrize("body", [{}, {"user": "x"}, {"user": None}])
    def test_bad_body_is_400(self, owner, team, body):
        response = send(owner, "post", f"{URL}/{team.pk}/transfer", body)

        assert (response.status_code, list(response.json()["errors"])) == (400, ["user"])

    def test_user_outside_the_team_is_404(self, owner, team, charlie):
        response = send(owner, "post", f"{URL}/{team.pk}/transfer", {"user": str(charlie.pk)})

        assert (response.status_code, response.json()["code"]) == (404, "unknown-member")

    def test_admin_is_403(self, team):
        admin = add_member(team, "admin")

        response = send(
            open_session(admin), "post", f"{URL}/{team.pk}/transfer", {"user": str(admin.pk)}
        )

        assert response.json()["permission"] == "organization.transfer"


class TestSettings:
    def test_values_are_null_until_set(self, owner, team):
        assert owner.get(f"{URL}/{team.pk}/settings").json() == {
            "version": 0,
            "values": dict.fromkeys(FIELDS),
            "enforced": [],
        }

    def test_change_is_safe_to_repeat(self, owner, team):
        body = {"values": {"language": "de"}, "enforced": ["language"]}

        responses = [send(owner, "patch", f"{URL}/{team.pk}/settings", body) for _ in range(2)]

        assert [response.status_code for response in responses] == [200, 200]
        assert responses[1].json()["values"]["language"] == "de"
        assert responses[1].json() == owner.get(f"{URL}/{team.pk}/settings").json()

    @pytest.mark.parametrize(
        "body", [{"values": []}, {"values": {"x": 1}}, {"version": -1}, {"enforced": "language"}]
    )
    def test_bad_body_is_400(self, owner, team, body):
        assert send(owner, "patch", f"{URL}/{team.pk}/settings", body).status_code == 400

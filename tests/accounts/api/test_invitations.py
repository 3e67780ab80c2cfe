"""``/api/v1/organizations/{id}/invitations`` and ``/api/v1/invitations/accept``."""

import pytest

from accounts.models import AuditEntry, Invitation, Membership
from accounts.services import invitations, organizations
from tests.accounts.api.conftest import UNKNOWN, add_member, open_session, send
from tests.conftest import key_client

ACCEPT = "/api/v1/invitations/accept"


@pytest.fixture
def url(team):
    return f"/api/v1/organizations/{team.pk}/invitations"


@pytest.fixture
def invitation(alice, team):
    return invitations.invite(organization=team, by=alice, role="viewer")[0]


@pytest.mark.parametrize(
    ("method", "tail", "body"), [("get", "", None), ("post", "", {}), ("delete", "/one", None)]
)
class TestEveryMethod:
    def call(self, client, method, tail, body, url, invitation):
        return send(client, method, url + tail.replace("one", str(invitation.pk)), body)

    def test_foreign_organization_is_404(self, stranger, method, tail, body, url, invitation):
        response = self.call(stranger, method, tail, body, url, invitation)

        assert (response.status_code, response.json()["code"]) == (404, "not-found")
        assert Invitation.objects.filter(revoked_at=None).count() == 1

    @pytest.mark.parametrize("role", ["member", "viewer", "auditor"])
    def test_role_without_the_permission_is_403(
        self, team, role, method, tail, body, url, invitation
    ):
        client = open_session(add_member(team, role))

        response = self.call(client, method, tail, body, url, invitation)

        permission = "invitations.view" if method == "get" else "invitations.edit"
        assert (response.status_code, response.json()["permission"]) == (403, permission)
        assert Invitation.objects.filter(revoked_at=None).count() == 1

    def test_key_of_another_organization_gets_404(self, alice, method, tail, body, url, invitation):
        client = key_client(alice)

        assert self.call(client, method, tail, body, url, invitation).status_code == 404

    def test_anonymous_is_401(self, client, method, tail, body, url, invitation):
        tail = tail.replace("one", str(invitation.pk))
        assert getattr(client, method)(url + tail).status_code == 401


def test_list_has_every_field_of_an_invitation_except_the_link(owner, alice, url, invitation):
    assert owner.get(url).json() == {
        "items": [
            {
                "id": str(invitation.pk),
                "role": "viewer",
                "email": "",
                "max_uses": 1,
                "uses": 0,
                "is_open": True,
                "created_by": str(alice.pk),
                "created_at": invitation.created_at.isoformat().replace("+00:00", "Z"),
                "expires_at": invitation.expires_at.isoformat().replace("+00:00", "Z"),
                "revoked_at": None,
            }
        ],
        "next": None,
    }


def test_list_has_no_invitation_of_another_organization(owner, alice, url, invitation):
    other = organizations.create_organization(user=alice, name="Other")
    invitations.invite(organization=other, by=alice, role="viewer")

    assert [row["id"] for row in owner.get(url).json()["items"]] == [str(invitation.pk)]


def test_each_request_creates_another_invitation(owner, url):
    first, second = (send(owner, "post", url, {"role": "admin"}).json() for _ in range(2))

    assert first["id"] != second["id"]
    assert first["link"] != second["link"]
    assert (first["role"], first["mailed"]) == ("admin", False)


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ({"role": "king"}, "invalid"),
        ({"days": 0}, "invalid"),
        ({"days": 31}, "invalid"),
        ({"max_uses": 0}, "invalid"),
        ({"max_uses": 501}, "invalid"),
        ({"email": "x" * 255}, "invalid"),
        ({"email": "nonsense"}, "bad-invitation"),
    ],
)
def test_bad_body_is_400(owner, url, body, code):
    response = send(owner, "post", url, body)

    assert (response.status_code, response.json()["code"]) == (400, code)
    assert not Invitation.objects.exists()


def test_revoked_invitation_stays_listed_and_can_be_revoked_again(owner, url, invitation):
    statuses = [owner.delete(f"{url}/{invitation.pk}").status_code for _ in range(2)]

    [row] = owner.get(url).json()["items"]
    assert (statuses, row["is_open"], bool(row["revoked_at"])) == ([204, 204], False, True)
    assert AuditEntry.objects.filter(action="invitation.revoked").count() == 1


def test_invitation_of_another_organization_is_404_and_stays_open(owner, alice, url):
    other = organizations.create_organization(user=alice, name="Other")
    invitation, _ = invitations.invite(organization=other, by=alice, role="viewer")

    for pk in (invitation.pk, UNKNOWN, "x"):
        assert owner.delete(f"{url}/{pk}").status_code == 404
    invitation.refresh_from_db()
    assert invitation.is_open


@pytest.mark.parametrize("method", ["get", "put", "patch"])
def test_other_methods_on_an_invitation_are_405(owner, url, invitation, method):
    assert send(owner, method, f"{url}/{invitation.pk}").status_code == 405


class TestAccept:
    @pytest.fixture
    def token(self, alice, team):
        _, link = invitations.invite(organization=team, by=alice, role="viewer", max_uses=2)
        return link.rpartition("/")[2]

    def test_response_is_the_organization_with_the_new_role(self, charlie, team, token):
        client = open_session(charlie)

        response = send(client, "post", ACCEPT, {"token": token})

        assert response.status_code == 200
        assert response.json() == client.get(f"/api/v1/organizations/{team.pk}").json()
        assert response.json()["role"] == "viewer"

    def test_member_keeps_the_role_and_uses_nothing_up(self, team, token):
        admin = add_member(team, "admin")

        response = send(open_session(admin), "post", ACCEPT, {"token": token})

        assert (response.status_code, response.json()["role"]) == (200, "admin")
        assert Invitation.objects.get().uses == 0

    @pytest.mark.parametrize("body", [{}, {"token": ""}, {"token": None}, {"token": "x" * 101}])
    def test_bad_body_is_400(self, stranger, body):
        response = send(stranger, "post", ACCEPT, body)

        assert (response.status_code, list(response.json()["errors"])) == (400, ["token"])

    def test_unknown_token_is_404(self, stranger):
        response = send(stranger, "post", ACCEPT, {"token": f"{UNKNOWN}.secret"})

        assert (response.status_code, response.json()["code"]) == (404, "invalid-invitation")

    def test_key_is_403(self, charlie, team, token):
        response = send(key_client(charlie), "post", ACCEPT, {"token": token})

        assert (response.status_code, response.json()["code"]) == (403, "needs-session")
        assert not Membership.objects.filter(user=charlie, organization=team).exists()

    def test_anonymous_is_401(self, client, db):
        assert client.post(ACCEPT).status_code == 401

    def test_other_methods_are_405(self, stranger):
        assert stranger.get(ACCEPT).status_code == 405

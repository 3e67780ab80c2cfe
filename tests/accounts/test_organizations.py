"""Teams: members, roles, invitations, suspension, and the explanation of a permission."""

import threading
from datetime import timedelta

import pytest
from django.core import mail
from django.db import connections
from django.utils import timezone
from rest_framework.test import APIClient

from accounts import services
from accounts.models import ApiKey, AuditEntry, Invitation, Membership, Organization
from accounts.roles import ROLE_PERMISSIONS
from accounts.services import invitations
from accounts.services import organizations as verbs
from lib.problems import Problem
from tests.conftest import key_client
from tests.factories.accounts import UserFactory


@pytest.fixture
def team(alice):
    return verbs.create_organization(user=alice, name="Team")


def add_member(team, role, **fields):
    user = UserFactory(**fields)
    Membership.objects.create(organization=team, user=user, role=role)
    return user


def open_session(user):
    client = APIClient()
    client.force_login(user)
    return client


def read_role(team, user):
    membership = Membership.objects.filter(organization=team, user=user).first()
    return membership and membership.role


class TestOrganizations:
    def test_creator_of_a_team_is_its_owner(self, alice):
        response = open_session(alice).post("/api/v1/organizations", {"name": " Rockets "}, "json")

        assert response.status_code == 201
        team = Organization.objects.get(pk=response.json()["id"])
        created_at, permissions = response.json()["created_at"], response.json()["permissions"]
        assert response.json() == {
            "id": str(team.pk),
            "name": "Rockets",
            "role": "owner",
            "is_personal": False,
            "permissions": sorted(ROLE_PERMISSIONS["owner"]),
            "suspended_at": None,
            "created_at": created_at,
        }
        assert permissions == sorted(ROLE_PERMISSIONS["owner"])
        assert read_role(team, alice) == "owner"

    def test_list_has_the_callers_organizations_only(self, alice, charlie, team):
        alices = open_session(alice).get("/api/v1/organizations").json()["items"]
        charlies = open_session(charlie).get("/api/v1/organizations").json()["items"]

        assert {row["name"] for row in alices} == {"Alice", "Team"}
        assert {row["name"] for row in charlies} == {"charlie"}

    def test_key_lists_its_own_organization_only(self, alice, team):
        page = key_client(alice, organization=team).get("/api/v1/organizations").json()

        assert [row["name"] for row in page["items"]] == ["Team"]

    def test_organization_beyond_the_maximum_is_409(self, alice, settings):
        settings.ORGANIZATIONS_PER_USER = 1
        client = open_session(alice)

        first = client.post("/api/v1/organizations", {"name": "a"}, "json")
        second = client.post("/api/v1/organizations", {"name": "b"}, "json")

        assert (first.status_code, second.status_code) == (201, 409)
        assert second.json()["code"] == "too-many-organizations"

    @pytest.mark.parametrize("name", ["", "   ", "a\nb", "x" * 121, "a\u202eb"])
    def test_bad_name_is_400(self, alice, team, name):
        client = open_session(alice)

        response = client.patch(f"/api/v1/organizations/{team.pk}", {"name": name}, "json")

        assert response.status_code == 400
        team.refresh_from_db()
        assert team.name == "Team"

    def test_rename_is_in_the_audit_log(self, alice, team):
        client = open_session(alice)

        client.patch(f"/api/v1/organizations/{team.pk}", {"name": "Crew"}, "json")

        entry = AuditEntry.objects.get(action="organization.renamed")
        assert (entry.chain, entry.before, entry.after) == (
            team.pk,
            {"name": "Team"},
            {"name": "Crew"},
        )
        assert (entry.actor_kind, entry.actor_id) == ("person", str(alice.pk))


class TestMembers:
    def test_viewer_gets_the_list_of_members(self, alice, team):
        bob = add_member(team, "viewer", email="bob@example.com")

        rows = open_session(bob).get(f"/api/v1/organizations/{team.pk}/members").json()["items"]

        assert [(row["email"], row["role"]) for row in rows] == [
            ("bob@example.com", "viewer"),
            ("alice@example.com", "owner"),
        ]

    @pytest.mark.parametrize(
        ("own_role", "old_role", "new_role", "status"),
        [
            ("owner", "member", "owner", 200),
            ("owner", "admin", "viewer", 200),
            ("admin", "member", "admin", 200),
            ("admin", "admin", "member", 200),
            ("admin", "member", "owner", 403),
            ("admin", "owner", "member", 403),
            ("member", "viewer", "member", 403),
            ("auditor", "viewer", "member", 403),
            ("billing", "viewer", "member", 403),
            ("viewer", "member", "viewer", 403),
        ],
    )
    def test_role_change_above_the_callers_own_role_is_403(
        self, team, own_role, old_role, new_role, status
    ):
        by, target = add_member(team, own_role), add_member(team, old_role)

        response = open_session(by).patch(
            f"/api/v1/organizations/{team.pk}/members/{target.pk}", {"role": new_role}, "json"
        )

        assert response.status_code == status
        assert read_role(team, target) == (new_role if status == 200 else old_role)

    def test_last_owner_cannot_lose_the_role_or_leave(self, alice, team):
        client = open_session(alice)
        member = f"/api/v1/organizations/{team.pk}/members/{alice.pk}"

        answers = [
            client.patch(member, {"role": "member"}, "json"),
            client.delete(member),
            client.post(f"/api/v1/organizations/{team.pk}/leave"),
        ]

        assert [answer.status_code for answer in answers] == [409, 409, 409]
        assert {answer.json()["code"] for answer in answers} == {"last-owner"}
        assert read_role(team, alice) == "owner"

    def test_suspended_owner_does_not_count_as_an_owner(self, alice, team):
        services.suspend_user(user=add_member(team, "owner"))

        with pytest.raises(verbs.LastOwner):
            verbs.leave_organization(organization=team, user=alice)

    def test_removed_member_loses_the_keys_and_the_organization(self, alice, team):
        bob = add_member(team, "member")
        client = key_client(bob, organization=team)
        assert client.get(f"/api/v1/organizations/{team.pk}").status_code == 200

        answer = open_session(alice).delete(f"/api/v1/organizations/{team.pk}/members/{bob.pk}")

        assert answer.status_code == 204
        assert client.get(f"/api/v1/organizations/{team.pk}").status_code == 401
        assert open_session(bob).get(f"/api/v1/organizations/{team.pk}").status_code == 404
        assert not ApiKey.objects.filter(user=bob, organization=team, revoked_at=None).exists()
        assert AuditEntry.objects.get(action="member.removed").before == {"role": "member"}

    def test_admin_cannot_remove_an_owner(self, alice, team):
        admin = add_member(team, "admin")

        answer = open_session(admin).delete(f"/api/v1/organizations/{team.pk}/members/{alice.pk}")

        assert (answer.status_code, answer.json()["code"]) == (403, "role-above-yours")

    def test_transfer_makes_the_member_owner_and_the_owner_admin(self, alice, team):
        bob = add_member(team, "viewer")
        address = f"/api/v1/organizations/{team.pk}/transfer"

        first = open_session(alice).post(address, {"user": str(bob.pk)}, "json")
        again = open_session(alice).post(address, {"user": str(bob.pk)}, "json")

        assert (first.status_code, again.status_code) == (204, 403)
        assert (read_role(team, alice), read_role(team, bob)) == ("admin", "owner")

    def test_personal_organization_cannot_be_shared_left_or_transferred(self, alice, charlie):
        own = alice.personal_organization
        client = open_session(alice)

        answers = [
            client.post(f"/api/v1/organizations/{own.pk}/invitations", {}, "json"),
            client.post(f"/api/v1/organizations/{own.pk}/leave"),
            client.post(
                f"/api/v1/organizations/{own.pk}/transfer", {"user": str(charlie.pk)}, "json"
            ),
            client.post(f"/api/v1/organizations/{own.pk}/service-accounts", {"name": "ci"}, "json"),
        ]

        assert [(a.status_code, a.json()["code"]) for a in answers] == [
            (409, "personal-organization")
        ] * 4


class TestInvitations:
    def invite(self, by, team, **body):
        address = f"/api/v1/organizations/{team.pk}/invitations"
        return open_session(by).post(address, body, "json")

    def accept(self, user, link):
        token = link.rpartition("/")[2]
        return open_session(user).post("/api/v1/invitations/accept", {"token": token}, "json")

    def test_link_admits_one_user(self, alice, charlie, team):
        created = self.invite(alice, team, role="viewer")
        link = created.json()["link"]

        first, second = self.accept(charlie, link), self.accept(UserFactory(), link)

        assert (created.status_code, first.status_code, second.status_code) == (201, 200, 404)
        assert second.json()["code"] == "invalid-invitation"
        assert read_role(team, charlie) == "viewer"

    def test_token_of_a_link_is_neither_listed_nor_stored(self, alice, team):
        token = self.invite(alice, team).json()["link"].rpartition("/")[2]
        client = open_session(alice)

        listed = client.get(f"/api/v1/organizations/{team.pk}/invitations")

        assert (listed.status_code, len(listed.json()["items"])) == (200, 1)
        assert token.encode() not in listed.content
        row = Invitation.objects.values().get()
        assert not [value for value in row.values() if token.partition(".")[2] in str(value)]

    def test_link_for_two_users_admits_two_and_a_repeated_use_is_free(self, alice, charlie, team):
        link = self.invite(alice, team, max_uses=2).json()["link"]

        answers = [self.accept(user, link) for user in (charlie, charlie, UserFactory())]
        late = self.accept(UserFactory(), link)

        assert [a.status_code for a in [*answers, late]] == [200, 200, 200, 404]
        assert Invitation.objects.get().uses == 2

    def test_expired_revoked_and_malformed_links_are_404(self, alice, charlie, team):
        expired, revoked, good = (self.invite(alice, team).json() for _ in range(3))
        Invitation.objects.filter(pk=expired["id"]).update(
            expires_at=timezone.now() - timedelta(seconds=1)
        )
        address = f"/api/v1/organizations/{team.pk}/invitations/{revoked['id']}"
        assert open_session(alice).delete(address).status_code == 204
        wrong = good["link"][:-1] + ("A" if good["link"][-1] != "A" else "B")

        links = [expired["link"], revoked["link"], wrong, "x", "/" + "0" * 32 + ".x"]
        answers = [self.accept(charlie, link).status_code for link in links]

        assert answers == [404] * 5
        assert read_role(team, charlie) is None

    def test_invitation_to_a_role_above_the_callers_own_is_refused(self, team):
        admin, member = add_member(team, "admin"), add_member(team, "member")

        assert self.invite(admin, team, role="owner").json()["code"] == "role-above-yours"
        assert self.invite(member, team, role="viewer").json()["code"] == "missing-permission"

    def test_link_of_an_inviter_who_lost_the_role_is_404(self, alice, charlie, team):
        admin = add_member(team, "admin")
        link = self.invite(admin, team, role="admin").json()["link"]
        verbs.change_role(organization=team, by=alice, user_id=admin.pk, role="member")

        assert self.accept(charlie, link).status_code == 404

    def test_link_for_an_address_is_refused_for_other_users(self, alice, charlie, team):
        link = self.invite(alice, team, email="Charlie@Example.com").json()["link"]

        assert self.accept(UserFactory(), link).json()["code"] == "others-invitation"
        assert self.accept(charlie, link).status_code == 200

    def test_invitation_is_mailed_only_if_a_mail_server_is_configured(self, alice, team, settings):
        settings.EMAIL_HOST = ""
        silent = self.invite(alice, team, email="x@example.com").json()
        settings.EMAIL_HOST = "mail.example.com"
        loud = self.invite(alice, team, email="x@example.com").json()

        assert (silent["mailed"], loud["mailed"], len(mail.outbox)) == (False, True, 1)
        assert mail.outbox[0].to == ["x@example.com"]
        assert loud["link"] in mail.outbox[0].body

    def test_link_to_a_suspended_organization_is_404(self, alice, charlie, team):
        link = self.invite(alice, team).json()["link"]
        verbs.suspend_organization(organization=team)

        assert self.accept(charlie, link).status_code == 404

    def test_key_cannot_accept_an_invitation(self, alice, charlie, team):
        token = self.invite(alice, team).json()["link"].rpartition("/")[2]

        answer = key_client(charlie).post("/api/v1/invitations/accept", {"token": token}, "json")

        assert (answer.status_code, answer.json()["code"]) == (403, "needs-session")


class TestSuspension:
    def test_suspension_is_403_with_advice_for_sessions_and_401_for_keys(self, alice, team):
        client = key_client(alice, organization=team)
        verbs.suspend_organization(organization=team, reason="unpaid")

        answer = open_session(alice).get(f"/api/v1/organizations/{team.pk}/members")

        assert (answer.status_code, answer.json()["code"]) == (403, "organization-suspended")
        assert "Ask an administrator of this server" in answer.json()["detail"]
        assert client.get("/api/v1/users/me").status_code == 401
        assert AuditEntry.objects.get(action="organization.suspended").reason == "unpaid"

    def test_activation_is_repeatable_and_restores_the_keys(self, alice, team):
        client = key_client(alice, organization=team)
        verbs.suspend_organization(organization=team)
        verbs.activate_organization(organization=team)
        verbs.activate_organization(organization=team)

        assert client.get(f"/api/v1/organizations/{team.pk}/members").status_code == 200
        assert AuditEntry.objects.filter(action="organization.activated").count() == 1


class TestExplain:
    def explain(self, client, permission, **query):
        return client.get("/api/v1/permissions/explain", {"permission": permission} | query)

    def test_role_with_the_permission_is_allowed(self, alice, team):
        body = self.explain(open_session(alice), "members.edit", organization=str(team.pk)).json()

        assert (body["allowed"], body["decided_by"], body["role"]) == (True, "role", "owner")
        assert body["change"] == ""

    def test_role_without_the_permission_gets_the_roles_that_include_it(self, team):
        viewer = add_member(team, "viewer")
        body = self.explain(open_session(viewer), "members.edit", organization=str(team.pk)).json()

        assert body == {
            "permission": "members.edit",
            "organization": str(team.pk),
            "allowed": False,
            "decided_by": "role",
            "role": "viewer",
            "sentence": "Your role in this organization is viewer, which does not include members.edit.",
            "change": "An owner or admin can give you a role that includes it: admin, owner.",
        }

    def test_key_without_the_scope_is_refused_by_key_scope(self, alice, team):
        client = key_client(alice, organization=team, scopes=["account.view"])
        body = self.explain(client, "files.edit").json()

        assert (body["allowed"], body["decided_by"]) == (False, "key-scope")
        assert "scope files.edit" in body["change"]

    def test_foreign_and_unknown_organizations_get_the_same_sentence(self, alice, charlie, team):
        unknown = "018f0000-0000-7000-8000-000000000000"
        foreign, nowhere = (
            self.explain(open_session(charlie), "files.edit", organization=pk).json()
            for pk in (str(team.pk), unknown)
        )
        key = self.explain(key_client(alice), "files.edit", organization=str(team.pk)).json()

        assert (foreign["allowed"], foreign["decided_by"]) == (False, "membership")
        assert foreign["sentence"] == nowhere["sentence"]
        assert key["decided_by"] == "key-organization"

    def test_suspension_decides_before_the_role(self, alice, team):
        verbs.suspend_organization(organization=team)
        body = self.explain(open_session(alice), "files.edit", organization=str(team.pk)).json()

        assert (body["allowed"], body["decided_by"]) == (False, "suspension")

    def test_explanation_agrees_with_the_enforced_permissions(self, team):
        from accounts.permissions import explain, permissions_in
        from accounts.roles import PERMISSIONS

        for role, expected in ROLE_PERMISSIONS.items():
            user = add_member(team, role)
            allowed = {p for p in PERMISSIONS if explain(user, team.pk, p).allowed}
            assert allowed == expected == permissions_in(user, team.pk)

    def test_unknown_permission_is_400(self, alice):
        assert self.explain(open_session(alice), "files.destroy").status_code == 400


@pytest.mark.django_db(transaction=True)
class TestRaces:
    def run_in_parallel(self, *calls):
        """Run each call in its own thread and return the types of the problems raised."""
        raised = []
        barrier = threading.Barrier(len(calls))

        def run(call):
            barrier.wait()
            try:
                call()
            except Problem as error:
                raised.append(type(error))
            finally:
                connections.close_all()

        threads = [threading.Thread(target=run, args=[call]) for call in calls]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return raised

    def test_one_of_two_owners_who_leave_in_parallel_stays(self):
        first = UserFactory()
        team = verbs.create_organization(user=first, name="Team")
        second = add_member(team, "owner")

        raised = self.run_in_parallel(
            *(
                lambda user=user: verbs.leave_organization(organization=team, user=user)
                for user in (first, second)
            )
        )

        assert raised == [verbs.LastOwner]
        assert team.memberships.count() == 1

    def test_link_for_two_users_admits_two_of_eight_parallel_users(self):
        owner = UserFactory()
        team = verbs.create_organization(user=owner, name="Team")
        _, link = invitations.invite(organization=team, by=owner, role="member", max_uses=2)
        token = link.rpartition("/")[2]
        guests = [UserFactory() for _ in range(8)]

        raised = self.run_in_parallel(
            *(
                lambda user=user: invitations.accept_invitation(token=token, user=user)
                for user in guests
            )
        )

        assert raised == [invitations.InvalidInvitation] * 6
        assert team.memberships.count() == 3

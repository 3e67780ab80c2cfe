"""Teams: members and roles, invitations, leaving, handing over, suspension, and why somebody may not."""

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
from accounts.services import organizations as verbs
from lib.problems import Problem
from tests.conftest import key_client
from tests.factories.accounts import UserFactory


@pytest.fixture
def team(alice):
    return verbs.create_organization(user=alice, name="Team")


def join(team, role, **fields):
    user = UserFactory(**fields)
    Membership.objects.create(organization=team, user=user, role=role)
    return user


def signed_in(user):
    client = APIClient()
    client.force_login(user)
    return client


def role_of(team, user):
    found = Membership.objects.filter(organization=team, user=user).first()
    return found and found.role


class TestOrganizations:
    def test_whoever_makes_a_team_owns_it(self, alice):
        response = signed_in(alice).post("/api/v1/organizations", {"name": " Rockets "}, "json")

        assert response.status_code == 201
        made = Organization.objects.get(pk=response.json()["id"])
        created_at, permissions = response.json()["created_at"], response.json()["permissions"]
        assert response.json() == {
            "id": str(made.pk),
            "name": "Rockets",
            "role": "owner",
            "is_personal": False,
            "permissions": sorted(ROLE_PERMISSIONS["owner"]),
            "suspended_at": None,
            "created_at": created_at,
        }
        assert permissions == sorted(ROLE_PERMISSIONS["owner"])
        assert role_of(made, alice) == "owner"

    def test_list_has_ones_own_and_no_other(self, alice, charlie, team):
        found = signed_in(alice).get("/api/v1/organizations").json()["items"]
        others = signed_in(charlie).get("/api/v1/organizations").json()["items"]

        assert {row["name"] for row in found} == {"Alice", "Team"}
        assert {row["name"] for row in others} == {"charlie"}

    def test_key_lists_its_own_organization_only(self, alice, team):
        found = key_client(alice, organization=team).get("/api/v1/organizations").json()

        assert [row["name"] for row in found["items"]] == ["Team"]

    def test_one_owns_a_bounded_number(self, alice, settings):
        settings.ORGANIZATIONS_PER_USER = 1
        client = signed_in(alice)

        first = client.post("/api/v1/organizations", {"name": "a"}, "json")
        second = client.post("/api/v1/organizations", {"name": "b"}, "json")

        assert (first.status_code, second.status_code) == (201, 409)
        assert second.json()["code"] == "too-many-organizations"

    @pytest.mark.parametrize("name", ["", "   ", "a\nb", "x" * 121, "a\u202eb"])
    def test_bad_names_are_refused(self, alice, team, name):
        client = signed_in(alice)

        response = client.patch(f"/api/v1/organizations/{team.pk}", {"name": name}, "json")

        assert response.status_code == 400
        team.refresh_from_db()
        assert team.name == "Team"

    def test_renaming_is_written_down(self, alice, team):
        client = signed_in(alice)

        client.patch(f"/api/v1/organizations/{team.pk}", {"name": "Crew"}, "json")

        entry = AuditEntry.objects.get(action="organization.renamed")
        assert (entry.chain, entry.before, entry.after) == (
            team.pk,
            {"name": "Team"},
            {"name": "Crew"},
        )
        assert (entry.actor_kind, entry.actor_id) == ("person", str(alice.pk))


class TestMembers:
    def test_members_are_listed_for_members(self, alice, team):
        bob = join(team, "viewer", email="bob@example.com")

        found = signed_in(bob).get(f"/api/v1/organizations/{team.pk}/members").json()["items"]

        assert [(row["email"], row["role"]) for row in found] == [
            ("bob@example.com", "viewer"),
            ("alice@example.com", "owner"),
        ]

    @pytest.mark.parametrize(
        ("giver", "holder", "wanted", "status"),
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
    def test_nobody_gives_or_takes_a_role_above_their_own(
        self, team, giver, holder, wanted, status
    ):
        by, target = join(team, giver), join(team, holder)

        response = signed_in(by).patch(
            f"/api/v1/organizations/{team.pk}/members/{target.pk}", {"role": wanted}, "json"
        )

        assert response.status_code == status
        assert role_of(team, target) == (wanted if status == 200 else holder)

    def test_the_last_owner_stays(self, alice, team):
        client = signed_in(alice)
        member = f"/api/v1/organizations/{team.pk}/members/{alice.pk}"

        answers = [
            client.patch(member, {"role": "member"}, "json"),
            client.delete(member),
            client.post(f"/api/v1/organizations/{team.pk}/leave"),
        ]

        assert [answer.status_code for answer in answers] == [409, 409, 409]
        assert {answer.json()["code"] for answer in answers} == {"last-owner"}
        assert role_of(team, alice) == "owner"

    def test_a_suspended_co_owner_does_not_count(self, alice, team):
        services.suspend_user(user=join(team, "owner"))

        with pytest.raises(verbs.LastOwner):
            verbs.leave_organization(organization=team, user=alice)

    def test_removal_ends_keys_and_sight(self, alice, team):
        bob = join(team, "member")
        client = key_client(bob, organization=team)
        assert client.get(f"/api/v1/organizations/{team.pk}").status_code == 200

        answer = signed_in(alice).delete(f"/api/v1/organizations/{team.pk}/members/{bob.pk}")

        assert answer.status_code == 204
        assert client.get(f"/api/v1/organizations/{team.pk}").status_code == 401
        assert signed_in(bob).get(f"/api/v1/organizations/{team.pk}").status_code == 404
        assert not ApiKey.objects.filter(user=bob, organization=team, revoked_at=None).exists()
        assert AuditEntry.objects.get(action="member.removed").before == {"role": "member"}

    def test_admins_do_not_remove_owners(self, alice, team):
        admin = join(team, "admin")

        answer = signed_in(admin).delete(f"/api/v1/organizations/{team.pk}/members/{alice.pk}")

        assert (answer.status_code, answer.json()["code"]) == (403, "role-above-yours")

    def test_ownership_is_handed_over(self, alice, team):
        bob = join(team, "viewer")
        address = f"/api/v1/organizations/{team.pk}/transfer"

        first = signed_in(alice).post(address, {"user": str(bob.pk)}, "json")
        again = signed_in(alice).post(address, {"user": str(bob.pk)}, "json")

        assert (first.status_code, again.status_code) == (204, 403)
        assert (role_of(team, alice), role_of(team, bob)) == ("admin", "owner")

    def test_a_personal_organization_stays_personal(self, alice, charlie):
        own = alice.personal_organization
        client = signed_in(alice)

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
        return signed_in(by).post(address, body, "json")

    def accept(self, user, link):
        token = link.rpartition("/")[2]
        return signed_in(user).post("/api/v1/invitations/accept", {"token": token}, "json")

    def test_a_link_lets_in_once(self, alice, charlie, team):
        made = self.invite(alice, team, role="viewer")
        link = made.json()["link"]

        first, second = self.accept(charlie, link), self.accept(UserFactory(), link)

        assert (made.status_code, first.status_code, second.status_code) == (201, 200, 404)
        assert second.json()["code"] == "invalid-invitation"
        assert role_of(team, charlie) == "viewer"

    def test_the_link_is_shown_once_and_kept_as_an_hmac(self, alice, team):
        token = self.invite(alice, team).json()["link"].rpartition("/")[2]
        client = signed_in(alice)

        listed = client.get(f"/api/v1/organizations/{team.pk}/invitations")

        assert token.encode() not in listed.content
        row = Invitation.objects.values().get()
        assert not [value for value in row.values() if token.partition(".")[2] in str(value)]

    def test_a_link_for_many_counts_and_opening_twice_costs_once(self, alice, charlie, team):
        link = self.invite(alice, team, max_uses=2).json()["link"]

        answers = [self.accept(user, link) for user in (charlie, charlie, UserFactory())]
        late = self.accept(UserFactory(), link)

        assert [a.status_code for a in [*answers, late]] == [200, 200, 200, 404]
        assert Invitation.objects.get().uses == 2

    def test_expired_revoked_and_mistyped_links_open_nothing(self, alice, charlie, team):
        expired, revoked, good = (self.invite(alice, team).json() for _ in range(3))
        Invitation.objects.filter(pk=expired["id"]).update(
            expires_at=timezone.now() - timedelta(seconds=1)
        )
        address = f"/api/v1/organizations/{team.pk}/invitations/{revoked['id']}"
        assert signed_in(alice).delete(address).status_code == 204
        wrong = good["link"][:-1] + ("A" if good["link"][-1] != "A" else "B")

        links = [expired["link"], revoked["link"], wrong, "x", "/" + "0" * 32 + ".x"]
        answers = [self.accept(charlie, link).status_code for link in links]

        assert answers == [404] * 5
        assert role_of(team, charlie) is None

    def test_nobody_invites_above_their_rank(self, team):
        admin, member = join(team, "admin"), join(team, "member")

        assert self.invite(admin, team, role="owner").json()["code"] == "role-above-yours"
        assert self.invite(member, team, role="viewer").json()["code"] == "missing-permission"

    def test_an_inviter_who_fell_gives_nothing_any_more(self, alice, charlie, team):
        admin = join(team, "admin")
        link = self.invite(admin, team, role="admin").json()["link"]
        verbs.change_role(organization=team, by=alice, user_id=admin.pk, role="member")

        assert self.accept(charlie, link).status_code == 404

    def test_an_addressed_one_is_for_its_address(self, alice, charlie, team):
        link = self.invite(alice, team, email="Charlie@Example.com").json()["link"]

        assert self.accept(UserFactory(), link).json()["code"] == "others-invitation"
        assert self.accept(charlie, link).status_code == 200

    def test_it_is_mailed_where_there_is_a_mail_server(self, alice, team, settings):
        settings.EMAIL_HOST = ""
        silent = self.invite(alice, team, email="x@example.com").json()
        settings.EMAIL_HOST = "mail.example.com"
        loud = self.invite(alice, team, email="x@example.com").json()

        assert (silent["mailed"], loud["mailed"], len(mail.outbox)) == (False, True, 1)
        assert mail.outbox[0].to == ["x@example.com"]
        assert loud["link"] in mail.outbox[0].body

    def test_a_suspended_organization_takes_nobody_in(self, alice, charlie, team):
        link = self.invite(alice, team).json()["link"]
        verbs.suspend_organization(organization=team)

        assert self.accept(charlie, link).status_code == 404

    def test_a_key_joins_nothing(self, alice, charlie, team):
        token = self.invite(alice, team).json()["link"].rpartition("/")[2]

        answer = key_client(charlie).post("/api/v1/invitations/accept", {"token": token}, "json")

        assert (answer.status_code, answer.json()["code"]) == (403, "needs-session")


class TestSuspension:
    def test_members_hear_why_and_keys_stop(self, alice, team):
        client = key_client(alice, organization=team)
        verbs.suspend_organization(organization=team, reason="unpaid")

        answer = signed_in(alice).get(f"/api/v1/organizations/{team.pk}/members")

        assert (answer.status_code, answer.json()["code"]) == (403, "organization-suspended")
        assert "Ask an administrator of this server" in answer.json()["detail"]
        assert client.get("/api/v1/users/me").status_code == 401
        assert AuditEntry.objects.get(action="organization.suspended").reason == "unpaid"

    def test_it_opens_again(self, alice, team):
        client = key_client(alice, organization=team)
        verbs.suspend_organization(organization=team)
        verbs.activate_organization(organization=team)
        verbs.activate_organization(organization=team)

        assert client.get(f"/api/v1/organizations/{team.pk}/members").status_code == 200
        assert AuditEntry.objects.filter(action="organization.activated").count() == 1


class TestExplain:
    def ask(self, client, permission, **query):
        return client.get("/api/v1/permissions/explain", {"permission": permission} | query)

    def test_a_role_that_has_it(self, alice, team):
        found = self.ask(signed_in(alice), "members.edit", organization=str(team.pk)).json()

        assert (found["allowed"], found["decided_by"], found["role"]) == (True, "role", "owner")
        assert found["change"] == ""

    def test_a_role_that_lacks_it_names_those_that_have_it(self, team):
        viewer = join(team, "viewer")
        found = self.ask(signed_in(viewer), "members.edit", organization=str(team.pk)).json()

        assert found == {
            "permission": "members.edit",
            "organization": str(team.pk),
            "allowed": False,
            "decided_by": "role",
            "role": "viewer",
            "sentence": "Your role in this organization is viewer, which does not include members.edit.",
            "change": "An owner or admin can give you a role that includes it: admin, owner.",
        }

    def test_a_key_without_the_scope(self, alice, team):
        client = key_client(alice, organization=team, scopes=["account.view"])
        found = self.ask(client, "files.edit").json()

        assert (found["allowed"], found["decided_by"]) == (False, "key-scope")
        assert "scope files.edit" in found["change"]

    def test_elsewhere_nothing_is_told(self, alice, charlie, team):
        unknown = "018f0000-0000-7000-8000-000000000000"
        there, nowhere = (
            self.ask(signed_in(charlie), "files.edit", organization=pk).json()
            for pk in (str(team.pk), unknown)
        )
        key = self.ask(key_client(alice), "files.edit", organization=str(team.pk)).json()

        assert (there["allowed"], there["decided_by"]) == (False, "membership")
        assert there["sentence"] == nowhere["sentence"]
        assert key["decided_by"] == "key-organization"

    def test_suspension_comes_first(self, alice, team):
        verbs.suspend_organization(organization=team)
        found = self.ask(signed_in(alice), "files.edit", organization=str(team.pk)).json()

        assert (found["allowed"], found["decided_by"]) == (False, "suspension")

    def test_it_agrees_with_what_is_enforced(self, team):
        from accounts.permissions import explain, permissions_in
        from accounts.roles import PERMISSIONS

        for role, held in ROLE_PERMISSIONS.items():
            user = join(team, role)
            found = {p for p in PERMISSIONS if explain(user, team.pk, p).allowed}
            assert found == held == permissions_in(user, team.pk)

    def test_an_unknown_name_is_400(self, alice):
        assert self.ask(signed_in(alice), "files.destroy").status_code == 400


@pytest.mark.django_db(transaction=True)
class TestRaces:
    def at_once(self, *calls):
        """Run the calls in threads of their own, and give what they raised."""
        raised = []
        gate = threading.Barrier(len(calls))

        def run(call):
            gate.wait()
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

    def test_two_owners_who_leave_at_once_leave_one_behind(self):
        first = UserFactory()
        team = verbs.create_organization(user=first, name="Team")
        second = join(team, "owner")

        raised = self.at_once(
            *(
                lambda user=user: verbs.leave_organization(organization=team, user=user)
                for user in (first, second)
            )
        )

        assert raised == [verbs.LastOwner]
        assert team.memberships.count() == 1

    def test_a_link_for_two_lets_two_of_eight_in(self):
        owner = UserFactory()
        team = verbs.create_organization(user=owner, name="Team")
        _, link = verbs.invite(organization=team, by=owner, role="member", max_uses=2)
        token = link.rpartition("/")[2]
        guests = [UserFactory() for _ in range(8)]

        raised = self.at_once(
            *(lambda user=user: verbs.accept_invitation(token=token, user=user) for user in guests)
        )

        assert raised == [verbs.InvalidInvitation] * 6
        assert team.memberships.count() == 3

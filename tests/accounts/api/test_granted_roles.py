"""The roles that an API key may give: a key never gives a role with more permissions than the key itself has."""

from datetime import timedelta

import pytest
from django.utils import timezone

from accounts import services
from accounts.models import Invitation, User
from accounts.permissions import permissions_in
from accounts.roles import ROLE_PERMISSIONS, Role
from accounts.services import invitations, organizations, service_accounts
from tests.accounts.api.conftest import add_member, send
from tests.conftest import key_client

ROLES = [str(role) for role in Role]


def scoped_client(user, team, *scopes):
    return key_client(user, organization=team, scopes=scopes)


def invite(client, team, role):
    return send(client, "post", f"/api/v1/organizations/{team.pk}/invitations", {"role": role})


def change_role(client, team, user, role):
    return send(
        client, "patch", f"/api/v1/organizations/{team.pk}/members/{user.pk}", {"role": role}
    )


@pytest.mark.parametrize("role", ROLES)
def test_key_with_only_the_scope_for_invitations_invites_nobody(alice, team, role):
    response = invite(scoped_client(alice, team, "invitations.edit"), team, role)

    assert (response.status_code, response.json()["code"]) == (403, "role-above-yours")
    assert "API key" in response.json()["detail"]
    assert not Invitation.objects.exists()


@pytest.mark.parametrize("role", ROLES)
def test_key_with_only_the_scope_for_members_gives_no_role(alice, team, role):
    user = add_member(team, "billing" if role == "viewer" else "viewer")

    response = change_role(scoped_client(alice, team, "members.edit"), team, user, role)

    assert (response.status_code, response.json()["code"]) == (403, "role-above-yours")


@pytest.mark.parametrize("target", ["owner", "admin"])
@pytest.mark.parametrize("method", ["patch", "delete"])
def test_key_without_an_administrators_permissions_changes_and_removes_no_administrator(
    alice, team, target, method
):
    user = add_member(team, target)
    scopes = sorted(ROLE_PERMISSIONS["viewer"] | {"members.edit"})
    url = f"/api/v1/organizations/{team.pk}/members/{user.pk}"

    response = send(scoped_client(alice, team, *scopes), method, url, {"role": "viewer"})

    assert (response.status_code, response.json()["code"]) == (403, "role-above-yours")
    assert user.memberships.get(organization=team).role == target


def test_key_with_the_scope_for_members_removes_a_member(alice, team):
    user = add_member(team, "member")
    url = f"/api/v1/organizations/{team.pk}/members/{user.pk}"

    assert send(scoped_client(alice, team, "members.edit"), "delete", url).status_code == 204


@pytest.mark.parametrize("role", ["viewer", "member", "auditor", "billing", "admin"])
def test_key_with_the_permissions_of_a_role_gives_this_role_and_not_a_higher_one(alice, team, role):
    scopes = ROLE_PERMISSIONS[role] | {"invitations.edit", "members.edit"}
    client, user = scoped_client(alice, team, *sorted(scopes)), add_member(team, "member")
    start = "viewer" if role == "member" else "member"
    team.memberships.filter(user=user).update(role=start)

    assert invite(client, team, role).status_code == 201
    assert change_role(client, team, user, role).status_code == 200
    assert invite(client, team, "owner").status_code == 403


@pytest.mark.parametrize("role", ROLES)
def test_key_with_the_scope_for_service_accounts_creates_no_account(alice, team, role):
    url = f"/api/v1/organizations/{team.pk}/service-accounts"
    client = scoped_client(alice, team, "service_accounts.edit", "service_accounts.view")

    response = send(client, "post", url, {"name": "x", "role": role})

    assert response.status_code in (400, 403)


def test_owner_key_with_the_scope_for_transfers_only_makes_no_owner(alice, team):
    user = add_member(team, "viewer")
    client = scoped_client(alice, team, "organization.transfer")
    url = f"/api/v1/organizations/{team.pk}/transfer"

    response = send(client, "post", url, {"user": str(user.pk)})

    assert response.status_code == 403
    assert user.memberships.get(organization=team).role == "viewer"


class TestInvitationsKeepTheirBound:
    """An invitation works only while the inviter, and the key of the inviter, could still send it."""

    @pytest.fixture
    def admin(self, team):
        return User.objects.get(pk=add_member(team, "admin").pk)

    def invite_with_key(self, admin, team, role="viewer", **fields):
        scopes = sorted(ROLE_PERMISSIONS[role] | {"invitations.edit"})
        key, token = services.issue_api_key(
            user=admin, organization=team, name="x", scopes=scopes, **fields
        )
        caller = services.authenticate_api_key(token).user
        invitation, link = invitations.invite(organization=team, by=caller, role=role)
        return key, invitation, link.rpartition("/")[2]

    def accept(self, token, user):
        return invitations.accept_invitation(token=token, user=user)

    def test_invitation_of_a_usable_key_is_accepted(self, admin, team, charlie):
        _, _, token = self.invite_with_key(admin, team)

        assert self.accept(token, charlie).role == "viewer"

    def test_role_raised_in_the_row_beyond_the_key_is_not_given(self, admin, team, charlie):
        _, invitation, token = self.invite_with_key(admin, team)
        Invitation.objects.filter(pk=invitation.pk).update(role="admin")

        with pytest.raises(invitations.InvalidInvitation):
            self.accept(token, charlie)

    def test_invitation_of_a_revoked_key_is_invalid(self, admin, team, charlie):
        key, _, token = self.invite_with_key(admin, team)
        services.revoke_api_key(key=key)

        with pytest.raises(invitations.InvalidInvitation):
            self.accept(token, charlie)

    def test_invitation_ends_with_its_key(self, admin, team):
        key, invitation, _ = self.invite_with_key(admin, team, days=1)

        assert invitation.expires_at == key.expires_at < timezone.now() + timedelta(days=1)

    @pytest.mark.parametrize("new_role", ["member", "viewer", "auditor", "billing"])
    def test_inviter_who_may_no_longer_invite_makes_the_link_invalid(
        self, admin, team, alice, charlie, new_role
    ):
        _, link = invitations.invite(organization=team, by=admin, role="viewer")
        organizations.change_role(organization=team, by=alice, user_id=admin.pk, role=new_role)

        with pytest.raises(invitations.InvalidInvitation):
            self.accept(link.rpartition("/")[2], charlie)

    def test_suspended_inviter_makes_the_link_invalid(self, admin, team, charlie):
        _, link = invitations.invite(organization=team, by=admin, role="viewer")
        services.suspend_user(user=admin)

        with pytest.raises(invitations.InvalidInvitation):
            self.accept(link.rpartition("/")[2], charlie)

    def test_signed_out_inviter_leaves_the_link_valid(self, admin, team, charlie):
        _, link = invitations.invite(organization=team, by=admin, role="member")

        assert self.accept(link.rpartition("/")[2], charlie).role == "member"


@pytest.mark.parametrize("role", ["viewer", "member", "auditor", "billing", "admin"])
def test_service_account_without_scopes_gives_at_most_its_own_role(alice, team, charlie, role):
    account = service_accounts.create_service_account(
        organization=team, by=alice, name="x", role=role
    )
    _, token = service_accounts.issue_service_account_key(account=account, by=alice, name="x")
    caller = services.authenticate_api_key(token).user

    for given in ROLES:
        if ROLE_PERMISSIONS[given] <= permissions_in(caller, team.pk):
            invitations.invite(organization=team, by=caller, role=given)
        else:
            with pytest.raises(organizations.RoleAboveYours):
                invitations.invite(organization=team, by=caller, role=given)

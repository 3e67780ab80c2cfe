"""Rules of the organization services: service accounts, personal organizations, invitations, transfer."""

import pytest
from django.core import mail

from accounts.models import ApiKey, AuditEntry, Invitation, Membership, ServiceAccount
from accounts.services import invitations, organizations, service_accounts
from accounts.services.organizations import IsServiceAccount, PersonalOrganization
from tests.factories.accounts import UserFactory


@pytest.fixture
def team(alice):
    return organizations.create_organization(user=alice, name="Team")


@pytest.fixture
def program(alice, team):
    """The user of a service account of the team."""
    account = service_accounts.create_service_account(
        organization=team, by=alice, name="ci", role="member"
    )
    return account.user


def read_token(link):
    return link.rpartition("/")[2]


class TestServiceAccountsAsMembers:
    def test_service_account_cannot_be_added_to_another_organization(self, alice, program):
        other = organizations.create_organization(user=alice, name="Other")

        with pytest.raises(IsServiceAccount):
            organizations.add_member(organization=other, user=program, role="viewer")

        assert program.memberships.count() == 1

    def test_service_account_cannot_be_removed_as_a_member(self, alice, team, program):
        with pytest.raises(IsServiceAccount) as error:
            organizations.remove_member(organization=team, by=alice, user_id=program.pk)

        assert (error.value.status, error.value.code) == (409, "is-service-account")
        assert team.memberships.filter(user=program).exists()

    def test_service_account_cannot_leave(self, team, program):
        with pytest.raises(IsServiceAccount):
            organizations.leave_organization(organization=team, user=program)

        assert team.memberships.filter(user=program).exists()


class TestServiceAccountRules:
    def test_account_beyond_the_maximum_is_refused_until_another_is_revoked(
        self, alice, team, monkeypatch
    ):
        monkeypatch.setattr(service_accounts, "ACCOUNTS_MAX", 1)
        fields = {"organization": team, "by": alice, "role": "viewer"}
        first = service_accounts.create_service_account(name="first", **fields)

        with pytest.raises(service_accounts.TooManyServiceAccounts):
            service_accounts.create_service_account(name="second", **fields)
        service_accounts.revoke_service_account(account=first)

        assert service_accounts.create_service_account(name="second", **fields).name == "second"

    @pytest.mark.parametrize("name", ["", "  ", "a\nb", "x" * 121])
    def test_bad_name_creates_no_account(self, alice, team, name):
        with pytest.raises(organizations.BadName):
            service_accounts.create_service_account(
                organization=team, by=alice, name=name, role="viewer"
            )

        assert not ServiceAccount.objects.exists()

    def test_personal_organization_has_no_service_accounts(self, alice):
        with pytest.raises(PersonalOrganization):
            service_accounts.create_service_account(
                organization=alice.personal_organization, by=alice, name="ci", role="viewer"
            )

        assert not ServiceAccount.objects.exists()

    def test_revocation_revokes_every_key_of_the_account(self, alice, team, program):
        account = program.service_account
        for name in ("one", "two"):
            service_accounts.issue_service_account_key(account=account, by=alice, name=name)

        service_accounts.revoke_service_account(account=account)

        assert ApiKey.objects.filter(user=program).count() == 2
        assert not ApiKey.objects.filter(user=program, revoked_at=None).exists()


class TestMembers:
    def test_adding_a_member_again_keeps_the_role(self, team):
        user = UserFactory()

        for role in ("viewer", "admin"):
            membership = organizations.add_member(organization=team, user=user, role=role)

        assert membership.role == "viewer"
        assert AuditEntry.objects.filter(action="member.added").count() == 1

    def test_member_cannot_be_added_to_a_personal_organization(self, alice, charlie):
        own = alice.personal_organization

        with pytest.raises(PersonalOrganization):
            organizations.add_member(organization=own, user=charlie, role="viewer")

        assert own.memberships.count() == 1

    def test_former_member_cannot_change_roles(self, alice, team):
        former = UserFactory()
        user = organizations.add_member(organization=team, user=UserFactory(), role="viewer").user

        with pytest.raises(organizations.RoleAboveYours):
            organizations.change_role(organization=team, by=former, user_id=user.pk, role="viewer")

    def test_leaving_is_recorded_and_revokes_the_keys_of_the_organization_only(self, alice, team):
        from accounts import services

        user = organizations.add_member(organization=team, user=UserFactory(), role="member").user
        key, _ = services.issue_api_key(user=user, organization=team, name="x")
        own, _ = services.issue_api_key(user=user, name="x")

        organizations.leave_organization(organization=team, user=user)

        key.refresh_from_db()
        own.refresh_from_db()
        assert (key.revoked_at is None, own.revoked_at is None) == (False, True)
        assert AuditEntry.objects.get(action="member.left").before == {"role": "member"}


class TestTransfer:
    def test_transfer_to_oneself_changes_nothing(self, alice, team):
        organizations.transfer_organization(organization=team, by=alice, user_id=alice.pk)

        assert team.memberships.get(user=alice).role == "owner"
        assert not AuditEntry.objects.filter(action="organization.transferred").exists()

    def test_transfer_by_an_admin_raises_role_above_yours(self, alice, team):
        admin = organizations.add_member(organization=team, user=UserFactory(), role="admin").user

        with pytest.raises(organizations.RoleAboveYours):
            organizations.transfer_organization(organization=team, by=admin, user_id=admin.pk)

        assert team.memberships.get(user=alice).role == "owner"

    def test_transfer_is_recorded_with_both_owners(self, alice, team):
        user = organizations.add_member(organization=team, user=UserFactory(), role="viewer").user

        organizations.transfer_organization(organization=team, by=alice, user_id=user.pk)

        entry = AuditEntry.objects.get(action="organization.transferred")
        assert (entry.before, entry.after) == ({"owner": str(alice)}, {"owner": str(user)})


class TestInvitations:
    @pytest.mark.parametrize("fields", [{"days": 0}, {"days": 31}, {"max_uses": 501}])
    def test_lifetime_or_uses_outside_the_bounds_create_no_invitation(self, alice, team, fields):
        with pytest.raises(invitations.BadInvitation) as error:
            invitations.invite(organization=team, by=alice, role="viewer", **fields)

        assert error.value.detail == (
            "An invitation must be valid for 1 to 30 days and for 1 to 500 people."
        )
        assert not Invitation.objects.exists()

    def test_invitation_for_an_address_has_one_use(self, alice, team):
        invitation, _ = invitations.invite(
            organization=team, by=alice, role="viewer", email="x@example.com", max_uses=9
        )

        assert invitation.max_uses == 1

    def test_link_of_an_inviter_who_left_is_invalid(self, alice, charlie, team):
        admin = organizations.add_member(organization=team, user=UserFactory(), role="admin").user
        _, link = invitations.invite(organization=team, by=admin, role="viewer")
        organizations.leave_organization(organization=team, user=admin)

        with pytest.raises(invitations.InvalidInvitation):
            invitations.accept_invitation(token=read_token(link), user=charlie)

        assert Invitation.objects.get().uses == 0

    def test_joining_is_recorded_with_the_invitation(self, alice, charlie, team):
        invitation, link = invitations.invite(organization=team, by=alice, role="viewer")

        invitations.accept_invitation(token=read_token(link), user=charlie)

        entry = AuditEntry.objects.get(action="member.joined")
        assert entry.after == {"role": "viewer", "invitation": str(invitation.pk)}
        assert entry.chain == team.pk

    def test_mail_server_that_refuses_is_reported_as_not_mailed(
        self, alice, team, settings, monkeypatch
    ):
        settings.EMAIL_HOST = "mail.example.com"
        invitation, link = invitations.invite(
            organization=team, by=alice, role="viewer", email="x@example.com"
        )

        def refuse(*_args):
            raise ConnectionRefusedError

        monkeypatch.setattr(invitations, "send_mail", refuse)

        assert invitations.mail_invitation(invitation=invitation, link=link) is False
        assert Invitation.objects.get().is_open

    def test_mail_names_the_role_and_the_organization(self, alice, team, settings):
        settings.EMAIL_HOST = "mail.example.com"
        invitation, link = invitations.invite(
            organization=team, by=alice, role="admin", email="x@example.com"
        )

        assert invitations.mail_invitation(invitation=invitation, link=link) is True
        body = mail.outbox[0].body
        assert "invites you to the organization “Team” on http://testserver." in body
        assert "Your role: admin." in body
        assert Membership.objects.filter(organization=team).count() == 1

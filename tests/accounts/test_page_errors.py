"""Error paths of the pages: roles without the permission, foreign rows, limits, sign-in states."""

import pytest
from django.core import mail
from django.test import Client

from accounts import services
from accounts.models import ApiKey, CustomSecret, Membership, SecondFactor, User
from accounts.services import custom_secrets, devices, invitations, organizations
from billing.models import ModelAccess
from tests.accounts.second_factor import PASSWORD, enrol
from tests.factories.accounts import UserFactory


@pytest.fixture(autouse=True)
def _many_attempts(settings):
    settings.SIGN_IN_RATE = "1000/m"


def open_browser(user):
    client = Client()
    client.force_login(user)
    return client


@pytest.fixture
def team(alice):
    return organizations.create_organization(user=alice, name="Team")


@pytest.fixture
def viewer(team):
    """A browser of a viewer who works in the team."""
    user = UserFactory(email="viewer@example.com")
    Membership.objects.create(organization=team, user=user, role="viewer")
    client = open_browser(user)
    assert client.post(f"/settings/organizations/{team.pk}/switch").status_code == 302
    return client


class TestRoleWithoutThePermission:
    @pytest.mark.parametrize(
        ("path", "permission"),
        [("/settings/api-keys", "api_keys.view"), ("/settings/secrets", "secrets.view")],
    )
    def test_viewer_cannot_open_the_keys_and_secrets_of_the_team(self, viewer, path, permission):
        page = viewer.get(path)

        assert page.status_code == 403
        assert f"needs the permission {permission}" in page.text

    def test_auditor_sees_keys_but_cannot_create_one(self, viewer, team):
        Membership.objects.filter(organization=team, role="viewer").update(role="auditor")
        assert viewer.get("/settings/api-keys").status_code == 200

        page = viewer.post("/settings/api-keys", {"name": "k", "days": "1", "access": "full"})

        assert page.status_code == 403
        assert "needs the permission api_keys.edit" in page.text
        assert not ApiKey.objects.exists()

    def test_viewer_cannot_revoke_an_own_key_of_the_team(self, viewer, team):
        user = User.objects.get(email="viewer@example.com")
        key, _ = services.issue_api_key(user=user, organization=team, name="k")

        assert viewer.post(f"/settings/api-keys/{key.pk}/revoke").status_code == 403
        key.refresh_from_db()
        assert key.revoked_at is None

    def test_viewer_cannot_change_the_model_settings(self, viewer):
        form = {"base_url": "https://models.example.com/v1", "model": "m"}

        page = viewer.post("/settings/model", form)

        assert page.status_code == 403
        assert "needs the permission model_access.edit" in page.text
        assert not ModelAccess.objects.exists()

    def test_viewer_sees_members_but_no_invitations_and_no_service_accounts(
        self, viewer, alice, team
    ):
        invitations.invite(organization=team, by=alice, role="viewer")

        page = viewer.get(f"/settings/organizations/{team.pk}")

        names = {"members", "invitations", "programs"}
        assert page.status_code == 200
        assert {name for name in names if name in page.context} == {"members"}


class TestSecrets:
    def test_secret_of_another_user_is_404_and_stays(self, alice, charlie):
        secret = custom_secrets.create_secret(
            organization=alice.personal_organization, by=alice, name="TOKEN", value="Sec-value-1"
        )

        page = open_browser(charlie).post("/settings/secrets", {"secret": str(secret.pk)})

        assert page.status_code == 404
        assert CustomSecret.objects.filter(pk=secret.pk).exists()

    def test_owner_creates_and_deletes_a_secret_of_the_organization(self, alice):
        client = open_browser(alice)
        form = {"name": "TOKEN", "value": "Sec-value-1", "scope": "organization"}

        assert client.post("/settings/secrets", form).status_code == 302
        secret = CustomSecret.objects.get()
        assert secret.scope == "organization"
        assert client.post("/settings/secrets", {"secret": str(secret.pk)}).status_code == 302

        assert not CustomSecret.objects.exists()


class TestOrganizations:
    def test_organization_beyond_the_maximum_is_409_on_the_page(self, alice, team, settings):
        settings.ORGANIZATIONS_PER_USER = 1

        page = open_browser(alice).post("/settings/organizations", {"name": "Second"})

        assert page.status_code == 409
        assert "You own the maximum number of organizations." in page.text
        assert 'value="Second"' in page.text

    def test_transfer_makes_the_member_owner_and_redirects(self, alice, team):
        user = organizations.add_member(organization=team, user=UserFactory(), role="viewer").user
        path = f"/settings/organizations/{team.pk}"

        response = open_browser(alice).post(f"{path}/transfer", {"member": str(user.pk)})

        assert response.headers["Location"] == path
        roles = dict(team.memberships.values_list("user", "role"))
        assert roles == {alice.pk: "admin", user.pk: "owner"}

    def test_member_who_leaves_is_redirected_to_the_list(self, viewer, team):
        response = viewer.post(f"/settings/organizations/{team.pk}/leave")

        assert response.headers["Location"] == "/settings/organizations"
        assert "You left “Team”." in viewer.get("/settings/organizations").text
        assert viewer.get(f"/settings/organizations/{team.pk}").status_code == 404

    def test_invitation_for_another_address_is_403(self, alice, charlie, team):
        _, link = invitations.invite(
            organization=team, by=alice, role="viewer", email="x@example.com"
        )

        page = open_browser(charlie).post(link.removeprefix("http://testserver"))

        assert page.status_code == 403
        assert "This invitation is for another e-mail address." in page.text
        assert not team.memberships.filter(user=charlie).exists()

    def test_invitation_with_an_address_is_mailed_from_the_page(self, alice, team, settings):
        settings.EMAIL_HOST = "mail.example.com"
        form = {"role": "viewer", "days": "7", "max_uses": "1", "email": "x@example.com"}

        page = open_browser(alice).post(f"/settings/organizations/{team.pk}/invite", form)

        assert (page.status_code, page.context["is_mailed"]) == (201, True)
        assert mail.outbox[0].to == ["x@example.com"]

    def test_invitation_of_another_organization_cannot_be_revoked(self, alice, charlie, team):
        other = organizations.create_organization(user=charlie, name="Other")
        invitation, _ = invitations.invite(organization=other, by=charlie, role="viewer")

        page = open_browser(alice).post(
            f"/settings/organizations/{team.pk}/take-back", {"invitation": str(invitation.pk)}
        )

        assert page.status_code == 404
        invitation.refresh_from_db()
        assert invitation.is_open


class TestSignIn:
    def test_page_offers_the_setup_only_without_an_administrator(self, client, db):
        assert client.get("/sign-in").context["needs_setup"] is True
        services.create_user(email="root@example.com", is_staff=True, is_superuser=True)
        assert client.get("/sign-in").context["needs_setup"] is False

    def test_setup_with_an_existing_address_is_409_and_keeps_the_link(self, client, alice):
        path = services.create_setup_link()

        page = client.post(path, {"email": alice.email, "name": "A", "password": PASSWORD})

        assert page.status_code == 409
        assert "An account with this e-mail address already exists." in page.text
        assert f'value="{alice.email}"' in page.text
        assert client.get(path).status_code == 200


class TestSecondStep:
    def test_user_without_a_second_factor_is_redirected_to_next(self, alice):
        client = open_browser(alice)

        response = client.get("/sign-in/second-factor", {"next": "/settings/model"})

        assert response.headers["Location"] == "/settings/model"

    def test_page_of_a_pending_sign_in_names_the_account(self, client, alice):
        enrol(alice)
        client.post("/sign-in", {"email": alice.email, "password": PASSWORD})

        page = client.get("/sign-in/second-factor")

        assert page.status_code == 200
        assert alice.email in page.text

    def test_second_factor_cannot_begin_while_one_is_on(self, alice):
        enrol(alice)
        secret = SecondFactor.objects.get().secret

        page = open_browser(alice).post(
            "/settings/second-factor", {"act": "begin", "password": PASSWORD}
        )

        assert page.status_code == 409
        assert "This account already has a second factor." in page.text
        assert SecondFactor.objects.get().secret == secret

    def test_confirmation_without_a_begin_is_409(self, alice):
        page = open_browser(alice).post(
            "/settings/second-factor", {"act": "confirm", "code": "123456"}
        )

        assert page.status_code == 409
        assert not SecondFactor.objects.exists()


class TestDevice:
    def test_approval_beyond_the_maximum_of_keys_is_409(self, alice, settings):
        settings.API_KEYS_PER_USER = 0
        codes = devices.start_device_sign_in(client_name="tool")

        page = open_browser(alice).post(
            "/device", {"user_code": codes.user_code, "decision": "approve"}
        )

        assert page.status_code == 409
        assert "The maximum number of API keys is reached." in page.text
        codes.grant.refresh_from_db()
        assert codes.grant.status == "pending"

    def test_suspended_organization_is_not_offered_and_cannot_be_chosen(self, alice, team):
        codes = devices.start_device_sign_in(client_name="tool")
        organizations.suspend_organization(organization=team)
        client = open_browser(alice)

        page = client.get("/device", {"user_code": codes.user_code})
        response = client.post(
            "/device",
            {"user_code": codes.user_code, "decision": "approve", "organization": str(team.pk)},
        )

        assert list(page.context["organizations"]) == [alice.personal_organization]
        assert response.status_code == 403
        codes.grant.refresh_from_db()
        assert codes.grant.status == "pending"

"""Service accounts: programs that are members of an organization."""

import pytest
from django.db import IntegrityError, transaction
from rest_framework.test import APIClient

from accounts.models import AuditEntry, Membership, User
from accounts.roles import ROLE_PERMISSIONS
from accounts.services import organizations, service_accounts
from tests.conftest import key_client
from tests.factories.accounts import UserFactory


@pytest.fixture
def team(alice):
    return organizations.create_organization(user=alice, name="Team")


@pytest.fixture
def admin(team):
    user = UserFactory()
    Membership.objects.create(organization=team, user=user, role="admin")
    return user


def create_account(by, team, role="member", **scopes):
    client = key_client(by, organization=team, **scopes)
    address = f"/api/v1/organizations/{team.pk}/service-accounts"
    return client.post(address, {"name": "builder", "role": role}, "json")


def create_key(by, team, account_id, **body):
    address = f"/api/v1/organizations/{team.pk}/service-accounts/{account_id}/keys"
    return key_client(by, organization=team).post(address, {"name": "ci"} | body, "json")


def open_client(answer):
    """Return a client with the key of a response."""
    return APIClient(headers={"Authorization": f"Bearer {answer.json()['key']}"})


def test_key_of_a_service_account_has_the_permissions_of_its_role(admin, team):
    created = create_account(admin, team)
    key = create_key(admin, team, created.json()["id"])

    me = open_client(key).get("/api/v1/users/me").json()

    assert (created.status_code, key.status_code) == (201, 201)
    assert [row["id"] for row in me["organizations"]] == [str(team.pk)]
    assert me["organizations"][0]["permissions"] == sorted(ROLE_PERMISSIONS["member"])
    entry = AuditEntry.objects.get(action="service_account.created")
    assert entry.after == {"name": "builder", "role": "member"}


def test_change_by_a_service_account_names_it_in_the_audit_log(alice, admin, team):
    created = create_account(alice, team, role="admin")
    client = open_client(create_key(alice, team, created.json()["id"]))

    renamed = client.patch(f"/api/v1/organizations/{team.pk}", {"name": "Crew"}, "json")

    assert renamed.status_code == 200
    assert AuditEntry.objects.get(action="organization.renamed").actor_kind == "service_account"


def test_role_without_the_permission_creates_no_service_account(team):
    for role in ("member", "billing", "auditor", "viewer"):
        user = UserFactory()
        Membership.objects.create(organization=team, user=user, role=role)
        assert create_account(user, team, role="viewer").json()["code"] == "missing-permission"


def test_limited_key_cannot_create_a_service_account_with_more_rights(alice, team):
    scopes = ["service_accounts.edit", *ROLE_PERMISSIONS["viewer"]]

    assert create_account(alice, team, role="viewer", scopes=scopes).status_code == 201
    assert (
        create_account(alice, team, role="member", scopes=scopes).json()["code"]
        == "role-above-yours"
    )


def test_limited_key_cannot_create_a_service_account_key_with_more_rights(alice, team):
    account = create_account(alice, team, role="admin").json()["id"]
    client = key_client(alice, organization=team, scopes=["service_accounts.edit", "files.view"])
    address = f"/api/v1/organizations/{team.pk}/service-accounts/{account}/keys"

    wide = client.post(address, {"name": "wide"}, "json")
    narrow = client.post(address, {"name": "narrow", "scopes": ["files.view"]}, "json")

    assert (wide.status_code, wide.json()["code"]) == (403, "scope-not-held")
    assert narrow.status_code == 201


def test_service_account_cannot_be_created_as_owner(alice, team):
    with pytest.raises(service_accounts.OwnerByProgram):
        service_accounts.create_service_account(organization=team, by=alice, name="x", role="owner")
    assert create_account(alice, team, role="owner").status_code == 400


def test_service_account_cannot_become_owner_or_staff(alice, team):
    account = service_accounts.create_service_account(
        organization=team, by=alice, name="x", role="member"
    )

    for call in (
        lambda: organizations.transfer_organization(
            organization=team, by=alice, user_id=account.user_id
        ),
        lambda: organizations.change_role(
            organization=team, by=alice, user_id=account.user_id, role="owner"
        ),
    ):
        with pytest.raises(organizations.IsServiceAccount):
            call()
    with pytest.raises(IntegrityError), transaction.atomic():
        User.objects.filter(pk=account.user_id).update(is_staff=True)


def test_service_account_cannot_sign_in_with_a_password(client, alice, team, settings):
    settings.SIGN_IN_RATE = "1000/m"
    account = service_accounts.create_service_account(
        organization=team, by=alice, name="x", role="member"
    )

    for password in ("", account.user.password):
        answer = client.post("/sign-in", {"email": account.user.email, "password": password})
        assert answer.status_code == 422


def test_revoked_service_account_gets_no_new_key(admin, team):
    account = create_account(admin, team).json()["id"]
    service_client = open_client(create_key(admin, team, account))
    client = key_client(admin, organization=team)
    address = f"/api/v1/organizations/{team.pk}/service-accounts/{account}"

    answers = [client.delete(address) for _ in range(2)]

    assert [answer.status_code for answer in answers] == [204, 204]
    assert service_client.get("/api/v1/users/me").status_code == 401
    assert create_key(admin, team, account).json()["code"] == "revoked-service-account"
    details = client.get(address).json()
    assert (details["role"], bool(details["revoked_at"])) == (None, True)
    assert AuditEntry.objects.filter(action="service_account.revoked").count() == 1


def test_service_account_stays_after_its_creator_was_removed(alice, admin, team):
    account = create_account(admin, team).json()["id"]
    service_client = open_client(create_key(admin, team, account))

    organizations.remove_member(organization=team, by=alice, user_id=admin.pk)

    assert service_client.get("/api/v1/users/me").status_code == 200


def test_revoking_a_key_leaves_the_other_keys_of_the_account(admin, team):
    account = create_account(admin, team).json()["id"]
    first, second = (create_key(admin, team, account) for _ in range(2))
    keys = f"/api/v1/organizations/{team.pk}/service-accounts/{account}/keys"
    client = key_client(admin, organization=team)

    assert client.delete(f"{keys}/{first.json()['id']}").status_code == 204
    assert open_client(first).get("/api/v1/users/me").status_code == 401
    assert open_client(second).get("/api/v1/users/me").status_code == 200
    assert len(client.get(keys).json()["items"]) == 2


def test_service_account_of_another_organization_is_404(alice, admin, team, charlie):
    other = organizations.create_organization(user=charlie, name="Other")
    foreign = service_accounts.create_service_account(
        organization=other, by=charlie, name="x", role="member"
    )
    client = key_client(admin, organization=team)

    for address in (
        f"/api/v1/organizations/{team.pk}/service-accounts/{foreign.pk}",
        f"/api/v1/organizations/{other.pk}/service-accounts/{foreign.pk}",
    ):
        assert client.get(address).status_code == 404
        assert client.delete(address).status_code == 404
    foreign.refresh_from_db()
    assert foreign.revoked_at is None
